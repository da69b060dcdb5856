"""The corpus: how its files are cut, counted and sampled, and what names a text. Knows nothing of Ray or of models.

A file is cut into splits that can be read alone and at the same time: byte ranges of plain text and JSON lines, row
groups of Parquet, and the whole of a compressed or CSV file, which only a reader from the start can tell lines in.
"""

from __future__ import annotations

import contextlib
import itertools
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import blake2b
from typing import Any, TypeVar

import pyarrow as pa

from raydistill.corpus_files import CorpusFile, Split
from raydistill.corpus_lines import LONGEST_LINE, as_utf8, count_line_ends
from raydistill.corpus_readers import OPENERS, open_parquet, parquet_column, read_split, read_splits
from raydistill.paths import open_path

T = TypeVar("T")

SMALL_READ = 64 << 10
PLACES = 16  # a sample is taken from so many, spread evenly over the corpus
PLACE_BYTES = 16 << 20  # of text, read at such a place, where all are the same or none is new
MOST_UNPACKED = 64 << 20  # of a sample: it may unpack to anything
LEAST_ROW_BYTES = 64  # what a blank one counts for: it takes time all the same
FILES_READ = 256  # on from such a place
FILES_COUNTED = 1024  # text by text, before anything starts
TRIPS = 256  # of a task, to files that are opened one after the other: others are to make theirs at the same time


def check_readable(files: Sequence[CorpusFile], text_column: str) -> None:
    """Read the beginning of one file of each kind, to tell a wrong column or encoding at once. Raises CorpusError."""
    for file in {_kind(file): file for file in reversed(files)}.values():
        next(filter(None, read_split(Split(file, 0, -1), text_column)), None)


def make_splits(files: Iterable[CorpusFile], split_bytes: int) -> list[Split]:
    """Cut every file that can be cut into pieces of about `split_bytes`. Raises CorpusError."""
    with ThreadPoolExecutor(OPENERS) as pool:
        looked_up = [(file, _look_up_cuts(file, split_bytes, pool)) for file in files]
        try:
            return [Split(file, *ends) for file, cuts in looked_up for ends in itertools.pairwise(cuts())]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # the others need not be looked at any more
            raise


def gather_splits(splits: Sequence[Split], most_bytes: int) -> list[list[Split]]:
    """Splits together, in their order: about `most_bytes` and as many as TRIPS allows at most, but one at the least.

    A corpus may be in very many files, and it takes more to begin a task than to read one of them.
    """
    pieces = Counter(split.file.path for split in splits)
    gathered: list[list[Split]] = []
    total = trips = 0.0
    for split in splits:
        size, trip = split.file.size / pieces[split.file.path], 1 / OPENERS if split.file.is_small else 1
        if not gathered or total + size > most_bytes or trips + trip > TRIPS:
            gathered.append([])
            total = trips = 0
        gathered[-1].append(split)
        total, trips = total + size, trips + trip
    return gathered


def _look_up_cuts(file: CorpusFile, split_bytes: int, pool: ThreadPoolExecutor) -> Callable[[], Sequence[int]]:
    """Where a file is cut, its beginning and end included, once that is known; looked up at many places at a time."""
    if file.format == "parquet":
        return pool.submit(_row_group_cuts, file, split_bytes).result
    if file.shows_line_ends and file.format in ("text", "jsonl"):
        starts = pool.map(partial(_line_start, file), range(split_bytes, file.size, split_bytes))
        return lambda: sorted({*starts, 0, file.size})
    return lambda: (0, -1)


def _row_group_cuts(file: CorpusFile, split_bytes: int) -> list[int]:
    groups = open_parquet(file).metadata.num_row_groups
    per_split = max(1, round(split_bytes * groups / max(file.size, 1)))
    return [*range(0, max(groups, 1), per_split), groups]


def estimate_texts(files: Sequence[CorpusFile], text_column: str, sample_bytes: int = 8 << 20) -> tuple[int, bool]:
    """(number of texts, whether that is exact), reading about `sample_bytes`.

    Where it is not, blank texts may be among them. Parquet is counted from its footers. Other files are read while they
    fit the sample, `FILES_COUNTED` of them at most. The rest is told by size: small files from those that were read,
    large ones from the line ends in parts of one of each kind. Raises CorpusError.
    """
    looked_into = [file for file in files if file.format == "parquet"] + _that_fit(files, sample_bytes)
    with ThreadPoolExecutor(OPENERS) as pool:
        counts = pool.map(partial(_count_texts, text_column=text_column), looked_into)
        found = dict(zip(looked_into, counts, strict=True))
    rest = [file for file in files if file not in found]
    if not rest:
        return sum(texts for texts, _ in found.values()), not any(file.format == "parquet" for file in files)
    total = float(sum(rows for _, rows in found.values()))
    rates: dict[Any, float] = {}
    for file in rest:
        kind = _kind(file), file.likely_bytes <= sample_bytes
        if kind not in rates:
            like = {other: rows for other, (_, rows) in found.items() if (_kind(other), True) == kind}
            read = sum(like.values()) / max(1, sum(other.size for other in like))
            rates[kind] = read or _lines_per_byte(file, sample_bytes)
        total += rates[kind] * file.size
    return max(round(total), 1), False  # that there is none, only reading all of it would tell


def _that_fit(files: Sequence[CorpusFile], sample_bytes: int) -> list[CorpusFile]:
    """The first files, but for Parquet, that are `sample_bytes` together; `FILES_COUNTED` at most."""
    fitting: list[CorpusFile] = []
    for file in files:
        if file.format != "parquet" and file.likely_bytes <= sample_bytes and len(fitting) < FILES_COUNTED:
            sample_bytes -= file.likely_bytes
            fitting.append(file)
    return fitting


def _kind(file: CorpusFile) -> tuple[str, str | None]:
    return file.format, file.compression


def _count_texts(file: CorpusFile, text_column: str) -> tuple[int, int]:
    """Texts of a file, without and with blank ones; of Parquet all rows but those that the footer knows to be null."""
    if file.format == "parquet":
        return (_count_rows(file, text_column),) * 2
    found = Counter(bool(clean(text)) for texts in read_split(Split(file, 0, -1), text_column) for text in texts)
    return found[True], found.total()


def _count_rows(file: CorpusFile, text_column: str) -> int:
    footer = open_parquet(file).metadata
    columns = [parquet_column(footer, group, text_column) for group in range(footer.num_row_groups)]
    known = [column.statistics for column in columns if column is not None and column.statistics]
    return footer.num_rows - sum(statistics.null_count for statistics in known if statistics.has_null_count)


def _lines_per_byte(file: CorpusFile, sample_bytes: int) -> float:
    """Line ends for each byte of the file as it lies: in places all over it, or at its beginning where it must be."""
    fs, path = open_path(file.path)
    places = PLACES if file.shows_line_ends and file.size > sample_bytes else 1
    lines = read = 0
    with fs.open_input_file(path) as stream:
        for place in range(places):
            stream.seek(file.size * place // places)
            found, among = _count_lines(stream.read(sample_bytes // places), file)
            lines, read = lines + found, read + among
    return max(lines, 1) / max(read, 1)


def _count_lines(piece: bytes, file: CorpusFile) -> tuple[int, int]:
    """(line ends, bytes of the piece among which they are): all of it, or as much as unpacks to `MOST_UNPACKED`."""
    if file.shows_line_ends:
        return count_line_ends(piece), len(piece)
    source = pa.BufferReader(piece)
    stream = as_utf8(pa.input_stream(source, compression=file.compression), file)
    lines = unpacked = 0
    with contextlib.suppress(OSError, UnicodeError):  # which a file that is cut short ends in
        while unpacked < MOST_UNPACKED and (block := stream.read(SMALL_READ)):  # the last of a cut one is lost
            lines, unpacked = lines + count_line_ends(block), unpacked + len(block)
    return lines, source.tell()


def sample_texts(files: Sequence[CorpusFile], text_column: str, count: int) -> list[str]:
    """Up to `count` distinct texts, taken in like shares from places spread evenly over the corpus.

    The same corpus gives the same sample. Raises CorpusError.
    """
    places = _places(files)
    found: dict[str, None] = {}
    for most in (-(-count // len(places)), count):  # more of one where another has fewer, or the same
        for place in places:
            if len(found) < count:
                found |= dict.fromkeys(itertools.islice(_distinct(place, text_column), most))
    return list(found)[:count]


def read_stretches(files: Sequence[CorpusFile], text_column: str, stretch_bytes: int) -> Iterator[list[str]]:
    """The texts, cleaned and blank ones included, that stand together in places spread evenly over the corpus.

    Args:
        stretch_bytes: about so much text from each.

    Raises:
        CorpusError.
    """
    for place in _places(files, stretch_bytes):
        stretch: list[str] = []
        size = 0
        for text in _read_on(place, text_column):
            stretch.append(text)
            size += line_bytes(text)
            if size >= stretch_bytes:
                break
        if stretch:
            yield stretch


def _places(files: Sequence[CorpusFile], least_bytes: int = 1) -> list[list[Split]]:
    """What to read from on, at `PLACES` spread evenly over the bytes of the corpus, or fewer of `least_bytes` each.

    The last place in a file goes on in those between it and the next one, for a file may hold a single text.
    """
    ends = list(itertools.accumulate(file.likely_bytes for file in files))
    count = max(1, min(PLACES, ends[-1] // least_bytes))
    hits = Counter(bisect_right(ends, ends[-1] * place // count) for place in range(count))

    def cut(at: int) -> list[Split]:
        return _spread(make_splits([files[at]], -(-files[at].size // hits[at])), hits[at])

    places = []
    with ThreadPoolExecutor(OPENERS) as pool:
        for (at, end), splits in zip(itertools.pairwise([*hits, len(files)]), pool.map(cut, hits), strict=True):
            places += [[split] for split in splits]
            places[-1] += [Split(file, 0, -1) for file in files[at + 1 : end][:FILES_READ]]
    return places


def _spread(items: Sequence[T], count: int) -> list[T]:
    """Up to `count` items at even distances."""
    return [items[i * len(items) // min(count, len(items))] for i in range(min(count, len(items)))]


def _read_on(splits: Iterable[Split], text_column: str) -> Iterator[str]:
    """The texts of splits, cleaned, blank ones included, one split after another, until they are `PLACE_BYTES`."""
    read = 0
    for text in map(clean, itertools.chain.from_iterable(read_splits(splits, text_column))):
        yield text
        read += max(line_bytes(text), LEAST_ROW_BYTES)
        if read >= PLACE_BYTES:
            return


def _distinct(splits: Iterable[Split], text_column: str) -> Iterator[str]:
    """The distinct texts of splits, without blank ones."""
    found: set[str] = set()
    for text in _read_on(splits, text_column):
        if text and text not in found:
            found.add(text)
            yield text


def _line_start(file: CorpusFile, at: int) -> int:
    """The first byte from `at` on at which a line begins: where a split may be cut."""
    fs, path = open_path(file.path)
    with fs.open_input_file(path) as stream:
        stream.seek(at - 1)
        for _ in range(LONGEST_LINE // SMALL_READ):
            block = stream.read(SMALL_READ)
            if not block:
                return file.size
            if (found := block.find(b"\n")) >= 0:
                return stream.tell() - len(block) + found + 1
    return file.size


def text_id(text: str) -> str:
    """The content hash that names a text: BLAKE2b of its UTF-8 bytes, 128 bits, as 32 hexadecimal digits."""
    return blake2b(text.encode(), digest_size=16).hexdigest()


def line_bytes(text: str) -> int:
    """The bytes of a text as a line of UTF-8."""
    return (len(text) if text.isascii() else len(text.encode())) + 1


def clean(text: str | None) -> str:
    """A text without the blanks around it, "" for a missing one; a lone surrogate, unknown to UTF-8, is U+FFFD."""
    stripped = text.strip() if text else ""
    return stripped if stripped.isascii() else stripped.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

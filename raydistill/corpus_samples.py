"""What is told of a corpus without reading all of it: about how many texts it holds, and samples from all over it.

Knows nothing of Ray or of models.
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from raydistill.corpus import clean, kind_of, line_bytes
from raydistill.corpus_files import CorpusFile, Split
from raydistill.corpus_lines import LONGEST_LINE, SMALL_READ, as_utf8, count_line_ends, line_start, readable
from raydistill.corpus_readers import OPENERS, open_parquet, parquet_column, read_split, read_splits
from raydistill.paths import open_path
from raydistill.specs import TextCount

PLACES = 16  # a sample is taken from so many, spread evenly over the corpus
PLACE_BYTES = 16 << 20  # of text, read at such a place, where all are the same or none is new
MOST_UNPACKED = 64 << 20  # of a sample: it may unpack to anything
LEAST_ROW_BYTES = 64  # what a blank one counts for: it takes time all the same
FILES_READ = 256  # on from such a place
FILES_COUNTED = 1024  # text by text, before anything starts


class _Place(NamedTuple):
    """Where a sample is taken.

    `splits`: what to read, one after the other.
    `share`: how many of the `PLACES` it stands for: a reader can begin only here for all of them.
    """

    splits: list[Split]
    share: int


def estimate_texts(files: Sequence[CorpusFile], text_column: str, sample_bytes: int = 8 << 20) -> TextCount:
    """Count or estimate the texts of a corpus, reading about `sample_bytes`.

    Parquet is counted from its footers. Other files are read while they fit the sample, `FILES_COUNTED` of them at
    most. The rest is told by size: small files from those that were read, large ones from the line ends in parts of one
    of each kind. Raises CorpusError.
    """
    looked_into = [file for file in files if file.format == "parquet"] + _that_fit(files, sample_bytes)
    with ThreadPoolExecutor(OPENERS) as pool:
        counts = pool.map(partial(_count_texts, text_column=text_column), looked_into)
        found = dict(zip(looked_into, counts, strict=True))
    rest = [file for file in files if file not in found]
    texts, rows = (sum(counts) for counts in zip(*found.values(), strict=True)) if found else (0, 0)
    if not rest:
        return TextCount(texts, not any(file.format == "parquet" for file in files), rows - texts)
    nulls = sum(rows - texts for file, (texts, rows) in found.items() if file.format == "parquet")
    total = float(rows - nulls)
    rates: dict[Any, float] = {}
    for file in rest:
        kind = kind_of(file), file.likely_bytes <= sample_bytes
        if kind not in rates:
            like = {other: rows for other, (_, rows) in found.items() if (kind_of(other), True) == kind}
            read = sum(like.values()) / max(1, sum(other.size for other in like))
            rates[kind] = read or _rows_per_byte(file, sample_bytes)
        total += rates[kind] * file.size
    return TextCount(max(round(total), 1), False, nulls)  # that there is none, only reading all of it would tell


def _that_fit(files: Sequence[CorpusFile], sample_bytes: int) -> list[CorpusFile]:
    """The first files, but for Parquet, that are `sample_bytes` together; `FILES_COUNTED` at most."""
    fitting: list[CorpusFile] = []
    for file in files:
        if file.format != "parquet" and file.likely_bytes <= sample_bytes and len(fitting) < FILES_COUNTED:
            sample_bytes -= file.likely_bytes
            fitting.append(file)
    return fitting


def _count_texts(file: CorpusFile, text_column: str) -> tuple[int, int]:
    """Texts of a file, without and with blank ones; of Parquet without and with those that its footer says are null."""
    if file.format == "parquet":
        return _count_rows(file, text_column)
    found = Counter(bool(clean(text)) for texts in read_split(Split(file, 0, -1), text_column) for text in texts)
    return found[True], found.total()


def _count_rows(file: CorpusFile, text_column: str) -> tuple[int, int]:
    footer = open_parquet(file).metadata
    columns = [parquet_column(footer, group, text_column) for group in range(footer.num_row_groups)]
    known = [column.statistics for column in columns if column is not None and column.statistics]
    nulls = sum(statistics.null_count for statistics in known if statistics.has_null_count)
    return footer.num_rows - nulls, footer.num_rows


def _rows_per_byte(file: CorpusFile, sample_bytes: int) -> float:
    """Rows for each byte of the file as it lies: from all over it, or from its beginning. Raises CorpusError."""
    rows = read = 0.0
    if file.format in ("csv", "tsv"):  # where a line end may stand in a field
        beginning, unpacked = bytearray(), 0
        for piece, size in _pieces(file, sample_bytes, places=1):
            beginning += piece[: max(0, sample_bytes - len(beginning))]
            unpacked, read = unpacked + len(piece), read + size
        rows = _count_csv_rows(beginning, "\t" if file.format == "tsv" else ",") * unpacked / max(len(beginning), 1)
    else:
        count = count_line_ends if file.format == "text" else _count_json_rows
        for piece, size in _pieces(file, sample_bytes, PLACES if file.size > sample_bytes else 1):
            rows, read = rows + count(piece), read + size
    return max(rows, 1) / max(read, 1)


def _pieces(file: CorpusFile, sample_bytes: int, places: int) -> Iterator[tuple[bytes, int]]:
    """Pieces of a file, unpacked, each with how many of its bytes it is, from so many places.

    Of one that must be read from its beginning as much as unpacks to `MOST_UNPACKED` at most. Raises CorpusError.
    """
    fs, path = open_path(file.path)
    with readable(file), fs.open_input_file(path) as stream:
        if file.shows_line_ends:
            for place in range(places):
                stream.seek(file.size * place // places)
                piece = stream.read(sample_bytes // places)
                yield piece, len(piece)
            return
        source = pa.BufferReader(stream.read(sample_bytes))
    unpacking = as_utf8(pa.input_stream(source, compression=file.compression), file)
    unpacked = at = 0
    with contextlib.suppress(OSError, UnicodeError, pa.ArrowException):  # which a file that is cut short ends in
        while unpacked < MOST_UNPACKED and (block := unpacking.read(SMALL_READ)):  # the last of a cut one is lost
            yield block, source.tell() - at
            unpacked, at = unpacked + len(block), source.tell()


def _count_csv_rows(beginning: bytearray, delimiter: str) -> int:
    """How many rows there are at the beginning of a file, without the header and the last, which may be cut."""
    csv.field_size_limit(LONGEST_LINE)
    rows = 0
    with contextlib.suppress(csv.Error):  # as of what ends within a field
        for row in csv.reader(io.StringIO(beginning.decode(errors="replace"), newline=""), delimiter=delimiter):
            rows += bool(row)
    return rows - 2


def _count_json_rows(piece: bytes) -> int:
    """How many lines end in a piece that are not blank."""
    content = np.frombuffer(piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n"), dtype=np.uint8)
    ends = content == ord("\n")
    return int((ends & ~np.roll(ends, 1)).sum())


def sample_texts(files: Sequence[CorpusFile], text_column: str, count: int) -> list[str]:
    """Up to `count` distinct texts, from places spread evenly over the corpus as many as these stand for.

    The same corpus gives the same sample. Raises CorpusError.
    """
    places = _places(files)
    found: dict[str, None] = {}
    for most in (-(-count // sum(place.share for place in places)), count):  # more where another has fewer, or the same
        for place in places:
            if len(found) < count:
                found |= dict.fromkeys(itertools.islice(_distinct(place, text_column), min(count, most * place.share)))
    return list(found)[:count]


def read_stretches(files: Sequence[CorpusFile], text_column: str, stretch_bytes: int) -> Iterator[list[list[str]]]:
    """Stretches of texts that stand together, cleaned and blank ones included, from places all over the corpus.

    Args:
        stretch_bytes: about so much text in each.

    Returns:
        the stretches of each place: one, or several that follow each other where a file can only be read from there.

    Raises:
        CorpusError.
    """
    for place in _places(files, stretch_bytes):
        texts = _read_on(place, text_column)
        stretches = [list(_until(stretch_bytes, texts, line_bytes)) for _ in range(place.share)]
        yield list(filter(None, stretches))


def _places(files: Sequence[CorpusFile], least_bytes: int = 1) -> list[_Place]:
    """What to read from on, at `PLACES` spread evenly over the bytes of the corpus, or fewer of `least_bytes` each.

    Each goes on until the next one, in the files between them too, for a file may hold a single text.
    """
    ends = list(itertools.accumulate(file.likely_bytes for file in files))
    count = max(1, min(PLACES, ends[-1] // least_bytes))
    points = [ends[-1] * place // count for place in range(count)]
    hit = [bisect_right(ends, point) for point in points]
    parts = [1 - (ends[at] - point) / files[at].likely_bytes for at, point in zip(hit, points, strict=True)]
    with ThreadPoolExecutor(OPENERS) as pool:
        starts = pool.map(_start_near, [files[at] for at in hit], parts)
        shares = Counter(zip(hit, starts, strict=True))
    begins = [*shares, (len(files) - 1, -1)]
    return [_Place(_between(files, begin, end), shares[begin]) for begin, end in itertools.pairwise(begins)]


def _between(files: Sequence[CorpusFile], begin: tuple[int, int], end: tuple[int, int]) -> list[Split]:
    """All from one place to another, each the index of a file and where a split of it may begin or end."""
    (first, start), (last, stop) = begin, end
    splits = [
        Split(files[at], start if at == first else 0, stop if at == last else -1)
        for at in range(first, min(last, first + FILES_READ) + 1)
    ]
    return [split for split in splits if split.start != split.stop]


def _start_near(file: CorpusFile, part: float) -> int:
    """Where in a file a split may begin, in bytes or row groups.

    Args:
        part: of the file, from 0 to 1, that comes before; all of it where it can only be read from its beginning.
    """
    if file.format == "parquet":
        return int(part * open_parquet(file).metadata.num_row_groups)
    if part > 0 and file.cut_at_lines:
        return line_start(file, max(1, int(part * file.size)))
    return 0


def _read_on(place: _Place, text_column: str) -> Iterator[str]:
    """The texts of a place, cleaned, blank ones included, until they are `PLACE_BYTES` for each that it stands for."""
    texts = map(clean, itertools.chain.from_iterable(read_splits(place.splits, text_column)))
    return _until(PLACE_BYTES * place.share, texts, lambda text: max(line_bytes(text), LEAST_ROW_BYTES))


def _until(most: int, texts: Iterator[str], size: Callable[[str], int]) -> Iterator[str]:
    """The next of some texts, until their sizes come to `most`."""
    read = 0
    while read < most and (text := next(texts, None)) is not None:
        yield text
        read += size(text)


def _distinct(place: _Place, text_column: str) -> Iterator[str]:
    """The distinct texts of a place, without blank ones."""
    found: set[str] = set()
    for text in _read_on(place, text_column):
        if text and text not in found:
            found.add(text)
            yield text

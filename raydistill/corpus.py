"""The corpus: how its files are cut, and what names a text. Knows nothing of Ray or of models.

A file is cut into splits that can be read alone and at the same time: byte ranges of plain text and JSON lines, row
groups of Parquet, and the whole of a compressed or CSV file, which only a reader from the start can tell lines in.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import blake2b

from raydistill.corpus_files import CorpusFile, Split
from raydistill.corpus_lines import line_start
from raydistill.corpus_readers import OPENERS, open_parquet, read_split

MOST_MEASURED = 1000  # texts of each kind of file
TRIPS = 256  # of a task, to files that are opened one after the other: others are to make theirs at the same time


def check_readable(files: Sequence[CorpusFile], text_column: str) -> list[int]:
    """Read the beginning of one file of each kind, to tell a wrong column or encoding at once.

    Returns:
        how many bytes each of the texts has that were met there, of many some.

    Raises:
        CorpusError.
    """
    first: list[str] = []
    for file in {kind_of(file): file for file in reversed(files)}.values():
        first += next(filter(None, read_split(Split(file, 0, -1), text_column)), [])[:MOST_MEASURED]
    return [line_bytes(clean(text)) for text in first]


def kind_of(file: CorpusFile) -> tuple[str, str | None]:
    """By what it is read: format and compression."""
    return file.format, file.compression


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
    if file.cut_at_lines:
        starts = pool.map(partial(line_start, file), range(split_bytes, file.size, split_bytes))
        return lambda: sorted({*starts, 0, file.size})
    return lambda: (0, -1)


def _row_group_cuts(file: CorpusFile, split_bytes: int) -> list[int]:
    groups = open_parquet(file).metadata.num_row_groups
    per_split = max(1, round(split_bytes * groups / max(file.size, 1)))
    return [*range(0, max(groups, 1), per_split), groups]


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

"""How a piece of the corpus is read, format by format. Every reader streams: what it holds does not grow with the file.

Runs in read tasks, so it imports neither torch nor transformers.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq

from raydistill.corpus_files import CorpusFile, Split
from raydistill.corpus_lines import LONGEST_LINE, READ_BYTES, numbered_lines, numbered_pieces, readable
from raydistill.errors import CorpusError, counted, first_line
from raydistill.paths import open_path

OPENERS = 16  # files looked into at once: on an object store each takes a round trip
# Parquet may unpack to anything: what its footer says is held against these before it is read, and few rows are decoded
# at a time, as each may be the same long text.
PARQUET_ROWS, LARGEST_COLUMN, HIGHEST_RATIO = 32, 64 << 20, 200


def read_split(split: Split, text_column: str) -> Iterator[list[str]]:
    """Stream the texts of a split as they stand, some thousand at a time. Raises CorpusError, naming file and place."""
    readers = {
        "text": _read_lines,
        "jsonl": _read_json_lines,
        "csv": _read_csv,
        "tsv": _read_csv,
        "parquet": _read_parquet,
    }
    file = split.file
    try:
        with readable(file):
            yield from readers[file.format](split, text_column)
    except UnicodeError as error:
        if file.format == "parquet":
            raise CorpusError(f"{file.path}: cannot be read as parquet ({first_line(error)}).") from None
        raise CorpusError(
            f"{file.path}: is not {file.encoding} ({first_line(error)}). Name the encoding with --encoding."
        ) from None
    except pa.ArrowException as error:
        raise CorpusError(f"{file.path}: cannot be read as {file.format} ({first_line(error)}).") from None


def read_splits(splits: Iterable[Split], text_column: str) -> Iterator[list[str]]:
    """The same of several, one after the other; small files are opened ahead, as each may be a round trip."""
    ahead: deque[tuple[Iterator[list[str]], Future[list[list[str]]] | None]] = deque()
    pool = ThreadPoolExecutor(OPENERS)
    try:
        for split in splits:
            read = read_split(split, text_column)
            ahead.append((read, pool.submit(_first, read) if split.file.is_small else None))
            if len(ahead) > OPENERS:
                yield from _from_its_beginning(*ahead.popleft())
        while ahead:
            yield from _from_its_beginning(*ahead.popleft())
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # a sample reads on no more, and need not wait for the others


def _first(read: Iterator[list[str]]) -> list[list[str]]:
    """The first of what is read: all of a small file, but for one that has grown since it was listed."""
    return list(itertools.islice(read, 1))


def _from_its_beginning(read: Iterator[list[str]], begun: Future[list[list[str]]] | None) -> Iterator[list[str]]:
    yield from begun.result() if begun else ()
    yield from read


def _read_lines(split: Split, text_column: str) -> Iterator[list[str]]:
    for _, lines in numbered_lines(split):
        yield lines


def _read_json_lines(split: Split, text_column: str) -> Iterator[list[str]]:
    path = split.file.path
    for number, lines in numbered_lines(split):
        texts = []
        for offset, line in enumerate(lines):
            if not line.strip():
                continue
            place = f"{path}: line {number + offset}" if number else f"{path}: the line {line[:40]!r}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                reason = error.msg if isinstance(error, json.JSONDecodeError) else first_line(error)
                raise CorpusError(f"{place} is not JSON ({reason}). Write one object per line.") from None
            if not isinstance(row, dict):
                raise CorpusError(f'{place} is not a JSON object. Write one object per line, like {{"text": "…"}}.')
            if text_column not in row:
                raise CorpusError(
                    f"{place} has no {text_column!r}; it has {_listed(row)}. Choose one with --text-column."
                )
            if not isinstance(row[text_column], str | None):
                raise CorpusError(f"{place} has a {text_column!r} that is not text.")
            texts.append(row[text_column] or "")
        if texts:
            yield texts


def _read_csv(split: Split, text_column: str) -> Iterator[list[str]]:
    path, kind = split.file.path, split.file.format
    begun, size = 1, 0  # the line at which a row begins, and how much was read of it

    def lines() -> Iterator[str]:
        nonlocal size
        for _, piece in numbered_pieces(split):
            for line in io.StringIO(piece, newline=""):  # line ends stay as they are: they may stand in a field
                size += len(line)
                if size > LONGEST_LINE:
                    raise CorpusError(
                        f"{path}: line {begun} begins a row of more than {LONGEST_LINE >> 20} MiB. Is there a quotation"
                        " mark that is never closed?"
                    )
                yield line

    csv.field_size_limit(LONGEST_LINE)  # Python's is 128 kB
    rows = csv.reader(lines(), delimiter="\t" if kind == "tsv" else ",", strict=True)
    names: list[str] = []
    texts: list[str] = []
    held = 0
    try:
        for row in rows:
            if not names:
                names = row
                at = _column(path, text_column, names) if names else 0
            elif row:  # a blank line is none
                if len(row) != len(names):
                    raise CorpusError(
                        f"{path}: line {begun} begins a row of {counted(len(row), 'column')} instead of {len(names)}."
                    )
                texts.append(row[at])
                held += len(texts[-1]) + 1
                if held >= READ_BYTES:
                    yield texts
                    texts, held = [], 0
            begun, size = rows.line_num + 1, 0
    except csv.Error as error:
        raise CorpusError(f"{path}: line {begun} begins a row that is not {kind} ({error}).") from None
    if texts:
        yield texts


def open_parquet(file: CorpusFile) -> pq.ParquetFile:
    """A file's footer and row groups. Raises CorpusError."""
    if file.compression:  # which is read from its beginning, and Parquet from its end
        raise CorpusError(f"{file.path}: Parquet is not read out of a compressed file. Unpack it first.")
    fs, path = open_path(file.path)
    try:
        # Neither whole columns nor whole row groups in memory, as by default: pages one after another.
        return pq.ParquetFile(fs.open_input_file(path), buffer_size=READ_BYTES, pre_buffer=False)
    except (pa.ArrowInvalid, OSError) as error:
        raise CorpusError(f"{file.path}: is not a Parquet file ({first_line(error)}).") from None


def parquet_column(groups: pq.FileMetaData, group: int, name: str) -> pq.ColumnChunkMetaData | None:
    """What a footer says of a column of a row group; None for one that is not there, or is nested."""
    columns = (groups.row_group(group).column(at) for at in range(groups.num_columns))
    return next((column for column in columns if column.path_in_schema == name), None)


def _read_parquet(split: Split, text_column: str) -> Iterator[list[str]]:
    path, file = split.file.path, open_parquet(split.file)
    schema = file.schema_arrow
    _column(path, text_column, schema.names)
    kind = schema.field(text_column).type
    value_kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (
        pa.types.is_string(value_kind) or pa.types.is_large_string(value_kind) or pa.types.is_string_view(value_kind)
    ):
        raise CorpusError(f"{path}: column {text_column!r} holds {kind}, not text. Choose one with --text-column.")
    groups = range(split.start, file.metadata.num_row_groups if split.stop < 0 else split.stop)
    for group in groups:
        _expect_no_bomb(path, group, parquet_column(file.metadata, group, text_column))
    for batch in file.iter_batches(batch_size=PARQUET_ROWS, row_groups=list(groups), columns=[text_column]):
        texts = [text or "" for text in batch.column(text_column).to_pylist()]
        if max(map(len, texts), default=0) > LONGEST_LINE:
            raise CorpusError(f"{path}: has a text of more than {LONGEST_LINE >> 20} MiB.")
        yield texts


def _expect_no_bomb(path: str, group: int, column: pq.ColumnChunkMetaData | None) -> None:
    """Raise CorpusError for texts that are known beforehand to be too long, and for what unpacks to far too much."""
    if column is None:
        return
    size, packed = column.total_uncompressed_size, column.total_compressed_size
    if size > LONGEST_LINE * max(column.num_values, 1):
        raise CorpusError(f"{path}: has texts of more than {LONGEST_LINE >> 20} MiB, in row group {group}.")
    if size > LARGEST_COLUMN and size > HIGHEST_RATIO * packed:
        raise CorpusError(
            f"{path}: row group {group} unpacks to {size >> 20} MiB, {size // max(packed, 1):,} times what it takes in"
            " the file. If that is meant, write it anew without compression."
        )


def _column(path: str, text_column: str, names: Sequence[str]) -> int:
    """Which column is the text. Raises CorpusError."""
    if text_column not in names:
        raise CorpusError(
            f"{path}: has no column {text_column!r}; it has {_listed(names)}. Choose one with --text-column."
        )
    if names.count(text_column) > 1:
        raise CorpusError(f"{path}: has several columns {text_column!r}. Keep one.")
    return names.index(text_column)


def _listed(names: Iterable[str]) -> str:
    names = [str(name) for name in names]
    shown = [name if len(name) <= 40 else f"{name[:40]}…" for name in names[:20]]
    return ", ".join(shown) + (", …" if len(names) > 20 else "")

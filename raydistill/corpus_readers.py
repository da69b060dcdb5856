"""How a piece of the corpus is read, format by format. Every reader streams: what it holds does not grow with the file.

Runs in read tasks, so it imports neither torch nor transformers.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from raydistill.corpus_files import CorpusFile
from raydistill.errors import CorpusError, first_line
from raydistill.files import open_path

READ_BYTES = 4 << 20
LONGEST_LINE = 64 << 20  # a longer one is a file without line ends rather than a text
BOM = b"\xef\xbb\xbf"


@dataclasses.dataclass(frozen=True)
class Split:
    """A piece of a file: bytes [start, stop) of plain lines, or row groups of Parquet; stop < 0 is all."""

    file: CorpusFile
    start: int
    stop: int


def read_split(split: Split, text_column: str) -> Iterator[list[str]]:
    """Stream the texts of a split as they stand, some thousand at a time. Raises CorpusError, naming file and place."""
    readers = {
        "text": _read_lines,
        "jsonl": _read_json_lines,
        "csv": _read_csv,
        "tsv": _read_csv,
        "parquet": _read_parquet,
    }
    path = split.file.path
    try:
        yield from readers[split.file.format](split, text_column)
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read ({first_line(error)}).") from None
    except (pa.ArrowException, UnicodeDecodeError) as error:
        if first_line(error) == "Empty CSV file":
            return
        raise CorpusError(f"{path}: cannot be read as {split.file.format} ({first_line(error)}).") from None


def _open(file: CorpusFile) -> pa.NativeFile:
    fs, path = open_path(file.path)
    return fs.open_input_stream(path, compression=file.compression)


def _chunks(split: Split) -> Iterator[bytes]:
    """The bytes of a split, decompressed, some megabytes at a time."""
    if split.stop < 0:
        stream, left = _open(split.file), None
    else:
        fs, path = open_path(split.file.path)
        stream, left = fs.open_input_file(path), split.stop - split.start
        stream.seek(split.start)
    with stream:
        while chunk := stream.read(READ_BYTES if left is None else min(READ_BYTES, left)):
            yield chunk
            left = None if left is None else left - len(chunk)


def _numbered_lines(split: Split) -> Iterator[tuple[int, list[bytes]]]:
    """Lines without their ends, some megabytes at a time, with the number of the first (0 where it cannot be known).

    LF, CRLF and CR end a line, as in Python's text mode.
    """
    number, rest, path = (0 if split.start else 1), b"", split.file.path
    for i, chunk in enumerate(_chunks(split)):
        if i == 0 and split.start == 0:
            if b"\0" in chunk[:4096] or chunk.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise CorpusError(f"{path}: {_why_not_text(chunk)}")
            chunk = chunk.removeprefix(BOM)
        data = rest + chunk
        cut = data.rfind(b"\n") + 1 or data.rfind(b"\r", 0, -1) + 1
        if not cut and len(data) > LONGEST_LINE:
            raise CorpusError(f"{path}: has a line of more than {LONGEST_LINE >> 20} MiB. Is it a text file?")
        lines, rest = _split_lines(data[:cut]), data[cut:]
        yield number, lines
        number += len(lines) if number else 0
    yield number, _split_lines(rest)


def _split_lines(data: bytes) -> list[bytes]:
    if not data:
        return []
    return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").removesuffix(b"\n").split(b"\n")


def _decode(lines: list[bytes], number: int, path: str) -> list[str]:
    try:
        return b"\n".join(lines).decode().split("\n")
    except UnicodeDecodeError:
        for offset, line in enumerate(lines):
            try:
                line.decode()
            except UnicodeDecodeError:
                place = f"line {number + offset}" if number else f"{line[:40]!r}"
                raise CorpusError(
                    f"{path}: {place} is not UTF-8. Convert the file: iconv -f latin1 -t utf-8."
                ) from None
        raise


def _read_lines(split: Split, text_column: str) -> Iterator[list[str]]:
    for number, lines in _numbered_lines(split):
        if lines:
            yield _decode(lines, number, split.file.path)


def _read_json_lines(split: Split, text_column: str) -> Iterator[list[str]]:
    path = split.file.path
    for number, lines in _numbered_lines(split):
        texts = []
        for offset, line in enumerate(_decode(lines, number, path) if lines else []):
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
        yield texts


def _read_csv(split: Split, text_column: str) -> Iterator[list[str]]:
    path = split.file.path
    parse = pacsv.ParseOptions(delimiter="\t" if split.file.format == "tsv" else ",", newlines_in_values=True)
    read = pacsv.ReadOptions(block_size=READ_BYTES)
    convert = pacsv.ConvertOptions(
        include_columns=[text_column], column_types={text_column: pa.string()}, strings_can_be_null=False
    )
    try:
        with _open(split.file) as stream:
            reader = pacsv.open_csv(stream, read_options=read, parse_options=parse, convert_options=convert)
            for batch in reader:
                yield batch.column(0).to_pylist()
    except KeyError:
        with _open(split.file) as stream:
            names = pacsv.open_csv(stream, read_options=read, parse_options=parse).schema.names
        raise _no_column(path, text_column, names) from None


def open_parquet(file: CorpusFile) -> pq.ParquetFile:
    """A file's footer and row groups. Raises CorpusError."""
    fs, path = open_path(file.path)
    try:
        return pq.ParquetFile(fs.open_input_file(path))
    except (pa.ArrowInvalid, OSError) as error:
        raise CorpusError(f"{file.path}: is not a Parquet file ({first_line(error)}).") from None


def _read_parquet(split: Split, text_column: str) -> Iterator[list[str]]:
    file = open_parquet(split.file)
    schema = file.schema_arrow
    if text_column not in schema.names:
        raise _no_column(split.file.path, text_column, schema.names)
    if schema.names.count(text_column) > 1:
        raise CorpusError(f"{split.file.path}: has several columns {text_column!r}. Keep one.")
    kind = schema.field(text_column).type
    value_kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (
        pa.types.is_string(value_kind) or pa.types.is_large_string(value_kind) or pa.types.is_string_view(value_kind)
    ):
        raise CorpusError(
            f"{split.file.path}: column {text_column!r} holds {kind}, not text. Choose one with --text-column."
        )
    groups = range(split.start, file.metadata.num_row_groups if split.stop < 0 else split.stop)
    for batch in file.iter_batches(batch_size=4096, row_groups=list(groups), columns=[text_column]):
        yield [text or "" for text in batch.column(0).to_pylist()]


def _no_column(path: str, text_column: str, names: Iterable[str]) -> CorpusError:
    return CorpusError(
        f"{path}: has no column {text_column!r}; it has {_listed(names)}. Choose one with --text-column."
    )


def _listed(names: Iterable[str]) -> str:
    names = [str(name) for name in names]
    return ", ".join(names[:20]) + (", …" if len(names) > 20 else "")


def _why_not_text(head: bytes) -> str:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "is UTF-16 text. Convert the file: iconv -f utf-16 -t utf-8."
    return "is a binary file, not text. Text, CSV, JSON lines and Parquet are told apart by the ending of the name."

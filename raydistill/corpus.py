"""The corpus: how its files are cut into pieces, and how a piece is read. Knows nothing of Ray or of models.

A file is cut into splits that can be read alone and at the same time: byte ranges of plain text and JSON lines, row
groups of Parquet, and the whole of a compressed or CSV file, which only a reader from the start can tell lines in.
Every reader streams: what it holds does not grow with the file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import TypeVar

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from raydistill.corpus_files import CorpusFile
from raydistill.errors import CorpusError, first_line
from raydistill.files import open_path

T = TypeVar("T")
READ_BYTES = 4 << 20
LONGEST_LINE = 64 << 20  # a longer one is a file without line ends rather than a text
BOM = b"\xef\xbb\xbf"


@dataclasses.dataclass(frozen=True)
class Split:
    """A piece of a file: bytes [start, stop) of plain lines, or row groups of Parquet; stop < 0 is all."""

    file: CorpusFile
    start: int
    stop: int


def check_readable(files: Sequence[CorpusFile], text_column: str) -> None:
    """Read the beginning of one file of each kind, to tell a wrong column or encoding at once. Raises CorpusError."""
    seen: set[tuple[str, str | None]] = set()
    for file in files:
        if (file.format, file.compression) not in seen:
            seen.add((file.format, file.compression))
            next(read_split(Split(file, 0, -1), text_column), None)


def make_splits(files: Iterable[CorpusFile], split_bytes: int) -> list[Split]:
    """Cut every file that can be cut into pieces of about `split_bytes`. Raises CorpusError."""
    splits = []
    for file in files:
        if file.format == "parquet":
            groups = _parquet(file).metadata
            per_split = max(1, round(split_bytes * groups.num_row_groups / max(file.size, 1)))
            bounds = range(0, groups.num_row_groups, per_split)
            splits += [Split(file, start, min(start + per_split, groups.num_row_groups)) for start in bounds]
        elif file.compression is None and file.format in ("text", "jsonl"):
            cuts = sorted({_line_start(file, at) for at in range(split_bytes, file.size, split_bytes)} | {0, file.size})
            splits += [Split(file, start, stop) for start, stop in itertools.pairwise(cuts)]
        else:
            splits.append(Split(file, 0, -1))
    return splits


def estimate_texts(files: Sequence[CorpusFile], text_column: str, sample_bytes: int = 8 << 20) -> tuple[int, bool]:
    """(number of texts, whether that is exact), reading about `sample_bytes`.

    Parquet is counted from its footers, blank texts included. Other files are read while they fit the sample; of the
    rest, the line ends in the beginning of one of each kind are counted and the others estimated by size.
    """
    total, left, exact = 0, sample_bytes, True
    rates: dict[tuple[str, str | None], float] = {}
    for file in files:
        kind = (file.format, file.compression)
        if file.format == "parquet":
            total += _parquet(file).metadata.num_rows
        elif (size := file.size * (4 if file.compression else 1)) <= left:
            left -= size
            total += sum(bool(clean(text)) for texts in read_split(Split(file, 0, -1), text_column) for text in texts)
        else:
            exact = False
            rates[kind] = rates.get(kind) or _lines_per_byte(file, sample_bytes)
            total += round(rates[kind] * file.size)
    return total, exact


def _lines_per_byte(file: CorpusFile, sample_bytes: int) -> float:
    """Line ends for each byte of the file as it lies, from its beginning."""
    fs, path = open_path(file.path)
    with fs.open_input_stream(path, compression=None) as stream:
        head = stream.read(sample_bytes)
    lines = 0
    stream = pa.input_stream(pa.BufferReader(head), compression=file.compression)
    with contextlib.suppress(OSError):  # which a compressed file that is cut short ends in
        while block := stream.read(READ_BYTES):
            lines += block.count(b"\n")
    return max(lines, 1) / max(len(head), 1)


def sample_texts(files: Sequence[CorpusFile], text_column: str, count: int, places: int = 16) -> list[str]:
    """Up to `count` distinct texts, taken in like shares from places spread evenly over the corpus.

    The same corpus gives the same sample. Raises CorpusError.
    """
    some = _spread(files, places)
    size = sum(file.size for file in some) // places + 1
    splits = _spread(make_splits(some, size), places)
    found: dict[str, None] = {}
    beginnings = [_distinct(split, text_column, count) for split in splits]
    share = -(-count // len(splits))
    for texts in [*(texts[:share] for texts in beginnings), *(texts[share:] for texts in beginnings)]:
        found |= dict.fromkeys(texts)
    return list(found)[:count]


def _spread(items: Sequence[T], count: int) -> list[T]:
    """Up to `count` items at even distances."""
    return [items[i * len(items) // min(count, len(items))] for i in range(min(count, len(items)))]


def _distinct(split: Split, text_column: str, count: int) -> list[str]:
    """The first distinct texts of a split."""
    found: dict[str, None] = {}
    for texts in read_split(split, text_column):
        found |= dict.fromkeys(text for text in map(clean, texts) if text)
        if len(found) >= count:
            break
    return list(found)[:count]


def text_id(text: str) -> str:
    """The content hash that names a text: BLAKE2b of its UTF-8 bytes, 128 bits, as 32 hexadecimal digits."""
    return blake2b(text.encode(), digest_size=16).hexdigest()


def clean(text: str | None) -> str:
    """A text without the blanks around it, "" for a missing one; a lone surrogate, unknown to UTF-8, is U+FFFD."""
    stripped = text.strip() if text else ""
    return stripped if stripped.isascii() else stripped.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


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


def _line_start(file: CorpusFile, at: int) -> int:
    """The first byte from `at` on at which a line begins: where a split may be cut."""
    fs, path = open_path(file.path)
    with fs.open_input_file(path) as stream:
        stream.seek(at - 1)
        for _ in range(LONGEST_LINE >> 16):
            block = stream.read(1 << 16)
            if not block:
                return file.size
            if (found := block.find(b"\n")) >= 0:
                return stream.tell() - len(block) + found + 1
    return file.size


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


def _parquet(file: CorpusFile) -> pq.ParquetFile:
    fs, path = open_path(file.path)
    try:
        return pq.ParquetFile(fs.open_input_file(path))
    except (pa.ArrowInvalid, OSError) as error:
        raise CorpusError(f"{file.path}: is not a Parquet file ({first_line(error)}).") from None


def _read_parquet(split: Split, text_column: str) -> Iterator[list[str]]:
    file = _parquet(split.file)
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

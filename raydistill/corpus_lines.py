"""Text files as lines: unpacked, decoded and cut, some megabytes at a time, however long a file or a line of it is.

Whatever a file's encoding is, what the readers get is UTF-8. Runs in read tasks, so it imports neither torch nor
transformers.
"""

from __future__ import annotations

import codecs
import contextlib
import re
from collections.abc import Iterator

import pyarrow as pa

from raydistill.corpus_files import CorpusFile, Split
from raydistill.errors import CorpusError, first_line
from raydistill.paths import open_path

READ_BYTES = 4 << 20
LONGEST_LINE = 16 << 20  # a longer one is a file without line ends rather than a text
SMALL_READ = 64 << 10
LINE_END = re.compile(rb"\r\n|\n|\r")
HEAD_BYTES = 4096  # what tells a binary file
BYTE_ORDER_MARKS = {  # those of UTF-32 first: they begin with one of UTF-16
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


@contextlib.contextmanager
def readable(file: CorpusFile) -> Iterator[None]:
    """Raise CorpusError where a file cannot be read within."""
    try:
        yield
    except OSError as error:
        raise CorpusError(f"{file.path}: cannot be read ({first_line(error)}).") from None


def open_text(split: Split) -> pa.NativeFile:
    """The bytes of a split to be read one after another, unpacked and as UTF-8.

    Reading raises OSError for what cannot be unpacked, and UnicodeError for what the file's encoding does not know;
    UTF-8 itself is passed on as it is.
    """
    fs, path = open_path(split.file.path)
    if split.start or split.stop >= 0:
        stop = split.file.size if split.stop < 0 else split.stop
        stream = fs.open_input_file(path).get_stream(split.start, stop - split.start)
    else:
        stream = fs.open_input_stream(path, compression=split.file.compression)
    return as_utf8(stream, split.file)


def as_utf8(stream: pa.NativeFile, file: CorpusFile) -> pa.NativeFile:
    """An unpacked stream of a file's bytes as UTF-8."""
    return pa.transcoding_input_stream(stream, file.encoding, "utf-8")


def numbered_lines(split: Split) -> Iterator[tuple[int, list[str]]]:
    """The lines of a split without their ends, some megabytes at a time, with the number of the first.

    LF, CRLF and CR end a line, as in Python's text mode. The number is 0 where it cannot be known: in the middle of a
    file.

    Raises:
        CorpusError: for what is no text, not in its encoding, or has no line ends.
        OSError, UnicodeError: as `open_text`.
    """
    for number, piece in numbered_pieces(split):
        yield number, piece.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n")


def numbered_pieces(split: Split) -> Iterator[tuple[int, str]]:
    """The same as text of whole lines, as they stand."""
    path = split.file.path
    number, rest = (0 if split.start else 1), b""
    with open_text(split) as stream:
        while chunk := stream.read(READ_BYTES):
            if number == 1 and not rest:
                expect_text(chunk[:HEAD_BYTES], path)
                chunk = chunk.removeprefix(codecs.BOM_UTF8)
            data = rest + chunk
            cut = data.rfind(b"\n") + 1 or data.rfind(b"\r", 0, -1) + 1
            # Of the lines that end here only the first was begun before: no other can be that long.
            first_end = LINE_END.search(data, max(len(rest) - 1, 0)) if len(data) > LONGEST_LINE else None
            if max(len(data) - cut, first_end.start() if first_end else 0) > LONGEST_LINE:
                raise CorpusError(f"{path}: has a line of more than {LONGEST_LINE >> 20} MiB. Is it a text file?")
            piece, rest = data[:cut], data[cut:]
            if piece:
                yield number, _decode(piece, number, path)
                number += count_line_ends(piece) if number else 0
    if rest:
        yield number, _decode(rest, number, path)


def count_line_ends(piece: bytes) -> int:
    """How many lines end in a piece of a file, by LF, CRLF or CR."""
    return piece.count(b"\n") + piece.count(b"\r") - piece.count(b"\r\n")


def _decode(piece: bytes, number: int, path: str) -> str:
    try:
        return piece.decode()
    except UnicodeDecodeError as error:
        at = error.start
        begin = max(piece.rfind(b"\n", 0, at), piece.rfind(b"\r", 0, at)) + 1
        line = piece[begin : at + HEAD_BYTES].splitlines()[0]
        place = f"line {number + count_line_ends(piece[:begin])}" if number else f"{line[:40]!r}"
        raise CorpusError(
            f"{path}: {place} is not UTF-8; it may be {_likely_encoding(line)}. Name the encoding with --encoding."
        ) from None


def _likely_encoding(line: bytes) -> str:
    """A guess at an encoding of one byte a character: what Latin-1 keeps for control characters has signs in cp1252."""
    return "cp1252" if any(0x80 <= byte < 0xA0 for byte in line) else "latin-1"


def expect_text(head: bytes, path: str) -> None:
    """Raise CorpusError where a file, by its first bytes as UTF-8, is no text in the encoding that was said."""
    for mark, name in BYTE_ORDER_MARKS.items():
        if head.startswith(mark):
            raise CorpusError(f"{path}: is {name.upper()} text. Read it with --encoding {name}.")
    first, second = head[::2].count(0), head[1::2].count(0)
    if min(first, second) == 0 and max(first, second) > len(head) // 4:  # as Latin letters have in two bytes
        name = "utf-16-be" if first else "utf-16-le"
        raise CorpusError(f"{path}: seems to be UTF-16 text. Read it with --encoding {name}.")
    if first or second:
        raise CorpusError(
            f"{path}: is a binary file, not text. Text, CSV, JSON lines and Parquet are told apart by the ending of the"
            " name."
        )


def line_start(file: CorpusFile, at: int) -> int:
    """The first byte from `at` on at which a line begins: where a split may be cut. Raises CorpusError."""
    fs, path = open_path(file.path)
    with readable(file), fs.open_input_file(path) as stream:
        stream.seek(at - 1)
        last = b""
        for _ in range(LONGEST_LINE // SMALL_READ):
            block = stream.read(SMALL_READ)
            if not block:
                return file.size
            data = last + block
            found = LINE_END.search(data)
            if found and found.end() < len(data):  # behind a CR at its end an LF may come
                return stream.tell() - len(data) + found.end()
            last = data[-1:]
    return file.size

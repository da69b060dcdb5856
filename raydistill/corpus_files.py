"""Which files the corpus is: paths, globs, directories and URIs, and what the ending of a name says."""

from __future__ import annotations

import codecs
import dataclasses
import glob
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import PurePosixPath
from urllib.parse import quote

import pyarrow as pa
import pyarrow.fs as pafs
from fsspec.implementations.arrow import ArrowFSWrapper

from raydistill.errors import CorpusError, first_line, shown
from raydistill.paths import GLOB_CHARACTERS, is_uri, open_path, real_paths, user_of
from raydistill.redaction import without_secrets

FORMATS = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet"}
SMALL_FILE = 64 << 10
# ISO-2022-KR says at the beginning of a text which characters are meant, and nowhere else; in HZ a line may go on.
WHOLE = ("iso2022_kr", "hz")
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".lz4": "lz4"}


@dataclasses.dataclass(frozen=True)
class CorpusFile:
    """One file: its path or URI, size in bytes as it lies, format, compression or None, and encoding."""

    path: str
    size: int
    modified: float
    format: str
    compression: str | None
    encoding: str = "utf-8"

    @property
    def likely_bytes(self) -> int:
        """About how much it is unpacked: texts shrink to a quarter."""
        return self.size * (4 if self.compression or self.format == "parquet" else 1)

    @property
    def is_small(self) -> bool:
        """Whether it takes longer to be opened than to be read, and has nothing to be unpacked."""
        return self.size <= SMALL_FILE and self.compression is None and self.format != "parquet"

    @property
    def shows_line_ends(self) -> bool:
        """Whether a line end can be told by its byte anywhere in the file as it lies, and a reader can begin there."""
        try:
            line_ends = "\r\n".encode(self.encoding)
        except UnicodeError:
            return False
        whole = self.compression is not None or codecs.lookup(self.encoding).name in WHOLE
        return line_ends == b"\r\n" and not whole

    @property
    def cut_at_lines(self) -> bool:
        """Whether it can be read in pieces that begin behind a line end."""
        return self.shows_line_ends and self.format in ("text", "jsonl")


@dataclasses.dataclass(frozen=True)
class Split:
    """A piece of a file: bytes [start, stop) of plain lines, or row groups of Parquet; stop < 0 is the end."""

    file: CorpusFile
    start: int
    stop: int


def find_files(data_files: Sequence[str], encoding: str = "utf-8") -> list[CorpusFile]:
    """The files that paths, globs, directories and URIs name, each once, sorted within each. Raises CorpusError.

    Args:
        encoding: of those that are text, by a name that Python knows.
    """
    expanded = [file for entry in data_files for file in _expand(entry) if file.size]
    files = [dataclasses.replace(file, encoding=encoding) for file in expanded]
    once: dict[str, CorpusFile] = {}  # a link to what is there besides would have its texts count twice
    for file, real in zip(files, real_paths(file.path for file in files), strict=True):
        once.setdefault(real, file)
    if not once:
        raise CorpusError(f"--data-file {data_files[0]}: is empty. Give a file with one text per line.")
    return list(once.values())


def _expand(entry: str) -> list[CorpusFile]:
    uri, question, settings = entry.partition("?") if is_uri(entry) else (entry, "", "")  # endpoint_override=…
    scheme = uri[: uri.index("://") + 3] + user_of(uri) if is_uri(entry) else ""
    settings = question + settings
    try:
        fs, path = open_path(entry)
        info = fs.get_file_info(path)
        if info.type == pafs.FileType.File:
            return [_describe(uri if scheme else path, info, settings)]
        if info.type == pafs.FileType.Directory:
            local = isinstance(fs, pafs.LocalFileSystem)
            listed = fs.get_file_info(_walk(path) if local else pafs.FileSelector(path, recursive=True))
            found = [item for item in listed if not _is_hidden(item.path.removeprefix(path))]
        elif GLOB_CHARACTERS & set(path):
            found = fs.get_file_info(ArrowFSWrapper(fs).glob(path) if scheme else glob.glob(path, recursive=True))
        else:
            found = []
    except UnicodeEncodeError as error:
        raise CorpusError(
            f"--data-file {entry}: {shown(error.object)} is a name that is not UTF-8. Rename it."
        ) from None
    except (OSError, pa.ArrowInvalid, UnicodeError) as error:
        raise CorpusError(f"--data-file {entry}: cannot be read ({first_line(error)}).") from None
    files = sorted(
        (item for item in found if item.type == pafs.FileType.File and not _is_hidden(item.base_name)),
        key=lambda item: item.path,
    )
    if not files:
        raise CorpusError(f"--data-file {entry}: no such file. Give a file, a directory with files in it, or a glob.")
    return [_describe(scheme + quote(item.path) if scheme else item.path, item, settings) for item in files]


def _walk(folder: str) -> list[str]:
    """All files below a folder of this machine, links followed; of folders that links lead to twice, once."""

    def fail(error: OSError) -> None:
        raise error

    found: list[str] = []
    met: set[str] = set()
    for path, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        real = os.path.realpath(path)
        if real in met:
            folders.clear()  # of links that lead back there is no end
            continue
        met.add(real)
        found += [os.path.join(path, name) for name in names if not _is_hidden(name)]
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
    return found


def _is_hidden(path: str) -> bool:
    """Whether a part of a path begins with . or _, as what other programs leave in a data folder does."""
    return any(part.startswith((".", "_")) for part in PurePosixPath(path).parts)


def _describe(path: str, info: pafs.FileInfo, settings: str) -> CorpusFile:
    name, suffix = os.path.splitext(path.lower())
    compression = COMPRESSIONS.get(suffix)
    suffix = os.path.splitext(name)[1] if compression else suffix
    modified = info.mtime.timestamp() if info.mtime else 0.0
    return CorpusFile(path + settings, info.size, modified, FORMATS.get(suffix, "text"), compression)


def corpus_signature(files: Sequence[CorpusFile], text_column: str) -> str:
    """Changes when a file of the corpus does, or how it is read: by names, sizes and times, not contents or keys."""
    lines = "\n".join(file.path.replace("\n", " ") for file in files)  # one by one it takes seconds
    paths = without_secrets(lines).split("\n")
    facts = [[path, file.size, file.modified, file.encoding] for path, file in zip(paths, files, strict=True)]
    return hashlib.blake2b(json.dumps([text_column, facts]).encode(), digest_size=16).hexdigest()

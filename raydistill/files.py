"""Files on local disks and object stores, through pyarrow.fs, written so that a kill leaves no torn one."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import io
import json
import os
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.fs as pafs

GLOB_CHARACTERS = frozenset("*?[")


def is_uri(path: str) -> bool:
    """Whether a path names its file system (s3://, gs://, file://, …)."""
    return "://" in path


def open_path(path: str) -> tuple[pafs.FileSystem, str]:
    """The file system of a path or URI, and the path within it. Raises pyarrow.ArrowInvalid and OSError."""
    if is_uri(path):
        return pafs.FileSystem.from_uri(path)
    return pafs.LocalFileSystem(), os.path.abspath(os.path.expanduser(path))


@dataclasses.dataclass(frozen=True)
class Draft:
    """A file under way: what is written to `sink` is there under a name once `publish` is called with that."""

    sink: BinaryIO
    publish: Callable[[str], None]


class Folder:
    """A folder of small and large files whose writes are all or nothing.

    Locally a file is written aside and renamed; on an object store one upload is one PUT. Names that begin with "." or
    "_" are passed over by every Parquet reader, so a part under way is never read.
    """

    def __init__(self, path: str) -> None:
        self._fs, self._root = open_path(path)
        self.path = path if is_uri(path) else self._root  # absolute: workers have another current directory

    @property
    def local(self) -> str | None:
        """Its path, if it is on a disk."""
        return self._root if isinstance(self._fs, pafs.LocalFileSystem) else None

    def __reduce__(self) -> tuple[type[Folder], tuple[str]]:
        return Folder, (self.path,)

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"

    def create(self) -> None:
        """Make the folder and those above it."""
        self._fs.create_dir(self._root, recursive=True)

    def sizes(self, suffix: str = "") -> dict[str, int]:
        """Bytes of the finished files in it, by name, sorted; none where there is no such folder."""
        found = self._fs.get_file_info(pafs.FileSelector(self._root, allow_not_found=True))
        sizes = {info.base_name: info.size for info in found if info.type == pafs.FileType.File}
        return {name: sizes[name] for name in sorted(sizes) if name.endswith(suffix) and not name.startswith(".")}

    def names(self, suffix: str = "") -> list[str]:
        """The finished files in it, sorted."""
        return list(self.sizes(suffix))

    def read(self, name: str) -> bytes:
        """A whole file. Raises FileNotFoundError."""
        with self._fs.open_input_stream(self._at(name)) as stream:
            return stream.read()

    def write(self, name: str, content: bytes) -> None:
        """Write a whole file, or nothing."""
        with self.writing(name) as sink:
            sink.write(content)

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        """A file to write to, which is there when the block ends; or nothing, if that raises."""
        with self.draft() as draft:
            yield draft.sink
            draft.publish(name)

    @contextlib.contextmanager
    def draft(self) -> Iterator[Draft]:
        """A file without a name: it is there once it is published, and else never was.

        For an object store it is gathered in memory: closing an upload in the midst would finish half a file.
        """
        if isinstance(self._fs, pafs.LocalFileSystem):
            with open(self._at(f".{uuid.uuid4().hex}.tmp"), "w+b") as sink:
                yield Draft(sink, partial(self._rename, sink))
        else:
            buffer = io.BytesIO()
            yield Draft(buffer, partial(self._upload, buffer))

    def _rename(self, sink: BinaryIO, name: str) -> None:
        """On disk before it is named: else a power cut could leave the name with no content."""
        sink.flush()
        os.fsync(sink.fileno())
        os.replace(sink.name, self._at(name))
        folder = os.open(self._root, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _upload(self, buffer: io.BytesIO, name: str) -> None:
        with self._fs.open_output_stream(self._at(name)) as stream:
            stream.write(buffer.getbuffer())

    def delete(self, name: str) -> None:
        """Remove a file, if it is there: a shared file system may still list one that is gone."""
        with contextlib.suppress(FileNotFoundError):
            self._fs.delete_file(self._at(name))

    @contextlib.contextmanager
    def held(self, *, shared: bool = False) -> Iterator[None]:
        """Keep others out of the folder, or only those who would not share it. Raises BlockingIOError.

        The lock is the operating system's, so it ends with the process; file systems without locks are trusted, and so
        are object stores.
        """
        if not isinstance(self._fs, pafs.LocalFileSystem):
            yield
            return
        folder = os.open(self._root, os.O_RDONLY)
        try:
            try:
                fcntl.flock(folder, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except BlockingIOError:
                raise
            except OSError:
                pass
            yield
        finally:
            os.close(folder)

    def sweep(self) -> None:
        """Remove what writers that were killed have left half-written."""
        found = self._fs.get_file_info(pafs.FileSelector(self._root, allow_not_found=True))
        for info in found:
            if info.base_name.startswith(".") and info.base_name.endswith(".tmp"):
                self._fs.delete_file(info.path)

    def open(self, name: str) -> pa.NativeFile:
        """A file for random reading, as pyarrow takes it."""
        return self._fs.open_input_file(self._at(name))


def digest_of(content: BinaryIO) -> str:
    """The checksum of a file's content: BLAKE2b, 128 bits, as 32 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=16)
    content.seek(0)
    while block := content.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def parse_record(content: bytes) -> dict[str, Any]:
    """A JSON table from a file's content. Raises ValueError for anything else."""
    record = json.loads(content.decode())
    if not isinstance(record, dict):
        raise ValueError("not a table")
    return record

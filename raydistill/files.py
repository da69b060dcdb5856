"""Files on local disks and object stores, through pyarrow.fs, written so that a kill leaves no torn one."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.fs as pafs

from raydistill.errors import RunDirError
from raydistill.paths import is_uri, open_path
from raydistill.refusals import reason, refusals

ASIDE = re.compile(r"\.[0-9a-f]{32}\.tmp")  # how a file under way is called


@dataclasses.dataclass(frozen=True)
class Draft:
    """A file under way: what is written to `sink` is there under a name once `publish` is called with that."""

    sink: BinaryIO
    publish: Callable[[str], None]


class Folder:
    """A folder of small and large files whose writes are all or nothing. Picklable: what workers get is the path.

    Locally a file is written aside and renamed; on an object store one upload is one PUT, and one that is broken off
    leaves nothing that can be seen. Names that begin with "." or "_" are passed over by every Parquet reader, so a part
    under way is never read.

    What a disk or an object store refuses is a RunDirError that says what, where and why; a file that is not there is a
    FileNotFoundError.

    Attributes:
        filesystem: of pyarrow's.
        root: the folder's path within it.
        local: its path, if it is on a disk; else None.
    """

    def __init__(self, path: str) -> None:
        try:
            self.filesystem, self.root = open_path(path)
            self.root.encode()  # which pyarrow would do
            if not self.root:
                raise pa.ArrowInvalid("it names no bucket")
        except (pa.ArrowInvalid, OSError, UnicodeError) as error:
            raise RunDirError(
                f"{path}: cannot be a folder ({reason(error)}). Give a path, or a URI such as s3://bucket/folder."
            ) from None
        self.local = self.root if isinstance(self.filesystem, pafs.LocalFileSystem) else None
        uri, question, settings = path.partition("?") if is_uri(path) else (self.root, "", "")
        self._uri, self._settings = uri.rstrip("/"), question + settings

    def __reduce__(self) -> tuple[type[Folder], tuple[str]]:
        return Folder, (self.path,)

    @property
    def path(self) -> str:
        """Where it lies: an absolute path, since workers have another current directory, or a URI with its settings."""
        return self._uri + self._settings

    def where(self, name: str) -> str:
        """Where a file or folder in it lies, for people to read."""
        return f"{self._uri}/{name}"

    def child(self, name: str) -> Folder:
        """A folder in it."""
        return Folder(self.where(name) + self._settings)

    def _at(self, name: str) -> str:
        return f"{self.root}/{name}"

    def hindrance(self) -> str | None:
        """What is in the way of writing into it, as far as can be told without doing it; None where nothing is."""
        try:
            if self.filesystem.get_file_info(self.root).type == pafs.FileType.File:
                return "is a file. Give a folder"
        except (OSError, pa.ArrowInvalid) as error:
            return f"cannot be reached ({reason(error)}). Give a folder that can be"
        return _hindrance_on_disk(Path(self.local)) if self.local else None

    def create(self) -> None:
        """Make the folder and those above it. An object store has none: a name with slashes will do."""
        if self.local:
            with self.refusals("cannot be made"):
                os.makedirs(self.local, exist_ok=True)

    def is_there(self) -> bool:
        """Whether there is such a folder, or on an object store anything in it."""
        with self.refusals("cannot be read"):
            return self.filesystem.get_file_info(self.root).type == pafs.FileType.Directory

    def has(self, name: str) -> bool:
        """Whether it holds a file or a folder of that name."""
        with self.refusals("cannot be read", name):
            return self.filesystem.get_file_info(self._at(name)).type != pafs.FileType.NotFound

    def is_empty(self) -> bool:
        """Whether it holds nothing but hidden things, or is not there."""
        return all(info.base_name.startswith(".") for info in self._listed())

    def sizes(self, suffix: str = "") -> dict[str, int]:
        """Bytes of the finished files in it, by name, sorted; none where there is no such folder."""
        sizes = {info.base_name: info.size for info in self._listed() if info.type == pafs.FileType.File}
        return {name: sizes[name] for name in sorted(sizes) if name.endswith(suffix) and not name.startswith(".")}

    def names(self, suffix: str = "") -> list[str]:
        """The finished files in it, sorted."""
        return list(self.sizes(suffix))

    def folders(self) -> list[str]:
        """The folders in it, sorted."""
        return sorted(info.base_name for info in self._listed() if info.type == pafs.FileType.Directory)

    def hidden(self, prefix: str, suffix: str) -> list[str]:
        """The hidden files in it whose names begin and end so."""
        names = [info.base_name for info in self._listed()]
        return [name for name in names if name.startswith(f".{prefix}") and name.endswith(suffix)]

    def _listed(self) -> list[pafs.FileInfo]:
        with self.refusals("cannot be read"):
            return self.filesystem.get_file_info(pafs.FileSelector(self.root, allow_not_found=True))

    def read(self, name: str) -> bytes:
        """A whole file. Raises FileNotFoundError."""
        with (
            self.refusals("cannot be read", name, but=FileNotFoundError),
            self.filesystem.open_input_stream(self._at(name)) as stream,
        ):
            return stream.read()

    def digest(self, name: str) -> str:
        """The checksum of a file's content. Raises FileNotFoundError."""
        with (
            self.refusals("cannot be read", name, but=FileNotFoundError),
            self.filesystem.open_input_file(self._at(name)) as content,
        ):
            return digest_of(content)

    def open(self, name: str) -> pa.NativeFile:
        """A file for random reading, as pyarrow takes it. Raises OSError."""
        return self.filesystem.open_input_file(self._at(name))

    def modified(self, name: str) -> float:
        """When a file was last written or touched, in seconds, by the clock of the file system. FileNotFoundError."""
        with self.refusals("cannot be read", name):
            info = self.filesystem.get_file_info(self._at(name))
        if info.mtime is None:
            raise FileNotFoundError(self.where(name))
        return info.mtime_ns / 1e9

    def touch(self, name: str) -> None:
        """Set the time at which a file was last written to now. Raises FileNotFoundError."""
        if self.local:
            with self.refusals("cannot be written", name, but=FileNotFoundError):
                os.utime(self._at(name))
        else:
            self.write(name, self.read(name))

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
        with self.refusals("cannot be written"):
            if self.local:
                aside = self._at(f".{uuid.uuid4().hex}.tmp")
                try:
                    with open(aside, "w+b") as sink:
                        yield Draft(sink, partial(self._rename, sink))
                finally:  # a full disk must not stay so
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(aside)
            else:
                buffer = io.BytesIO()
                yield Draft(buffer, partial(self._upload, buffer))

    def _rename(self, sink: BinaryIO, name: str) -> None:
        """On disk before it is named: else a power cut could leave the name with no content."""
        with self.refusals("cannot be written", name):
            sink.flush()
            os.fsync(sink.fileno())
            os.replace(sink.name, self._at(name))
            folder = os.open(self.root, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def _upload(self, buffer: io.BytesIO, name: str) -> None:
        def put() -> None:
            with self.filesystem.open_output_stream(self._at(name)) as stream:
                stream.write(buffer.getbuffer())

        # Ctrl-C reaches the main thread alone: it may not end an upload half-way.
        with self.refusals("cannot be written", name), ThreadPoolExecutor(1) as pool:
            pool.submit(put).result()

    def copy(self, source: Folder, name: str) -> None:
        """Copy a file of another folder on the same file system in, whole or not at all."""
        if self.local:
            with self.writing(name) as sink, source.open(name) as content:
                shutil.copyfileobj(content, sink, 1 << 20)
        else:
            with self.refusals("cannot be written", name):
                self.filesystem.copy_file(source._at(name), self._at(name))  # within the store

    def delete(self, name: str) -> None:
        """Remove a file, if it is there: a shared file system may still list one that is gone."""
        with (
            contextlib.suppress(FileNotFoundError),
            self.refusals("cannot be removed", name, but=FileNotFoundError),
        ):
            self.filesystem.delete_file(self._at(name))

    def delete_tree(self, name: str) -> None:
        """Remove a folder in it with all that it holds, or a file of that name, if it is there."""
        with (
            contextlib.suppress(FileNotFoundError),
            self.refusals("cannot be removed", name, but=FileNotFoundError),
        ):
            if self.filesystem.get_file_info(self._at(name)).type == pafs.FileType.Directory:
                self.filesystem.delete_dir(self._at(name))
            else:
                self.filesystem.delete_file(self._at(name))

    def sweep(self) -> None:
        """Remove what writers that were killed have left half-written."""
        for name in self.hidden("", ".tmp"):
            if ASIDE.fullmatch(name):
                self.delete(name)

    def refusals(self, fault: str, name: str | None = None, *, but: type[OSError] | tuple[()] = ()) -> Any:
        """`refusals` of this folder, or of a file in it that has a name for people."""
        return refusals(self._uri if name is None or name.startswith(".") else self.where(name), fault, but=but)


def _hindrance_on_disk(path: Path) -> str | None:
    there = next(place for place in [path, *path.parents] if os.path.lexists(place))
    if not there.is_dir():
        return f"{there} is {'a file' if there.exists() else 'a broken link'}. Give a folder"
    try:  # access bits say nothing of read-only mounts, or to root
        with tempfile.TemporaryFile(dir=there):
            return None
    except OSError:
        return "cannot be written to. Give a folder that you may write to"


def digest_of(content: BinaryIO) -> str:
    """The checksum of a file's content: BLAKE2b, 128 bits, as 32 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=16)
    content.seek(0)
    while block := content.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def parse_record(content: bytes) -> dict[str, Any]:
    """A JSON table from a file's content. Raises ValueError for anything else."""
    try:
        record = json.loads(content.decode())
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(record, dict):
        raise ValueError("not a table")
    return record

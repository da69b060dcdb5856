"""The cache of exported teachers: made once on each machine, by one process, however many ask for it.

An entry is a folder named after everything its content depends on. It is made aside and renamed, under a lock, so a
kill leaves nothing half-made. It holds the converted model, a batch with the logits that PyTorch gave for it, and
checksums, which every load is checked against.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from raydistill.engines.cache import LIBRARIES, Once, cache_folder, cache_key, locked, read_note
from raydistill.engines.engine import EXACT, TOLERANCE, Inputs, expect_like
from raydistill.engines.openvino_engine import OpenVinoEngine, convert
from raydistill.engines.torch_engine import TorchEngine
from raydistill.errors import ConversionError, ModelError, RunDirError, first_line
from raydistill.files import Folder, parse_record
from raydistill.first_layer import share_first_layer
from raydistill.scratch import scratch_folder

logger = logging.getLogger(__name__)

VERSION = 6  # of what an entry holds
LOGITS = "logits"
REFUSED_SECONDS = 3600.0  # that a failure is believed in: actors that begin together need not all meet it
SUMS = "sums.json"  # checksums of the other files


class ExportedTeacher:
    """A converted teacher in a folder, with what is known of it.

    Args:
        folder: where it lies, or is to lie.
        kept_alive: held as long as this object is: the temporary folder it lies in.
    """

    def __init__(self, folder: Path, kept_alive: Any = None) -> None:
        self.folder, self._kept_alive = folder, kept_alive
        self._loaded: int | None = None

    @property
    def model(self) -> Path:
        """The converted model; its weights lie beside it."""
        return self.folder / "model.xml"

    @property
    def refusal(self) -> Path:
        """Why it cannot be made, where that was found."""
        return self.folder.with_name(f"{self.folder.name}.refusal")

    def write(self, model: Any, batches: Sequence[Inputs], precision: str, threads: int | None) -> None:
        """Convert a PyTorch classifier in fp32 on the CPU, and see that others than the first batch can be run.

        What pairs have in common is multiplied once from then on, where that pays (`raydistill.first_layer`).

        Raises:
            ModelError, OSError.
        """
        exact, names = TorchEngine(model), list(batches[0])
        first, *others = [exact.logits(batch) for batch in batches]
        share_first_layer(model, precision)
        convert(model, batches[0], precision, self.model)
        try:
            engine = OpenVinoEngine(self.model, names, precision if precision == "int8" else EXACT, threads)
            expect_like(engine, batches[1:], others, TOLERANCE[engine.precision])
        except ModelError:
            raise
        except Exception as error:  # whatever a model that is right for one shape alone may raise
            raise ModelError(f"OpenVINO cannot run the converted teacher ({first_line(error)}).") from error
        check: dict[str, Any] = {**batches[0], LOGITS: first}
        np.savez(self.folder / "check.npz", **check)
        (self.folder / "inputs.json").write_text(json.dumps(names))
        (self.folder / SUMS).write_text(json.dumps({file.name: _checksum(file) for file in self.folder.iterdir()}))

    def load(self, precision: str, threads: int | None) -> OpenVinoEngine:
        """Compile it, and see that it is what was written and gives the logits it should.

        A batch reads few rows of the embeddings, so that logits alone would not tell a hole in the others.

        Raises:
            ModelError: it does not.
            Exception: a file is damaged or missing.
        """
        self._loaded = self._inode()
        for name, checksum in parse_record((self.folder / SUMS).read_bytes()).items():
            if _checksum(self.folder / name) != checksum:
                raise ModelError(f"{name} is not what was written.")
        names = json.loads((self.folder / "inputs.json").read_text())
        engine = OpenVinoEngine(self.model, names, precision, threads)
        with np.load(self.folder / "check.npz") as arrays:
            batch = {name: arrays[name] for name in names}
            expect_like(engine, [batch], [arrays[LOGITS]], TOLERANCE[precision])
        return engine

    def discard(self) -> None:
        """Remove it, as it was when it was loaded, for it is damaged: nobody meets a half of it. Raises OSError."""
        with locked(self.folder):
            if self._loaded is not None and self._inode() == self._loaded:  # else another process has made it anew
                aside = self._aside()
                self.folder.rename(aside)
                shutil.rmtree(aside, ignore_errors=True)

    def _inode(self) -> int | None:
        try:
            return self.folder.stat().st_ino
        except FileNotFoundError:
            return None

    def _aside(self) -> Path:
        """Where this process has what is not to be found."""
        return self.folder.with_name(f"{self.folder.name}.{os.getpid()}.tmp")


def _checksum(file: Path) -> int:
    """CRC-32: for accidents it will do, and a teacher of a gigabyte is read in a fourth of BLAKE2b's time."""
    found = 0
    with file.open("rb") as content:
        while part := content.read(1 << 20):
            found = zlib.crc32(part, found)
    return found


def exported_teacher(
    fingerprint: str | None, precision: str, fill: Callable[[ExportedTeacher], None]
) -> ExportedTeacher:
    """The cached export of a teacher, made now where there is none.

    Where the cache cannot be written, or the teacher has no fingerprint, it is made for this process alone.

    Args:
        fingerprint: of the teacher's weights.
        precision: bf16 and fp16 share one export; fp32 and int8 have their own.
        fill: writes a new one.

    Raises:
        ModelError: the teacher cannot be converted.
        OSError: no disk has room for it.
    """
    if fingerprint:
        kind = precision if precision in (EXACT, "int8") else "reduced"
        key = cache_key(VERSION, fingerprint, kind, packages=(*LIBRARIES, *(["nncf"] if kind == "int8" else [])))
        try:
            entry = ExportedTeacher(cache_folder() / "teachers" / key)
            if entry.folder.exists():  # then whole; and the cache may be one that is only read
                return entry
            entry.folder.parent.mkdir(parents=True, exist_ok=True)
            kept = Once.begin()
            with locked(entry.folder):
                if not entry.folder.exists():
                    _expect_hope(entry)
                    _fill_aside(entry, fill)
            kept()
            return entry
        except OSError as error:
            logger.warning("the exported teacher cannot be kept (%s)", first_line(error))
    temporary = scratch_folder()
    entry = ExportedTeacher(Path(temporary.name, "teacher"), kept_alive=temporary)  # with room for a lock beside it
    entry.folder.mkdir()
    fill(entry)
    return entry


def _expect_hope(entry: ExportedTeacher) -> None:
    """Raise ModelError where another process has just found that the teacher cannot be converted."""
    match read_note(entry.refusal):
        case {"why": str(why), "at": float(at)} if abs(time.time() - at) < REFUSED_SECONDS:
            raise ModelError(why)


def _fill_aside(entry: ExportedTeacher, fill: Callable[[ExportedTeacher], None]) -> None:
    for left in entry.folder.parent.glob(f"{entry.folder.name}.*.tmp"):
        shutil.rmtree(left, ignore_errors=True)
    aside = ExportedTeacher(entry._aside())
    aside.folder.mkdir()
    try:
        fill(aside)
        aside.folder.rename(entry.folder)
    except BaseException as error:
        shutil.rmtree(aside.folder, ignore_errors=True)
        if isinstance(error, ConversionError):
            note = {"why": str(error), "at": time.time()}
            with contextlib.suppress(RunDirError):
                Folder(str(entry.refusal.parent)).write(entry.refusal.name, json.dumps(note).encode())
        raise

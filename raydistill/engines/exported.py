"""The cache of exported teachers: made once on each machine, by one process, however many ask for it.

An entry is a folder named after everything its content depends on. It is made aside and renamed, under a lock, so a
kill leaves nothing half-made. It holds the converted model, a few batches with the logits that PyTorch gave for them,
checksums, which every load is checked against, and what was measured: which engine is the faster one on which CPU.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import gc
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from raydistill.engines.engine import TOLERANCE, Engine, Inputs, engine_name, share_off, tokens_per_second
from raydistill.engines.openvino_engine import OpenVinoEngine, convert
from raydistill.engines.torch_engine import TorchEngine
from raydistill.errors import ModelError, RunDirError, first_line
from raydistill.files import Folder, parse_record
from raydistill.scratch import scratch_folder

logger = logging.getLogger(__name__)

VERSION = 2  # of what an entry holds
CACHE_VARIABLE = "RAYDISTILL_CACHE"
LOGITS = "logits"
SUMS = "sums.json"  # checksums of the other files, but for what is measured later


def cache_folder() -> Path:
    """`$RAYDISTILL_CACHE`, or `raydistill` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get(CACHE_VARIABLE) or f"{base}/raydistill").expanduser()


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

    def write(self, model: Any, batches: Sequence[Inputs], precision: str) -> None:
        """Convert a PyTorch classifier in fp32 on the CPU. Raises ModelError and OSError."""
        exact = TorchEngine(model)
        convert(model, batches[0], precision, self.model)
        check: dict[str, Any] = {}
        for i, batch in enumerate(batches):
            check |= {f"{i}/{name}": array for name, array in batch.items()} | {f"{i}/{LOGITS}": exact.logits(batch)}
        np.savez(self.folder / "check.npz", **check)
        (self.folder / "inputs.json").write_text(json.dumps(list(batches[0])))
        folder = Folder(str(self.folder))
        (self.folder / SUMS).write_text(json.dumps({name: folder.digest(name) for name in folder.names()}))

    def load(self, precision: str, threads: int | None) -> OpenVinoEngine:
        """Compile it, and see that it is what was written and gives the logits it should.

        A batch reads few rows of the embeddings, so that logits alone would not tell a hole in the others.

        Raises:
            ModelError: it does not.
            Exception: a file is damaged or missing.
        """
        self._loaded = self._inode()
        folder = Folder(str(self.folder))
        for name, digest in parse_record((self.folder / SUMS).read_bytes()).items():
            if folder.digest(name) != digest:
                raise ModelError(f"{name} is not what was written.")
        engine = OpenVinoEngine(self.model, json.loads((self.folder / "inputs.json").read_text()), precision, threads)
        for batch, wanted in self._check():
            off = share_off(engine.logits(batch), wanted)
            if not off <= TOLERANCE[precision]:
                raise ModelError(f"as converted by OpenVINO its logits are off by {off:.2g} of their size.")
        return engine

    def beats(self, own: Engine, rival: Callable[[], Engine], threads: int | None) -> bool:
        """Whether this engine is faster than another one on this CPU: measured once, then remembered."""
        speeds_file = self.folder / "speeds.json"
        where = f"{engine_name(own)}, {threads or os.cpu_count()} threads of {_cpu_name()}"
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):  # of a cache that may only be read
                stack.enter_context(_locked(self.folder))
            try:
                speeds = parse_record(speeds_file.read_bytes())
            except (OSError, ValueError):
                speeds = {}
            if where not in speeds:
                longest = [max((batch for batch, _ in self._check()), key=lambda batch: batch["input_ids"].size)]
                speeds[where] = [round(tokens_per_second(engine, longest), 1) for engine in (own, rival())]
                gc.collect()  # a narrowed rival may hold itself
                with contextlib.suppress(RunDirError):
                    Folder(str(self.folder)).write(speeds_file.name, json.dumps(speeds).encode())
        own_speed, rival_speed = speeds[where]
        logger.info("%s: %s tokens a second, PyTorch %s", where, own_speed, rival_speed)
        return own_speed > rival_speed

    def discard(self) -> None:
        """Remove it, as it was when it was loaded, for it is damaged: nobody meets a half of it. Raises OSError."""
        with _locked(self.folder):
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

    def _check(self) -> Iterator[tuple[Inputs, npt.NDArray[np.float32]]]:
        """Batches, and the logits that PyTorch gave for them when the export was made."""
        with np.load(self.folder / "check.npz") as arrays:
            for i in sorted({name.split("/")[0] for name in arrays.files}):
                batch = {name.split("/")[1]: arrays[name] for name in arrays.files if name.split("/")[0] == i}
                wanted = batch.pop(LOGITS)
                yield batch, wanted


def exported_teacher(
    fingerprint: str | None, precision: str, fill: Callable[[ExportedTeacher], None]
) -> ExportedTeacher:
    """The cached export of a teacher, made now where there is none.

    Where the cache cannot be written, or the teacher has no fingerprint, it is made for this process alone.

    Args:
        fingerprint: of the teacher's weights.
        precision: fp32, bf16 and fp16 share one export; int8 has its own.
        fill: writes a new one.

    Raises:
        ModelError: the teacher cannot be converted.
        OSError: no disk has room for it.
    """
    if fingerprint:
        entry = ExportedTeacher(cache_folder() / "teachers" / _key(fingerprint, precision))
        try:
            if entry.folder.exists():  # then whole; and the cache may be one that is only read
                return entry
            entry.folder.parent.mkdir(parents=True, exist_ok=True)
            with _locked(entry.folder):
                if not entry.folder.exists():
                    _fill_aside(entry, fill)
            return entry
        except OSError as error:
            logger.warning("%s: cannot keep the exported teacher (%s)", cache_folder(), first_line(error))
    temporary = scratch_folder()
    entry = ExportedTeacher(Path(temporary.name, "teacher"), kept_alive=temporary)  # with room for a lock beside it
    entry.folder.mkdir()
    fill(entry)
    return entry


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time; the lock ends with the process, whatever becomes of it."""
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fill_aside(entry: ExportedTeacher, fill: Callable[[ExportedTeacher], None]) -> None:
    for left in entry.folder.parent.glob(f"{entry.folder.name}.*.tmp"):
        shutil.rmtree(left, ignore_errors=True)
    aside = ExportedTeacher(entry._aside())
    aside.folder.mkdir()
    try:
        fill(aside)
        aside.folder.rename(entry.folder)
    except BaseException:
        shutil.rmtree(aside.folder, ignore_errors=True)
        raise


def _key(fingerprint: str, precision: str) -> str:
    weights, packages = ("int8", ("nncf",)) if precision == "int8" else ("exact", ())
    versions = [importlib.metadata.version(name) for name in ("openvino", "transformers", "torch", *packages)]
    return hashlib.blake2b(json.dumps([VERSION, fingerprint, weights, versions]).encode(), digest_size=16).hexdigest()


@functools.cache
def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

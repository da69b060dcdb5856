"""What is kept on each machine, in the user's cache folder: converted teachers, and what was measured."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from raydistill.errors import RunDirError, first_line, shown
from raydistill.files import Folder, parse_record
from raydistill.option_values import is_text

logger = logging.getLogger(__name__)

CACHE_VARIABLE, ANSWER = "RAYDISTILL_CACHE", "answer"
SPEEDS = 2  # what was measured of code that was slower then is not believed
LIBRARIES = ("openvino", "transformers", "torch")


class Once:
    """Counts the seconds that this process has spent on what those who come after find done."""

    seconds = 0.0

    @classmethod
    def begin(cls) -> Callable[[], None]:
        """Begin such a thing; what comes back is to be called when it is kept. One may be part of another."""
        before, started = cls.seconds, time.perf_counter()

        def kept() -> None:
            cls.seconds = before + time.perf_counter() - started

        return kept


def cache_folder() -> Path:
    """`$RAYDISTILL_CACHE`, or `raydistill` in the user's cache folder. Raises OSError for a user without a home,
    and for a name that libraries do not take.
    """
    path = os.environ.get(CACHE_VARIABLE) or f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/raydistill"
    if not is_text(path):
        raise OSError(f"{shown(path)}: a name that is not UTF-8. Set {CACHE_VARIABLE} to another folder")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise OSError(f"{path}: {error} Set {CACHE_VARIABLE} to a folder") from None


def cache_key(*facts: Any, packages: Sequence[str] = LIBRARIES) -> str:
    """A name for what is made from facts that JSON can hold, by the present versions of some packages."""
    versions = [_version(name) for name in packages]
    return hashlib.blake2b(json.dumps([*facts, versions]).encode(), digest_size=16).hexdigest()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time; the lock ends with the process, whatever becomes of it. Raises OSError."""
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def remembered(fingerprint: str | None, question: str, measure: Callable[[], Any]) -> Any:
    """What was measured on this CPU: once, by one process, however many ask; read from then on.

    Where the cache cannot be written, each process measures for itself.

    Args:
        fingerprint: of what was measured, as of a teacher's weights; one that has none is measured each time.
        question: what was measured, with all that the answer depends on but the CPU and the versions of libraries.
        measure: gives what JSON can hold.
    """
    if fingerprint is None:
        return measure()
    cpu, instructions = _cpu()
    question = f"{question}, on {cpu}"
    try:
        key = cache_key(SPEEDS, fingerprint, question, instructions)
        file = cache_folder() / "speeds" / f"{key}.json"  # its own: measuring may ask more
    except OSError as error:
        logger.warning("what is measured cannot be kept (%s)", first_line(error))
        return measure()
    kept = Once.begin()  # others' measuring is waited for
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # of a cache that may only be read
            file.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(file))
        note = read_note(file)
        if ANSWER not in note:
            note = {"question": question, ANSWER: measure()}
            try:
                Folder(str(file.parent)).write(file.name, json.dumps(note).encode())
                kept()
            except RunDirError as error:
                logger.warning("what is measured cannot be kept (%s)", first_line(error))
        else:
            kept()
    logger.info("%s: %s", question, note[ANSWER])
    return note[ANSWER]


def read_note(file: Path) -> dict[str, Any]:
    """What a file of JSON holds; nothing where there is none, or a damaged one."""
    with contextlib.suppress(OSError, ValueError):  # not there, or damaged
        return parse_record(file.read_bytes())
    return {}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache
def _cpu() -> tuple[str, str]:
    """Its name and its instructions: in a virtual machine, CPUs of several kinds may have one name."""
    facts: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, fact = line.partition(":")
            facts.setdefault(name.strip(), fact.strip())
    return facts.get("model name") or platform.processor() or platform.machine(), facts.get("flags", "")

"""What disks and object stores refuse, as errors that say what, where and how to mend it."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import tempfile
from collections.abc import Iterator

from raydistill.errors import RunDirError, first_line

FULL, REFUSED = (errno.ENOSPC, errno.EDQUOT), (errno.EROFS, errno.EACCES)
OS_ERROR = re.compile(r"\b(?:os error|errno)[ :]+(\d+)", re.IGNORECASE)  # as libraries in Rust and C++ quote it


@contextlib.contextmanager
def refusals(where: str, fault: str, *, but: type[OSError] | tuple[()] = ()) -> Iterator[None]:
    """Raise what the system refuses within, `but` what passes as it is, as RunDirError."""
    try:
        yield
    except but:
        raise
    except OSError as error:
        mend = "Free some space there" if error.errno in FULL else "Mend that"
        raise RunDirError(f"{where}: {fault} ({reason(error)}). {mend}, and the same command goes on.") from error


def disk_refusal(error: BaseException) -> RunDirError | None:
    """What a disk that is full, or may not be written, says through a library; None for any other error."""
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (said := OS_ERROR.search(str(error))):
        number = int(said[1])
    if number not in FULL + REFUSED:
        return None
    named = error.filename if isinstance(error, OSError) else None
    where = named or f"the output directory, {tempfile.gettempdir()}, /dev/shm or a cache of a node"
    refusal = os.strerror(number).lower()
    return RunDirError(f"{where}: {refusal}. Mend that, and the same command goes on; the log says what was at work.")


def reason(error: Exception) -> str:
    """What a system says, of an object store's long answer the heart."""
    said = first_line(error)
    heart = re.search(r"AWS Error .*?(?=; Details| \(Request ID|$)", said)
    return heart[0] if heart else said

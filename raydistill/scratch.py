"""The temporary folder of a process that may be killed: the next one on the machine removes what that has left."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

from raydistill.lease import kernel

PREFIX = "raydistill-worker"


@contextlib.contextmanager
def scratch_folder() -> Iterator[str]:
    """A folder for as long as this process is in here. Those of others of ours that are gone are removed first.

    Its name has the process and what its id belongs to: containers may share a folder for temporary files.
    """
    machine = hashlib.blake2b(kernel().encode(), digest_size=8).hexdigest()
    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}-{machine}-*-*"):
        owner = left.name.split("-")[-2]
        if owner.isdecimal() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}-{machine}-{os.getpid()}-") as folder:
        yield folder

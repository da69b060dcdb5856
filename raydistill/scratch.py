"""The temporary folder of a process that may be killed: the next one on the machine removes what that has left."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

import psutil

from raydistill.lease import kernel

PREFIX = "raydistill-worker"


def scratch_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder for as long as the object lives, as in a `with`."""
    return tempfile.TemporaryDirectory(prefix=own_prefix())


def own_prefix() -> str:
    """How the name of a temporary folder of this process begins. Those of others that are gone are removed first.

    It has the process and what its id belongs to: containers may share a folder for temporary files.
    """
    machine = hashlib.blake2b(kernel().encode(), digest_size=8).hexdigest()
    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}-{machine}-*-*"):
        owner = left.name.split("-")[-2]
        if owner.isdecimal() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(left, ignore_errors=True)
    return f"{PREFIX}-{machine}-{os.getpid()}-"

"""Whether a test may have mounts of its own."""

from __future__ import annotations

import functools
import subprocess

import pytest


@functools.cache
def can_mount() -> bool:
    """Whether this kernel lets the user have them."""
    try:
        return subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"]).returncode == 0
    except OSError:
        return False


needs_mounts = pytest.mark.skipif(not can_mount(), reason="mounts of its own need a kernel that lets a user have them")

"""The command that starts a worker of Ray: see `forks`. It needs to be quick, so the standard library must do."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

FOLDER, WORKER = "RAYDISTILL_FORKS_FOLDER", "RAYDISTILL_FORKS_WORKER"  # variables: where to ask; Ray's own command
STILL_THERE, YES, DONE = b"?", b"!", b"."
PATIENCE_SECONDS = 200.0  # our Ray gives a worker up that has not come within 300


@contextlib.contextmanager
def socket_in(folder: str) -> Iterator[str]:
    """The name of the socket in a folder, however long the folder's own: a socket's has 108 bytes at most."""
    descriptor = os.open(folder, os.O_PATH)
    try:
        yield f"/proc/self/fd/{descriptor}/socket"
    finally:
        os.close(descriptor)


def handed_over() -> bool:
    """Ask for a fork in this process's place; whether there is one."""
    import resource  # which other systems need not have

    until = time.monotonic() + PATIENCE_SECONDS
    with socket.socket(socket.AF_UNIX) as asking:

        def answer() -> bytes:
            asking.settimeout(max(0.001, until - time.monotonic()))
            return asking.recv(1)

        try:
            request = {
                "arguments": [os.environ[WORKER], *sys.argv[1:]],
                "environment": dict(os.environ),
                "folder": os.getcwd(),
                "files": resource.getrlimit(resource.RLIMIT_NOFILE),
                "oom_score_adj": Path("/proc/self/oom_score_adj").read_text(),
            }
            content = json.dumps(request).encode() + b"\n"
            asking.settimeout(PATIENCE_SECONDS)
            with socket_in(os.environ[FOLDER]) as name:
                asking.connect(name)
            asking.sendall(content[socket.send_fds(asking, [content], [0, 1, 2]) :])
            if answer() != STILL_THERE:
                return False
            asking.sendall(YES)
            return answer() == DONE
        except OSError:
            return False


def site_flags() -> list[str]:
    """What this interpreter was told of site packages, for others."""
    return ["-S"] * bool(sys.flags.no_site) + ["-s"] * bool(sys.flags.no_user_site)


if __name__ == "__main__" and not handed_over():
    command = [sys.executable, *site_flags(), os.environ[WORKER], *sys.argv[1:]]
    os.execv(sys.executable, command)  # noqa: S606

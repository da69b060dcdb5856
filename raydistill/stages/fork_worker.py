"""The command that starts a worker of Ray: see `forks`. It needs to be quick, so the standard library must do."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

SOCKET, WORKER = "RAYDISTILL_FORKS_SOCKET", "RAYDISTILL_FORKS_WORKER"  # where to ask, and Ray's own command
STILL_THERE, YES, DONE = b"?", b"!", b"."
# Ray gives a worker up that has not come within 60 s, of which starting by oneself may take half.
PATIENCE_SECONDS = 30.0


def forked() -> bool:
    """Ask for a fork in this process's place; whether there is one."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(PATIENCE_SECONDS)
        try:
            request = {
                "arguments": [os.environ[WORKER], *sys.argv[1:]],
                "environment": dict(os.environ),
                "folder": os.getcwd(),
                "oom_score_adj": Path("/proc/self/oom_score_adj").read_text(),
            }
            asking.connect(os.environ[SOCKET])
            socket.send_fds(asking, [json.dumps(request).encode() + b"\n"], [0, 1, 2])
            if asking.recv(1) != STILL_THERE:
                return False
            asking.sendall(YES)
            return asking.recv(1) == DONE
        except OSError:
            return False


if __name__ == "__main__" and not forked():
    os.execv(sys.executable, [sys.executable, os.environ[WORKER], *sys.argv[1:]])  # noqa: S606

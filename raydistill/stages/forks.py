"""Workers of a Ray of our own as forks of one process that has imported all there is.

A worker that starts by itself imports Ray for seconds, and PyTorch and Transformers for several more; a small run has
a dozen of them, and did little else. Here a process imports everything once, and each worker is a fork of it.

Ray starts a worker by a command. The command that it is given here is `fork_worker`: it asks `fork_server` for a fork
with the arguments, environment and output that Ray has given it, and ends. Ray takes for the worker whoever registers
with it as such. Where nobody answers, the command becomes the worker, as Ray's own would have been.

On Linux alone, and not where there are GPUs: a process that has so much as looked at one cannot be forked any more.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ray._private import node as ray_node
from ray._private.accelerators import get_all_accelerator_managers

from raydistill.stages import fork_server, fork_worker

SWITCH = "RAYDISTILL_FORKS"  # "0": each worker starts by itself
SOCKET, LOG = "socket", "log"
# The working directory, which comes first, is none of ours: PYTHONPATH says where the driver looks.
START = f"import sys; '' in sys.path and sys.path.remove(''); from {fork_server.__name__} import main; main()"
TITLE_ROOM = "-" * 200  # a process can call itself no more than its arguments took
logger = logging.getLogger(__name__)


@contextlib.contextmanager
def forked_workers() -> Iterator[None]:
    """Have a Ray that is started within, and ends within, fork its workers, where that can be."""
    with tempfile.TemporaryDirectory(prefix="raydistill-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        server = _start_server(folder) if _possible() else None
        if server is None:
            yield
            return
        try:
            with _instead_of_its_own(folder):
                yield
        finally:
            server.terminate()
            server.communicate()
            if server.returncode not in (0, -signal.SIGTERM):
                why = (folder / LOG).read_text(errors="replace")
                logger.warning("workers have started by themselves, which takes longer: %s", why)


def _possible() -> bool:
    """Whether workers can be forked on this machine, and nobody has asked for others."""
    if sys.platform != "linux" or os.environ.get(SWITCH) == "0":
        return False
    return not any(kind.get_current_node_num_accelerators() for kind in get_all_accelerator_managers())


def _start_server(folder: Path) -> subprocess.Popen[bytes] | None:
    """A process that forks for whoever asks at `folder`; none where it cannot be started."""
    try:
        with socket.socket(socket.AF_UNIX) as listener, (folder / LOG).open("wb") as log:
            listener.bind(str(folder / SOCKET))
            listener.listen(128)  # from here on whoever asks waits for the server, and hears of its end
            return subprocess.Popen(
                [sys.executable, "-c", START, str(listener.fileno()), TITLE_ROOM],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
                pass_fds=[listener.fileno()],
                start_new_session=True,  # Ctrl-C is for the driver
            )
    except OSError as error:  # as where the name of the folder is too long for a socket
        logger.warning("workers start by themselves, which takes longer: %s", error)
        return None


@contextlib.contextmanager
def _instead_of_its_own(folder: Path) -> Iterator[None]:
    """Give a Ray that is started within our command for a worker, and tell that where to ask. Ray has no setting."""
    node_class: Any = ray_node.Node
    start_raylet = node_class.start_raylet

    def start_with_forks(node: Any, *given: Any, **options: Any) -> Any:
        told = {fork_worker.SOCKET: str(folder / SOCKET), fork_worker.WORKER: node._ray_params.worker_path}
        node._ray_params.worker_path = fork_worker.__file__
        os.environ.update(told)
        try:
            return start_raylet(node, *given, **options)
        finally:
            for name in told:
                del os.environ[name]

    node_class.start_raylet = start_with_forks
    try:
        yield
    finally:
        node_class.start_raylet = start_raylet

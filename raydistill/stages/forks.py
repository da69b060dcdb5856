"""Workers of a Ray of our own as forks of one process that has imported what takes long.

A worker that starts by itself imports Ray for seconds, and PyTorch and Transformers for several more; a small run has
a dozen of them, and did little else. Here a process imports that once, and each worker is a fork of it.

Ray starts a worker by a command. The command that it is given here is `fork_worker`: it asks `fork_server` for a fork
with the arguments, environment and output that Ray has given it, and ends. Ray takes for the worker whoever registers
with it as such. Where nobody answers, the command becomes the worker, as Ray's own would have been. The forks end with
the process that they are forks of, and that with the driver.

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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ray._private import node as ray_node
from ray._private.accelerators import get_all_accelerator_managers

from raydistill.scratch import scratch_folder
from raydistill.stages import fork_server, fork_worker
from raydistill.stages.replaced import replaced

SWITCH = "RAYDISTILL_FORKS"  # "0": each worker starts by itself
LOG = "log"
# The working directory, which comes first, is none of ours: PYTHONPATH says where the driver looks.
START = f"import sys; '' in sys.path and sys.path.remove(''); from {fork_server.__name__} import main; main()"
TITLE_ROOM = "-" * 200  # a process can call itself no more than its arguments took
logger = logging.getLogger(__name__)


@contextlib.contextmanager
def forked_workers() -> Iterator[bool]:
    """Have a Ray that is started within, and ends within, fork its workers, where that can be; whether it does."""
    with contextlib.ExitStack() as stack:
        forks = False
        if can_fork():
            try:
                folder = Path(stack.enter_context(scratch_folder()))
                server = _start_server(folder)
            except OSError as error:  # as where there is no room for another file
                logger.warning("workers start by themselves, which takes longer: %s", error)
            else:
                stack.callback(_end, server, folder)
                stack.enter_context(_worker_command(folder))
                forks = True
        yield forks


def can_fork() -> bool:
    """Whether workers can be forked on this machine, and nobody has asked for others."""
    if sys.platform != "linux" or os.environ.get(SWITCH) == "0":
        return False
    return not any(kind.get_current_node_num_accelerators() for kind in get_all_accelerator_managers())


def _start_server(folder: Path) -> subprocess.Popen[bytes]:
    """A process that forks for whoever asks at `folder`. Raises OSError."""
    with socket.socket(socket.AF_UNIX) as listener, (folder / LOG).open("wb") as log:
        with fork_worker.socket_in(str(folder)) as name:
            listener.bind(name)
        listener.listen(128)  # from here on whoever asks waits for the server, and hears of its end
        return subprocess.Popen(
            [sys.executable, "-u", *fork_worker.site_flags(), "-c", START, str(listener.fileno()), TITLE_ROOM],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if isinstance(entry, str))},
            pass_fds=[listener.fileno()],
            start_new_session=True,  # Ctrl-C is for the driver
        )


def _end(server: subprocess.Popen[bytes], folder: Path) -> None:
    server.terminate()
    server.communicate()
    if server.returncode not in (0, -signal.SIGTERM):
        why = (folder / LOG).read_text(errors="replace") or f"exit status {server.returncode}"
        logger.warning("workers were no longer forked, and so took longer to start: %s", why)


@contextlib.contextmanager
def _worker_command(folder: Path) -> Iterator[None]:
    """Give a Ray that is started within our command for a worker, and tell that where to ask. Ray has no setting."""
    node_class: Any = ray_node.Node
    start_raylet = node_class.start_raylet

    def start_with_forks(node: Any, *given: Any, **options: Any) -> Any:
        told = {fork_worker.FOLDER: str(folder), fork_worker.WORKER: node._ray_params.worker_path}
        node._ray_params.worker_path = fork_worker.__file__
        os.environ.update(told)
        try:
            return start_raylet(node, *given, **options)
        finally:
            for name in told:
                del os.environ[name]

    with replaced(node_class, start_raylet=start_with_forks):
        yield

"""A run on a cluster behind a ray:// address: there the driver runs as well, and this process shows its console.

Ray Data and Ray Train want a driver that is part of the cluster, which a Ray client is not. So every path (corpus,
classes, models, output directory) is one of the cluster's.
"""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Callable
from typing import Any, TextIO, TypeVar, cast

import ray
from ray.exceptions import RayError
from ray.util import client

from raydistill.chatter import Chatter
from raydistill.progress import Console
from raydistill.stages.cluster import CLIENT_SCHEME, connection
from raydistill.stages.faults import our_errors

POLL_SECONDS = 0.2
T = TypeVar("T")


def behind_client(address: str | None) -> bool:
    """Whether a run with this address begins in a Ray client: the address says so, or the process is one already."""
    return bool(address and address.startswith(CLIENT_SCHEME)) or client.ray.is_connected()


def run_behind_client(address: str | None, work: Callable[[Console, Chatter], T], console: Console) -> T:
    """Call `work` in a process of the cluster with a console whose lines appear on this one.

    Args:
        work: must be picklable, by reference or by value.

    Raises:
        ResourceError: there is no cluster to join.
        RaydistillError: what `work` raises.
    """
    with our_errors("the process on the cluster that did the run died"), connection(address):
        screen: Any = ray.remote(num_cpus=0)(Screen).remote()
        columns = console.columns if console.live else None
        result: Any = ray.remote(num_cpus=0, max_retries=0)(cast(Any, _work_there)).remote(work, screen, columns)
        try:
            ready: list[Any] = []
            while not ready:
                ready, _ = ray.wait([result], timeout=POLL_SECONDS)
                show(console, ray.get(screen.take.remote()))
            return ray.get(result)
        except BaseException:
            ray.cancel(result)
            raise
        finally:
            with contextlib.suppress(RayError):  # the cluster may be gone, and says so itself
                show(console, ray.get(screen.take.remote()))


class Screen:
    """Keeps what a remote console says until it is taken."""

    def __init__(self) -> None:
        self._said: list[str] = []

    def write(self, text: str) -> None:
        """Add to it."""
        self._said.append(text)

    def take(self) -> str:
        """What has been said since the last time."""
        said, self._said = "".join(self._said), []
        return said


class RemoteStream(io.TextIOBase):
    """A text stream that writes to a screen."""

    def __init__(self, screen: Any) -> None:
        self._screen, self._lock = screen, threading.Lock()

    def write(self, text: str) -> int:
        with self._lock:
            ray.get(self._screen.write.remote(text))
        return len(text)


def _work_there(work: Callable[[Console, Chatter], T], screen: Any, columns: int | None) -> T:
    with Chatter() as chatter:
        return work(Console(cast(TextIO, RemoteStream(screen)), columns), chatter)


def show(console: Console, text: str) -> None:
    """Print what a remote console has said."""
    if text:
        console.write(text)

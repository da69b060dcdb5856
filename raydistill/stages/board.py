"""How far training is: written by the first train worker, shown by the driver. Imports nothing heavy."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import ray

from raydistill.progress import Progress

POLL_SECONDS = 0.5


class Board:
    """Where the first worker writes how far it is and the driver reads it."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}

    def write(self, **state: Any) -> None:
        """Add to the state."""
        self.state |= state

    def read(self) -> dict[str, Any]:
        """The state."""
        return self.state


@contextlib.contextmanager
def followed_board(progress: Progress) -> Iterator[Any]:
    """A board, and a thread that shows on the console what is written there."""
    board: Any = ray.remote(num_cpus=0)(Board).remote()
    over = threading.Event()

    def follow() -> None:
        while not over.wait(POLL_SECONDS):
            try:
                state: Any = ray.get(board.read.remote())
            except ray.exceptions.RayError:
                return  # the cluster is gone, and says so itself
            if "step" in state:
                progress.total = state["steps"]
                loss = f"loss {state['loss']:.3f}" if "loss" in state else ""
                progress.update(state["step"], state.get("note", loss))

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield board
    finally:
        over.set()
        thread.join(timeout=2)
        ray.kill(board)

"""A thread that does something now and then, beside the work."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def every(seconds: float, steps: Iterator[object], patience: float | None = None) -> Iterator[None]:
    """While the block runs, have a thread take one step after the other, with so many seconds between them.

    Args:
        steps: what a generator does from one `yield` to the next; it may end before the block does.
        patience: how long the end of the block waits for a step that is under way; None for as long as that takes.
    """
    over = threading.Event()

    def take() -> None:
        for _ in steps:
            if over.wait(seconds):
                return

    thread = threading.Thread(target=take, daemon=True)
    try:
        thread.start()
        yield
    finally:
        over.set()
        if thread.ident:  # else it was not even started
            thread.join(patience)

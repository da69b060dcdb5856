"""How far training is, written by the first train worker, and whether it is to stop. Imports nothing heavy."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from typing import Any

from raydistill.periodic import every
from raydistill.progress import Progress
from raydistill.stages.notes import Notes, notes_on
from raydistill.stopping import Stop

POLL_SECONDS = 0.5
TOLD, STOP = "told", "stop"


class Board:
    """Where the first worker and the driver tell each other what they have to say. Travels to workers."""

    def __init__(self, notes: Notes) -> None:
        self._notes, self._told = notes, dict[str, Any]()

    def tell(self, **news: Any) -> None:
        """Add to what this process has told, in the place of what others have told before."""
        self._told |= news
        self._notes.write(TOLD, self._told)

    def told(self) -> dict[str, Any]:
        """What a worker has told."""
        return self._notes.read(TOLD, {})

    def ask_stop(self) -> None:
        """Have the worker stop."""
        self._notes.write(STOP)

    def stop_asked(self) -> bool:
        """Whether it is to."""
        return bool(self._notes.names(STOP))


@contextlib.contextmanager
def followed_board(progress: Progress, stop: Stop) -> Iterator[Board]:
    """A board, and a thread that shows on the console what is written there, and passes a wish to stop on."""
    with notes_on(f"training-{uuid.uuid4().hex}") as notes:
        board = Board(notes)
        with every(POLL_SECONDS, _follow(board, progress, stop), patience=4 * POLL_SECONDS):
            yield board


def _follow(board: Board, progress: Progress, stop: Stop) -> Iterator[None]:
    said, evaluated = "", 0
    while True:
        yield
        if stop.asked:
            board.ask_stop()
        state = board.told()
        if state.get("said", said) != said:
            said = state["said"]
            progress.console.say(f"       {said}")
        if state.get("evaluated", evaluated) != evaluated:
            evaluated = state["evaluated"]
            progress.touch()
        if "step" in state:
            progress.total = state["steps"]
            note = [f"loss {state['loss']:.3f}"] if "loss" in state else []
            note += [f"{state['padding']:.0%} padding"] if "padding" in state else []
            work: dict[str, int] = {unit: state[unit] for unit in ("texts", "tokens") if unit in state}
            progress.update(state["step"], state.get("note", " · ".join(note)), work)

"""How far training is, written by the first train worker, and whether it is to stop. Imports nothing heavy."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raydistill.progress import Progress
from raydistill.stopping import Stop

POLL_SECONDS = 0.5


class Board:
    """Where the first worker and the driver tell each other what they have to say."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {"stop": False}

    def write(self, **state: Any) -> dict[str, Any]:
        """Add to the state, and return it."""
        self.state |= state
        return self.state


@contextlib.contextmanager
def followed_board(progress: Progress, stop: Stop) -> Iterator[Any]:
    """A board, and a thread that shows on the console what is written there, and passes a wish to stop on."""
    # Beside the driver, without which there is nothing to tell, and started again: no worker is to fail for it.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    lasting: dict[str, Any] = {"num_cpus": 0, "scheduling_strategy": here, "max_restarts": -1, "max_task_retries": -1}
    board: Any = ray.remote(**lasting)(Board).remote()
    over = threading.Event()

    def follow() -> None:
        said, evaluated = "", 0
        while not over.wait(POLL_SECONDS):
            try:
                state: Any = ray.get(board.write.remote(stop=stop.asked))
            except ray.exceptions.RayError:
                return  # the cluster is gone, and says so itself
            if "said" in state and state["said"] != said:
                said = state["said"]
                progress.console.say(f"       {said}")
            if state.get("evaluated", 0) != evaluated:
                evaluated = state["evaluated"]
                progress.touch()
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

"""What becomes of a training whose workers fail, and how many there are to be.

Runs in Ray Train's controller too, so it imports neither torch nor transformers.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import ray
from ray.train import Result
from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy
from ray.train.v2.api.config import FailureConfig, ScalingConfig
from ray.train.v2.api.exceptions import WorkerGroupError

from raydistill.resources import Node, places
from raydistill.run_dir import CHECKPOINTS
from raydistill.stages.cluster import find_ours

LONGEST_PAUSE = 30.0  # seconds


def last_report(storage: Path) -> dict[str, Any]:
    """What was reported with the newest checkpoint: `epoch` and `updates`; nothing where there is none."""
    try:
        return Result.from_path(str(storage / CHECKPOINTS)).metrics or {}
    except RuntimeError:
        return {}


class GoOnFromCheckpoint(DefaultFailurePolicy):
    """Starts workers that failed again, after a pause, up to `max_failures` times while no checkpoint is reached.

    What the user can mend would fail again: that ends the training at once. Losses that the cluster foretold
    (preemption) do not count.
    """

    def __init__(self, max_failures: int, storage: Path) -> None:
        super().__init__(FailureConfig(max_failures=max_failures))
        self._storage, self._reached = storage, last_report(storage)

    def make_decision(self, training_failed_error: Any) -> FailureDecision:
        if find_ours(training_failed_error):
            return FailureDecision.RAISE
        reached = last_report(self._storage)
        if reached != self._reached:
            self._reached, self._worker_group_failures = reached, 0
        decision = super().make_decision(training_failed_error)
        if decision == FailureDecision.RETRY and isinstance(training_failed_error, WorkerGroupError):
            time.sleep(min(2.0**self._worker_group_failures, LONGEST_PAUSE))
        return decision


class RoomForTasks(ElasticScalingPolicy):
    """As many workers as there is room for at the time, beside the tasks that feed them.

    Ray's own policy gives them all that a node has, and those that remain after a loss would wait for data for ever.
    """

    def __init__(self, scaling_config: ScalingConfig, cpus: float, gpus: float) -> None:
        super().__init__(scaling_config)
        self._cpus, self._gpus = cpus, gpus

    def _count_possible_workers(self, reserved_resources: Any) -> int:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        there = [Node(has.get("CPU", 0.0), has.get("GPU", 0.0)) for has in nodes]
        return min(super()._count_possible_workers(reserved_resources), places(there, self._cpus, self._gpus))

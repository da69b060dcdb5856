"""What becomes of a training whose workers fail, and how many there are to be.

Runs in Ray Train's controller too, so it imports neither torch nor transformers.
"""

from __future__ import annotations

import logging
import socket
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar

import ray
from ray._private.state import available_resources_per_node
from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision
from ray.train.v2._internal.execution.scaling_policy import (
    ElasticScalingPolicy,
    NoopDecision,
    ResizeDecision,
    ScalingDecision,
)
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.train.v2._internal.execution.worker_group.placement_group_handle import PlacementGroupHandle
from ray.train.v2.api.config import FailureConfig, ScalingConfig
from ray.train.v2.api.exceptions import WorkerGroupError

from raydistill.errors import ModelError
from raydistill.files import Folder
from raydistill.resources import Node, Size, places
from raydistill.stages.checkpoints import last_report
from raydistill.stages.faults import find_ours

logger = logging.getLogger(__name__)

LONGEST_PAUSE = 30.0  # seconds from one start that fails to the next
RELEASE_SECONDS = 10.0  # that what is held by those who are gone may take to be free
LOOK_SECONDS, ANSWER_SECONDS = 0.5, 2.0


class GoOnFromCheckpoint(DefaultFailurePolicy):
    """Restarts workers that failed, up to `max_failures` times while no new checkpoint is reached.

    Starts that fail are repeated after growing pauses, counted from the start before. An error that the user can mend
    ends the training at once, except a ModelError after a checkpoint: the student could be loaded before, so its disk
    may be away for a moment. Losses that the cluster foretold (preemption) do not count.
    """

    def __init__(self, max_failures: int, storage: Folder) -> None:
        super().__init__(FailureConfig(max_failures=max_failures))
        self._storage, self._reached, self._failed_starts = storage, last_report(storage), 0
        self._started = time.monotonic()

    def make_decision(self, training_failed_error: Any) -> FailureDecision:
        reached = _reached(self._storage, self._reached)
        ours = find_ours(training_failed_error)
        if ours and not (isinstance(ours, ModelError) and reached):
            return FailureDecision.RAISE
        if reached != self._reached:
            self._reached, self._worker_group_failures, self._failed_starts = reached, 0, 0
        decision = super().make_decision(training_failed_error)
        if isinstance(getattr(training_failed_error, "controller_failure", None), WorkerGroupStartupFailedError):
            self._failed_starts += 1  # which Ray's own policy does not count
            if self._failed_starts > self.failure_config.max_failures:
                return FailureDecision.RAISE
        elif not isinstance(training_failed_error, WorkerGroupError):
            return decision
        if decision == FailureDecision.RETRY:
            failures = self._worker_group_failures + self._failed_starts
            apart = min(2.0 ** (failures - 1), LONGEST_PAUSE)
            time.sleep(max(0.0, self._started + apart - time.monotonic()))
            self._started = time.monotonic()
        return decision


class KnowGroup(WorkerGroupCallback):
    """Notes what the group of workers holds, as soon as there is one. Runs in the controller, as do policies."""

    places: ClassVar[PlacementGroupHandle | None] = None

    @classmethod
    def release(cls) -> None:
        """Give back what a group that has failed holds: one that failed as it started would keep it for ever."""
        if cls.places:
            cls.places.shutdown()
            cls.places = None

    def before_worker_group_start(self, worker_group_context: Any) -> None:
        self.release()

    def after_worker_group_start(self, worker_group: Any) -> None:
        KnowGroup.places = worker_group.get_worker_group_state().placement_group_handle


class SameEnvironment(WorkerGroupCallback):
    """Workers get no environment of their own: for a Ray that we have started, where every process has the driver's.

    Ray Train hands its variables on to each worker. A process with an environment of its own is another's successor,
    which has imported Ray for that alone, and takes over none that idles: a quarter of a small run's time.
    """

    def before_worker_group_start(self, worker_group_context: Any) -> None:
        as_asked: Any = staticmethod(lambda custom_runtime_env: custom_runtime_env)
        WorkerGroup._get_worker_runtime_env = as_asked  # type: ignore[method-assign]


class RoomForTasks(ElasticScalingPolicy):
    """As many workers as there is room for at the time, beside the tasks that feed them. Wants `KnowGroup` beside it.

    Ray's own policy gives them all that a node has, so that those who remain after a loss would wait for data for ever;
    and it goes by reservations, which a driver that was killed leaves behind for minutes.
    """

    def __init__(self, scaling_config: ScalingConfig, cpus: float, gpus: float, storage: Folder) -> None:
        super().__init__(scaling_config)
        self._size, self._storage = Size(cpus, gpus), storage
        self._begun_at: dict[str, Any] = {}  # the checkpoint that the group at work began from
        self._at_work: Counter[str] = Counter()  # on each node
        self._most_free: dict[str, Node] = {}  # of each node since the last look: tasks come and go
        self._patient_until: float | None = None

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        self._at_work, self._most_free = Counter(), {}
        KnowGroup.release()  # or it would keep them until there is room elsewhere
        self._maybe_send_resource_request()  # so that a cluster that can grow does
        now = time.monotonic()
        self._patient_until = self._patient_until or now + RELEASE_SECONDS
        room = self._count_possible_workers({})
        least = self.scaling_config.max_workers if now < self._patient_until else self.scaling_config.min_workers
        if room >= least:
            self._begun_at = _reached(self._storage, {})
            return self._get_resize_decision(room)
        time.sleep(LOOK_SECONDS)  # the controller asks again at once
        return NoopDecision()

    def make_decision_for_running_worker_group(self, worker_group_state: Any, worker_group_status: Any) -> Any:
        self._at_work = Counter(worker.metadata.node_id for worker in worker_group_state.workers)
        self._patient_until = None
        for name, free in available_resources_per_node().items():
            self._most_free[name] = max(_node(free), self._most_free.get(name, Node(0.0, 0.0)), key=lambda n: n.cpus)
        decision = super().make_decision_for_running_worker_group(worker_group_state, worker_group_status)
        # What is at work is begun anew from its last checkpoint: without one of its own it would get nowhere.
        if isinstance(decision, ResizeDecision):
            reached = _reached(self._storage, self._begun_at)
            if reached == self._begun_at:
                return NoopDecision()
            self._begun_at = reached
        return decision

    def _get_reserved_resources(self) -> Any:
        return {}

    def _count_possible_workers(self, reserved_resources: Any) -> int:
        free = available_resources_per_node()
        room = self._at_work.total()  # a group that is well is not made smaller
        for node in ray.nodes():
            if node["Alive"] and node["NodeID"] in free and _answers(node):
                at_work = self._at_work[node["NodeID"]]
                most = places([_node(node["Resources"])], self._size)
                most_free = self._most_free.get(node["NodeID"]) or _node(free[node["NodeID"]])
                now = at_work + places([most_free], self._size, beside_tasks=False)
                room += max(0, min(most, now) - at_work)
        self._most_free = {}
        return min(self.scaling_config.max_workers, room)


def _reached(storage: Folder, before: dict[str, Any]) -> dict[str, Any]:
    """What was reported last; where that cannot be looked at just now, what was known before."""
    try:
        return last_report(storage)
    except Exception:
        logger.warning("checkpoints cannot be looked at", exc_info=True)
        return before


def _answers(node: Mapping[str, Any]) -> bool:
    """Whether its raylet is there: the cluster takes a while to notice that it is not."""
    try:
        socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), ANSWER_SECONDS).close()
        return True
    except OSError:
        return False


def _node(resources: Mapping[str, float]) -> Node:
    return Node(resources.get("CPU", 0.0), resources.get("GPU", 0.0))

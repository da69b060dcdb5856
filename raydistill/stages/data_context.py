"""Ray Data's settings, and what it has no setting for."""

from __future__ import annotations

import contextlib
import uuid
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import ray
import ray.data
from ray.data._internal.cluster_autoscaler import rate_based_cluster_autoscaler
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data._internal.execution.operators import actor_pool_map_operator
from ray.data._internal.stats import _StatsManager

from raydistill.stages.private_ray import is_private_ray
from raydistill.stages.replaced import replaced

LONGEST_REST_SECONDS = 0.5  # so long it may take to see that the end is wanted


@contextlib.contextmanager
def data_settings(**settings: Any) -> Iterator[None]:
    """Ray Data's settings for the datasets made and run within; progress bars are off."""
    # The original exceptions of our functions: wrapped ones lose their cause on the way here.
    settings = {"enable_progress_bars": False, "raise_original_map_exception": True, **settings}
    with replaced(ray.data.DataContext.get_current(), **settings), warnings.catch_warnings():
        # How often what dies is started again can be said in no other way yet.
        warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")
        with _no_helpers() if is_private_ray() else contextlib.nullcontext():
            yield


@contextlib.contextmanager
def _no_helpers() -> Iterator[None]:
    """Have datasets that this process runs keep no actors beside their own, in a Ray of our own.

    One gathers statistics for a dashboard, one asks for more nodes, one knows which node an actor has moved to: there
    is no dashboard, and one node. Each takes a process, which wakes up a hundred times a second beside the teacher.
    """
    without_statistics: dict[str, Any] = {
        "gen_dataset_id_from_stats_actor": lambda: uuid.uuid4().hex,
        "register_dataset_to_stats_actor": _nothing,
        "update_execution_metrics": _nothing,
        "update_iteration_metrics": _nothing,
    }
    with (
        replaced(_StatsManager, **without_statistics),
        replaced(rate_based_cluster_autoscaler, DefaultAutoscalingCoordinator=AllOfTheNode),
        replaced(
            actor_pool_map_operator,
            get_or_create_actor_location_tracker=Nobody,
            get_actor_locations=lambda _: {},  # then it is where it has been
        ),
    ):
        yield


def _nothing(*_: Any, **__: Any) -> None:
    """Whatever is asked for."""


class RestsWhileAllWork(ExecutionCallback):
    """Has Ray Data look around when an actor is done with a block, while each has its next one, in a Ray of our own.

    Of its own accord it does so ten times a second, whether or not there is anything to see, which takes nearly two
    hundredths of a core that the teacher is to have.
    """

    def on_execution_step(self, executor: Any) -> None:
        """Wait until one is done, if none could take another block now."""
        if not is_private_ray():
            return
        for operator in executor._topology:
            pools = operator.get_autoscaling_actor_pools()
            if any(pool.num_running_actors() for pool in pools) and not any(pool.can_schedule_task() for pool in pools):
                tasks = [task.get_waitable() for task in operator.get_active_tasks()]
                ray.wait(tasks, num_returns=1, timeout=LONGEST_REST_SECONDS, fetch_local=False)


class AllOfTheNode:
    """Grants a dataset all that the one node has; there will be no other."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self._node = {ray.get_runtime_context().get_node_id(): ray.cluster_resources()}

    request_resources = cancel_request = _nothing

    def get_reserved_resources(self) -> Mapping[str, Mapping[str, float]]:
        """By the node's id, how much of each resource."""
        return self._node


class Nobody:
    """Stands in for an actor whose answers nobody waits for: every method does nothing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # of Python's own, as of those that copy an object
            raise AttributeError(name)
        return self

    remote = _nothing

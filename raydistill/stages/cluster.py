"""Ray itself: start or join it, see what it has, and find our own errors in what it raises."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")

import ray
import ray.data
from ray._private.state import available_resources_per_node  # no public call tells what a single node has free

import raydistill
from raydistill.errors import RaydistillError, ResourceError
from raydistill.resources import Node

FORWARDED_ENVIRONMENT = ("HF_HUB_OFFLINE", "HF_ENDPOINT", "TOKENIZERS_PARALLELISM")


@contextlib.contextmanager
def connection(address: str | None, *, worker_output: bool = False) -> Iterator[None]:
    """Ray for the length of a run.

    Without an address, or with "local", a private Ray is started and stopped at the end, whatever happens. With one
    (auto, host:port, ray://…) the cluster there is joined and never stopped; the package's own code goes along, since
    its workers may not have it. In a process that is connected already, that connection is used and kept.

    Args:
        worker_output: print here what workers print.

    Raises:
        ResourceError: there is no cluster to join.
    """
    if ray.is_initialized():
        yield
        return
    level: dict[str, Any] = {"log_to_driver": worker_output, "logging_level": logging.WARNING}
    if address in (None, "local"):
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 would yield to whatever else the machine does
        ray.init(address="local", include_dashboard=False, **level)
    else:
        forwarded = {name: os.environ[name] for name in FORWARDED_ENVIRONMENT if name in os.environ}
        package = str(Path(raydistill.__file__).parent)
        try:
            ray.init(address=address, runtime_env={"py_modules": [package], "env_vars": forwarded}, **level)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError, ImportError) as error:
            reason = str(error).strip().split("\n")[0].rstrip(".")
            raise ResourceError(
                f"--address {address}: no Ray cluster can be joined there ({reason}). Start one with `ray start "
                "--head`, or leave --address out."
            ) from None
    try:
        yield
    finally:
        ray.shutdown()


def free_nodes() -> list[Node]:
    """What each living node has free now."""
    names = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    free = available_resources_per_node()
    return [Node(free[i].get("CPU", 0.0), free[i].get("GPU", 0.0), name) for i, name in names.items() if i in free]


@contextlib.contextmanager
def data_settings(**settings: Any) -> Iterator[None]:
    """Ray Data's settings for the datasets made and run within; progress bars are off."""
    context = ray.data.DataContext.get_current()
    settings = {"enable_progress_bars": False, **settings}
    before = {name: getattr(context, name) for name in settings}
    for name, value in settings.items():
        setattr(context, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(context, name, value)


@contextlib.contextmanager
def our_errors() -> Iterator[None]:
    """Raise what a worker said in our own words as itself, not wrapped in Ray's; all else passes as it is."""
    try:
        yield
    except Exception as error:
        ours = _find_ours(error)
        if ours is None or ours is error:
            raise
        raise type(ours)(*ours.args) from None


def _find_ours(error: BaseException | None) -> RaydistillError | None:
    seen: set[int] = set()
    waiting: list[Any] = [error]
    while waiting:
        current = waiting.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        # Ray's own exceptions also inherit from the cause; the bare one has the bare message.
        if isinstance(current, RaydistillError) and not isinstance(current, ray.exceptions.RayError):
            return current
        waiting += [getattr(current, "cause", None), current.__cause__]
        waiting += list(getattr(current, "worker_failures", {}).values())
    return None

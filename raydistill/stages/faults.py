"""What Ray raises and leaves behind: our own errors in it, processes that died, actors that hang."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
import ray.exceptions
from ray._private.state import state  # no public call tells of actors without a dashboard
from ray._private.worker import global_worker
from ray.core.generated.gcs_pb2 import PlacementGroupTableData  # type: ignore[attr-defined]
from ray.util.placement_group import PlacementGroup, remove_placement_group

from raydistill.errors import FaultError, RaydistillError, RunDirError, first_line
from raydistill.progress import duration
from raydistill.refusals import disk_refusal

END_SECONDS, LOOK_SECONDS = 10.0, 0.5
TOO_OFTEN = "a process of the cluster died more often than --max-failures allows"
logger = logging.getLogger(__name__)

DEATHS = (
    ray.exceptions.ActorDiedError,
    ray.exceptions.ActorUnavailableError,
    ray.exceptions.LocalRayletDiedError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.ObjectLostError,
    ray.exceptions.OutOfMemoryError,
    ray.exceptions.WorkerCrashedError,
)


@contextlib.contextmanager
def our_errors(died: str = TOO_OFTEN) -> Iterator[None]:
    """Raise what a worker said in our own words as itself, not wrapped in Ray's, and as FaultError that one died.

    All else passes as it is.

    Args:
        died: how the death of a process is told.
    """
    try:
        yield
    except Exception as error:
        ours = find_ours(error)
        if ours is error:
            raise
        if ours:
            if all(ours is not one for one in _within(error)):
                logger.error("a disk refused to be written", exc_info=error)
            raise type(ours)(str(ours).split("\n")[0]) from None  # Ray adds lines of advice on its own retries
        if first := _train_failure(error):
            logger.error("train workers failed", exc_info=error)
            raise FaultError(
                f"train workers failed more often than --max-failures allows ({type(first).__name__}: "
                f"{first_line(first)}). What is finished is kept: the same command "
                "goes on from there. The log has more."
            ) from None
        death = next((one for one in _within(error) if _is_death(one)), None)
        if death is None:
            raise
        logger.error("a process of the cluster died", exc_info=error)
        raise FaultError(
            f"{died} ({first_line(death)}). What is finished is kept: the same command goes on from there. The log has "
            "more."
        ) from None


def wait_for(
    refs: Sequence[ray.ObjectRef], stall_seconds: float, what: str, look: Callable[[], int] = int
) -> tuple[Any, list[ray.ObjectRef]]:
    """What the first of some tasks gives, and the others.

    Args:
        look: called now and then, and tells how far they are.

    Raises:
        FaultError: they have stood still for that time.
    """
    seen, since = look(), time.monotonic()
    while True:
        done, waiting = ray.wait(list(refs), timeout=min(stall_seconds, LOOK_SECONDS))
        if done:
            return ray.get(done[0]), waiting
        if (now := look()) != seen:
            seen, since = now, time.monotonic()
        elif time.monotonic() - since >= stall_seconds:
            break
    for ref in waiting:
        ray.cancel(ref, force=True)
    raise FaultError(
        f"{what}: no end after {duration(stall_seconds)}. If `ray status` says that the cluster lacks nothing, give a "
        "longer --stall-timeout."
    )


def find_ours(error: BaseException | None) -> RaydistillError | None:
    """What the user can mend: what a worker said in our own words, or a disk's refusal, within an error of Ray's."""
    # Ray's own exceptions also inherit from the cause; the bare one has the bare message.
    ours = (one for one in _within(error) if isinstance(one, RaydistillError))
    found: RaydistillError | None = next((one for one in ours if not isinstance(one, ray.exceptions.RayError)), None)
    if found:
        return found
    refusals = [refusal for one in _within(error) if (refusal := _disk_refusal(one))]
    return refusals[-1] if refusals else None  # the innermost one knows the file; those around it quote it


def _disk_refusal(error: BaseException) -> RunDirError | None:
    if isinstance(error, ray.exceptions.OutOfDiskError):
        return RunDirError(
            "the disk with Ray's temporary folder (/tmp/ray, or what RAY_TMPDIR names) is nearly full. Free some space "
            "there, and the same command goes on."
        )
    return disk_refusal(error)


def _train_failure(error: Any) -> Exception | None:
    """What the first train worker failed with, or its group as it started. Labelling does not import Ray Train."""
    if failures := getattr(error, "worker_failures", None):
        return next(iter(failures.values()))
    failure = getattr(error, "controller_failure", None)
    return failure if type(failure).__name__ == "WorkerGroupStartupFailedError" else None


def _is_death(error: BaseException) -> bool:
    """Whether it says that a process is gone, and not that its constructor raised something."""
    return isinstance(error, DEATHS) and not getattr(error, "actor_init_failed", False)


def _within(error: BaseException | None) -> Iterator[Any]:
    """An error and all that it has come from."""
    seen: set[int] = set()
    waiting: list[Any] = [error]
    while waiting:
        current = waiting.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        waiting += [getattr(current, name, None) for name in ("cause", "__cause__", "controller_failure")]
        waiting += list(getattr(current, "worker_failures", {}).values())


def job_actors() -> list[dict[str, Any]]:
    """This job's actors as the cluster sees them."""
    return list(state.actor_table(None, job_id=ray.JobID.from_hex(ray.get_runtime_context().get_job_id())).values())


@contextlib.contextmanager
def no_actor_left(name: str) -> Iterator[None]:
    """Kill the actors of a class that an error within leaves at work.

    Ray Data lets them end what they are at, for which one that hangs takes its CPU or GPU for ever.
    """

    def at_work() -> set[str]:
        return {
            actor["ActorID"] for actor in job_actors() if name in actor["ActorClassName"] and actor["State"] != "DEAD"
        }

    before = at_work()
    try:
        yield
    except BaseException:
        with contextlib.suppress(Exception):  # the cluster may be gone; what ended the work is what is to be told
            worker: Any = global_worker
            for actor in at_work() - before:
                # As ray.kill, which wants a handle.
                worker.core_worker.kill_actor(ray.ActorID(bytes.fromhex(actor)), True)
        raise


def end_actor(actor: Any) -> None:
    """Kill an actor, and give back what it has reserved for others: Ray keeps that for it until the job's end."""
    ray.kill(actor)
    name = actor._actor_id.hex()
    deadline = time.monotonic() + END_SECONDS  # until then it may reserve more
    while state.actor_table(name, None)["State"] != "DEAD" and time.monotonic() < deadline:
        time.sleep(0.05)
    for content in state._connect_and_get_accessor().get_placement_group_table():
        group = PlacementGroupTableData.FromString(content)
        if group.creator_actor_id.hex() == name:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))

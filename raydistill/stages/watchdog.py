"""Watches a stage: one that stands still, or whose processes die again and again, is ended instead of waited for."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from raydistill.errors import FaultError
from raydistill.periodic import every
from raydistill.progress import Progress, duration
from raydistill.stages.faults import job_actors
from raydistill.stopping import Stop

LOOK_SECONDS = 2.0
HEAD_SECONDS = 20.0  # Ray gives it a minute
logger = logging.getLogger(__name__)


@contextlib.contextmanager
def watched(
    progress: Progress,
    stop: Stop,
    *,
    stall_seconds: float,
    most_restarts: int | None = None,
    found: Callable[[], int] = int,
) -> Iterator[None]:
    """Have a thread look at a stage now and then; its verdict goes to `stop.fail`.

    Args:
        stall_seconds: how long it may make no progress.
        most_restarts: how many actors may be started again while it makes none; None where others count them.
        found: how many reasons for that have been found; each is progress.
    """
    steps = _watch(progress, stop, stall_seconds, most_restarts, found)
    with every(LOOK_SECONDS, steps, patience=LOOK_SECONDS):
        yield


def _watch(
    progress: Progress,
    stop: Stop,
    stall_seconds: float,
    most_restarts: int | None,
    found: Callable[[], int],
) -> Iterator[None]:
    # What came before it is watched does not count: a large store takes its time to be read.
    stood_since, known, silent = time.monotonic(), 0, False
    before: int | None = None  # how many had been started again when it last made progress
    while True:
        told, (seen, silent) = silent, _looked(found)
        if progress.over:  # looking takes its time
            return
        if silent and not told:
            progress.console.say(
                f"       the head of the cluster has not answered for {HEAD_SECONDS:g} s: if it is gone, Ray ends this "
                "process after a minute. The same command goes on, on this cluster or another"
            )
        actors, reasons = seen or ([], known)
        if reasons > known:
            known = reasons
            progress.touch()
        if progress.moved_at > stood_since:
            stood_since, before = progress.moved_at, None
        if before is None and seen:
            before = _restarts(actors)
        died = _restarts(actors) - before if before is not None else 0
        if most_restarts is not None and died > most_restarts:
            stop.fail(
                FaultError(
                    f"{progress.name}: actors died {died} times and nothing got done. The log has what they said last; "
                    "a model too large for the memory of a node is the usual reason. --max-failures sets how often "
                    "they are started again."
                )
            )
            return
        if time.monotonic() - stood_since > stall_seconds:
            progress.console.say()
            progress.console.table(
                [("actor", "state"), *(_described(actor) for actor in actors if actor["State"] != "DEAD")]
            )
            stop.fail(
                FaultError(
                    f"{progress.name}: no progress for {duration(stall_seconds)}. What is finished is kept: the same "
                    "command goes on from there. --stall-timeout sets how long to wait."
                )
            )
            return
        yield


def _looked(found: Callable[[], int]) -> tuple[tuple[list[dict], int] | None, bool]:
    """The job's actors, and what `found` says, or None; and whether the cluster's head says nothing at all.

    Ray itself would wait on for it.
    """
    answers: list[tuple[list[dict], int]] = []

    def look() -> None:
        try:
            answers.append((job_actors(), found()))
        except Exception:
            logger.warning("the cluster's actors cannot be seen", exc_info=True)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(timeout=HEAD_SECONDS)
    return answers[0] if answers else None, thread.is_alive()


def _restarts(actors: Sequence[dict]) -> int:
    return sum(actor["NumRestarts"] for actor in actors)


def _described(actor: dict) -> tuple[str, str]:
    where = f"process {actor.get('Pid', '?')} on {actor['Address']['IPAddress'] or 'no node yet'}"
    return actor["ActorClassName"], f"{actor['State'].lower()}, {where}, started again {actor['NumRestarts']} times"

"""The watchdog: what counts as a standstill, and what does not. The cluster's actors are stood in for.

How its verdict reaches the main thread: test_stopping.py, in processes of their own.
"""

from __future__ import annotations

import io
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from raydistill.errors import FaultError
from raydistill.progress import Console, Progress
from raydistill.stages import watchdog
from raydistill.stages.watchdog import watched
from raydistill.stopping import Stop


@pytest.fixture
def restarts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often the one actor was started again: `restarts[0]`."""
    found = [0]
    address = {"IPAddress": "10.0.0.7"}

    def actors() -> list[dict[str, Any]]:
        state = {"NumRestarts": found[0], "State": "ALIVE", "ActorClassName": "TeacherActor"}
        return [{**state, "Pid": 77, "Address": address}]

    monkeypatch.setattr(watchdog, "job_actors", actors)
    monkeypatch.setattr(watchdog, "LOOK_SECONDS", 0.02)
    return found


@pytest.fixture
def progress() -> Iterator[Progress]:
    console = Console(io.StringIO())
    with console.stage("label", "texts", 100) as progress:
        yield progress


def test_a_cluster_that_does_not_answer_is_told_once_and_watched_again_when_it_does(
    restarts: list[int], progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, silent, held = watchdog.job_actors, [False], threading.Event()

    def job_actors() -> list[dict[str, Any]]:
        while silent[0]:
            held.set()
            time.sleep(0.01)
        return seen()

    monkeypatch.setattr(watchdog, "job_actors", job_actors)
    stop = Stop(progress.console.say, 0)
    with watched(progress, stop, stall_seconds=60, most_restarts=2):
        silent[0] = True
        assert held.wait(10)  # nobody looks between the next two
        restarts[0] = 7  # in days, and all of it got on
        progress.update(1)
        monkeypatch.setattr(watchdog, "HEAD_SECONDS", 0.5)
        silent[0] = False
        for number in range(2):
            wait(0.3)
            silent[0] = True
            wait(0.8)
            progress.update(2 + number)
            wait(0.2)
            silent[0] = False
        wait(0.2)
        assert stop._fault is None
        restarts[0] += 3
        wait_for_verdict(stop, "label: actors died 3 times")
    assert progress.console.stream.getvalue().count("has not answered for 0.5 s") == 2  # type: ignore[attr-defined]


def test_of_a_stage_that_is_over_nothing_is_said(restarts: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = threading.Event()

    def answer() -> None:
        asked.set()
        time.sleep(1)

    monkeypatch.setattr(watchdog, "job_actors", answer)
    monkeypatch.setattr(watchdog, "HEAD_SECONDS", 0.5)
    console = Console(io.StringIO())
    with console.stage("label", "texts", 100) as progress, watched(progress, Stop(print, 0), stall_seconds=60):
        assert asked.wait(10)
    time.sleep(0.8)
    assert "has not answered" not in console.stream.getvalue()  # type: ignore[attr-defined]


def wait(seconds: float, each: Callable[[], None] = lambda: None) -> None:
    """Let time pass, and do something every now and then."""
    over = time.monotonic() + seconds
    while time.monotonic() < over:
        each()
        time.sleep(0.02)


def wait_for_verdict(stop: Stop, wanted: str) -> None:
    deadline = time.monotonic() + 10
    while stop._fault is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert isinstance(stop._fault, FaultError)
    assert re.match(wanted, str(stop._fault))


def test_what_came_before_a_stage_is_watched_does_not_count(restarts: list[int], progress: Progress) -> None:
    progress.moved_at -= 3600  # a large store takes its time to be read
    restarts[0] = 99
    stop = Stop(print, 0)
    with watched(progress, stop, stall_seconds=30, most_restarts=1):
        wait(0.5)
    assert stop._fault is None


def test_a_standstill_ends_the_stage_with_where_its_actors_are(restarts: list[int], progress: Progress) -> None:
    stop = Stop(print, 0)
    with watched(progress, stop, stall_seconds=0.5):
        wait_for_verdict(stop, r"label: no progress for 0.5 s.*--stall-timeout")
    assert "alive, process 77 on 10.0.0.7" in progress.console.stream.getvalue()  # type: ignore[attr-defined]


def test_what_gets_on_is_no_standstill_whatever_it_counts(restarts: list[int], progress: Progress) -> None:
    stop = Stop(print, 0)
    with watched(progress, stop, stall_seconds=0.5):
        wait(1.0, progress.touch)
        done = iter(range(1000))
        wait(1.0, lambda: progress.update(next(done)))
    assert stop._fault is None


def test_actors_may_die_as_often_as_the_stage_gets_on_between(restarts: list[int], progress: Progress) -> None:
    def die_and_get_on() -> None:
        restarts[0] += 1
        progress.touch()
        time.sleep(0.1)

    stop = Stop(print, 0)
    with watched(progress, stop, stall_seconds=30, most_restarts=3):
        wait(1.5, die_and_get_on)
    assert stop._fault is None
    assert restarts[0] > 4

    with watched(progress, stop, stall_seconds=30, most_restarts=3):
        time.sleep(0.2)
        restarts[0] += 4
        wait_for_verdict(stop, r"label: actors died 4 times and nothing got done")

    found = [0]
    stop = Stop(print, 0)
    with watched(progress, stop, stall_seconds=30, most_restarts=3, found=lambda: found[0]):
        for _ in range(3):
            time.sleep(0.2)
            restarts[0] += 3
            time.sleep(0.2)
            found[0] += 1
        time.sleep(0.2)
        assert stop._fault is None
        restarts[0] += 4
        wait_for_verdict(stop, r"label: actors died 4 times and nothing got done")

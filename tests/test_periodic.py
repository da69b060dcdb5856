"""Steps that a thread takes beside the work."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator

import pytest

from raydistill.periodic import every


def test_steps_are_taken_while_the_block_runs_and_none_after_it() -> None:
    taken: list[int] = []
    enough = threading.Event()

    def steps() -> Iterator[None]:
        for number in itertools.count():
            taken.append(number)
            if number == 3:
                enough.set()
            yield

    with every(0.01, steps()):
        assert enough.wait(10)
    known = len(taken)
    time.sleep(0.1)
    assert taken == list(range(known))


def test_the_first_is_taken_at_once_and_a_long_pause_does_not_keep_the_block() -> None:
    taken = threading.Event()

    def steps() -> Iterator[None]:
        taken.set()
        yield

    started = time.monotonic()
    with every(600, steps()):
        assert taken.wait(10)
    assert time.monotonic() - started < 60


@pytest.mark.parametrize(("patience", "done"), [(None, True), (0.05, False)])
def test_the_end_waits_for_a_step_under_way_as_long_as_patience_lasts(patience: float | None, done: bool) -> None:
    begun, ended = threading.Event(), threading.Event()

    def steps() -> Iterator[None]:
        begun.set()
        time.sleep(0.5)
        ended.set()
        yield

    with every(0.01, steps(), patience):
        assert begun.wait(10)
    assert ended.is_set() == done

"""The stopwatch: every moment counts once, and to the right part. On a clock that only the tests move."""

from __future__ import annotations

import pytest

from raydistill import stopwatch
from raydistill.stopwatch import Stopwatch


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(stopwatch, "time", found)
    return found


def test_parts_add_up_to_the_whole_and_each_has_its_own(clock: Clock) -> None:
    watch = Stopwatch("loading")
    clock.sleep(1)
    watch.turn("steps")
    clock.sleep(2)
    with watch.within("data"):
        clock.sleep(4)
    watch.turn("loading")
    clock.sleep(8)
    assert watch.read() == {"loading": 9, "steps": 2, "data": 4}
    clock.sleep(0.0004)
    assert watch.read()["loading"] == 9


def test_after_a_while_within_a_part_the_one_before_goes_on_even_after_an_error(clock: Clock) -> None:
    watch = Stopwatch("steps")

    def lose() -> None:
        with watch.within("data"):
            clock.sleep(2)
            raise ValueError("lost")

    with pytest.raises(ValueError, match="lost"):
        lose()
    clock.sleep(1)
    assert watch.read() == {"steps": 1, "data": 2}


def test_getting_an_item_counts_and_using_it_does_not(clock: Clock) -> None:
    def slow():
        for i in range(3):
            clock.sleep(1)
            yield i

    watch = Stopwatch("steps")
    seen = []
    for item in watch.over(slow(), "data"):
        seen.append(item)
        clock.sleep(2)
    assert seen == [0, 1, 2]
    assert watch.read() == {"steps": 6, "data": 3}

"""The stopwatch: every moment counts once, and to the right part."""

from __future__ import annotations

import time

import pytest

from raydistill.stopwatch import Stopwatch


def test_parts_add_up_to_the_whole_and_each_has_its_own():
    started = time.perf_counter()
    watch = Stopwatch("loading")
    time.sleep(0.02)
    watch.turn("steps")
    time.sleep(0.04)
    with watch.within("data"):
        time.sleep(0.06)
    watch.turn("loading")
    seconds = watch.read()
    assert sum(seconds.values()) == pytest.approx(time.perf_counter() - started, abs=0.005)
    assert 0.02 <= seconds["loading"] < seconds["steps"] < seconds["data"]


def test_after_a_while_within_a_part_the_one_before_goes_on_even_after_an_error():
    watch = Stopwatch("steps")
    with pytest.raises(ValueError, match="lost"), watch.within("data"):
        raise ValueError("lost")
    time.sleep(0.02)
    seconds = watch.read()
    assert seconds["steps"] >= 0.02 > seconds["data"]


def test_getting_an_item_counts_and_using_it_does_not():
    def slow():
        for i in range(3):
            time.sleep(0.02)
            yield i

    watch = Stopwatch("steps")
    seen = []
    for item in watch.over(slow(), "data"):
        seen.append(item)
        time.sleep(0.04)
    seconds = watch.read()
    assert seen == [0, 1, 2]
    assert 0.06 <= seconds["data"] < seconds["steps"]
    assert seconds["steps"] >= 0.12

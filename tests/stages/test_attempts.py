"""Which attempt at a block tries its texts one by one, which text is blamed, and when it is given up."""

from __future__ import annotations

import uuid

import pytest

from raydistill.errors import FaultError
from raydistill.stages.attempts import Attempt, fatal_texts

IDS = ("a", "b", "c")


@pytest.fixture
def run() -> str:
    return f"run-{uuid.uuid4().hex}"


def test_a_text_that_was_tried_alone_when_the_process_died_is_fatal(run: str) -> None:
    for careful in (False, False):  # which may have been the machine's fault
        attempt = Attempt(run, IDS, 3)
        assert attempt.careful is careful
        attempt.begin()
    for expected in ([], ["a"], ["a", "c"]):
        attempt = Attempt(run, IDS, 3)
        assert attempt.careful
        assert attempt.fatal_ids() == fatal_texts(run) == set(expected)
        attempt.begin()
        for text_id in IDS:
            if text_id not in expected:
                attempt.begin(text_id)
                if text_id in ("a", "c"):
                    break
    attempt.begin()
    attempt.end()
    again = Attempt(run, IDS, 3)
    assert (again.deaths, again.careful) == (0, False)
    assert fatal_texts(run) == {"a", "c"}


@pytest.mark.parametrize("most_deaths", [0, 1, 2, 3])
def test_a_block_that_dies_of_something_else_is_given_up(run: str, most_deaths: int) -> None:
    for deaths in range(most_deaths + 1):
        attempt = Attempt(run, IDS, most_deaths)
        assert attempt.careful is (0 < most_deaths <= deaths or deaths >= 2)
        attempt.begin()
        if attempt.careful:
            attempt.begin("a")
            attempt.begin()
    with pytest.raises(FaultError, match=rf"a block of 3 texts .* {most_deaths + 1} times, .* allows {most_deaths}\."):
        Attempt(run, IDS, most_deaths)
    assert not fatal_texts(run)


def test_blocks_and_runs_are_told_apart(run: str) -> None:
    Attempt(run, IDS, 3).begin()
    assert Attempt(run, IDS, 3).deaths == 1
    assert Attempt(run, IDS[:2], 3).deaths == Attempt(f"{run}-2", IDS, 3).deaths == 0
    Attempt(run, (), 3).begin()  # nothing to score
    assert Attempt(run, (), 3).deaths == 0

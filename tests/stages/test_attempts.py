"""Which attempt at a block tries its texts one by one, which text is blamed, and when it is given up."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from raydistill.errors import FaultError
from raydistill.stages.attempts import Attempt, suspects
from raydistill.stages.notes import Notes, notes_on

IDS = ("a", "b", "c")


@pytest.fixture
def notes() -> Iterator[Notes]:
    with notes_on(f"test-{uuid.uuid4().hex}") as notes:
        yield notes
    assert not notes.names("")


def test_a_text_that_was_tried_alone_when_the_process_died_is_fatal(notes: Notes) -> None:
    for careful in (False, False):  # which may have been the machine's fault
        attempt = Attempt(notes, IDS, 3)
        assert attempt.careful is careful
        attempt.begin()
    for expected, fatal in (([], "a"), (["a"], "c"), (["a", "c"], None)):
        attempt = Attempt(notes, IDS, 3)
        assert attempt.careful
        assert attempt.fatal == suspects(notes) == set(expected)
        attempt.begin()
        for text_id in IDS:
            if text_id not in expected:
                attempt.suspect(text_id)
                assert suspects(notes) == {*expected, text_id}
                if text_id == fatal:
                    break
                attempt.acquit(text_id)
    attempt.end()
    again = Attempt(notes, IDS, 3)
    assert (again.deaths, again.careful) == (0, False)
    assert suspects(notes) == {"a", "c"}


@pytest.mark.parametrize("most_deaths", [0, 1, 2, 3])
def test_a_block_that_dies_of_something_else_is_given_up(notes: Notes, most_deaths: int) -> None:
    for deaths in range(most_deaths + 1):
        attempt = Attempt(notes, IDS, most_deaths)
        assert attempt.careful is (0 < most_deaths <= deaths or deaths >= 2)
        attempt.begin()
        if attempt.careful:
            attempt.suspect("a")
            attempt.acquit("a")
    with pytest.raises(FaultError, match=rf"a block of 3 texts .* {most_deaths + 1} times, .* allows {most_deaths}\."):
        Attempt(notes, IDS, most_deaths)
    assert not suspects(notes)


def test_blocks_and_runs_are_told_apart(notes: Notes) -> None:
    Attempt(notes, IDS, 3).begin()
    other = Notes(f"{notes.subject}-2")
    assert Attempt(notes, IDS, 3).deaths == 1
    assert Attempt(notes, IDS[:2], 3).deaths == Attempt(other, IDS, 3).deaths == 0
    Attempt(notes, (), 3).begin()  # nothing to score
    assert Attempt(notes, (), 3).deaths == 0

"""Which attempt at a block tries its texts one by one, which text is blamed, and when it is given up."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from raydistill.errors import FaultError
from raydistill.stages.attempts import FATAL, Attempt, progress_made
from raydistill.stages.notes import Notes, notes_on


@pytest.fixture
def notes() -> Iterator[Notes]:
    with notes_on(f"test-{uuid.uuid4().hex}") as notes:
        yield notes
    assert not notes.names("")


def die(notes: Notes, trying: str | None = None, most_deaths: int = 3) -> Attempt:
    """Try block A, and be gone, at a text or before."""
    attempt = Attempt(notes, "A", most_deaths)
    attempt.begin()
    if trying:
        attempt.begin(trying="a text before")
        attempt.begin(trying=trying)
    return attempt


def test_a_text_that_was_tried_alone_when_the_process_died_is_fatal_for_all(notes: Notes) -> None:
    assert [die(notes).careful for _ in range(2)] == [False, False]  # may have been the machine's fault
    for deaths, fatal in (2, set()), (3, set()):  # it too
        attempt = die(notes, trying="x")
        assert (attempt.careful, attempt.deaths, attempt.fatal) == (True, deaths, fatal)
    for deaths in 2, 3:
        attempt = die(notes, trying="y")
        assert (attempt.careful, attempt.deaths, attempt.fatal) == (True, deaths, {"x"})
    attempt = Attempt(notes, "A", 3)
    assert (attempt.careful, attempt.deaths, attempt.fatal) == (True, 2, {"x", "y"})
    attempt.end()
    for block in ("A", "B"):
        attempt = Attempt(notes, block, 3)
        assert (attempt.careful, attempt.deaths, attempt.fatal) == (False, 0, {"x", "y"})
    assert progress_made(notes) == 4


def test_what_is_being_tried_elsewhere_is_not_fatal(notes: Notes) -> None:
    for _ in range(2):
        die(notes)
    for _ in range(2):
        die(notes, trying="x")
    assert Attempt(notes, "B", 3).fatal == set()
    assert not notes.names(FATAL)


def test_a_text_that_was_tried_when_its_machine_was_lost_is_not_fatal(notes: Notes) -> None:
    for _ in range(2):
        die(notes)
    die(notes, trying="x")
    attempt = Attempt(notes, "A", 3)
    attempt.begin(trying="x")
    attempt.begin()
    attempt.end()
    assert (Attempt(notes, "A", 3).deaths, notes.names(FATAL), progress_made(notes)) == (0, [], 1)


@pytest.mark.parametrize("most_deaths", [0, 1, 2, 3, 4])
def test_a_block_that_dies_of_something_else_is_given_up(notes: Notes, most_deaths: int) -> None:
    for deaths in range(most_deaths + 1):
        assert die(notes, most_deaths=most_deaths).careful is (most_deaths > 2 <= deaths)
    with pytest.raises(FaultError, match=rf"its? .* {most_deaths + 1} times, .* --max-failures {most_deaths} allows"):
        Attempt(notes, "A", most_deaths)
    assert progress_made(notes) == 0
    assert Attempt(notes, "B", most_deaths).deaths == 0


def test_one_more_death_of_the_machine_does_not_hide_a_fatal_text(notes: Notes) -> None:
    for _ in range(2):
        die(notes)
    for text in "yxx":
        die(notes, trying=text)
    assert Attempt(notes, "A", 3).fatal == {"x"}


def test_a_teacher_that_dies_at_every_text_is_given_up(notes: Notes) -> None:
    for _ in range(2):
        die(notes)
    for text in "aabbccdd":
        die(notes, trying=text)
    with pytest.raises(FaultError, match=r" 10 times, beyond what --max-failures 3 allows"):
        Attempt(notes, "A", 3)


def test_without_a_cluster_nothing_is_noted(notes: Notes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raydistill.stages.notes._internal_kv_initialized", lambda: False)
    for _ in range(9):
        attempt = Attempt(notes, "A", 0)
        attempt.begin(trying="a")
        assert (attempt.deaths, attempt.fatal, attempt.careful) == (0, set(), False)

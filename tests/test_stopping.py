"""A stop is asked for by the first signal and had by the second; real signals, sent to this process."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from raydistill.stopping import orderly_stop


def send(number=signal.SIGINT):
    os.kill(os.getpid(), number)
    time.sleep(0.05)  # the handler runs before this ends


@pytest.fixture
def said():
    return []


def within(said, grace, act):
    """Do something that may be stopped."""
    with orderly_stop(said.append, grace) as stop:
        act(stop)


def test_the_first_signal_asks_and_takes_effect_at_the_end(said):
    reached = []

    def act(stop):
        reached.append(stop.asked)
        send()
        reached.append(stop.asked)

    with pytest.raises(KeyboardInterrupt):
        within(said, 60, act)
    assert reached == [False, True]
    assert len(said) == 1
    assert "60 s" in said[0]


def test_the_second_signal_stops_at_once(said):
    def act(stop):
        send()
        send()
        pytest.fail("went on after the second signal")

    with pytest.raises(KeyboardInterrupt):
        within(said, 60, act)


def test_the_grace_ends(said):
    def act(stop):
        send()
        time.sleep(30)

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        within(said, 0.2, act)
    assert 0.1 < time.monotonic() - began < 5


def test_without_a_grace_the_first_signal_stops_at_once(said):
    def act(stop):
        send()
        pytest.fail("went on")

    with pytest.raises(KeyboardInterrupt):
        within(said, 0, act)
    assert not said


def test_the_handler_that_was_there_has_the_last_word_on_its_own_signal(said):
    got = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: got.append(number))
    try:
        with pytest.raises(KeyboardInterrupt):
            within(said, 60, lambda stop: send(signal.SIGTERM))
        assert got == [signal.SIGTERM]
        send(signal.SIGTERM)
        assert got == [signal.SIGTERM] * 2  # it is there again
    finally:
        signal.signal(signal.SIGTERM, before)


def test_an_error_after_the_signal_is_the_stop_itself(said):
    def act(stop):
        send()
        raise ConnectionError("the cluster had the signal too")

    with pytest.raises(KeyboardInterrupt):
        within(said, 60, act)


def test_an_error_without_a_signal_is_an_error(said):
    def act(stop):
        raise ValueError("as it was")

    with pytest.raises(ValueError, match="as it was"):
        within(said, 60, act)


def test_another_thread_may_end_it_with_an_error(said):
    def act(stop):
        threading.Timer(0.1, stop.fail, [ValueError("stands still")]).start()
        time.sleep(30)

    with pytest.raises(ValueError, match="stands still"):
        within(said, 60, act)


def test_in_another_thread_signals_are_left_as_they_are(said):
    seen = []

    def work():
        with orderly_stop(said.append, 60) as stop:
            seen.append((signal.getsignal(signal.SIGINT), stop.asked))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(before, False)]

"""A stop is asked for by the first signal and had by the second; real signals, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from raydistill.stages.label import _until_stopped
from raydistill.stopping import Stop

BEGIN = """
import os, signal, threading, time
from raydistill.stopping import orderly_stop

def send(number=signal.SIGINT):
    os.kill(os.getpid(), number)
    time.sleep(0.05)  # the handler runs before this ends

def stops(grace, act):
    began = time.monotonic()
    try:
        with orderly_stop(lambda line: print("said", line), grace) as stop:
            act(stop)
    except KeyboardInterrupt:
        print("stopped")
    return time.monotonic() - began
"""


def said_by(code: str) -> list[str]:
    """The lines that a process prints."""
    command = [sys.executable, "-c", BEGIN + code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_first_signal_asks_and_takes_effect_at_the_end() -> None:
    code = """
def act(stop):
    print(stop.asked)
    send()
    print(stop.asked)
stops(60, act)
"""
    before, said, after, end = said_by(code)
    assert (before, after, end) == ("False", "True", "stopped")
    assert said.startswith("said ")
    assert "60 s" in said


def test_the_second_signal_stops_at_once() -> None:
    code = """
def act(stop):
    send()
    send()
    print("went on")
stops(60, act)
"""
    assert said_by(code)[1:] == ["stopped"]


def test_the_grace_ends() -> None:
    code = """
def act(stop):
    send()
    time.sleep(30)
print(stops(0.2, act))
"""
    *_, end, seconds = said_by(code)
    assert end == "stopped"
    assert 0.1 < float(seconds) < 5


def test_without_a_grace_the_first_signal_stops_at_once() -> None:
    code = """
def act(stop):
    send()
    print("went on")
stops(0, act)
"""
    assert said_by(code) == ["stopped"]


def test_the_handler_that_was_there_has_the_last_word_on_its_own_signal() -> None:
    code = """
signal.signal(signal.SIGTERM, lambda number, frame: print("the one before"))
stops(60, lambda stop: send(signal.SIGTERM))
send(signal.SIGTERM)  # it is there again
"""
    assert said_by(code)[1:] == ["the one before", "stopped", "the one before"]


def test_an_error_after_the_signal_is_the_stop_itself() -> None:
    code = """
def act(stop):
    send()
    raise ConnectionError("the cluster had the signal too")
stops(60, act)
"""
    assert said_by(code)[1:] == ["stopped"]


@pytest.mark.parametrize("thread", ["this thread", "another thread"])
def test_an_error_without_a_signal_is_an_error(thread: str) -> None:
    code = f"""
def act(stop):
    if {thread == "this thread"}:
        raise ValueError("stands still")
    threading.Timer(0.1, stop.fail, [ValueError("stands still")]).start()
    time.sleep(30)
try:
    stops(60, act)
except ValueError as error:
    print(error)
"""
    began = time.monotonic()
    assert said_by(code) == ["stands still"]
    assert time.monotonic() - began < 20


def test_a_signal_that_was_ignored_stays_so() -> None:
    code = """
signal.signal(signal.SIGINT, signal.SIG_IGN)
def act(stop):
    send()
    print(stop.asked)
stops(60, act)
"""
    assert said_by(code) == ["False"]


def test_in_another_thread_signals_are_left_as_they_are() -> None:
    code = """
before = signal.getsignal(signal.SIGINT)
def act(stop):
    print(signal.getsignal(signal.SIGINT) is before, stop.asked)
thread = threading.Thread(target=stops, args=(60, act))
thread.start()
thread.join()
"""
    assert said_by(code) == ["True False"]


def test_a_signal_waits_for_what_is_not_to_be_disturbed() -> None:
    code = """
from raydistill.stopping import signals_wait

for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.default_int_handler)
    try:
        with signals_wait():
            send(number)
            print("done")
        print("too far")
    except KeyboardInterrupt:
        print("stopped", signal.getsignal(number) is signal.default_int_handler)

def elsewhere():
    with signals_wait():
        print("as it is", signal.getsignal(signal.SIGINT) is signal.default_int_handler)

thread = threading.Thread(target=elsewhere)
thread.start()
thread.join()
"""
    assert said_by(code) == ["done", "stopped True"] * 2 + ["as it is True"]


@pytest.mark.parametrize(("actors", "met"), [(1, 3), (3, 5)])
def test_actors_at_their_first_block_are_waited_for_too(actors: int, met: int) -> None:
    def receipts() -> Iterator[dict[str, Any]]:
        for number, actor in enumerate("aaabca"):
            if number == 2:
                stop.asked_at = number - 0.5
            yield {"effort": {"actor": actor, "scored_at": number}}

    stop = SimpleNamespace(asked_at=None)
    assert len(list(_until_stopped(receipts(), cast(Stop, stop), actors))) == met

"""The console: what a user sees of a stage, on a terminal and in a pipe."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydistill import progress
from raydistill.progress import Console, duration
from raydistill.stages.ray_client import show

needs_dev_full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")


@pytest.fixture
def clock(monkeypatch):
    """Time as the test sets it: `clock.now`."""

    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_in_a_pipe_a_stage_says_how_far_it_is_every_so_often_and_how_it_ended(clock):
    console = Console(io.StringIO())
    with console.stage("label", "texts", 1000) as stage:
        stage.update(0, work={"pairs": 0})
        for done in (100, 200, 300, 400, 500, 1000):
            clock.now += 10
            stage.update(done, "3% padding", work={"pairs": 5 * done})
    assert console.stream.getvalue().splitlines() == [
        "label  starting",
        "label  200 of 1,000 texts (20%) · ETA 1 min 20 s · 10.0 texts/s · 50.0 pairs/s · 3% padding",
        "label  400 of 1,000 texts (40%) · ETA 1 min 00 s · 10.0 texts/s · 50.0 pairs/s · 3% padding",
        "label  1,000 of 1,000 texts (100%) · 16.7 texts/s · 83.3 pairs/s · 3% padding",
        "label  1,000 texts · 1 min 00 s",
    ]


def test_rates_leave_out_the_start_up(clock):
    console = Console(io.StringIO())
    with console.stage("train", "steps", 100) as stage:
        clock.now += 60
        stage.update(10)
        clock.now += 20
        stage.update(50, note="loss 0.500")
    assert "train  50 of 100 steps (50%) · ETA 25 s · 2.0 steps/s · loss 0.500" in console.stream.getvalue()


def test_what_was_done_before_says_nothing_of_the_rate(clock):
    console = Console(io.StringIO())
    with console.stage("label", "texts", 1000) as stage:
        stage.update(0)
        clock.now += 1
        stage.update(400, passed=400)
        clock.now += 19
        stage.update(600, passed=400)
    with console.stage("label", "texts", 1000) as stage:
        stage.update(0, to_pass=700)
        clock.now += 20
        stage.update(200, passed=100, to_pass=600)
    said = console.stream.getvalue()
    assert "label  600 of 1,000 texts (60%) · ETA 40 s · 10.0 texts/s\n" in said
    assert "label  200 of 1,000 texts (20%) · ETA 40 s · 5.0 texts/s\n" in said


def test_a_stage_without_a_total_has_no_eta(clock):
    console = Console(io.StringIO())
    with console.stage("label", "texts") as stage:
        stage.update(0)
        clock.now += 20
        stage.update(40)
    assert "label  40 texts · 2.0 texts/s\n" in console.stream.getvalue()


def test_on_a_terminal_one_line_is_rewritten(clock):
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w") as terminal:
        console = Console(terminal)
        with console.stage("label", "texts", 1000) as stage:
            for done in range(0, 1001, 100):
                clock.now += 1
                stage.update(done)
        shown = ""
        while "\n" not in shown:
            shown += os.read(leader, 1 << 16).decode().replace("\r\n", "\n")  # a terminal's line end
    assert shown.count("\n") == 1
    assert shown.count("\r") > 5
    assert shown.rstrip().endswith("label  1,000 texts · 11 s")
    os.close(leader)


@pytest.mark.parametrize(
    ("columns", "shown"),
    [
        (120, "label  400 of 1,000 texts (40%) · ETA 15 s · 40.0 texts/s · 200 pairs/s · 12,000 tokens/s · 3% padding"),
        (80, "label  40% · ETA 00:15 · 40 texts, 200 pairs, 12k tokens/s · 3% padding"),
        (60, "label  40% · ETA 00:15 · 40 texts, 200 pairs, 12k tokens/s"),
        (30, "label  40% · ETA 00:15"),
    ],
)
def test_a_narrow_terminal_is_told_all_in_fewer_words_and_then_less(columns, shown, clock):
    console = Console(io.StringIO(), columns=columns)
    with console.stage("label", "texts", 1000) as stage:
        stage.update(0, work={"pairs": 0, "tokens": 0})
        clock.now += 10
        stage.update(400, "3% padding", work={"pairs": 2000, "tokens": 120000})
        assert console.stream.getvalue().split("\r")[-1].rstrip() == shown


@given(
    st.integers(1, 10**12),
    st.floats(0, 1),
    st.floats(0.01, 1e6),
    st.integers(1, 10**5),
    st.integers(20, 200),
)
def test_a_line_is_never_longer_than_the_terminal(total, share, elapsed, pairs, columns):
    with mock.patch.object(progress, "time", mock.Mock(monotonic=mock.Mock(return_value=0.0))) as clock:
        console = Console(io.StringIO(), columns=columns)
        with console.stage("label", "texts", total) as stage:
            stage.update(0, work={"pairs": 0})
            clock.monotonic.return_value = elapsed
            done = round(share * total)
            stage.update(done, "12% padding", work={"pairs": pairs * done})
        lines = console.stream.getvalue().replace("\n", "").split("\r")
    assert max(map(len, lines)) < max(columns, 21)
    if columns >= 80 and elapsed > 0.2 and total < 10**9:
        assert any(line.rstrip().endswith("padding") for line in lines)


@pytest.mark.parametrize(
    ("rate", "text"),
    [(0.04, "0.0"), (4.53, "4.5"), (99.6, "100"), (999.4, "999"), (999.6, "1.0k"), (11300, "11k"), (9.123e6, "9.1M")],
)
def test_rates_in_little_room(rate, text):
    assert progress.rounded(rate) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "00:00"), (200, "03:20"), (3599.7, "1:00:00"), (7500, "2:05:00")])
def test_times_in_little_room(seconds, text):
    assert progress.clock(seconds) == text


def screen(written: str) -> list[str]:
    """What a terminal then shows."""
    lines = []
    for line in written.split("\n"):
        shown = ""
        for part in line.split("\r"):
            erased = part.startswith("\x1b[K")
            part = part.removeprefix("\x1b[K")
            shown = part + ("" if erased else shown[len(part) :])
        lines.append(shown.rstrip())
    return lines


def test_where_there_is_little_room_the_loss_of_a_training_stays_longest(clock):
    console = Console(io.StringIO(), columns=80)
    with console.stage("train", "steps", 7500) as stage:
        stage.update(0)
        clock.now += 100
        work = {"texts": 32_000, "tokens": 960_000}
        stage.update(1000, "loss 0.123 · 10% padding", work)
        line = screen(console.stream.getvalue())[0]
    assert line == "train  13% · ETA 10:50 · 10 steps, 320 texts, 9.6k tokens/s · loss 0.123"


def test_on_a_terminal_what_is_said_in_the_midst_of_a_stage_has_a_line_of_its_own(clock):
    console = Console(io.StringIO(), columns=80)
    with console.stage("label", "texts", 1000) as stage:
        console.say("       openvino fp32 runs the teacher")
        stage.update(100, "a note that is longer than what comes after it")
        clock.now += 10
        stage.update(200, "a note that is longer than what comes after it")
        console.say("said")
        stage.update(1000)
    with pytest.raises(KeyboardInterrupt), console.stage("train", "steps"):
        raise KeyboardInterrupt
    console.say("Error: stopped.")
    assert screen(console.stream.getvalue()) == [
        "       openvino fp32 runs the teacher",
        "said",
        "label  1,000 texts · 10 s",
        "train  starting",
        "Error: stopped.",
        "",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (9.94, "9.9 s"), (12.4, "12 s"), (59.7, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")],
)
def test_durations_read_well(seconds, text):
    assert duration(seconds) == text


def run_script(script, *arguments):
    """(stdout, stderr) of a script in a process of its own."""
    done = subprocess.run([sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_chatter_goes_to_the_log_and_the_console_to_the_user(tmp_path):
    log = tmp_path / "raydistill.log"
    log.write_text("an earlier run\n")
    script = """
import logging, os, pathlib, sys
from raydistill.chatter import Chatter
with Chatter() as chatter:
    print("before the log has a name")
    chatter.keep_in(pathlib.Path(sys.argv[1]))
    os.write(2, b"from C\\n")
    print("to stderr", file=sys.stderr)
    logging.getLogger("library").warning("a warning of s3://KEY:SECRET@bucket/out")
    try:
        raise ValueError("s3://KEY:SECRET@bucket/out")
    except ValueError:
        logging.getLogger("library").exception("a fault")
    chatter.console.say("for the user")
print("a result")
"""
    assert run_script(script, log) == ("a result\n", "for the user\n")
    kept = log.read_text()
    assert kept.startswith("an earlier run\nbefore the log has a name\n")
    assert all(line in kept for line in ("from C\n", "to stderr\n", "WARNING library: a warning of s3://bucket/out\n"))
    assert "ValueError: s3://bucket/out\n" in kept
    assert "SECRET" not in kept


def test_chatter_of_a_run_that_never_began_is_not_kept():
    script = """
from raydistill.chatter import Chatter
with Chatter():
    print("nothing to see")
"""
    assert run_script(script) == ("", "")


@needs_dev_full
def test_where_the_log_has_no_room_the_user_is_still_told():
    script = """
import logging, pathlib, sys
from raydistill.chatter import Chatter
try:
    with Chatter() as chatter:
        chatter.keep_in(pathlib.Path("/dev/full"))
        logging.getLogger("library").warning("chatter")
        raise RuntimeError("no room")
except RuntimeError as error:
    print("Error:", error, file=sys.stderr)
print("a result")
"""
    out, told = run_script(script)
    assert (out, told) == ("a result\n", "Error: no room\n")


HOSTILE = "\x1b[2J\x1b]0;owned\x07 \x9b31m \r\b\x7f \u202eexe.gpj\u2066 \ud800 \n two lines \u2028 \ufeff"


def test_work_goes_on_when_nobody_reads_any_more():
    reader, writer = os.pipe()
    with open(writer, "w", encoding="utf-8") as stream:
        console = Console(stream)
        console.say("one")
        assert os.read(reader, 10) == b"one\n"
        os.close(reader)
        with console.stage("label", "texts") as progress:
            progress.update(1)
        console.say("two")


def test_work_goes_on_when_the_terminal_is_gone():
    controlling, terminal = pty.openpty()
    with open(terminal, "w", encoding="utf-8") as stream:
        console = Console(stream)
        assert console.live
        console.say("one")
        os.close(controlling)
        with console.stage("label", "texts", 3) as progress:
            progress.update(1)
            progress.update(2)
        console.say("two")


def test_what_comes_when_there_is_room_again_is_said(tmp_path):
    script = f"""
import resource, signal, sys
from raydistill.progress import Console
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with open({str(tmp_path / "told")!r}, "w") as stream:
    console = Console(stream)
    console.say("before")
    resource.setrlimit(resource.RLIMIT_FSIZE, (8, resource.RLIM_INFINITY))
    console.say("lost, as there is no room for it")
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    console.say("after")
"""
    assert run_script(script) == ("", "")
    told = (tmp_path / "told").read_text()
    assert told.startswith("before\n")
    assert told.endswith("after\n")
    assert "room" not in told


@pytest.mark.parametrize("gone_before", [False, True])
def test_an_error_keeps_its_exit_code_when_the_terminal_is_gone(gone_before):
    controlling, terminal = pty.openpty()
    script = """
import sys
from raydistill.cli import entry
print("begun", flush=True)
sys.stdin.read()
sys.argv = ["raydistill", "label", "--data-file", "gone.txt", "--seed", "many"]
entry()
"""
    if gone_before:
        os.close(controlling)
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=terminal
    )
    assert process.stdout.readline() == b"begun\n"
    if not gone_before:
        os.close(controlling)
    process.communicate()
    os.close(terminal)
    assert process.returncode == 2


@needs_dev_full
@pytest.mark.parametrize(("command", "code"), [("label --seed many 2>/dev/full", 2), ("verify gone 2>/dev/full", 2)])
def test_an_error_keeps_its_exit_code_when_it_has_no_room(command, code):
    assert subprocess.run(f"{sys.executable} -m raydistill {command}", shell=True).returncode == code


@needs_dev_full
@pytest.mark.parametrize("command", ["", "--version", "run --help"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("output", "said"), [(">/dev/full", "no space left on device"), ("1</dev/null", "bad file descriptor")]
)
def test_a_result_that_cannot_be_printed_is_one_line(command, unbuffered, output, said):
    run = f"PYTHONUNBUFFERED={unbuffered} {sys.executable} -m raydistill {command} {output}"
    done = subprocess.run(run, shell=True, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (2, f"Error: standard output: {said}.\n")


def test_what_a_run_behind_a_client_says_may_go_unread():
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", encoding="utf-8") as stream:
        show(Console(stream), "label  starting\n")
    shown = Console(io.StringIO())
    show(shown, "label  starting\n")
    assert shown.stream.getvalue() == "label  starting\n"


def test_what_is_said_cannot_command_the_terminal():
    console = Console(io.StringIO())
    console.say(HOSTILE)
    console.table([("f1/" + HOSTILE, "0.5"), ("plain", HOSTILE)])
    lines = console.stream.getvalue().split("\n")
    assert len(lines) == 4
    assert all(line.isprintable() for line in lines)
    assert lines[0].startswith(r"\x1b[2J\x1b]0;owned\x07 \x9b31m \r\x08\x7f \u202eexe.gpj\u2066 \ud800 \n two lines")


def test_what_is_said_holds_no_secret():
    console = Console(io.StringIO())
    console.say("labels s3://KEY:SECRET@bucket/out")
    assert console.stream.getvalue() == "labels s3://bucket/out\n"


@pytest.mark.parametrize("text", ["done · 1,000 × 5", "Zoë 東京 🙂 👩\u200d🔬 می\u200cخواهم", r"C:\x1b"])
def test_writing_of_every_kind_is_said_as_it_is(text):
    console = Console(io.StringIO())
    console.say(text)
    assert console.stream.getvalue() == f"{text}\n"

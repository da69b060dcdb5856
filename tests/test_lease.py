"""Leases: one run in a folder at a time, readers together, and what became of an owner is found out."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
from processes import meanwhile

from raydistill import lease
from raydistill.errors import RunDirError
from raydistill.files import Folder
from raydistill.lease import Owner, hold, kernel

HOLDER = """
import sys, time
from raydistill.files import Folder
from raydistill.lease import hold
with hold(Folder(sys.argv[1]), print):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def folder(tmp_path):
    return Folder(str(tmp_path / "out"))


@pytest.fixture
def holder(folder):
    """Another process that holds the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, folder.path], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def locks(folder):
    return folder.hidden("lock-", ".json")


def leave_lock(folder, age, **owner):
    """The lock of another machine's run, last renewed so many seconds ago."""
    folder.create()
    facts = {"host": "far", "kernel": "another", "pid": 7, "started": 1, "user": "ann", "since": "noon"} | owner
    folder.write(".lock-0.json", json.dumps(facts).encode() if owner.get("pid") != "torn" else b"")
    then = time.time() - age
    os.utime(f"{folder.path}/.lock-0.json", (then, then))


def renewed(folder):
    """Its owner is at work."""
    return meanwhile(lambda: os.utime(f"{folder.path}/.lock-0.json"), every=0.2)


def refusal(folder, *, shared=False, said=None):
    """What is said when the folder cannot be held."""
    with pytest.raises(RunDirError) as error, hold(folder, (said if said is not None else []).append, shared=shared):
        pass
    message = str(error.value)
    assert "\n" not in message
    return message


def test_a_second_run_is_refused_with_the_first_ones_name_until_that_ends(folder, holder):
    message = refusal(folder)
    assert message.startswith(f"{folder.path}: another run is at work there (process {holder.pid} of ")
    assert f" on {os.uname().nodename}, since 20" in message
    assert len(locks(folder)) == 1

    holder.send_signal(signal.SIGINT)
    holder.wait()
    said = []
    with hold(folder, said.append):
        assert len(locks(folder)) == 1
    assert not locks(folder)
    assert not said


def test_a_killed_runs_lock_is_taken_over_at_once_and_its_drafts_are_swept(folder, holder):
    (own,) = locks(folder)
    folder.write(f".{'0123' * 8}.tmp", b"half a file")
    folder.write(".notes.tmp", b"of the user")
    holder.kill()
    holder.wait()
    said = []
    with hold(folder, said.append):
        assert own not in locks(folder)
    (line,) = said
    assert line.startswith(f"{folder.path}: the run that held it is gone (process {holder.pid} of ")
    assert os.listdir(folder.path) == [".notes.tmp"]


def test_a_lock_that_could_not_be_removed_does_not_keep_its_own_process_out(folder, monkeypatch):
    def refuse(self, name):
        raise RunDirError("the disk is read-only for a moment")

    with monkeypatch.context() as patch, hold(folder, print):
        patch.setattr(Folder, "delete", refuse)
    assert len(locks(folder)) == 1
    said = []
    with (
        hold(folder, said.append),
        pytest.raises(RunDirError, match="another run is at work there"),
        hold(folder, print),
    ):
        pass
    assert not locks(folder)
    assert "is gone" in said[0]


def test_a_process_that_only_sleeps_is_not_gone(folder, holder):
    holder.send_signal(signal.SIGSTOP)
    (own,) = locks(folder)
    os.utime(f"{folder.path}/{own}", (0, 0))
    assert f"process {holder.pid}" in refusal(folder)


def test_a_process_id_that_is_used_again_is_another_process(folder, holder):
    (own,) = locks(folder)
    facts = json.loads(folder.read(own))
    leave_lock(folder, 0, **facts | {"started": facts["started"] - 100})
    holder.kill()
    holder.wait()
    said = []
    with hold(folder, said.append):
        assert len(said) == 2


@pytest.mark.parametrize("fault", [psutil.NoSuchProcess, psutil.AccessDenied])
def test_anothers_process_that_may_not_be_looked_at_lives_as_long_as_its_lock_is_renewed(fault, folder, monkeypatch):
    owner = Owner(kernel=kernel(), pid=4711)

    def hidden(pid):
        raise fault(pid)

    def forbidden(pid, signal):
        raise PermissionError

    monkeypatch.setattr("raydistill.lease.psutil.Process", hidden)
    assert not owner.lives(0)  # and it is not there
    monkeypatch.setattr("raydistill.lease.os.kill", forbidden)
    assert owner.lives(30)
    assert not owner.lives(90)


@pytest.mark.parametrize("owner", [{}, {"pid": "torn"}], ids=["whole", "torn"])
def test_seen_from_elsewhere_a_lock_lives_as_long_as_it_is_renewed(owner, folder):
    leave_lock(folder, 30, **owner)
    said = []
    with renewed(folder):
        assert "another run is at work there" in refusal(folder, said=said)
    assert "waiting to see whether it still is, for 60 s at most" in said.pop()
    leave_lock(folder, 90, **owner)
    with hold(folder, said.append):
        assert len(said) == len(locks(folder)) == 1


def test_a_run_that_was_lost_with_its_machine_is_waited_out(folder):
    leave_lock(folder, 50)
    said, started = [], time.monotonic()
    with hold(folder, said.append):
        assert 5 < time.monotonic() - started < 20
        assert len(locks(folder)) == 1
    assert ["waiting" in line for line in said] == [True, False]
    assert "the run that held it is gone (process 7 of ann on far, since noon)" in said[1]


def test_one_that_comes_while_another_is_waited_out_is_looked_at_for_as_long(folder, monkeypatch):
    monkeypatch.setattr(lease, "DEAD_SECONDS", 3.0)
    leave_lock(folder, -60)  # by a clock that is ahead: its age alone would never tell

    def come():
        time.sleep(2)
        facts = {"host": "near", "kernel": "a third", "pid": 8, "started": 1, "user": "bob", "since": "one"}
        folder.write(".lock-1.json", json.dumps(facts).encode())
        for _ in range(20):
            time.sleep(0.1)
        with contextlib.suppress(RunDirError, FileNotFoundError):
            folder.touch(".lock-1.json")

    thread = threading.Thread(target=come)
    thread.start()
    assert "process 8 of bob on near" in refusal(folder)
    thread.join()


def test_readers_share_and_keep_writers_out(folder):
    folder.create()
    with hold(folder, print, shared=True), hold(folder, print, shared=True):
        assert len(locks(folder)) == 2
        assert "another run" in refusal(folder)
    with hold(folder, print):
        assert "another run" in refusal(folder, shared=True)


def test_a_reader_that_may_not_write_looks_all_the_same(folder, monkeypatch):
    leave_lock(folder, 0)
    left = locks(folder)

    def refuse(*_):
        raise RunDirError("cannot be written")

    monkeypatch.setattr(Folder, "write", refuse)
    with renewed(folder):
        assert "another run" in refusal(folder, shared=True)
    monkeypatch.setattr(Folder, "delete", refuse)
    os.utime(f"{folder.path}/{left[0]}", (0, 0))
    with hold(folder, print, shared=True):
        assert locks(folder) == left  # the dead keep nobody out
    assert refusal(folder) == "cannot be written"


def test_a_lock_is_renewed_while_it_is_held(folder, monkeypatch):
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.05)
    with hold(folder, print):
        (own,) = locks(folder)
        os.utime(f"{folder.path}/{own}", (0, 0))
        time.sleep(0.5)
        assert time.time() - folder.modified(own) < 10


LOSER = """
import contextlib, signal, sys, time
from raydistill import lease
from raydistill.files import Folder
from raydistill.stopping import orderly_stop
folder, in_stage, heartbeat, dead = Folder(sys.argv[1]), sys.argv[2] == "in a stage", *map(float, sys.argv[3:])
lease.HEARTBEAT_SECONDS, lease.DEAD_SECONDS = heartbeat, dead
in_background = sys.argv[2] == "in a script's background"
signal.signal(signal.SIGINT, signal.SIG_IGN if in_background else signal.default_int_handler)
signal.signal(signal.SIGTERM, signal.default_int_handler)  # as the command line does
with lease.hold(folder, print), orderly_stop(print, grace=30) if in_stage else contextlib.nullcontext():
    print("held", flush=True)
    time.sleep(60)
"""


def lose(folder, what, *seconds, where="between stages"):
    """What a process says at its end that holds a folder, and then what befalls it. It is sent a signal by itself."""
    command = [sys.executable, "-c", LOSER, folder.path, where, *map(str, seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        what()
        said = process.communicate(timeout=30)[1]
        assert process.returncode == 1, said
    return said.strip().splitlines()[-1]


@pytest.mark.parametrize("where", ["between stages", "in a stage", "in a script's background"])
def test_a_run_that_has_lost_its_folder_ends_with_an_error(where, folder):
    said = lose(folder, lambda: folder.delete(locks(folder)[0]), 0.05, 60, where=where)
    assert "RunDirError" in said
    assert "another one has taken its place" in said


def test_a_run_that_slept_gives_way_to_one_that_came_meanwhile(folder):
    said = lose(folder, lambda: leave_lock(folder, -60), 0.5, 0.1)  # each time it finds that it has slept
    assert "another one has taken its place" in said
    assert locks(folder) == [".lock-0.json"]


def test_owners_tell_who_they_are():
    assert Owner.here(shared=False).lives(silence=1e9)
    assert str(Owner()) == "process 0 of ? on a host unknown, since ?"

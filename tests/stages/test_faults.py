"""What can be mended is found within what Ray raises, and nothing else is taken for it. No Ray is started."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import ray.exceptions
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError

from raydistill.errors import ConfigError, FaultError, ModelError, RunDirError
from raydistill.files import Folder
from raydistill.stages import train_policies
from raydistill.stages.faults import find_ours, our_errors


@pytest.fixture(scope="module", autouse=True)
def shared_ray() -> None:
    """None."""


FULL = "no space left on device. Mend that, and the same command goes on"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/data/x"), f"/data/x: {FULL}"),
        (OSError("[Errno 28] Error writing bytes to file. Detail: [errno 28] No space left on device"), FULL),
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), FULL),
        (OSError(errno.EROFS, "Read-only file system", "/data/x"), "/data/x: read-only file system."),
        (ray.exceptions.OutOfDiskError("Local disk is full"), "Ray's temporary folder"),
    ],
)
def test_a_full_disk_is_known_whoever_says_so_and_wherever(error: Exception, said: str) -> None:
    for raised in (error, WorkerGroupError("training failed", {1: error}), ControllerError(error)):
        with pytest.raises(RunDirError) as found, our_errors():
            raise raised
        assert said in str(found.value)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a text of the corpus: No space left on device"),
        OSError(errno.ENOENT, "No such file or directory", "/data/No space left on device"),
        RuntimeError("error 28 of 30"),
    ],
)
def test_what_only_speaks_of_one_passes_as_it_is(error: Exception) -> None:
    assert find_ours(error) is None
    with pytest.raises(type(error)) as found, our_errors():
        raise error
    assert found.value is error


def test_train_workers_that_fail_too_often_are_one_line() -> None:
    failed = WorkerGroupError("failed", {1: RuntimeError("CUDA error: out of memory\nand much more")})
    never_started = ControllerError(WorkerGroupStartupFailedError("a worker died as it started"))
    for error, said in (
        (failed, "RuntimeError: CUDA error: out of memory"),
        (never_started, "WorkerGroupStartupFailedError: a worker died as it started"),
    ):
        with pytest.raises(FaultError) as found, our_errors():
            raise error
        assert f"--max-failures allows ({said}). What is finished" in str(found.value)
    with pytest.raises(ControllerError), our_errors():  # an internal fault keeps its traceback
        raise ControllerError(KeyError("name"))


def test_a_training_whose_workers_never_start_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    now = 100.0
    monkeypatch.setattr(train_policies.time, "monotonic", lambda: now)
    monkeypatch.setattr(train_policies.time, "sleep", pauses.append)
    policy = train_policies.GoOnFromCheckpoint(2, Folder(str(tmp_path)))
    start = ControllerError(WorkerGroupStartupFailedError("a worker died as it started"))
    died = WorkerGroupError("failed", {0: ray.exceptions.ActorDiedError()})
    assert [policy.make_decision(error).name for error in (start, died, start, start)] == ["RETRY"] * 3 + ["RAISE"]
    assert pauses == [1, 2, 4]


def test_workers_that_took_long_to_fail_are_started_again_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    clock = iter(range(100, 1000, 10))  # each look at it ten seconds after the last
    monkeypatch.setattr(train_policies.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(train_policies.time, "sleep", pauses.append)
    policy = train_policies.GoOnFromCheckpoint(3, Folder(str(tmp_path)))
    died = WorkerGroupError("failed", {0: ray.exceptions.ActorDiedError()})
    assert [policy.make_decision(died).name for _ in range(4)] == ["RETRY"] * 3 + ["RAISE"]
    assert pauses == [0, 0, 0]


def test_a_student_that_cannot_be_loaded_for_a_moment_does_not_end_a_training_that_got_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_policies.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(train_policies, "_reached", lambda storage, before: reached)
    gone = WorkerGroupError("failed", {0: ModelError("the student cannot be read.")})
    unmendable = WorkerGroupError("failed", {0: ConfigError("no such option.")})
    reached: dict[str, int] = {}
    policy = train_policies.GoOnFromCheckpoint(2, Folder(str(tmp_path)))
    assert policy.make_decision(gone).name == "RAISE"
    reached = {"updates": 10}
    policy = train_policies.GoOnFromCheckpoint(2, Folder(str(tmp_path)))
    assert policy.make_decision(unmendable).name == "RAISE"
    assert [policy.make_decision(gone).name for _ in range(3)] == ["RETRY", "RETRY", "RAISE"]


def test_our_own_words_are_found_and_deaths_are_told_apart() -> None:
    ours = ConfigError("one line.")
    assert find_ours(ControllerError(ours)) is ours
    assert find_ours(WorkerGroupError("failed", {0: ValueError(), 1: ours})) is ours
    with pytest.raises(FaultError, match="--max-failures"), our_errors():
        raise ray.exceptions.WorkerCrashedError

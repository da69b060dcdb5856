"""Workers as forks of a process that has imported what they need, by commands such as Ray starts."""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from raydistill.stages import fork_server, fork_worker, forks
from raydistill.stages.fork_worker import FOLDER, WORKER

# In the place of Ray's own command for a worker.
TELLS = """
import json, os, resource, signal, sys
from pathlib import Path
import numpy as np

drawn = [np.random.random()]
if "torch" in sys.modules:
    from ray import ObjectRef
    from torch import rand

    drawn += [rand(1).item(), ObjectRef.from_random().hex()]
Path(sys.argv[1]).write_text(json.dumps({
    "name": __name__,
    "arguments": sys.argv[2:],
    "folder": os.getcwd(),
    "variable": os.environ.get("VARIABLE"),
    "of a library": os.environ.get("DISABLE_SAFETENSORS_CONVERSION"),
    "oom_score_adj": Path("/proc/self/oom_score_adj").read_text(),
    "leads a group": os.getpid() == os.getpgrp(),
    "files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    "blocks SIGINT": signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []),
    "forked": "torch" in sys.modules,
    "of ours": Path(sys.modules["raydistill"].__file__).parts[-2] if "raydistill" in sys.modules else None,
    "has": [name for name in sys.argv[2:] if name in sys.modules],
    "drawn": drawn,
}))
print("said")
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux alone")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where a server that forks is asked. It is started where a file has the name of a library."""
    working = tmp_path_factory.mktemp("working")
    (working / "torch.py").write_text("raise RuntimeError('not of here')")
    folder = tmp_path_factory.mktemp("f")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(working)
        patch.setattr(sys, "path", [*sys.path, Path("is passed over by Python")])
        server = forks._start_server(folder)
    yield folder
    server.communicate(timeout=60)
    assert server.returncode == 0, (folder / forks.LOG).read_text()


Start = Callable[..., "subprocess.Popen[str]"]
FILES = 500


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Starts a worker as Ray does."""
    script = tmp_path / "tells.py"
    script.write_text(TELLS)

    def start(where: Path, *arguments: str, **pipes: int) -> subprocess.Popen[str]:
        (tmp_path / "at work").mkdir(exist_ok=True)
        large = {f"LARGE_{i}": "large " * 20_000 for i in range(6)}
        told = {FOLDER: str(where), WORKER: str(script), "VARIABLE": "of this worker"}
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        return subprocess.Popen(
            [sys.executable, fork_worker.__file__, str(tmp_path / "told.json"), *arguments],
            env=os.environ | large | told,
            cwd=tmp_path / "at work",
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **pipes,
            text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, hard)),
        )

    return start


@pytest.fixture
def told_by(tmp_path: Path) -> Callable[[subprocess.Popen[str]], dict[str, Any]]:
    """What a worker tells."""

    def told_by(worker: subprocess.Popen[str]) -> dict[str, Any]:
        said = worker.communicate(timeout=180)  # to its end: until the fork, too, has ended
        assert (worker.returncode, *said) == (0, "said\n", "")
        return json.loads((tmp_path / "told.json").read_text())

    return told_by


ToldBy = Callable[["subprocess.Popen[str]"], dict[str, Any]]


def test_a_fork_has_all_that_the_command_was_given_and_its_own_random_numbers(
    folder: Path, start: Start, told_by: ToldBy, tmp_path: Path
) -> None:
    one, other = told_by(start(folder, "--one", "2")), told_by(start(folder))
    wanted = {
        "name": "__main__",
        "arguments": ["--one", "2"],
        "has": [],
        "folder": str(tmp_path / "at work"),
        "variable": "of this worker",
        "of a library": "1",
        "oom_score_adj": Path("/proc/self/oom_score_adj").read_text(),
        "leads a group": True,
        "files": FILES,
        "blocks SIGINT": True,
        "forked": True,
        "of ours": "raydistill",
    }
    assert {name: value for name, value in one.items() if name != "drawn"} == wanted
    assert other["forked"] is True
    assert len({*one["drawn"], *other["drawn"]}) == 6


def test_later_forks_have_more_and_their_own_random_numbers(folder: Path, start: Start, told_by: ToldBy) -> None:
    deadline = time.monotonic() + 120
    while True:
        told = [told_by(start(folder, *fork_server.MORE)) for _ in range(2)]
        if told[0]["has"] == fork_server.MORE:
            break
        assert time.monotonic() < deadline, told[0]["has"]
    assert len({*told[0]["drawn"], *told[1]["drawn"]}) == 6


def test_where_they_would_draw_the_same_numbers_no_more_are_forked_and_those_that_there_are_live(
    tmp_path: Path,
    start: Start,
    told_by: ToldBy,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "draws.py").write_text("from ray import ObjectRef; ObjectRef.from_random()")
    monkeypatch.syspath_prepend(str(tmp_path))
    more = f"from raydistill.stages import fork_server; fork_server.MORE = ['draws']; {forks.START}"
    monkeypatch.setattr(forks, "START", more)
    server = forks._start_server(tmp_path)
    waits = tmp_path / "tells.py"
    tells = waits.read_text()
    waits.write_text("import sys; print('torch' in sys.modules, flush=True); sys.stdin.readline(); print('lived')")
    first = start(tmp_path, stdin=subprocess.PIPE)
    assert first.stdout is not None
    assert first.stdout.readline() == "True\n"
    waits.write_text(tells)
    assert told_by(start(tmp_path))["forked"] is False
    assert first.communicate("\n") == ("lived\n", "")
    forks._end(server, tmp_path)
    assert "they would all draw the same" in caplog.text


def test_what_cannot_be_imported_beforehand_costs_no_fork(
    tmp_path: Path, start: Start, told_by: ToldBy, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = f"from raydistill.stages import fork_server; fork_server.MORE = ['none_such']; {forks.START}"
    monkeypatch.setattr(forks, "START", more)
    server = forks._start_server(tmp_path)
    assert told_by(start(tmp_path))["forked"] is True
    deadline = time.monotonic() + 60
    while "No module named 'none_such'" not in (tmp_path / forks.LOG).read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert told_by(start(tmp_path))["forked"] is True
    server.communicate(timeout=60)
    assert server.returncode == 0


def test_where_the_server_dies_before_it_forks_the_command_becomes_the_worker(
    tmp_path: Path, start: Start, told_by: ToldBy
) -> None:
    server = forks._start_server(tmp_path)
    worker = start(tmp_path, "--one", "2")
    with pytest.raises(subprocess.TimeoutExpired):
        worker.wait(timeout=1)
    server.kill()
    told = told_by(worker)
    assert (told["forked"], told["name"], told["arguments"]) == (False, "__main__", ["--one", "2"])
    server.communicate()


def test_forks_end_with_their_server(tmp_path: Path, start: Start) -> None:
    (tmp_path / "tells.py").write_text("import os, time; print(os.getpid(), flush=True); time.sleep(600)")
    server = forks._start_server(tmp_path)
    worker = start(tmp_path)
    assert worker.stdout is not None
    fork = psutil.Process(int(worker.stdout.readline()))
    assert fork.ppid() == server.pid
    server.terminate()
    fork.wait(timeout=60)
    server.communicate()
    worker.communicate()


def test_no_module_beside_the_command_has_the_name_of_one_that_it_imports() -> None:
    beside = {path.stem for path in Path(fork_worker.__file__).parent.glob("*.py")}
    assert not beside & sys.stdlib_module_names


def test_where_nobody_forks_the_command_becomes_the_worker(tmp_path: Path, start: Start, told_by: ToldBy) -> None:
    told = told_by(start(tmp_path, "--one", "2"))
    assert (told["forked"], told["name"], told["arguments"]) == (False, "__main__", ["--one", "2"])


def test_who_has_given_up_gets_no_fork(folder: Path, start: Start, told_by: ToldBy, tmp_path: Path) -> None:
    told_by(start(folder))  # so that the server is there
    started = tmp_path / "started"
    script = tmp_path / "touches.py"
    script.write_text(f"open({str(started)!r}, 'w')")
    request = {"arguments": [str(script)], "environment": {}, "folder": "/", "files": [99, 99], "oom_score_adj": "0"}
    for content in (json.dumps(request).encode() + b"\n", b"{}\n", b"no JSON\n", b""):
        with socket.socket(socket.AF_UNIX) as asking:
            asking.connect(str(folder / "socket"))
            if content:
                socket.send_fds(asking, [content], [0, 1, 2])
    assert told_by(start(folder))["forked"] is True
    assert not started.exists()


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """The servers that a test starts."""
    servers, start = list[subprocess.Popen[bytes]](), forks._start_server

    def noted(folder: Path) -> subprocess.Popen[bytes]:
        servers.append(start(folder))
        return servers[-1]

    monkeypatch.setattr(forks, "_start_server", noted)
    return servers


def test_the_server_ends_with_its_ray_and_leaves_nothing(
    tmp_path: Path, started: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / ("of a long name" * 10)
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))

    def run() -> None:
        with forks.forked_workers():
            assert started[0].poll() is None
            assert list(place.iterdir())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert started[0].returncode is not None
    assert not list(place.iterdir())


def test_where_it_cannot_be_or_is_not_wanted_workers_start_by_themselves(
    tmp_path: Path,
    started: list[subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Accelerators:
        @staticmethod
        def get_current_node_num_accelerators() -> int:
            return 1

    with monkeypatch.context() as patch:
        patch.setenv(forks.SWITCH, "0")
        with forks.forked_workers():
            pass
    with monkeypatch.context() as patch:
        patch.setattr(forks, "get_all_accelerator_managers", lambda: [Accelerators])
        with forks.forked_workers():
            pass
    assert not caplog.records
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    with forks.forked_workers():
        pass
    assert "workers start by themselves" in caplog.text
    assert not started

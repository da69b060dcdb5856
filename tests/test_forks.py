"""Workers as forks of a process that has imported what they need, by commands such as Ray starts."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from raydistill.stages import fork_worker, forks
from raydistill.stages.fork_worker import SOCKET, WORKER

# In the place of Ray's own command for a worker.
TELLS = """
import json, os, sys
from pathlib import Path
import numpy as np

Path(sys.argv[1]).write_text(json.dumps({
    "name": __name__,
    "arguments": sys.argv[2:],
    "folder": os.getcwd(),
    "variable": os.environ.get("VARIABLE"),
    "oom_score_adj": Path("/proc/self/oom_score_adj").read_text(),
    "leads a group": os.getpid() == os.getpgrp(),
    "forked": "torch" in sys.modules,
    "of ours": Path(sys.modules["raydistill"].__file__).parts[-2] if "raydistill" in sys.modules else None,
    "drawn": np.random.random(),
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
        server = forks._start_server(folder)
    assert server is not None
    yield folder
    server.communicate(timeout=60)
    assert server.returncode == 0, (folder / forks.LOG).read_text()


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., dict]:
    """Starts a worker as Ray does; what it tells."""
    script = tmp_path / "tells.py"
    script.write_text(TELLS)

    def start(where: Path, *arguments: str) -> dict:
        told = tmp_path / "told.json"
        told.unlink(missing_ok=True)
        (tmp_path / "at work").mkdir(exist_ok=True)
        done = subprocess.run(
            [sys.executable, fork_worker.__file__, str(told), *arguments],
            env=os.environ | {SOCKET: str(where / forks.SOCKET), WORKER: str(script), "VARIABLE": "of this worker"},
            cwd=tmp_path / "at work",
            capture_output=True,  # read to its end: until the fork, too, has ended
            text=True,
            timeout=120,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "said\n", "")
        return json.loads(told.read_text())

    return start


def test_a_fork_has_all_that_the_command_was_given_and_its_own_random_numbers(
    folder: Path, start: Callable[..., dict], tmp_path: Path
) -> None:
    one, other = start(folder, "--one", "2"), start(folder)
    wanted = {
        "name": "__main__",
        "arguments": ["--one", "2"],
        "folder": str(tmp_path / "at work"),
        "variable": "of this worker",
        "oom_score_adj": Path("/proc/self/oom_score_adj").read_text(),
        "leads a group": True,
        "forked": True,
        "of ours": "raydistill",
    }
    assert {name: value for name, value in one.items() if name != "drawn"} == wanted
    assert other["forked"] is True
    assert one["drawn"] != other["drawn"]


def test_where_nobody_forks_the_command_becomes_the_worker(tmp_path: Path, start: Callable[..., dict]) -> None:
    told = start(tmp_path, "--one", "2")
    assert (told["forked"], told["name"], told["arguments"]) == (False, "__main__", ["--one", "2"])


def test_who_has_given_up_gets_no_fork(folder: Path, start: Callable[..., dict], tmp_path: Path) -> None:
    start(folder)  # so that the server is there
    started = tmp_path / "started"
    script = tmp_path / "touches.py"
    script.write_text(f"open({str(started)!r}, 'w')")
    request = {"arguments": [str(script)], "environment": {}, "folder": "/", "oom_score_adj": "0"}
    for content in (json.dumps(request).encode() + b"\n", b"{}\n", b"no JSON\n", b""):
        with socket.socket(socket.AF_UNIX) as asking:
            asking.connect(str(folder / forks.SOCKET))
            if content:
                socket.send_fds(asking, [content], [0, 1, 2])
    assert start(folder)["forked"] is True
    assert not started.exists()


@contextlib.contextmanager
def another_server() -> Iterator[list[psutil.Process]]:
    """The server that is there for Ray to be started within."""

    def servers() -> set[psutil.Process]:
        return {child for child in psutil.Process().children() if "fork_server" in " ".join(child.cmdline())}

    before = servers()
    with forks.forked_workers():
        yield list(servers() - before)


def test_the_server_ends_with_its_ray_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    at_work: list[psutil.Process] = []

    def run() -> None:
        with another_server() as servers:
            at_work.extend(servers)
            assert list(tmp_path.iterdir())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert [server.is_running() for server in at_work] == [False]
    assert not list(tmp_path.iterdir())


def test_where_it_cannot_be_or_is_not_wanted_workers_start_by_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Accelerators:
        @staticmethod
        def get_current_node_num_accelerators() -> int:
            return 1

    with monkeypatch.context() as patch:
        patch.setenv(forks.SWITCH, "0")
        with another_server() as found:
            assert not found
    with monkeypatch.context() as patch:
        patch.setattr(forks, "get_all_accelerator_managers", lambda: [Accelerators])
        with another_server() as found:
            assert not found
    assert not caplog.records
    long = tmp_path / ("long" * 40)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    with another_server() as found:
        assert not found
    assert "AF_UNIX path too long" in caplog.text

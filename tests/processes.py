"""Runs in processes of their own, to be killed and stopped, and what is done to runs meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from raydistill import DistillConfig

# Root may read and write whatever it likes: a command behind this may no more than others.
AS_ANYBODY = [] if os.geteuid() else ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
needs_setpriv = pytest.mark.skipif(
    bool(AS_ANYBODY) and not shutil.which("setpriv"), reason="root cannot give its rights up"
)


def command(config: DistillConfig, stage: str) -> list[str]:
    """The command line that says what a config says."""
    file = Path(config.data_file[0]).with_suffix(f".{stage}.json")
    file.write_text(json.dumps(config.options()))
    return [sys.executable, "-m", "raydistill", stage, "--config", str(file)]


def environment() -> dict[str, str]:
    """This one's, with no GPU, no cluster to join, and libraries that talk as they like."""
    unset = ("RAY_ADDRESS", "TRANSFORMERS_VERBOSITY", "HF_HUB_DISABLE_PROGRESS_BARS")
    return {name: value for name, value in os.environ.items() if name not in unset} | {"CUDA_VISIBLE_DEVICES": ""}


def run(config: DistillConfig, stage: str) -> None:
    """Run a stage to its end in a process of its own."""
    subprocess.run(command(config, stage), check=True, capture_output=True, timeout=500, env=environment())


def begin(
    config: DistillConfig, stage: str, reached: Callable[[], bool], under: Sequence[str] = ()
) -> subprocess.Popen[str]:
    """Run a stage, by another command that restricts it if there is one, until `reached`; it goes on."""
    process = subprocess.Popen(
        [*under, *command(config, stage)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=environment(),
    )
    deadline = time.monotonic() + 300
    while not reached() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    if not reached() or process.poll() is not None:
        process.kill()
        raise AssertionError(process.communicate()[1])
    return process


def kill_when(reached: Callable[[], bool], config: DistillConfig, stage: str) -> None:
    """Run a stage, and kill every process of it as soon as `reached`."""
    process = begin(config, stage, reached)
    others = psutil.Process(process.pid).children(recursive=True)  # Ray's workers have groups of their own
    os.killpg(process.pid, signal.SIGKILL)
    for other in others:
        with contextlib.suppress(psutil.NoSuchProcess):
            other.kill()
    process.communicate()
    psutil.wait_procs(others, timeout=10)


def stop_when(reached: Callable[[], bool], config: DistillConfig, stage: str, sent: signal.Signals) -> str:
    """Run a stage, and ask it to stop as soon as `reached`; what it says. Nothing of it is left at work."""
    process = begin(config, stage, reached)
    others = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(sent)
    said = process.communicate(timeout=180)[1]
    left = psutil.wait_procs(others, timeout=10)[1]
    assert not left, left
    assert process.returncode == 128 + sent, said
    assert "stopping" in said
    assert said.splitlines()[-1].startswith("Error: stopped.")
    assert "the same command goes on" in said
    assert "Traceback" not in said
    assert "evaluating" not in said
    return said


@contextlib.contextmanager
def meanwhile(*acts: Callable[[], object], every: float = 0.02) -> Iterator[list[Callable[[], object]]]:
    """Beside what is within, each act again and again until it says that it is done, then the next; those done so far.

    Args:
        every: seconds between.
    """
    over = threading.Event()
    done: list[Callable[[], object]] = []

    def work() -> None:
        for act in acts:
            while not over.wait(every):
                if act():
                    done.append(act)
                    break

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield done
    finally:
        over.set()
        thread.join()


def workers_at(title: str, of: int | None = None) -> list[psutil.Process]:
    """Ray's workers below a process (by default this one) that are at what a title says."""
    found = []
    for process in psutil.Process(of).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.cmdline() and process.cmdline()[0].startswith(f"ray::{title}"):
                found.append(process)
    return found

"""Temporary folders do not pile up where workers are killed again and again."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

HOLDER = """
from raydistill.scratch import scratch_folder
with scratch_folder() as folder:
    open(f"{folder}/checkpoint", "w").write("large")
    print(folder, flush=True)
    input()
"""


def hold_one() -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen([sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    return process, Path(process.stdout.readline().strip())


def test_what_a_killed_process_has_left_is_removed_by_the_next_and_nothing_else_is(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    (tmp_path / "raydistill-worker-mine").mkdir()
    killed, left = hold_one()
    killed.kill()
    killed.wait()
    assert (left / "checkpoint").exists()
    living, its_own = hold_one()
    assert not left.exists()
    another, _ = hold_one()
    assert (its_own / "checkpoint").exists()
    for process in (living, another):
        process.communicate("\n")
        assert process.returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["raydistill-worker-mine"]

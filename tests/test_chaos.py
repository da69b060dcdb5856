"""A run by `--address auto` on two nodes, into a bucket, while all kinds of its processes are killed: a small chaos."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "examples" / "benchmarks" / "chaos.py"


@pytest.mark.slow  # in the suite: a driver, workers, actors and tasks that are killed, and a node that is lost
def test_kills_of_every_kind_lose_and_double_nothing(tmp_path: Path) -> None:
    size = [
        "--texts",
        "3000",
        "--epochs",
        "2",
        "--kills",
        "6",
        "--seed",
        "1",
        "--pause",
        "0.5",
        "3",
        "--save-steps",
        "60",
        "--most-again",
        "0.7",  # three kills while labels are made, each at the cost of a block of 180 texts of 3,000 for each actor
    ]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *size, "--s3", "--alone", "--json", str(tmp_path / "chaos.json")],
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    told = json.loads((tmp_path / "chaos.json").read_text())
    kinds = Counter(kill["kind"] for kill in told["kills"])
    assert kinds == {"actor": 2, "task": 1, "write": 1, "node": 1, "driver": 1}
    assert {kill["stage"] for kill in told["kills"]} == {"label", "train"}
    assert told["report"]["updates"] == 2 * math.ceil(3000 / 64)  # two epochs; an update sees 2 × 32 texts

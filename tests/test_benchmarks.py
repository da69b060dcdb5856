"""The benchmarks run, on next to nothing: what they measure then means nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "examples" / "benchmarks"
LITTLE = {
    "batches.py": "--shape bert-tiny --rounds 1 --blocks 2 --least 4",
    "budget.py": "--shape bert-tiny --rounds 1 --documents 1 --sentences 4",
    "durability.py": "--texts 200 --rounds 1",
    "engines.py": "--rounds 1 --agreement-texts 8",
    "first_block.py": "--shape bert-tiny --texts 5 20 --rounds 1",
    "first_layer.py": "--shape bert-tiny --rounds 1 --batches 1 --documents 1 --sentences 4 --classes 2",
    "last_layer.py": "--pairs 1 --tokens 16 --rounds 1",
    "memory.py": "--sizes 100 200",
    "overhead.py": "--texts 50 --rounds 1",
    "padding.py": "",
    "parity.py": "--texts 64 --seeds 1",
    "quote.py": "--scale 0.02",
    "ray_overhead.py": "--texts 400 --rounds 1",
    "resume.py": "--texts 500",
    "scale.py": "--texts 1000 2000 --gpus 2 4",
    "sharing.py": "--shape bert-tiny --processes 1",
    "student_speed.py": "--texts 4 --rounds 1 --classes 2",
    "teacher.py": "--rounds 1 --documents 1 --sentences 4 --agreement-texts 8",
    "time_of_parts.py": "--shape bert-tiny --documents 1 --sentences 4",
    "tokenizing.py": "--texts 100 --rounds 1",
    "training.py": "--texts 64 --epochs 1 --max-length 16 --rounds 1",
}
UNTRIED = {"chaos.py"}  # test_chaos.py does
PARTS = {"plain_trainer.py", "seed_method.py", "shapes.py", "tables.py"}


def test_every_script_is_known_here():
    assert {path.name for path in FOLDER.glob("*.py")} == LITTLE.keys() | UNTRIED | PARTS


@pytest.mark.slow
@pytest.mark.parametrize("script", LITTLE)
def test_a_benchmark_prints_its_table_and_keeps_what_it_was_made_of(script: str, tmp_path: Path) -> None:
    kept = tmp_path / "figures.json"
    command = [sys.executable, str(FOLDER / script), *LITTLE[script].split(), "--json", str(kept)]
    without = {"CUDA_VISIBLE_DEVICES"} if script == "scale.py" else set()  # its GPUs are fakes
    environment = {name: value for name, value in os.environ.items() if name not in without}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "\n| --- |" in done.stdout
    figures = json.loads(kept.read_text())
    assert figures["rows"]
    assert figures["machine"]

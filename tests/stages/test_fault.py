"""Real processes are killed; the same command goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from raydistill import DistillConfig, label


def command(config: DistillConfig, stage: str) -> list[str]:
    """The command line that says what a config says."""
    given = {name: getattr(config, name) for name in ("output_dir", "labels", "student_name_or_path")} | config.training
    flags = [token for name, value in given.items() if value is not None for token in (f"--{name}", str(value))]
    return [sys.executable, "-m", "raydistill", stage, *flags]


def test_training_that_was_killed_goes_on_from_its_checkpoint_to_the_same_student(
    tmp_path: Path, make_config: Callable[..., DistillConfig]
) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("".join(f"text {i} about {['money', 'art', 'sport'][i % 3]}\n" for i in range(400)))
    label(make_config(tmp_path / "labelled", data_file=str(corpus)))
    options = {"labels": str(tmp_path / "labelled" / "labels"), "per_device_train_batch_size": 4, "save_steps": 30}
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    environment.pop("RAY_ADDRESS", None)

    whole = make_config(tmp_path / "whole", **options)
    subprocess.run(command(whole, "train"), check=True, capture_output=True, timeout=240, env=environment)

    killed = make_config(tmp_path / "killed", **options)
    process = subprocess.Popen(
        command(killed, "train"), stderr=subprocess.DEVNULL, start_new_session=True, env=environment
    )
    snapshot = tmp_path / "killed" / "checkpoints" / "checkpoint_manager_snapshot.json"
    deadline = time.monotonic() + 120
    while not snapshot.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert snapshot.exists()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "config.json").exists()

    subprocess.run(command(killed, "train"), check=True, capture_output=True, timeout=240, env=environment)

    records = [json.loads((tmp_path / name / "run.json").read_text()) for name in ("whole", "killed")]
    assert records[0]["stages"]["train"]["updates"] == records[1]["stages"]["train"]["updates"] == 200
    expected, found = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    for name in expected:
        assert found[name].numpy() == pytest.approx(expected[name].numpy(), abs=1e-5), name
    assert not (tmp_path / "killed" / "checkpoints").exists()

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

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file

from raydistill import DistillConfig, label


def command(config: DistillConfig, stage: str) -> list[str]:
    """The command line that says what a config says."""
    assert config.output_dir is not None
    file = Path(f"{config.output_dir}.json")
    file.write_text(json.dumps(config.options()))
    return [sys.executable, "-m", "raydistill", stage, "--config", str(file)]


def environment() -> dict[str, str]:
    """This one's, with no GPU and no cluster to join."""
    return {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {"CUDA_VISIBLE_DEVICES": ""}


def run(config: DistillConfig, stage: str) -> None:
    """Run a stage to its end in a process of its own."""
    subprocess.run(command(config, stage), check=True, capture_output=True, timeout=240, env=environment())


def kill_when(reached: Callable[[], bool], config: DistillConfig, stage: str) -> None:
    """Run a stage, and kill every process of it as soon as `reached`."""
    process = subprocess.Popen(
        command(config, stage), stderr=subprocess.DEVNULL, start_new_session=True, env=environment()
    )
    deadline = time.monotonic() + 120
    while not reached() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert reached()
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_labelling_that_was_killed_goes_on_and_makes_no_label_again(
    tmp_path: Path, make_config: Callable[..., DistillConfig]
) -> None:
    corpus = tmp_path / "corpus.txt"
    lines = [f"text {i} about {['money', 'art', 'sport'][i % 3]} {'again and ' * 40}once" for i in range(6000)]
    corpus.write_text("".join(f"{line}\n" for line in [*lines, *lines[:100]]))
    whole, killed = (
        make_config(tmp_path / name, data_file=str(corpus), teacher_max_length=256) for name in ("whole", "killed")
    )
    run(whole, "label")
    labels = tmp_path / "killed" / "labels"

    kill_when(lambda: len(list(labels.glob("*.parquet"))) >= 3, killed, "label")

    kept = {path: pd.read_parquet(path) for path in labels.glob("*.parquet")}
    assert 0 < (finished := len(set(pd.concat(kept.values()).text))) < 6000
    run(killed, "label")

    after = pd.concat(map(pd.read_parquet, labels.glob("*.parquet"))).drop_duplicates("text").set_index("text")
    before = pd.concat(kept.values()).drop_duplicates("text").set_index("text")
    assert after.entailment[before.index].map(tuple).equals(before.entailment.map(tuple))
    record = json.loads((tmp_path / "killed" / "run.json").read_text())
    assert record["stages"]["label"]["labelled"] <= 6000 - finished + 100  # duplicates at one time in two blocks
    expected, found = (
        pd.read_parquet(folder / "labels").groupby("text").agg({"occurrences": "sum", "entailment": "first"})
        for folder in (tmp_path / "whole", tmp_path / "killed")
    )
    assert found.occurrences.equals(expected.occurrences)
    np.testing.assert_allclose(np.stack(found.entailment), np.stack(expected.entailment), atol=1e-5)


def test_training_that_was_killed_goes_on_from_its_checkpoint_to_the_same_student(
    tmp_path: Path, make_config: Callable[..., DistillConfig]
) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("".join(f"text {i} about {['money', 'art', 'sport'][i % 3]}\n" for i in range(400)))
    label(make_config(tmp_path / "labelled", data_file=str(corpus)))
    options = {"labels": str(tmp_path / "labelled" / "labels"), "per_device_train_batch_size": 4, "save_steps": 30}
    options |= {"eval_strategy": "steps", "eval_steps": 30, "load_best_model_at_end": True}
    whole, killed = (make_config(tmp_path / name, **options) for name in ("whole", "killed"))
    run(whole, "train")

    snapshot = tmp_path / "killed" / "checkpoints" / "checkpoint_manager_snapshot.json"
    kill_when(snapshot.exists, killed, "train")

    assert not (tmp_path / "killed" / "config.json").exists()
    run(killed, "train")

    records = [json.loads((tmp_path / name / "run.json").read_text()) for name in ("whole", "killed")]
    assert records[0]["stages"]["train"]["updates"] == records[1]["stages"]["train"]["updates"] == 200
    expected, found = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    for name in expected:
        assert found[name].numpy() == pytest.approx(expected[name].numpy(), abs=1e-5), name
    assert not (tmp_path / "killed" / "checkpoints").exists()

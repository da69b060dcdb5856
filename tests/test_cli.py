"""The command line: flags and files make one config, the plan and its quote are told, and a signal ends a run."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from raydistill.cli import collect_config, main, training_flags
from raydistill.errors import ConfigError


def written(path: Path, content: bytes | str) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def test_dry_run_prints_the_plan_and_a_quote_that_the_run_bears_out_whichever_way_flags_are_spelt(
    tmp_path: Path, good: dict, corpus_counts: Any
) -> None:
    base = [sys.executable, "-m", "raydistill", "label", *(token for pair in good.items() for token in pair)]
    base += ["--gpus-per-train-worker", "1", "--train-workers", "64"]  # which is nothing to labelling
    told = subprocess.run([*base, "--dry-run", "--price-per-hour", "7.50"], capture_output=True, text=True, timeout=120)
    assert told.returncode == 0, told.stderr
    texts = corpus_counts.texts
    assert f"{texts} texts × 5 classes = {texts * 5} pairs, in 1 file" in told.stderr
    assert "1 node" in told.stderr
    assert "teacher actor" in told.stderr
    assert f"{1 - corpus_counts.distinct / texts:.1%} duplicates" in told.stderr
    assert "at 7.50 an hour" in told.stderr
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert list(record) == ["quote"]
    assert record["quote"]["pairs"] == corpus_counts.distinct * 5
    assert not (tmp_path / "out" / "labels").exists()

    done = subprocess.run(base, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["quote"]["actual_seconds"] == record["stages"]["label"]["seconds"]
    assert re.search(r"quote +.*, took ", done.stderr)

    spelled = [token for flag, value in good.items() for token in ("--" + flag[2:].replace("-", "_"), value)]
    flags = [*spelled, "--multi_class", "--no_cuda", "--dry_run"]
    again = subprocess.run(
        [sys.executable, "-m", "raydistill", "run", *flags], capture_output=True, text=True, timeout=120
    )
    assert again.returncode == 0, again.stderr
    assert "done before" in again.stderr
    assert "quote" not in again.stderr


def test_flags_may_be_written_as_the_seed_script_did() -> None:
    config = collect_config(
        {"data_file": ("c.txt",), "temperature": "2"}, ["--learning_rate", "3e-5", "--fp16", "--max-steps", "-1"]
    )
    assert config.data_file == ("c.txt",)
    assert config.temperature == 2.0
    assert config.training == {"learning_rate": "3e-5", "fp16": "true", "max_steps": "-1"}


def test_flags_win_over_the_config_file(tmp_path: Path) -> None:
    path = written(tmp_path / "c.yaml", "temperature: 3\nhypothesis-template: 'It is {}.'\nlearning_rate: 1e-4\n")
    config = collect_config({"config": path, "temperature": "2"}, ["--learning-rate=5e-5"])
    assert (config.temperature, config.hypothesis_template) == (2.0, "It is {}.")
    assert config.training == {"learning_rate": "5e-5"}


def test_a_lone_json_file_holds_all_options(tmp_path: Path) -> None:
    path = written(tmp_path / "options.json", json.dumps({"data_file": "c.txt", "multi_label": True, "fp16": False}))
    config = collect_config({}, [path])
    assert (config.data_file, config.multi_label, config.training) == (("c.txt",), True, {"fp16": False})


def test_a_stray_argument_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Unexpected argument 'corpus\.txt'"):
        training_flags(["corpus.txt"])
    with pytest.raises(ConfigError, match=r"Unexpected argument 'options\.json'.*--config"):
        collect_config({"temperature": "2"}, ["options.json"])


def test_help_groups_options_and_points_at_training_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--help"]) == 0
    text = capsys.readouterr().out
    assert text.index("Essentials:") < text.index("Teacher:") < text.index("Resources:")
    assert "TrainingArguments" in text
    assert "--adam-beta1" not in text
    assert main(["run", "--help-all"]) == 0
    assert "--adam-beta1" in capsys.readouterr().out


def test_a_signal_while_training_starts_stops_the_run_which_says_how_to_go_on(tmp_path: Path, good: dict) -> None:
    base = [token for pair in good.items() for token in pair]
    process = subprocess.Popen(
        [sys.executable, "-m", "raydistill", "run", *base, "--num_train_epochs", "100000"],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stderr is not None
    said = ""
    while not said.endswith("train  starting\n"):
        line = process.stderr.readline()
        assert line, said
        said += line
    time.sleep(3)
    process.send_signal(signal.SIGINT)
    said += process.communicate(timeout=60)[1]
    assert process.returncode == 128 + signal.SIGINT, said
    assert said.splitlines()[-1].startswith("Error: stopped.")
    assert "the same command goes on" in said
    assert "Traceback" not in said

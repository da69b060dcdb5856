"""The command line: flags and files make one config."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raydistill.cli import main
from raydistill.errors import ConfigError
from raydistill.flags import collect_config, training_flags


def written(path: Path, content: bytes | str) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def test_flags_may_be_written_as_the_seed_script_did() -> None:
    config = collect_config(
        {"data_file": ("c.txt",), "temperature": "2"}, ["--learning_rate", "3e-5", "--fp16", "--max-steps", "-1"]
    )
    assert config.data_file == ("c.txt",)
    assert config.temperature == 2.0
    assert config.training == {"learning_rate": "3e-5", "fp16": True, "max_steps": "-1"}


def test_what_is_true_by_default_is_switched_off_as_the_seed_script_did() -> None:
    config = collect_config({}, ["--no_use_fast_tokenizer", "--no-do-eval", "--no_cuda_graphs", "1"])
    assert config.use_fast_tokenizer is False
    assert config.training == {"do_eval": False, "no_cuda_graphs": "1"}
    with pytest.raises(ConfigError, match=r"No such option: --no-labels\. --labels is no switch\."):
        training_flags(["--no-labels"])


def test_flags_win_over_the_config_file(tmp_path: Path) -> None:
    path = written(tmp_path / "c.yaml", "temperature: 3\nhypothesis-template: 'It is {}.'\nlearning_rate: 1e-4\n")
    config = collect_config({"config": path, "temperature": "2"}, ["--learning-rate=5e-5"])
    assert (config.temperature, config.hypothesis_template) == (2.0, "It is {}.")
    assert config.training == {"learning_rate": "5e-5"}

    path = written(tmp_path / "names.yaml", "multi_class: true\ntrain_sampling_strategy: random\n")
    config = collect_config({"config": path}, ["--no-multi-label", "--group_by_length"])
    assert config.multi_label is False
    assert config.training == {"train_sampling_strategy": "group_by_length"}


def test_a_lone_json_file_holds_all_options(tmp_path: Path) -> None:
    path = written(tmp_path / "options.json", json.dumps({"data_file": "c.txt", "multi_label": True, "fp16": False}))
    config = collect_config({}, [path])
    assert (config.data_file, config.multi_label, config.training) == (("c.txt",), True, {"fp16": False})


def test_a_stray_argument_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Unexpected argument 'corpus\.txt'"):
        training_flags(["corpus.txt"])
    with pytest.raises(ConfigError, match=r"Unexpected argument 'options\.json'.*--config"):
        collect_config({"temperature": "2"}, ["options.json"])


@pytest.mark.parametrize(
    ("command", "shown", "hidden"),
    [
        ("run", ["--multi-label", "--teacher-batch-size", "--train-workers"], ["--labels"]),
        ("label", ["--multi-label", "--temperature", "--use-fast-tokenizer"], ["--student-name", "--shuffle-buffer"]),
        ("train", ["--multi-label", "--labels", "--use-fast-tokenizer"], ["--teacher-batch-size", "--data-file"]),
    ],
)
def test_help_shows_what_a_command_uses(
    command: str, shown: list[str], hidden: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--help"]) == 0
    said = capsys.readouterr().out
    assert [option for option in shown if option not in said] == []
    assert [option for option in hidden if option in said] == []


def test_help_groups_options_and_points_at_training_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--help"]) == 0
    text = capsys.readouterr().out
    assert text.index("Essentials:") < text.index("Teacher:") < text.index("Resources:")
    assert "TrainingArguments" in text
    assert "--adam-beta1" not in text
    assert main(["run", "--help-all"]) == 0
    assert "--adam-beta1" in capsys.readouterr().out

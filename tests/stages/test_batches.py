"""What batches a student is trained on, where short and long texts are mixed: little padding, and the same student."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import sentences

from raydistill import DistillConfig, label, train

MakeConfig = Callable[..., DistillConfig]
Student = tuple[dict[str, Any], dict[str, torch.Tensor]]  # what run.json says of its training, and its weights


@pytest.fixture(scope="module")
def train_on_mixed(tmp_path_factory: pytest.TempPathFactory, make_config: MakeConfig) -> Callable[..., Student]:
    """Trains on the labels of 64 texts, a fourth of them long. By SGD, which makes no more of a rounding error."""
    folder = tmp_path_factory.mktemp("mixed")
    texts = [" ".join(sentences()[at : at + (1 if at % 4 else 6)]) for at in range(64)]
    (folder / "corpus.txt").write_text("".join(f"{text}\n" for text in texts))
    places = {"data_file": str(folder / "corpus.txt")}
    labels = label(make_config(folder / "labelled", **places)).labels

    def trained(**options: Any) -> Student:
        output = tmp_path_factory.mktemp("student")
        given = {"optim": "sgd", "learning_rate": 0.1, "do_eval": False} | options
        train(make_config(output, labels=labels, **places, **given))
        record = json.loads((output / "run.json").read_text())["stages"]["train"]
        return record, load_file(output / "model.safetensors")

    return trained


@pytest.fixture(scope="module")
def in_parts(train_on_mixed: Callable[..., Student]) -> Student:
    return train_on_mixed(train_workers=2)


@pytest.fixture(scope="module")
def whole(train_on_mixed: Callable[..., Student]) -> Student:
    """With several workers, checkpoints of activations are made in whole batches."""
    return train_on_mixed(train_workers=2, gradient_checkpointing=True)


def expect_same(found: Student, wanted: Student, most: float) -> None:
    assert found[0]["updates"] == wanted[0]["updates"] == 4
    for name, weights in wanted[1].items():
        torch.testing.assert_close(found[1][name], weights, atol=most, rtol=0, msg=name)


def test_batches_in_parts_are_hardly_padded_and_make_the_same_student(in_parts: Student, whole: Student) -> None:
    assert in_parts[0]["padding"] < 0.1
    assert whole[0]["padding"] > 0.4
    expect_same(in_parts, whole, 1e-5)


def test_in_bf16_they_do_so_too(train_on_mixed: Callable[..., Student], in_parts: Student) -> None:
    reduced = train_on_mixed(train_workers=2, bf16=True)
    assert reduced[0]["padding"] < 0.1
    expect_same(reduced, in_parts, 5e-3)
    assert any(not torch.equal(reduced[1][name], weights) for name, weights in in_parts[1].items())


def test_whole_batches_are_less_padded_if_they_are_by_length(
    train_on_mixed: Callable[..., Student], whole: Student
) -> None:
    given = {"gradient_checkpointing": True, "per_device_train_batch_size": 4, "train_workers": 2}
    by_length = train_on_mixed(train_sampling_strategy="group_by_length", **given)
    at_random = train_on_mixed(**given)
    assert by_length[0]["padding"] < 0.8 * at_random[0]["padding"]


def test_what_pads_on_the_left_is_given_whole_batches(
    tmp_path: Path, train_on_mixed: Callable[..., Student], tiny_student_dir: Path
) -> None:
    left = shutil.copytree(tiny_student_dir, tmp_path / "left")
    settings = json.loads((left / "tokenizer_config.json").read_text())
    (left / "tokenizer_config.json").write_text(json.dumps(settings | {"padding_side": "left"}))
    assert train_on_mixed(student_name_or_path=str(left))[0]["padding"] > 0.4

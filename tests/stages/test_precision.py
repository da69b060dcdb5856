"""A reduced precision is compared with the exact teacher before it is used; what came of it stays with the labels."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from raydistill import DistillConfig, RaydistillError, label
from raydistill.progress import Console

MakeConfig = Callable[..., DistillConfig]
REDUCED = {"teacher_precision": "bf16", "teacher_backend": "torch"}


def entailment(folder: Path) -> np.ndarray:
    return np.stack(pd.read_parquet(folder / "labels").sort_values("text_id").entailment)


def scoring(folder: Path) -> dict:
    recorded = json.loads((folder / "labels" / "_labels.json").read_text())["scoring"]
    assert json.loads((folder / "run.json").read_text())["scoring"] == recorded
    return recorded


@pytest.fixture(scope="module")
def undecided_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finds every class about as likely, so that rounding changes the winner."""
    import torch
    from tiny_models import save_classifier
    from transformers import AutoModelForSequenceClassification

    folder = save_classifier(tmp_path_factory.mktemp("undecided"))
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        model.classifier.weight.mul_(1e-3)
        model.classifier.bias.add_(1.0)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory, make_config: MakeConfig) -> Path:
    folder = tmp_path_factory.mktemp("exact") / "out"
    label(make_config(folder))
    return folder


def test_an_exact_teacher_needs_no_audit(exact: Path) -> None:
    assert scoring(exact) == {"precision": "fp32", "audit": None}


def test_a_precision_that_passes_is_used_and_its_audit_kept(
    tmp_path: Path, make_config: MakeConfig, console: Console, exact: Path, corpus_file: Path
) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_bytes(corpus_file.read_bytes())
    config = make_config(tmp_path / "out", **REDUCED, audit_texts=20, min_agreement=0.5, data_file=str(corpus))
    label(config, console)
    found = scoring(tmp_path / "out")
    assert found["precision"] == "bf16"
    assert (found["audit"]["texts"], found["audit"]["passed"]) == (20, True)
    said = console.stream.getvalue()
    assert "torch bf16 against fp32 on 20 texts" in said
    assert "teacher  torch bf16;" in said
    off = np.abs(entailment(tmp_path / "out") - entailment(exact))
    assert 0 < off.max() < 0.2

    with corpus.open("a") as stream:
        stream.write("a new text that nobody has labelled\n")
    label(config, console)
    assert scoring(tmp_path / "out") == found
    assert console.stream.getvalue().count("against fp32") == 1  # the labels of a store are all of one kind


def test_a_precision_that_fails_gives_way_to_the_exact_one(
    tmp_path: Path, make_config: MakeConfig, console: Console, undecided_teacher: Path, corpus_counts
) -> None:
    teacher = {"teacher_name_or_path": str(undecided_teacher)}
    label(make_config(tmp_path / "exact", **teacher))
    label(make_config(tmp_path / "out", **teacher, **REDUCED), console)
    found = scoring(tmp_path / "out")
    assert found["precision"] == "fp32"
    assert found["audit"]["agreement"] < 0.99
    assert not found["audit"]["passed"]
    assert found["audit"]["texts"] == corpus_counts.distinct  # fewer than were asked for
    assert "below --min-agreement 0.99: the teacher runs in fp32" in console.stream.getvalue()
    np.testing.assert_array_equal(entailment(tmp_path / "out"), entailment(tmp_path / "exact"))


def test_strict_stops_before_anything_is_labelled(
    tmp_path: Path, make_config: MakeConfig, undecided_teacher: Path
) -> None:
    config = make_config(tmp_path / "out", teacher_name_or_path=str(undecided_teacher), **REDUCED, strict=True)
    with pytest.raises(RaydistillError, match=r"below --min-agreement 0\.99.*--teacher-precision fp32"):
        label(config)
    assert not (tmp_path / "out" / "labels").exists()


def test_openvino_labels_as_pytorch_does(
    tmp_path: Path, make_config: MakeConfig, console: Console, exact: Path
) -> None:
    label(make_config(tmp_path / "out", teacher_backend="openvino"), console)
    assert "teacher  openvino fp32;" in console.stream.getvalue()
    np.testing.assert_allclose(entailment(tmp_path / "out"), entailment(exact), atol=1e-5)


def test_int8_is_done_by_openvino_however_small_the_work(
    tmp_path: Path, make_config: MakeConfig, console: Console, exact: Path
) -> None:
    label(make_config(tmp_path / "out", teacher_precision="int8", min_agreement=0), console)
    assert scoring(tmp_path / "out")["precision"] == "int8"
    assert "teacher  openvino int8;" in console.stream.getvalue()
    off = np.abs(entailment(tmp_path / "out") - entailment(exact))
    assert 0 < off.max() < 0.2


def test_a_teacher_that_openvino_cannot_run_is_told_and_run_by_pytorch(
    tmp_path: Path, make_config: MakeConfig, console: Console
) -> None:
    from tiny_models import save_classifier

    teacher = {"teacher_name_or_path": str(save_classifier(tmp_path / "bart", "bart")), "teacher_backend": "openvino"}
    label(make_config(tmp_path / "out", **teacher), console)
    said = console.stream.getvalue()
    assert "OpenVINO cannot run this teacher, so PyTorch did" in said
    assert "teacher  torch fp32;" in said
    with pytest.raises(RaydistillError, match="--teacher-backend openvino: OpenVINO cannot convert"):
        label(make_config(tmp_path / "strict", **teacher, strict=True))

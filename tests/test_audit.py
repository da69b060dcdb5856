"""The audit of a reduced precision: what it says is so, for labels of both kinds."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tiny_models import reduced_precision, save_classifier, sentences

from raydistill.audit import audit_teacher, compare
from raydistill.distillation import soft_labels
from raydistill.errors import EngineError, ModelError
from raydistill.specs import TeacherSpec

LOGITS = arrays(np.float32, (7, 3), elements=st.floats(-5, 5, width=32))


def zeros(logits):
    return np.zeros_like(logits)


@given(LOGITS, st.booleans())
def test_a_teacher_agrees_with_itself(logits, multi_label):
    found = compare((logits, -logits), (logits, -logits), temperature=1.0, multi_label=multi_label)
    assert found == (1.0, 0.0, 0.0)


@given(LOGITS, LOGITS, st.sampled_from([0.5, 1.0, 3.0]))
def test_single_label_agreement_is_that_of_the_winning_classes(one, other, temperature):
    agreement, largest, mean = compare(
        (one, zeros(one)), (other, zeros(other)), temperature=temperature, multi_label=False
    )
    wanted = [soft_labels(logits, zeros(logits), temperature=temperature) for logits in (one, other)]
    assert agreement == np.mean([a.argmax() == b.argmax() for a, b in zip(*wanted, strict=True)])
    assert largest == pytest.approx(np.abs(wanted[0] - wanted[1]).max())
    assert mean == pytest.approx(np.abs(wanted[0] - wanted[1]).mean())
    assert mean <= largest <= 1


def test_multi_label_agreement_is_that_of_every_decision():
    exact = np.array([[2.0, -2.0], [2.0, 2.0]], dtype=np.float32)
    reduced = np.array([[3.0, 1.0], [1.0, 0.5]], dtype=np.float32)
    agreement, _, _ = compare((exact, zeros(exact)), (reduced, zeros(reduced)), temperature=1.0, multi_label=True)
    assert agreement == 0.75


@pytest.mark.parametrize(("precision", "backend"), dict.fromkeys([reduced_precision(), ("int8", "openvino")]))
def test_an_audit_says_what_two_teachers_give(precision, backend, tiny_teacher_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("RAYDISTILL_CACHE", str(tmp_path))
    texts = sentences()[:40]
    exact = TeacherSpec(str(tiny_teacher_dir), ("sport", "money"), "About {}.", precision="fp32", backend="torch")
    reduced = TeacherSpec(str(tiny_teacher_dir), ("sport", "money"), "About {}.", precision=precision, backend=backend)
    audit = audit_teacher(exact, reduced, texts, temperature=1.0, multi_label=False)
    assert (audit.precision, audit.engine, audit.texts) == (precision, f"{backend} {precision}", 40)
    assert 0 < audit.mean_difference < audit.max_difference < 0.1
    assert audit.agreement >= 0.8  # of weights drawn at random, whose classes are nearly even
    assert audit.speedup > 0
    assert f"{backend} {precision} against fp32 on 40 texts" in str(audit)


def test_a_teacher_without_finite_logits_is_an_error(tmp_path):
    import torch
    from transformers import AutoModelForSequenceClassification

    folder = save_classifier(tmp_path / "teacher")
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        model.classifier.bias[2] = float("nan")
    model.save_pretrained(folder)
    spec = TeacherSpec(str(folder), ("sport", "money"), "About {}.", backend="torch")
    with pytest.raises(ModelError, match="torch fp32 can score none of the 3 texts of the audit") as caught:
        audit_teacher(spec, spec, sentences()[:3], temperature=1.0, multi_label=False)
    assert not isinstance(caught.value, EngineError)


def test_a_precision_in_which_nothing_can_be_scored_is_told_apart_from_a_teacher_that_scores_nothing(
    tiny_teacher_dir, tmp_path, monkeypatch
):
    from raydistill.teacher import Teacher

    monkeypatch.setenv("RAYDISTILL_CACHE", str(tmp_path))
    score_some = Teacher.score_some

    def overflowing(teacher, texts, effort):
        entailment, contradiction, faults = score_some(teacher, texts, effort)
        overflows = teacher.engine.precision != "fp32"
        return entailment, contradiction, dict.fromkeys(range(len(texts)), ValueError()) if overflows else faults

    monkeypatch.setattr(Teacher, "score_some", overflowing)
    exact = TeacherSpec(str(tiny_teacher_dir), ("sport", "money"), "About {}.", backend="torch")
    precision, backend = reduced_precision()
    reduced = dataclasses.replace(exact, precision=precision, backend=backend)
    with pytest.raises(EngineError, match=f"{backend} {precision} can score none of the 3 texts of the audit"):
        audit_teacher(exact, reduced, sentences()[:3], temperature=1.0, multi_label=False)


def test_a_text_that_only_the_reduced_teacher_cannot_score_does_not_agree(tmp_path, monkeypatch):
    from raydistill.teacher import Teacher

    monkeypatch.setenv("RAYDISTILL_CACHE", str(tmp_path / "cache"))

    spec = TeacherSpec(str(save_classifier(tmp_path / "teacher")), ("sport", "money"), "About {}.", backend="torch")
    score_some = Teacher.score_some

    def failing(teacher, texts, effort):
        entailment, contradiction, faults = score_some(teacher, texts, effort)
        failed = {0: ValueError()} if teacher.engine.precision == "fp32" else {0: ValueError(), 1: ValueError()}
        return entailment, contradiction, faults | failed

    monkeypatch.setattr(Teacher, "score_some", failing)
    precision, backend = reduced_precision()
    reduced = dataclasses.replace(spec, precision=precision, backend=backend)
    audit = audit_teacher(spec, reduced, sentences()[:12], temperature=1.0, multi_label=False)
    assert audit.texts == 11
    assert audit.agreement <= 10 / 11
    assert np.isfinite([audit.max_difference, audit.mean_difference]).all()

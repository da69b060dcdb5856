"""Soft labels: the mathematics, and the original script's own formula."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from raydistill.distillation import soft_labels, softmax

TEMPERATURES = st.floats(0.05, 20)
SHAPES = st.tuples(st.integers(1, 5), st.integers(2, 7))
LOGITS = SHAPES.flatmap(
    lambda shape: st.tuples(*[hnp.arrays(np.float32, shape, elements=st.floats(-30, 30, width=32))] * 2)
)
EXTREME = SHAPES.flatmap(
    lambda shape: st.tuples(
        *[hnp.arrays(np.float32, shape, elements=st.floats(allow_nan=False, allow_infinity=False, width=32))] * 2
    )
)


def seed_formula(entailment, contradiction, temperature, multi_label):
    """`get_teacher_predictions` of the original script, by torch, from (N, K, 2) logits."""
    logits = torch.stack([torch.tensor(contradiction), torch.tensor(entailment)], dim=-1).double()
    if multi_label:
        return (logits / temperature).softmax(-1)[..., 1].numpy()
    return (logits[..., 1] / temperature).softmax(-1).numpy()


@pytest.mark.parametrize("multi_label", [False, True])
def test_labels_equal_the_seed_scripts_formula(multi_label):
    @given(LOGITS, TEMPERATURES)
    def check(logits, temperature):
        found = soft_labels(*logits, temperature=temperature, multi_label=multi_label)
        np.testing.assert_allclose(found, seed_formula(*logits, temperature, multi_label), atol=1e-6)

    check()


@given(LOGITS, TEMPERATURES)
def test_single_label_rows_sum_to_one(logits, temperature):
    found = soft_labels(*logits, temperature=temperature)
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize("multi_label", [False, True])
def test_labels_are_probabilities_in_float32_of_the_logits_shape(multi_label):
    @given(LOGITS, TEMPERATURES)
    def check(logits, temperature):
        found = soft_labels(*logits, temperature=temperature, multi_label=multi_label)
        assert found.dtype == np.float32
        assert found.shape == logits[0].shape
        assert ((found >= 0) & (found <= 1)).all()

    check()


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_shift_of_all_logits_of_a_text_changes_nothing(multi_label):
    @given(LOGITS, TEMPERATURES, st.floats(-50, 50))
    def check(logits, temperature, shift):
        shifted = [side.astype(np.float64) + shift for side in logits]
        np.testing.assert_allclose(
            soft_labels(*shifted, temperature=temperature, multi_label=multi_label),
            soft_labels(*logits, temperature=temperature, multi_label=multi_label),
            atol=1e-5,
        )

    check()


@given(LOGITS)
def test_single_label_does_not_look_at_contradiction(logits):
    entailment, contradiction = logits
    np.testing.assert_array_equal(soft_labels(entailment, contradiction), soft_labels(entailment, -contradiction))


@given(LOGITS, TEMPERATURES)
def test_multi_label_judges_each_class_by_itself(logits, temperature):
    entailment, contradiction = logits
    together = soft_labels(entailment, contradiction, temperature=temperature, multi_label=True)
    alone = [
        soft_labels(entailment[:, [k]], contradiction[:, [k]], temperature=temperature, multi_label=True)
        for k in range(entailment.shape[1])
    ]
    np.testing.assert_array_equal(together, np.concatenate(alone, axis=1))


@given(LOGITS, TEMPERATURES)
def test_multi_label_gives_the_other_side_the_rest(logits, temperature):
    entailment, contradiction = logits
    favour = soft_labels(entailment, contradiction, temperature=temperature, multi_label=True)
    against = soft_labels(contradiction, entailment, temperature=temperature, multi_label=True)
    np.testing.assert_allclose(favour + against, 1, atol=1e-6)


@given(LOGITS, TEMPERATURES, TEMPERATURES)
def test_a_higher_temperature_never_raises_the_top_class_and_keeps_the_order(logits, one, other):
    low, high = sorted((one, other))
    sharp = soft_labels(*logits, temperature=low)
    soft = soft_labels(*logits, temperature=high)
    assert (soft.max(-1) <= sharp.max(-1) + 1e-6).all()
    assert (soft.min(-1) >= sharp.min(-1) - 1e-6).all()
    order = np.argsort(logits[0], axis=-1, kind="stable")
    assert (np.diff(np.take_along_axis(soft, order, -1), axis=-1) >= 0).all()


@given(LOGITS, TEMPERATURES, TEMPERATURES)
def test_a_higher_temperature_draws_multi_labels_towards_a_half(logits, one, other):
    low, high = sorted((one, other))
    sharp = soft_labels(*logits, temperature=low, multi_label=True)
    soft = soft_labels(*logits, temperature=high, multi_label=True)
    assert (np.abs(soft - 0.5) <= np.abs(sharp - 0.5) + 1e-6).all()
    assert ((soft - 0.5) * (sharp - 0.5) >= 0).all()


@pytest.mark.parametrize("multi_label", [False, True])
def test_extreme_logits_stay_finite(multi_label):
    @given(EXTREME, TEMPERATURES)
    def check(logits, temperature):
        found = soft_labels(*logits, temperature=temperature, multi_label=multi_label)
        assert np.isfinite(found).all()

    check()


def test_a_single_class_is_refused_for_single_label_only():
    with pytest.raises(ValueError, match="single class"):
        soft_labels([[1.0]], [[0.0]])
    np.testing.assert_allclose(soft_labels([[1.0]], [[0.0]], multi_label=True), [[np.e / (1 + np.e)]], rtol=1e-6)


@pytest.mark.parametrize("temperature", [0, -1, -0.0, float("nan"), float("-inf")])
@pytest.mark.parametrize("multi_label", [False, True])
def test_a_temperature_that_is_not_above_zero_is_refused(temperature, multi_label):
    with pytest.raises(ValueError, match="temperature"):
        soft_labels([[1.0, 2.0]], [[0.0, 0.0]], temperature=temperature, multi_label=multi_label)


def test_no_texts_have_no_labels():
    empty = np.empty((0, 3), dtype=np.float32)
    assert soft_labels(empty, empty).shape == (0, 3)


@given(hnp.arrays(np.float64, (2, 3, 4), elements=st.floats(-40, 40)), st.sampled_from([0, 1, 2, -1]))
def test_softmax_equals_torchs_along_any_axis(logits, axis):
    np.testing.assert_allclose(softmax(logits, axis), torch.tensor(logits).softmax(axis).numpy(), atol=1e-12)


def test_the_module_needs_nothing_but_numpy():
    code = (
        "import sys, raydistill.distillation; "
        "print(sorted({'torch', 'ray', 'transformers', 'pyarrow', 'pandas', 'tokenizers', 'yaml', 'click'}"
        " & set(sys.modules)), 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] True"

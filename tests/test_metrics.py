"""How near the student comes: sums that add up, and figures that equal plain counts and scikit-learn's F1."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import f1_score

from raydistill.metrics import batch_sums, figures, sums_size

# Few distinct values, so that ties, exact halves and classes that nobody gives come up often.
VALUES = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0])
TABLES = st.tuples(st.integers(1, 12), st.integers(1, 5)).flatmap(
    lambda shape: st.tuples(*[hnp.arrays(np.float64, shape, elements=VALUES)] * 2)
)
MODES = pytest.mark.parametrize("multi_label", [False, True])


def names(table):
    return [f"class {k}" for k in range(table.shape[1])]


@MODES
def test_sums_add_over_any_split_of_the_rows(multi_label):
    @given(TABLES, st.data())
    def check(tables, data):
        student, teacher = tables
        cuts = sorted(data.draw(st.lists(st.integers(0, len(student)), max_size=4)))
        bounds = [0, *cuts, len(student)]
        parts = [batch_sums(student[a:b], teacher[a:b], multi_label=multi_label) for a, b in itertools.pairwise(bounds)]
        np.testing.assert_allclose(sum(parts), batch_sums(student, teacher, multi_label=multi_label), atol=1e-9)

    check()


@MODES
def test_sums_have_the_length_that_is_said(multi_label):
    @given(TABLES)
    def check(tables):
        assert batch_sums(*tables, multi_label=multi_label).shape == (sums_size(tables[0].shape[1], multi_label),)

    check()


@given(TABLES)
def test_agreement_is_the_share_of_texts_with_the_same_top_class(tables):
    student, teacher = tables
    same = [list(s).index(max(s)) == list(t).index(max(t)) for s, t in zip(student, teacher, strict=True)]
    found = figures(batch_sums(student, teacher, multi_label=False), names(student), multi_label=False)
    assert found == {"agreement": pytest.approx(sum(same) / len(same))}


@given(TABLES)
def test_f1_of_each_class_equals_scikit_learns_where_that_is_defined(tables):
    student, teacher = tables
    found = figures(batch_sums(student, teacher, multi_label=True), names(student), multi_label=True)
    says, truth = student >= 0.5, teacher >= 0.5
    wanted = f1_score(truth, says, average=None, zero_division=1.0) if student.shape[1] > 1 else None
    if wanted is None:
        wanted = [f1_score(truth[:, 0], says[:, 0], zero_division=1.0)]
    np.testing.assert_allclose([found[f"f1/{name}"] for name in names(student)], wanted)
    assert found["f1_macro"] == pytest.approx(np.mean(wanted))


@given(TABLES)
def test_mean_absolute_difference_is_that_of_all_cells(tables):
    student, teacher = tables
    found = figures(batch_sums(student, teacher, multi_label=True), names(student), multi_label=True)
    assert found["mean_absolute_difference"] == pytest.approx(np.mean(np.abs(student - teacher)))


def test_the_threshold_is_a_half_and_includes_it():
    found = figures(
        batch_sums([[0.5, 0.49, 0.5]], [[0.5, 0.5, 0.49]], multi_label=True), ["a", "b", "c"], multi_label=True
    )
    assert (found["f1/a"], found["f1/b"], found["f1/c"]) == (1.0, 0.0, 0.0)


def test_a_class_that_neither_side_ever_gives_has_f1_one():
    found = figures(batch_sums([[0.1, 0.9]], [[0.2, 0.8]], multi_label=True), ["never", "always"], multi_label=True)
    assert (found["f1/never"], found["f1/always"], found["f1_macro"]) == (1.0, 1.0, 1.0)


def test_the_figures_of_each_kind_have_their_names_and_plain_floats():
    single = figures(batch_sums([[0.1, 0.9]], [[0.2, 0.8]], multi_label=False), ["a", "b"], multi_label=False)
    multi = figures(batch_sums([[0.1, 0.9]], [[0.2, 0.8]], multi_label=True), ["a", "b"], multi_label=True)
    assert set(single) == {"agreement"}
    assert set(multi) == {"mean_absolute_difference", "f1_macro", "f1/a", "f1/b"}
    assert {type(value) for value in [*single.values(), *multi.values()]} == {float}


@MODES
def test_no_texts_give_finite_figures(multi_label):
    found = figures(np.zeros(sums_size(2, multi_label)), ["a", "b"], multi_label=multi_label)
    assert all(np.isfinite(value) for value in found.values())


@MODES
def test_a_student_equal_to_its_teacher_is_perfect(multi_label):
    labels = np.random.default_rng(0).random((50, 4))
    found = figures(batch_sums(labels, labels, multi_label=multi_label), names(labels), multi_label=multi_label)
    assert found.pop("mean_absolute_difference", 0.0) == 0.0
    assert set(found.values()) == {1.0}

"""How near the student comes to the teacher: sums that add up over batches and workers, and the figures they give."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
LESS_IS_BETTER = ("loss", "mean_absolute_difference")  # of the figures of an evaluation


def sums_size(num_classes: int, multi_label: bool) -> int:
    """Length of the vector that `batch_sums` returns."""
    return 2 + 3 * num_classes if multi_label else 2


def batch_sums(student: npt.ArrayLike, teacher: npt.ArrayLike, *, multi_label: bool) -> Array:
    """Sums of one batch, to be added to those of others.

    Args:
        student: (N, K) probabilities.
        teacher: (N, K) soft labels.

    Returns:
        single-label: (texts, texts with the same top class). Multi-label: (cells, sum of |difference|, then per class
        true positives, false positives and false negatives at 0.5, with the teacher as the truth).
    """
    student, teacher = np.asarray(student, dtype=np.float64), np.asarray(teacher, dtype=np.float64)
    if not multi_label:
        return np.array([len(student), np.sum(student.argmax(-1) == teacher.argmax(-1))], dtype=np.float64)
    says, truth = student >= 0.5, teacher >= 0.5
    counts = [np.sum(says & truth, axis=0), np.sum(says & ~truth, axis=0), np.sum(~says & truth, axis=0)]
    return np.concatenate([[student.size, np.abs(student - teacher).sum()], *counts]).astype(np.float64)


def figures(sums: Array, class_names: Sequence[str], *, multi_label: bool) -> dict[str, float]:
    """The figures of added-up sums.

    Returns:
        single-label: `agreement`, the share of texts whose top class is the same (as in Hugging Face's script).
        Multi-label: `mean_absolute_difference`, `f1/<class>` at 0.5 for each class and their mean `f1_macro`; a class
        that neither side ever gives has F1 1.
    """
    if not multi_label:
        return {"agreement": float(sums[1] / max(sums[0], 1))}
    true, extra, missed = sums[2:].reshape(3, len(class_names))
    said = 2 * true + extra + missed
    f1 = np.where(said > 0, 2 * true / np.maximum(said, 1), 1.0)
    return {
        "mean_absolute_difference": float(sums[1] / max(sums[0], 1)),
        "f1_macro": float(f1.mean()),
        **{f"f1/{name}": float(value) for name, value in zip(class_names, f1, strict=True)},
    }

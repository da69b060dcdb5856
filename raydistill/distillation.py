"""Soft labels: the K probabilities that the student learns, from the teacher's stored NLI logits. Pure numpy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


def softmax(logits: npt.ArrayLike, axis: int = -1) -> npt.NDArray[np.float64]:
    """Exponentials normalised along an axis, of any shape; shifted by the maximum, so that none overflows."""
    logits = np.asarray(logits, dtype=np.float64)
    powers = np.exp(logits - logits.max(axis=axis, keepdims=True))
    return powers / powers.sum(axis=axis, keepdims=True)


def soft_labels(
    entailment: npt.ArrayLike, contradiction: npt.ArrayLike, *, temperature: float = 1.0, multi_label: bool = False
) -> Floats:
    """Soft labels of N texts, which the student learns, from their NLI logits.

    The rule of Hugging Face's zero-shot distillation script (`get_teacher_predictions`), which is that of its
    zero-shot pipeline (Yin et al. 2019, arXiv:1909.00161) with a temperature:

    - single-label: softmax of the K entailment logits over the classes; each row sums to 1;
    - multi-label: for each class, the entailment share of softmax(contradiction, entailment).

    Args:
        entailment: (N, K) logits.
        contradiction: (N, K) logits; not used for single-label.
        temperature: divides the logits first; above 1 softens the labels.
        multi_label: judge each class by itself.

    Returns:
        (N, K) float32, each in [0, 1].

    Raises:
        ValueError: temperature is not above 0, or K = 1 without `multi_label` (softmax over one class is always 1).
    """
    if not temperature > 0:
        raise ValueError(f"temperature {temperature} must be above 0")
    favour = np.asarray(entailment, dtype=np.float64) / temperature
    if not multi_label:
        if favour.shape[-1] < 2:
            raise ValueError("softmax over a single class is always 1: use multi_label, or name a second class")
        return softmax(favour).astype(np.float32)
    against = np.asarray(contradiction, dtype=np.float64) / temperature
    return softmax(np.stack([against, favour], axis=-1))[..., 1].astype(np.float32)

"""The references of every comparison of labels: the original script's method, written plainly, in one process; and what
people write by hand, a loop over a zero-shot pipeline.

The loop: pairs in corpus order, tokenised by the tokenizer in batches of 32 and padded to the longest; soft labels by
softmax.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline


def seed_logits(teacher: str, texts: Sequence[str], class_names: Sequence[str], template: str) -> torch.Tensor:
    """(N, K, labels) float32 logits."""
    model = AutoModelForSequenceClassification.from_pretrained(teacher).eval()
    return seed_score(model, AutoTokenizer.from_pretrained(teacher), texts, class_names, template)


@torch.no_grad()
def seed_score(
    model: Any, tokenizer: Any, texts: Sequence[str], class_names: Sequence[str], template: str
) -> torch.Tensor:
    """The same with a model that is loaded."""
    pairs = [(text, template.format(name)) for text in texts for name in class_names]
    logits = []
    for at in range(0, len(pairs), 32):
        premises, hypotheses = zip(*pairs[at : at + 32], strict=True)
        batch = tokenizer(list(premises), list(hypotheses), padding=True, truncation="only_first", return_tensors="pt")
        logits.append(model(**batch.to(model.device)).logits.float().cpu())
    return torch.cat(logits).reshape(len(texts), len(class_names), -1)


def seed_soft_labels(logits: torch.Tensor, entailment: int, temperature: float, multi_label: bool) -> np.ndarray:
    """(N, K) float32, by the original script's rule."""
    contradiction = -1 if entailment == 0 else 0
    nli = logits[..., [contradiction, entailment]] / temperature
    return nli.softmax(-1 if multi_label else 1)[..., 1].numpy()


def zero_shot_soft_labels(
    model: Any, tokenizer: Any, texts: Sequence[str], class_names: Sequence[str], template: str
) -> np.ndarray:
    """(N, K) float32: the scores of transformers' own zero-shot pipeline, in batches of 32 pairs."""
    classify = pipeline("zero-shot-classification", model=model, tokenizer=tokenizer, batch_size=32)
    found = classify(list(texts), list(class_names), hypothesis_template=template)
    scores = [dict(zip(one["labels"], one["scores"], strict=True)) for one in found]
    return np.array([[one[name] for name in class_names] for one in scores], dtype=np.float32)

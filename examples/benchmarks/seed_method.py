"""The reference of every comparison: the seed script's method, written plainly, in one process.

Pairs in corpus order, tokenised by the tokenizer in batches of 32 and padded to the longest; soft labels by softmax;
the student trained by a plain `Trainer` on rows in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)


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
    """(N, K) float32, by the seed script's rule."""
    contradiction = -1 if entailment == 0 else 0
    nli = logits[..., [contradiction, entailment]] / temperature
    return nli.softmax(-1 if multi_label else 1)[..., 1].numpy()


class Rows(Dataset):
    """Tokenised texts and their soft labels, in memory."""

    def __init__(self, tokenizer: Any, texts: Sequence[str], labels: np.ndarray) -> None:
        self.rows = [
            {**tokenizer(text, truncation=True, return_token_type_ids=False), "labels": row.tolist()}
            for text, row in zip(texts, labels, strict=True)
        ]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]


class SoftTargets(Trainer):
    """The seed script's loss."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        targets = inputs.pop("labels")
        outputs = model(**inputs)
        loss = -(targets * outputs.logits.log_softmax(-1)).sum(-1).mean()
        return (loss, outputs) if return_outputs else loss


def seed_student(student: str, texts: Sequence[str], labels: np.ndarray, folder: Path, **arguments: Any) -> None:
    """Train and save a student."""
    set_seed(arguments.get("seed", 42))
    tokenizer = AutoTokenizer.from_pretrained(student)
    tokenizer.backend_tokenizer.no_padding()
    model = AutoModelForSequenceClassification.from_pretrained(student, num_labels=labels.shape[1])
    trainer = SoftTargets(
        model=model,
        args=TrainingArguments(
            output_dir=str(folder),
            per_device_train_batch_size=32,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            use_cpu=not torch.cuda.is_available(),
            **arguments,
        ),
        train_dataset=Rows(tokenizer, texts, labels),
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    trainer.train()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)

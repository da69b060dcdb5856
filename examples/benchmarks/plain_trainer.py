"""The reference of every comparison of students: a plain Hugging Face `Trainer` on rows in memory, in one process.

Rows are tokenised once, drawn at random and padded to the longest of their batch; loss as in the original script.
"""

from __future__ import annotations

import time
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
    TrainerCallback,
    TrainingArguments,
    set_seed,
)


class Rows(Dataset):
    """Tokenised texts and their soft labels, in memory."""

    def __init__(self, tokenizer: Any, texts: Sequence[str], labels: np.ndarray, max_length: int | None) -> None:
        cut = {"truncation": True, "max_length": max_length, "return_token_type_ids": False}
        self.rows = [
            {**tokenizer(text, **cut), "labels": row.tolist()} for text, row in zip(texts, labels, strict=True)
        ]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]


class SoftTargets(Trainer):
    """The original script's loss."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        targets = inputs.pop("labels")
        outputs = model(**inputs)
        loss = -(targets * outputs.logits.log_softmax(-1)).sum(-1).mean()
        return (loss, outputs) if return_outputs else loss


class Timed(TrainerCallback):
    """Seconds from the first update's beginning to the last one's end, and those in updates."""

    def __init__(self) -> None:
        self.first, self.last, self.in_steps = 0.0, 0.0, 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.began = time.perf_counter()
        self.first = self.first or self.began

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.last = time.perf_counter()
        self.in_steps += self.last - self.began


def train_plainly(
    student: str,
    texts: Sequence[str],
    labels: np.ndarray,
    folder: Path,
    max_length: int | None = None,
    **arguments: Any,
) -> dict[str, Any]:
    """Train and save a student.

    Returns:
        startup: seconds until the first update; seconds: of the updates and all between them; steps: of the updates
        alone; updates; losses: as logged.
    """
    started = time.perf_counter()
    set_seed(arguments.get("seed", 42))
    tokenizer = AutoTokenizer.from_pretrained(student)
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.model_max_length = max_length or tokenizer.model_max_length  # so that the student reads as much later
    model = AutoModelForSequenceClassification.from_pretrained(student, num_labels=labels.shape[1])
    timed = Timed()
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
        train_dataset=Rows(tokenizer, texts, labels, max_length),
        data_collator=DataCollatorWithPadding(tokenizer),
        callbacks=[timed],
    )
    trainer.train()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {
        "startup": timed.first - started,
        "seconds": timed.last - timed.first,
        "steps": timed.in_steps,
        "updates": trainer.state.global_step,
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
    }

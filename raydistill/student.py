"""The student: a sequence classifier that learns soft labels. Knows nothing of Ray, of files or of the teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.utils.data import DataLoader, IterableDataset
from transformers import Trainer

from raydistill.errors import DivergedError
from raydistill.metrics import batch_sums, figures, sums_size
from raydistill.pairs import budget_batches
from raydistill.pretrained import (
    ensure_pad_token,
    expect_own_tokenizer,
    expect_own_weights,
    load_classifier,
    load_config,
    load_tokenizer,
    longest_input,
    skeleton,
)
from raydistill.specs import ModelSpec, StudentSpec
from raydistill.student_rows import StudentRows

Batch = Mapping[str, torch.Tensor]


def student_config(model: ModelSpec, class_names: Sequence[str], *, multi_label: bool) -> Any:
    """The student's config, with `problem_type` and the names set, so that `pipeline("text-classification", model=…,
    top_k=None)` applies softmax (single-label) or sigmoid (multi-label) and names the classes. Raises ModelError.
    """
    config = load_config(model, "--student-name-or-path")
    config.num_labels = len(class_names)
    config.id2label = dict(enumerate(class_names))
    config.label2id = {name: i for i, name in enumerate(class_names)}
    config.problem_type = "multi_label_classification" if multi_label else "single_label_classification"
    return config


def student_rows(spec: StudentSpec) -> StudentRows:
    """How rows of the label store become the student's.

    Loads config and tokenizer, not the weights, and so finds nearly every fault of a student before work begins.
    Raises ModelError and ConfigError.
    """
    config = student_config(spec, spec.class_names, multi_label=spec.multi_label)
    tokenizer = load_tokenizer(spec)
    expect_own_tokenizer(tokenizer, config)
    ensure_pad_token(tokenizer)
    bare = skeleton(config, spec)
    expect_own_weights(spec, new_head=True, config=config)
    return StudentRows.of(
        tokenizer,
        spec,
        max_length=longest_input(tokenizer, bare, spec.max_length),
        num_classes=len(spec.class_names),
        temperature=spec.temperature,
        multi_label=spec.multi_label,
    )


def load_student(model: ModelSpec, class_names: Sequence[str], *, multi_label: bool) -> tuple[Any, Any]:
    """(model, tokenizer) with a head of one output for each class, in class order.

    A head of another size in the checkpoint is replaced. Raises ModelError.
    """
    config = student_config(model, class_names, multi_label=multi_label)
    tokenizer = load_tokenizer(model)
    student = load_classifier(model, new_head=True, config=config, dtype=torch.float32)
    student.config.pad_token_id = ensure_pad_token(tokenizer)
    return student, tokenizer


def soft_target_loss(
    logits: torch.Tensor, targets: torch.Tensor, *, multi_label: bool, smoothing: float = 0.0
) -> torch.Tensor:
    """Mean loss of one batch against soft labels.

    Single-label: cross-entropy, -sum p log softmax(z), as in Hugging Face's zero-shot distillation script. Multi-label:
    binary cross-entropy with p as target, since p does not sum to one there.

    Args:
        logits, targets: (B, K).
        smoothing: share of the uniform distribution mixed into the targets (`label_smoothing_factor`).
    """
    if smoothing:
        targets = targets * (1 - smoothing) + smoothing * (0.5 if multi_label else 1 / targets.shape[-1])
    if multi_label:
        return F.binary_cross_entropy_with_logits(logits, targets)
    return F.cross_entropy(logits, targets)


def student_probabilities(logits: torch.Tensor, *, multi_label: bool) -> torch.Tensor:
    """(B, K) logits -> probabilities: sigmoid for multi-label, else softmax."""
    return logits.sigmoid() if multi_label else logits.softmax(-1)


def expect_finite(model: Any) -> None:
    """Raise DivergedError where weights are no numbers any more."""
    if not all(bool(weights.isfinite().all()) for weights in model.parameters()):
        raise DivergedError(
            "the training has diverged: weights of the student are not finite. Try a lower --learning-rate, or more "
            "--warmup-steps."
        )


def load_trained_student(folder: str) -> tuple[Any, Any]:
    """(model, tokenizer) of a student that a run has left in a folder. Raises ModelError."""
    model = ModelSpec(folder)
    load_config(model, "student")
    return load_classifier(model).eval(), load_tokenizer(model)


@torch.inference_mode()
def predict(model: Any, tokenizer: Any, texts: Sequence[str], token_budget: int = 4096) -> npt.NDArray[np.float32]:
    """The student's probabilities, (N, K) float32 in class order.

    Args:
        token_budget: tokens of a batch, padding included; texts are sorted by length for that.
    """
    multi_label = model.config.problem_type == "multi_label_classification"
    limit = longest_input(tokenizer, model)
    ids = tokenizer(list(texts), truncation=True, max_length=limit, padding=False)["input_ids"] if len(texts) else []
    found = np.empty((len(texts), model.config.num_labels), dtype=np.float32)
    for batch in budget_batches(np.array([len(row) for row in ids], dtype=np.int64), token_budget):
        inputs = tokenizer.pad({"input_ids": [ids[i] for i in batch]}, return_tensors="pt").to(model.device)
        logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits.float()
        found[batch] = student_probabilities(logits, multi_label=multi_label).cpu().numpy()
    return found


class EpochStream(IterableDataset[Batch]):
    """Batches made anew for each epoch, of a known number, so that steps and schedule come out as with a list.

    Args:
        batches: epoch -> its batches.
        length: batches in an epoch.
        first_epoch: the epoch that the first pass is.
    """

    def __init__(self, batches: Callable[[int], Iterator[Batch]], length: int, first_epoch: int = 0) -> None:
        self._batches, self._length, self._epoch = batches, length, first_epoch

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Batch]:
        epoch, self._epoch = self._epoch, self._epoch + 1
        number = 0
        for batch in self._batches(epoch):
            number += 1
            yield batch
        if number != self._length:
            raise RuntimeError(f"epoch {epoch} had {number} batches of {self._length}: the rows are not those counted")


class DistillationTrainer(Trainer):
    """Hugging Face's `Trainer` with soft targets and streamed batches, which arrive padded and on the right worker.

    Args:
        train_batches: what an epoch is made of.
        eval_batches: () -> this worker's share of all texts, once.
        texts: how many texts all workers together must meet there.
    """

    def __init__(
        self,
        *,
        train_batches: EpochStream,
        eval_batches: Callable[[], Iterator[Batch]],
        texts: int,
        class_names: Sequence[str],
        multi_label: bool,
        **trainer: Any,
    ) -> None:
        super().__init__(train_dataset=train_batches, eval_dataset=train_batches, **trainer)
        self._train_batches, self._eval_batches, self._texts = train_batches, eval_batches, texts
        self._class_names, self._multi_label = class_names, multi_label
        # The loss below is the mean of a batch: Trainer divides it by the accumulation steps.
        self.model_accepts_loss_kwargs = False
        self.loss_is_scaled_for_ga = False
        self.label_smoother = None

    def get_train_dataloader(self) -> DataLoader[Batch]:
        # What ray.train.huggingface.transformers.prepare_trainer does, and a length besides: without one, Trainer can't
        # tell epochs and would drop a last, partial gradient accumulation.
        return DataLoader(self._train_batches, batch_size=None)

    def _run_epoch(self, *given: Any, **named: Any) -> None:
        if self.state.global_step >= self.state.max_steps:  # which Trainer only looks at after an update
            self.control.should_training_stop = True
            return
        super()._run_epoch(*given, **named)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        wanted = self.control.should_save  # which Trainer forgets where only the best is kept
        return super()._determine_best_metric(metrics, trial) or wanted

    def compute_loss(
        self, model: Any, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        loss = soft_target_loss(
            outputs.logits.float(),
            inputs["labels"],
            multi_label=self._multi_label,
            smoothing=self.args.label_smoothing_factor,
        )
        return (loss, outputs) if return_outputs else loss

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Figures over all texts, on all workers together: `eval_loss` and those of `metrics.figures`."""
        model = self.accelerator.unwrap_model(self.model)
        model.eval()
        device = self.args.device
        sums = torch.zeros(sums_size(len(self._class_names), self._multi_label) + 1, dtype=torch.float64)
        with torch.inference_mode():
            for batch in self._eval_batches():
                inputs = {name: tensor.to(device) for name, tensor in batch.items()}
                with self.compute_loss_context_manager():
                    loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
                probabilities = student_probabilities(outputs.logits.float(), multi_label=self._multi_label)
                found = batch_sums(probabilities.cpu().numpy(), batch["labels"].numpy(), multi_label=self._multi_label)
                sums[1:] += torch.from_numpy(found)
                sums[0] += loss.item() * found[0]
        if dist.is_initialized():
            shared = sums.to(device)
            dist.all_reduce(shared)
            sums = shared.cpu().double()
        seen = sums[1].item() / (len(self._class_names) if self._multi_label else 1)
        if seen != self._texts:
            raise RuntimeError(f"the evaluation met {seen:g} texts of {self._texts}: the rows are not those counted")
        results = figures(sums[1:].numpy(), self._class_names, multi_label=self._multi_label)
        results["loss"] = float(sums[0] / max(sums[1].item(), 1))
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in results.items()}
        self.log(dict(metrics))  # which adds the epoch to what it is given
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

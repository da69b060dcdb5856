"""The student stage: label store -> student, by Ray Train's `TorchTrainer`."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import ray.train
from ray.train import CheckpointConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from raydistill.label_store import LabelStore
from raydistill.pretrained import load_tokenizer, longest_input, skeleton
from raydistill.progress import Progress
from raydistill.resources import Plan
from raydistill.run_dir import CHECKPOINTS, MODEL
from raydistill.specs import StudentSpec
from raydistill.stages.board import followed_board
from raydistill.stages.cluster import data_settings, our_errors
from raydistill.stages.label_rows import EvenOrWhole, label_rows
from raydistill.student import student_config
from raydistill.student_rows import StudentRows
from raydistill.training_arguments import training_arguments


@dataclasses.dataclass(frozen=True)
class TrainedStudent:
    """What training leaves: a folder with model and tokenizer, the evaluation's figures, and the number of updates."""

    folder: Path
    figures: dict[str, float]
    updates: int


def train_student(
    spec: StudentSpec, store: LabelStore, texts: int, plan: Plan, storage: Path, progress: Progress
) -> TrainedStudent:
    """Train on all texts of a label store; goes on from the last checkpoint in `storage`/checkpoints, if there is one.

    Args:
        texts: how many there are, each as often as it stands in the corpus.
        storage: where Ray Train keeps checkpoints: a folder that every node sees.

    Raises:
        ModelError, ConfigError.
    """
    arguments = training_arguments(spec.training, output_dir="unused", use_cpu=True)
    rows = student_rows(spec)
    keep = max(arguments.save_total_limit or 0, 1) + 1  # the newest, or as many as asked for, and the finished model
    datasets: dict[str, Any] = {
        "train": partial(label_rows, store, rows, plan, seed=arguments.seed, storage=storage),
        "evaluation": partial(label_rows, store, rows, plan),
    }

    def work(loop: dict[str, Any]) -> None:
        for name in ("train", "evaluation"):
            ray.train.get_dataset_shard(name)  # so that its actor starts while this process imports torch
        from raydistill.stages.train_worker import train_worker

        train_worker(loop)

    with our_errors(), data_settings(), followed_board(progress) as board:
        trainer = TorchTrainer(
            work,
            train_loop_config={
                "spec": spec,
                "texts": texts,
                "rows": rows,
                "board": board,
                "threads": plan.train_threads,
                "use_gpu": plan.train_gpus > 0,
            },
            scaling_config=ScalingConfig(
                num_workers=plan.train_workers,
                use_gpu=plan.train_gpus > 0,
                resources_per_worker={"CPU": plan.train_cpus, "GPU": plan.train_gpus},
            ),
            torch_config=TorchConfig(backend="nccl" if plan.train_gpus else "gloo"),
            datasets=datasets,
            dataset_config=EvenOrWhole(),
            run_config=RunConfig(
                name=CHECKPOINTS, storage_path=str(storage), checkpoint_config=CheckpointConfig(num_to_keep=keep)
            ),
        )
        result = trainer.fit()
    assert result.checkpoint is not None
    assert result.metrics is not None
    return TrainedStudent(Path(result.checkpoint.path) / MODEL, result.metrics["figures"], result.metrics["updates"])


def student_rows(spec: StudentSpec) -> StudentRows:
    """How rows of the label store become the student's. Loads the model's config and tokenizer, not its weights."""
    config = student_config(spec.name_or_path, spec.class_names, multi_label=spec.multi_label)
    tokenizer = load_tokenizer(spec.name_or_path, spec.use_fast_tokenizer)
    limit = longest_input(tokenizer, skeleton(config))
    return StudentRows.of(
        tokenizer,
        max_length=min(spec.max_length or limit, limit),
        num_classes=len(spec.class_names),
        temperature=spec.temperature,
        multi_label=spec.multi_label,
    )

"""The student stage: label store -> student, by Ray Train's `TorchTrainer`."""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train import CheckpointConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from raydistill.label_store import LabelStore
from raydistill.progress import Progress
from raydistill.resources import Plan
from raydistill.run_dir import CHECKPOINTS, MODEL, RESULT
from raydistill.specs import StudentSpec
from raydistill.stages.board import followed_board
from raydistill.stages.cluster import data_settings, our_errors
from raydistill.stages.label_rows import EvenOrWhole, label_rows
from raydistill.stopwatch import Stopwatch
from raydistill.student import student_rows
from raydistill.training_arguments import checked_arguments


class _Trainer(TorchTrainer):
    """Leaves Ctrl-C to Python: Ray's own handler ends the process, and stays in place when training is over."""

    controller: Any = None

    def _register_sigint_handler(self, controller: Any) -> None:
        self.controller = controller


@dataclasses.dataclass(frozen=True)
class TrainedStudent:
    """What training leaves: a folder with model and tokenizer, the evaluation's figures, and the number of updates.

    seconds: of the first worker, for each part of its work: loading, data (waiting for it), steps (forward, backward,
    optimizer), between (Trainer's own), evaluation, checkpoints.
    """

    folder: Path
    figures: dict[str, float]
    updates: int
    seconds: dict[str, float]


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
    arguments = checked_arguments(spec.training)
    rows = student_rows(spec)
    keep = max(arguments.save_total_limit or 0, 1) + 2  # the newest, or as many as asked for, and the student, twice
    datasets: dict[str, Any] = {
        "train": partial(label_rows, store, rows, plan, seed=arguments.seed, storage=storage),
        "evaluation": partial(label_rows, store, rows, plan),
    }

    def work(loop: dict[str, Any]) -> None:
        watch = Stopwatch("loading")
        for name in ("train", "evaluation"):
            ray.train.get_dataset_shard(name)  # so that its actor starts while this process imports torch
        from raydistill.stages.train_worker import train_worker

        train_worker(loop, watch)

    with our_errors(), data_settings(), followed_board(progress) as board:
        trainer = _Trainer(
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
        try:
            result = trainer.fit()
        except KeyboardInterrupt:
            if trainer.controller is not None:
                ray.kill(trainer.controller)
            raise
    assert result.checkpoint is not None
    finished = Path(result.checkpoint.path)
    came_of_it = json.loads((finished / RESULT).read_text())
    return TrainedStudent(finished / MODEL, came_of_it["figures"], came_of_it["updates"], came_of_it["seconds"])

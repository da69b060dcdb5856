"""The student stage: label store -> student, by Ray Train's `TorchTrainer`."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
import ray.train
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask
from ray.train import CheckpointConfig, DataConfig, Result, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from raydistill.label_store import LabelStore
from raydistill.pretrained import load_tokenizer, longest_input, skeleton
from raydistill.progress import Progress
from raydistill.resources import Plan
from raydistill.run_dir import CHECKPOINTS
from raydistill.stages.cluster import data_settings, our_errors
from raydistill.stages.train_worker import MODEL, POLL_SECONDS, Board, StudentSpec, train_worker
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
    with our_errors(), data_settings(), _board(progress) as board:
        trainer = TorchTrainer(
            train_worker,
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
            datasets={
                "train": lambda: label_rows(store, rows, plan, seed=arguments.seed, storage=storage),
                "evaluation": lambda: label_rows(store, rows, plan),
            },
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


def label_rows(
    store: LabelStore, rows: StudentRows, plan: Plan, seed: int | None = None, storage: Path | None = None
) -> ray.data.Dataset:
    """The label store as a stream of the student's rows; with a seed, the order of its files is drawn anew each epoch.

    The draw depends on seed and epoch alone: training that goes on from a checkpoint in `storage` sees what it would
    have seen undisturbed.
    """
    with data_settings():
        source = LabelSource(store, seed, _epoch_to_resume(storage) if storage else 0)
        dataset = ray.data.read_datasource(source, num_cpus=plan.task_cpus, override_num_blocks=len(source.parts))
        return dataset.map_batches(
            rows, batch_size=None, batch_format="pyarrow", zero_copy_batch=True, num_cpus=plan.task_cpus
        )


class LabelSource(Datasource):
    """The label store as Ray Data reads it: one task for each part, in an order drawn from seed and epoch.

    `ray.data.read_parquet` would do, but it lists files in a task that takes a whole CPU, whatever `num_cpus` says, and
    waits for ever where the train worker has left less.
    """

    COLUMNS = ("text", "occurrences", "entailment", "contradiction")

    def __init__(self, store: LabelStore, seed: int | None, first_epoch: int) -> None:
        super().__init__()
        self.store, self.parts, self._seed, self._first_epoch = store, store.parts(), seed, first_epoch

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        parts = list(self.parts)
        if self._seed is not None:
            # Ray Data counts the executions of a dataset: each is an epoch.
            epoch = self._first_epoch + getattr(data_context, "_execution_idx", 0)
            np.random.default_rng([self._seed, epoch]).shuffle(parts)
        return [ReadTask(partial(_read_part, self.store, name), unknown) for name in parts]


def _read_part(store: LabelStore, name: str) -> list[pa.Table]:
    return [store.read_part(name, LabelSource.COLUMNS)]


def _epoch_to_resume(storage: Path) -> int:
    try:
        return (Result.from_path(str(storage / CHECKPOINTS)).metrics or {}).get("epoch", 0)
    except RuntimeError:
        return 0  # no checkpoint yet


class EvenOrWhole(DataConfig):
    """Training rows are dealt out evenly, so that no worker waits for another; evaluation leaves no row out."""

    def configure(
        self, datasets: dict[str, Any], world_size: int, worker_handles: Any, worker_node_ids: Any, **_: Any
    ) -> Any:
        shares: list[dict[str, Any]] = [{} for _ in range(world_size)]
        for name, dataset in datasets.items():
            dataset.context.execution_options.preserve_order = True  # the same seed gives the same student
            splits = dataset.streaming_split(world_size, equal=name == "train", locality_hints=worker_node_ids)
            for share, split in zip(shares, splits, strict=True):
                share[name] = split
        return shares


@contextlib.contextmanager
def _board(progress: Progress) -> Iterator[Any]:
    """A board, and a thread that shows on the console what is written there."""
    board: Any = ray.remote(num_cpus=0)(Board).remote()
    over = threading.Event()

    def follow() -> None:
        while not over.wait(POLL_SECONDS):
            try:
                state: Any = ray.get(board.read.remote())
            except ray.exceptions.RayError:
                return  # the cluster is gone, and says so itself
            if "step" in state:
                progress.total = state["steps"]
                progress.update(state["step"], f"loss {state['loss']:.3f}" if "loss" in state else "")

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield board
    finally:
        over.set()
        thread.join(timeout=2)
        ray.kill(board)

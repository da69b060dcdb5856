"""The student stage: label store -> student, with Ray Train's `TorchTrainer` and Hugging Face's `Trainer` in its workers."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
import ray.train
import torch
import torch.distributed as dist
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask
from ray.train import Checkpoint, CheckpointConfig, DataConfig, Result, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from transformers import TrainerCallback, set_seed
from transformers.trainer_utils import get_last_checkpoint

from raydistill.label_store import LabelStore
from raydistill.pretrained import load_tokenizer, longest_input, skeleton
from raydistill.progress import Progress
from raydistill.resources import Plan
from raydistill.run_dir import CHECKPOINTS
from raydistill.stages.cluster import data_settings, our_errors
from raydistill.student import Batch, DistillationTrainer, EpochStream, load_student, student_config
from raydistill.student_rows import StudentRows, pad_rows
from raydistill.training_arguments import training_arguments

MODEL, TRAINER = "model", "trainer"  # what a checkpoint holds: the finished student, or Trainer's own checkpoint
POLL_SECONDS = 0.5


@dataclasses.dataclass(frozen=True)
class StudentSpec:
    """All that a worker needs to train the student."""

    name_or_path: str
    class_names: tuple[str, ...]
    multi_label: bool
    temperature: float
    max_length: int | None
    use_fast_tokenizer: bool
    shuffle_buffer: int
    training: Mapping[str, Any]


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
    assert result.checkpoint is not None and result.metrics is not None
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


def train_worker(loop: dict[str, Any]) -> None:
    """One worker: load the student, train on this worker's share, evaluate, and hand the model over from rank 0."""
    spec: StudentSpec = loop["spec"]
    rows: StudentRows = loop["rows"]
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(loop["threads"])
    if world == 1:
        _leave_process_group()
    with tempfile.TemporaryDirectory() as folder, _downloaded(ray.train.get_checkpoint()) as checkpoint:
        if checkpoint and (checkpoint / MODEL).is_dir():
            return  # the student was finished and only the driver was lost
        arguments = training_arguments(spec.training, output_dir=folder, use_cpu=not loop["use_gpu"])
        arguments.save_total_limit = max(arguments.save_total_limit or 0, 1)  # this copy; Ray Train keeps the others
        set_seed(arguments.seed)
        model, tokenizer = load_student(
            spec.name_or_path,
            spec.class_names,
            multi_label=spec.multi_label,
            use_fast_tokenizer=spec.use_fast_tokenizer,
        )
        collate = partial(
            collate_rows,
            pad_id=tokenizer.pad_token_id,
            num_classes=rows.num_classes,
            left=tokenizer.padding_side == "left",
        )
        batch_size, share = arguments.per_device_train_batch_size, loop["texts"] // world

        def train_batches(epoch: int) -> Iterator[Batch]:
            return _batches(
                "train",
                collate,
                batch_size=batch_size,
                drop_last=arguments.dataloader_drop_last,
                local_shuffle_buffer_size=max(spec.shuffle_buffer, batch_size),
                local_shuffle_seed=arguments.seed + epoch * world + rank,
            )

        trainer = DistillationTrainer(
            model=model,
            args=arguments,
            processing_class=tokenizer,
            train_batches=EpochStream(
                train_batches,
                share // batch_size if arguments.dataloader_drop_last else math.ceil(share / batch_size),
                first_epoch=_epoch(checkpoint),
            ),
            eval_batches=lambda: _batches("evaluation", collate, batch_size=arguments.per_device_eval_batch_size),
            class_names=spec.class_names,
            multi_label=spec.multi_label,
            callbacks=[ReportCheckpoints(rank), *([TellBoard(loop["board"])] if rank == 0 else [])],
        )
        if arguments.do_train:
            trainer.train(resume_from_checkpoint=str(checkpoint / TRAINER) if checkpoint else None)
            if arguments.load_best_model_at_end and world > 1:
                for tensor in model.state_dict().values():  # only rank 0 has the best checkpoint on its disk
                    dist.broadcast(tensor, src=0)
        metrics = trainer.evaluate() if arguments.do_eval else {}
        figures = {name.removeprefix("eval_"): value for name, value in metrics.items()}
        finished = Path(folder, "finished")
        if rank == 0:
            model.save_pretrained(finished / MODEL)
            tokenizer.save_pretrained(finished / MODEL)
        ray.train.report(
            {"figures": figures, "updates": trainer.state.global_step, "epoch": 0},
            checkpoint=Checkpoint.from_directory(finished) if rank == 0 else None,
        )


def _leave_process_group() -> None:
    """Let Trainer see a single process: alone, DistributedDataParallel would only copy gradients to and fro."""
    if dist.is_initialized():
        dist.destroy_process_group()
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)


def collate_rows(table: pa.Table, pad_id: int, num_classes: int, left: bool) -> Batch:
    """A batch of rows as padded tensors."""
    return {name: torch.from_numpy(array) for name, array in pad_rows(table, pad_id, num_classes, left=left).items()}


def _batches(shard: str, collate: Callable[[pa.Table], Batch], **iteration: Any) -> Iterator[Batch]:
    for table in ray.train.get_dataset_shard(shard).iter_batches(batch_format="pyarrow", **iteration):
        yield collate(table)


@contextlib.contextmanager
def _downloaded(checkpoint: Checkpoint | None) -> Iterator[Path | None]:
    if checkpoint is None:
        yield None
        return
    with checkpoint.as_directory() as folder:
        yield Path(folder)


def _epoch(checkpoint: Path | None) -> int:
    """The epoch that a Trainer's checkpoint stands in."""
    if checkpoint is None:
        return 0
    return int(json.loads((checkpoint / TRAINER / "trainer_state.json").read_text())["epoch"])


class ReportCheckpoints(TrainerCallback):
    """Hands Trainer's checkpoints to Ray Train's storage. Every worker reports, rank 0 alone sends files."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        metrics = {"epoch": int(state.epoch), "updates": state.global_step}
        if self.rank:
            ray.train.report(metrics, checkpoint=None)
            return
        with tempfile.TemporaryDirectory(dir=args.output_dir) as folder:
            # Links: Trainer may want its own copy back at the end, to load the best one.
            shutil.copytree(get_last_checkpoint(args.output_dir), Path(folder, TRAINER), copy_function=os.link)
            ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))


@ray.remote(num_cpus=0)
class Board:
    """Where the first worker writes how far it is and the driver reads it."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}

    def write(self, **state: Any) -> None:
        """Add to the state."""
        self.state |= state

    def read(self) -> dict[str, Any]:
        """The state."""
        return self.state


class TellBoard(TrainerCallback):
    """Writes steps and loss to the board, twice a second at most."""

    def __init__(self, board: Any) -> None:
        self.board, self._told = board, 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if time.monotonic() - self._told >= POLL_SECONDS or state.global_step == state.max_steps:
            self._told = time.monotonic()
            self.board.write.remote(step=state.global_step, steps=state.max_steps)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if logs and "loss" in logs:
            self.board.write.remote(loss=float(logs["loss"]))


@contextlib.contextmanager
def _board(progress: Progress) -> Iterator[Any]:
    """A board, and a thread that shows on the console what is written there."""
    board = Board.remote()
    over = threading.Event()

    def follow() -> None:
        while not over.wait(POLL_SECONDS):
            try:
                state = ray.get(board.read.remote())
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

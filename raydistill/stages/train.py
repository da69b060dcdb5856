"""The student stage: label store -> student, by Ray Train's `TorchTrainer`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import ray
import ray.train
from ray.train import CheckpointConfig, RunConfig
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2.api.config import ScalingConfig

from raydistill.files import Folder
from raydistill.kept_rows import KeptRows
from raydistill.label_store import LabelStore
from raydistill.progress import Progress
from raydistill.resources import Plan
from raydistill.run_dir import CHECKPOINTS, MODEL, RESULT, ROWS
from raydistill.specs import Tolerance
from raydistill.stages.board import followed_board
from raydistill.stages.checks import Training
from raydistill.stages.data_context import data_settings
from raydistill.stages.faults import end_actor, our_errors
from raydistill.stages.private_ray import is_private_ray
from raydistill.stages.process_group import ProcessGroup
from raydistill.stages.train_policies import GoOnFromCheckpoint, KnowGroup, RoomForTasks, SameEnvironment
from raydistill.stages.train_task import EVALUATION_SHARD, TRAIN_SHARD, TrainTask
from raydistill.stages.training_data import EvenOrWhole, label_rows
from raydistill.stages.watchdog import watched
from raydistill.stopping import orderly_stop
from raydistill.stopwatch import Stopwatch

RESIZE_SECONDS = 30.0  # between looks at whether there is room for more workers


class _Trainer(TorchTrainer):
    """With policies of our own. Leaves Ctrl-C to us: Ray's handler ends the process, and stays in place."""

    controller: Any = None
    policies: dict[str, Any]

    def _initialize_and_run_controller(self, **controller: Any) -> Any:
        controller |= self.policies
        if not is_private_ray():
            return super()._initialize_and_run_controller(**controller)  # type: ignore[misc]
        # As Ray's own does, but for an environment of its own: see `SameEnvironment`.
        self.controller = ray.remote(num_cpus=0)(TrainController).remote(**controller)
        ray.get(self.controller.run.remote())
        return ray.get(self.controller.get_result.remote())

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()  # type: ignore[misc]
        if is_private_ray():  # a process that cleans up after a dead controller has nothing to clean there
            callbacks = [callback for callback in callbacks if not isinstance(callback, PlacementGroupCleanerCallback)]
            callbacks.insert(0, SameEnvironment())
        return [KnowGroup(), *callbacks]  # first: others may fail while a group starts

    def _register_sigint_handler(self, controller: Any) -> None:
        self.controller = controller


@dataclasses.dataclass(frozen=True)
class TrainedStudent:
    """What training leaves: model and tokenizer, the evaluation's figures, and the number of updates.

    padding: the share of it in the tokens that the first worker was trained on, since it was last started.
    seconds: of the first worker, for each part of its work: loading, data (waiting for it), steps (forward, backward,
    optimizer), between (Trainer's own), evaluation, checkpoints.
    """

    model: Folder
    figures: dict[str, float]
    updates: int
    padding: float
    seconds: dict[str, float]


def train_student(
    training: Training,
    store: LabelStore,
    texts: int,
    plan: Plan,
    storage: Folder,
    progress: Progress,
    *,
    begun_with: int,
    tolerance: Tolerance,
) -> TrainedStudent:
    """Train on all texts of a label store; goes on from the last checkpoint in `storage`/checkpoints, if there is one.

    A stop lets the workers keep a checkpoint first.

    Args:
        texts: how many there are, each as often as it stands in the corpus.
        storage: where Ray Train keeps checkpoints: a folder that every node can use.
        begun_with: the number of workers that the training was planned for: its updates stay as large with another.

    Raises:
        ModelError.
        FaultError: the stage stood still, or its workers failed, beyond what is borne.
        KeyboardInterrupt: a signal asked for the end.
    """
    with (
        our_errors(),
        data_settings(),
        orderly_stop(progress.console.say, tolerance.grace_seconds) as stop,
        watched(progress, stop, stall_seconds=tolerance.stall_seconds),
        followed_board(progress, stop) as board,
    ):
        task = TrainTask(
            spec=training.student,
            texts=texts,
            rows=training.rows,
            board=board,
            storage=storage,
            begun_with=begun_with,
            checkpoint_seconds=tolerance.checkpoint_seconds,
            evaluates_midway=training.evaluates_midway,
            threads=plan.train_threads,
            use_gpu=plan.train_gpus > 0,
        )
        trainer = _make_trainer(task, training, store, plan, tolerance.max_failures)
        try:
            result = trainer.fit()
        except BaseException:
            if trainer.controller is not None:  # a verdict on the stage reaches this process alone
                with contextlib.suppress(Exception):  # the cluster may be gone
                    end_actor(trainer.controller)
            raise
        stop.conclude()
    assert result.checkpoint is not None
    finished = storage.child(CHECKPOINTS).child(PurePosixPath(result.checkpoint.path).name)
    came_of_it = json.loads(finished.read(RESULT))
    return TrainedStudent(
        finished.child(MODEL),
        came_of_it["figures"],
        came_of_it["updates"],
        came_of_it.get("padding", 0.0),  # which an earlier version has not counted
        came_of_it["seconds"],
    )


def _make_trainer(task: TrainTask, training: Training, store: LabelStore, plan: Plan, max_failures: int) -> _Trainer:
    storage = task.storage
    if training.many_passes:
        rows = KeptRows.in_folder(storage.child(CHECKPOINTS).child(ROWS), store, task.rows)
    else:
        rows = KeptRows(store, task.rows)
    shards: dict[str, Any] = {
        TRAIN_SHARD: partial(label_rows, rows, max_failures=max_failures, seed=training.seed, storage=storage)
    }
    if task.evaluation_shard(plan.train_workers) == EVALUATION_SHARD:
        shards[EVALUATION_SHARD] = partial(label_rows, rows, max_failures=max_failures)
    keep = max(training.checkpoints, 1) + 2  # the newest, or as many as asked for, and the student, twice
    scaling = ScalingConfig(
        num_workers=(plan.train_workers_min, plan.train_workers) if plan.elastic else plan.train_workers,
        elastic_resize_monitor_interval_s=RESIZE_SECONDS,
        use_gpu=task.use_gpu,
        resources_per_worker={"CPU": plan.train_cpus, "GPU": plan.train_gpus},
    )

    def work(loop: dict[str, Any]) -> None:  # within: it travels by value, and needs not this module, nor torch
        watch, task = Stopwatch("loading"), loop["task"]
        for name in dict.fromkeys((TRAIN_SHARD, task.evaluation_shard(ray.train.get_context().get_world_size()))):
            ray.train.get_dataset_shard(name)  # so that its actor starts while this process imports torch
        from raydistill.quick_imports import quick_imports

        with quick_imports():
            from raydistill.stages.train_worker import train_worker

        train_worker(task, watch)

    trainer = _Trainer(
        work,
        train_loop_config={"task": task},
        scaling_config=scaling,
        torch_config=ProcessGroup("nccl" if task.use_gpu else "gloo"),  # type: ignore[arg-type]
        datasets=shards,
        dataset_config=EvenOrWhole(),
        run_config=RunConfig(
            name=CHECKPOINTS,
            storage_path=storage.root,
            storage_filesystem=storage.filesystem,
            checkpoint_config=CheckpointConfig(num_to_keep=keep),
        ),
    )
    trainer.policies = {"failure_policy": GoOnFromCheckpoint(max_failures, storage)}
    if plan.elastic:
        trainer.policies["scaling_policy"] = RoomForTasks(scaling, plan.train_cpus, plan.train_gpus, storage)
    return trainer

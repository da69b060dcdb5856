"""What a train worker does: Hugging Face's `Trainer` on its share of the rows; Ray gets checkpoints and progress."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from ray.train import Checkpoint
from transformers import TrainerCallback, TrainingArguments, set_seed
from transformers.integrations import TensorBoardCallback

from raydistill.batch_parts import PART_TOKENS, compute_in_parts
from raydistill.errors import RunDirError, counted, first_line
from raydistill.last_layer import narrow_last_layer
from raydistill.onednn import use_faster_products
from raydistill.run_dir import MODEL, RESULT
from raydistill.scratch import scratch_folder
from raydistill.seals import seal
from raydistill.specs import ModelSpec
from raydistill.stages.checkpoints import downloaded, epoch_of, read_result, remove_unlisted, with_best
from raydistill.stages.train_batches import WorkerBatches
from raydistill.stages.train_callbacks import (
    KeepEvents,
    KeepPace,
    KeepTime,
    ReportCheckpoints,
    SeedUpdates,
    TellBoard,
)
from raydistill.stages.train_task import TrainTask
from raydistill.stopwatch import Stopwatch
from raydistill.student import Batch, DistillationTrainer, EpochStream, expect_finite, load_student
from raydistill.training_arguments import (
    count_updates,
    needs_whole_batches,
    share_update,
    training_arguments,
)

TORCH_CANNOT_WRITE = ("iostream error", "unexpected pos", "PytorchStreamWriter")


def train_worker(task: TrainTask, watch: Stopwatch) -> None:
    """One worker: load the student, train on this worker's share, evaluate, and hand the model over from rank 0.

    Args:
        watch: counts to loading since the worker began, and goes on so until the first update.
    """
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(task.threads)
    if task.use_gpu:
        torch.cuda.set_device(ray.train.torch.get_device())
    if rank == 0:
        remove_unlisted(task.storage)
    with scratch_folder() as folder, downloaded(ray.train.get_checkpoint()) as checkpoint:
        trained = read_result(checkpoint) if checkpoint and (checkpoint / MODEL).is_dir() else None
        if trained and "figures" in trained:
            return  # the student was finished and only the driver was lost
        arguments = _arguments(task, folder, rank, world)
        set_seed(arguments.seed)
        if task.spec.logging_dir:
            os.environ["TENSORBOARD_LOGGING_DIR"] = task.spec.logging_dir  # Trainer's own would go with `folder`
        student: ModelSpec = task.spec
        if checkpoint and trained:
            student = dataclasses.replace(task.spec, name_or_path=str(checkpoint / MODEL), revision=None)
        told = TellBoard(task.board, task.texts)
        pace = KeepPace(task.checkpoint_seconds, lambda: rank == 0 and told.stop_wanted, alone=world == 1)
        callbacks: list[TrainerCallback] = [pace, SeedUpdates(rank), ReportCheckpoints(rank), KeepTime(watch)]
        first_epoch = 0 if trained else epoch_of(checkpoint)
        trainer = _make_trainer(task, student, arguments, first_epoch, rank, world, watch, told, callbacks)
        if trainer.pop_callback(TensorBoardCallback):
            trainer.add_callback(KeepEvents())
        model: Any = trainer.model
        if arguments.do_train and not trained:
            with _full_disk_told(folder):
                trainer.train(resume_from_checkpoint=str(with_best(checkpoint, Path(folder))) if checkpoint else None)
            if pace.stopped:
                return
            if arguments.load_best_model_at_end and world > 1:
                for tensor in model.state_dict().values():  # only rank 0 has the best checkpoint on its disk
                    dist.broadcast(tensor, src=0)
        expect_finite(model)
        result = trained or {"updates": trainer.state.global_step, "padding": told.padding}
        finished = Path(folder, "finished")
        watch.turn("checkpoints")
        if rank == 0:
            model.save_pretrained(finished / MODEL)
            trainer.processing_class.save_pretrained(finished / MODEL)  # type: ignore[union-attr]
        figures = {}
        if arguments.do_eval:
            _hand_over(finished, rank, result)  # before an evaluation that may run out of memory
            watch.turn("evaluation")
            figures = {name.removeprefix("eval_"): value for name, value in trainer.evaluate().items()}
        events: Any = trainer.pop_callback(KeepEvents)
        if events:
            events.close()
        _hand_over(finished, rank, result | {"figures": figures, "seconds": watch.read()})


def _arguments(task: TrainTask, folder: str, rank: int, world: int) -> TrainingArguments:
    given = task.spec.training
    if world == 1:  # no process group, which transformers would ask
        given = {name: value for name, value in given.items() if name != "ddp_backend"}
    if not task.use_gpu:
        given = {name: value for name, value in given.items() if name != "tf32"}
    arguments = training_arguments(given, output_dir=folder, use_cpu=not task.use_gpu)
    arguments.save_total_limit = max(arguments.save_total_limit or 0, 1)  # this copy; Ray Train keeps the others
    if world != task.begun_with:
        said = _share_updates(arguments, task.texts, task.begun_with, world)
        if rank == 0:
            task.board.tell(said=said)
    return arguments


def _make_trainer(
    task: TrainTask,
    student: ModelSpec,
    arguments: TrainingArguments,
    first_epoch: int,
    rank: int,
    world: int,
    watch: Stopwatch,
    told: TellBoard,
    callbacks: list[TrainerCallback],
) -> DistillationTrainer:
    """The student, in the form that computes no more of its last layer than is read, and what it is fed with."""
    spec = task.spec
    model, tokenizer = load_student(student, spec.class_names, multi_label=spec.multi_label)
    tokenizer.model_max_length = task.rows.max_length  # so that whoever uses the student cuts texts as it was taught
    narrow_last_layer(model.eval())
    if not (task.use_gpu or arguments.torch_compile):
        use_faster_products(model)
    part_tokens = PART_TOKENS["cuda" if task.use_gpu else "cpu"]
    whole = tokenizer.padding_side == "left" or needs_whole_batches(arguments, world)
    in_parts = not whole and compute_in_parts(model, part_tokens)
    batches = WorkerBatches(task, arguments, tokenizer, rank, world)

    def train_batches(epoch: int) -> Iterator[Batch]:
        counted_batches = told.counted(batches.of_epoch(epoch), part_tokens if in_parts else None)
        if epoch == first_epoch:
            yield next(counted_batches)  # counts to loading
        yield from watch.over(counted_batches, "data")

    def eval_batches() -> Iterator[Batch]:
        return told.over(batches.of_evaluation()) if rank == 0 else batches.of_evaluation()

    return DistillationTrainer(
        model=model,
        args=arguments,
        processing_class=tokenizer,
        train_batches=EpochStream(train_batches, len(batches), first_epoch),
        eval_batches=eval_batches,
        texts=task.texts,
        class_names=spec.class_names,
        multi_label=spec.multi_label,
        callbacks=[told, *callbacks] if rank == 0 else callbacks,
    )


def _share_updates(arguments: TrainingArguments, texts: int, planned: int, workers: int) -> str:
    """Make as many updates, as large, as the workers planned would have made; say so."""
    updates = count_updates(arguments, texts, planned)
    batch, steps = arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps
    shared = share_update(batch, steps, planned, workers)
    arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps = shared
    arguments.max_steps = updates
    size, meant = workers * shared[0] * shared[1], planned * batch * steps
    texts_seen = f"{size} texts, as before" if size == meant else f"{size} texts instead of {meant}"
    return f"{counted(workers, 'train worker')} now, {planned} at the beginning: an update sees {texts_seen}"


def _hand_over(finished: Path, rank: int, result: dict[str, Any]) -> None:
    """Report the student with its result. Every worker reports, rank 0 alone sends files."""
    reported = {"epoch": 0}
    if rank == 0:
        (finished / RESULT).write_text(json.dumps(result))
        seal(finished, reported)
    ray.train.report(reported, checkpoint=Checkpoint.from_directory(finished) if rank == 0 else None)


@contextlib.contextmanager
def _full_disk_told(folder: str) -> Iterator[None]:
    """Say where, and how much is free, when torch cannot write: it says neither."""
    try:
        yield
    except RuntimeError as error:
        if not any(said in str(error) for said in TORCH_CANNOT_WRITE):
            raise
        free = shutil.disk_usage(folder).free / 1e6
        raise RunDirError(
            f"{folder}: a checkpoint cannot be written ({first_line(error)}; {free:,.1f} MB are free there). Free some "
            "space, and the same command goes on."
        ) from error

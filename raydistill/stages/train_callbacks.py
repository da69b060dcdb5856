"""What a train worker does at Trainer's own events: keep time, report checkpoints, tell the board."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
import torch
import torch.distributed as dist
from ray.train import Checkpoint
from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback
from transformers.trainer_utils import get_last_checkpoint

from raydistill.pairs import padded_tokens
from raydistill.run_dir import BEST, TRAINER
from raydistill.seals import seal
from raydistill.stages.board import POLL_SECONDS, Board
from raydistill.stages.checkpoints import link
from raydistill.stopwatch import Stopwatch
from raydistill.student import Batch, expect_finite

AGREE_SECONDS, MOST_UPDATES = 1.0, 64  # between times that workers ask the first one what it wants


class KeepTime(TrainerCallback):
    """Turns the watch to what Trainer is at: steps (forward, backward, optimizer), evaluation, checkpoints, between."""

    def __init__(self, watch: Stopwatch) -> None:
        self.watch = watch

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.watch.turn("steps")

    def _turn_to_what_is_next(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.watch.turn(
            "evaluation" if control.should_evaluate else "checkpoints" if control.should_save else "between"
        )

    on_step_end = on_epoch_end = on_evaluate = on_save = _turn_to_what_is_next


class KeepEvents(TensorBoardCallback):
    """TensorBoard's events of a training and of the evaluation after it, in one file.

    Trainer would open a second file for the evaluation, and never close it. File names have a resolution of a second,
    so after a short training it would overwrite the first.
    """

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Nothing: see `close`."""

    def close(self) -> None:
        """See that they are on disk."""
        if self.tb_writer:
            self.tb_writer.close()


class ReportCheckpoints(TrainerCallback):
    """Hands Trainer's checkpoints to Ray Train's storage. Every worker reports, rank 0 alone sends files."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        expect_finite(more["model"])  # nothing will come of it any more
        metrics = {"epoch": int(state.epoch), "updates": state.global_step}
        if self.rank:
            ray.train.report(metrics, checkpoint=None)
            return
        with tempfile.TemporaryDirectory(dir=args.output_dir) as folder:
            # Links: Trainer may want its own copy back at the end, to load the best one.
            last, best = get_last_checkpoint(args.output_dir), state.best_model_checkpoint
            shutil.copytree(last, Path(folder, TRAINER), copy_function=link)
            if best and args.load_best_model_at_end and best != last:
                shutil.copytree(best, Path(folder, BEST), copy_function=link)
            seal(Path(folder), metrics)
            ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))


class KeepPace(TrainerCallback):
    """Has Trainer keep a checkpoint every so many seconds, and, where the driver wants to stop, a last one and end.

    All workers must do so at the same update, so the first one decides for all.

    Args:
        wants_stop: whether to stop, asked of the first worker.
        alone: there is no other worker.
    """

    def __init__(self, seconds: float, wants_stop: Callable[[], bool], *, alone: bool) -> None:
        self._seconds, self._wants_stop, self._alone = seconds, wants_stop, alone
        self._saved_at, self.stopped = time.monotonic(), False
        self._agreed_at, self._updates, self._every = time.monotonic(), 0, 1  # updates since then, and when to again

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._updates += 1
        if state.global_step == state.max_steps or (not self._alone and self._updates < self._every):
            return
        now = time.monotonic()
        pace = self._updates / max(now - self._agreed_at, 1e-6)
        every = min(max(round(pace * AGREE_SECONDS), 1), MOST_UPDATES)
        wishes = torch.tensor([now - self._saved_at >= self._seconds, self._wants_stop(), every], dtype=torch.int32)
        if not self._alone:
            wishes = wishes.to(args.device)
            dist.broadcast(wishes, src=0)
        save, stop, self._every = wishes.tolist()
        self._agreed_at, self._updates = now, 0
        control.should_save = control.should_save or bool(save or stop)
        control.should_training_stop = control.should_training_stop or bool(stop)
        self.stopped = self.stopped or bool(stop)
        if self.stopped and not args.metric_for_best_model:
            control.should_evaluate = False  # which may take longer than is left, and nothing depends on it

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # Trainer takes an epoch for ended where it is only left.
        if self.stopped and (state.epoch % 1 or not args.metric_for_best_model):
            control.should_evaluate = control.should_save = False  # what is there has been kept

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._saved_at = time.monotonic()


class SeedUpdates(TrainerCallback):
    """Makes dropout a function of seed, update and worker: what goes on from a checkpoint drops what it would have.

    Trainer keeps the first worker's random state alone.
    """

    def __init__(self, rank: int) -> None:
        self._rank = rank

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        torch.manual_seed(np.random.SeedSequence([args.seed, state.global_step, self._rank]).generate_state(1)[0])


class TellBoard(TrainerCallback):
    """Writes how far training is to the board, twice a second at most, and takes from it whether to stop.

    Args:
        texts: how many there are in an epoch, of all workers.
    """

    def __init__(self, board: Board, texts: int) -> None:
        self.board, self.stop_wanted = board, False
        self._all_texts, self._texts, self._tokens, self._padded_tokens = texts, 0, 0, 0  # the latter of this worker
        self._told, self._loss, self._evaluated = 0.0, dict[str, float](), 0

    @property
    def padding(self) -> float:
        """The share of padding in what this worker was trained on so far."""
        return 1 - self._tokens / self._padded_tokens if self._padded_tokens else 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if time.monotonic() - self._told >= POLL_SECONDS or state.global_step == state.max_steps:
            self._told = time.monotonic()
            texts = round(state.epoch * self._all_texts)
            tokens = round(texts * self._tokens / max(self._texts, 1))
            done = {"texts": texts, "tokens": tokens, "padding": self.padding}
            self.board.tell(step=state.global_step, steps=state.max_steps, **done, **self._loss)
            self.stop_wanted = self.board.stop_asked()

    def counted(self, batches: Iterable[Batch], part_tokens: int | None = None) -> Iterator[Batch]:
        """The same batches, of the training; their tokens are counted.

        Args:
            part_tokens: the budget of the parts that they are computed in; None where they are computed whole.
        """
        for batch in batches:
            mask = batch["attention_mask"]
            lengths = mask.sum(1).numpy()
            self._texts += len(lengths)
            self._tokens += int(lengths.sum())
            self._padded_tokens += padded_tokens(lengths, part_tokens) if part_tokens else mask.numel()
            yield batch

    def over(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The same batches; the board is told now and then that an evaluation gets on with them."""
        for batch in batches:
            yield batch
            self._evaluated += 1
            if time.monotonic() - self._told >= POLL_SECONDS:
                self._told = time.monotonic()
                self.board.tell(evaluated=self._evaluated)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if args.do_eval and not self.stop_wanted:
            self.board.tell(note="evaluating")

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if logs and "loss" in logs:
            self._loss = {"loss": float(logs["loss"])}

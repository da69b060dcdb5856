"""What a train worker's Trainer is fed with: batches of the worker's share of the rows, as Ray Data streams them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray.train
import torch
from transformers import TrainingArguments

from raydistill.stages.train_task import TRAIN_SHARD, TrainTask
from raydistill.student import Batch
from raydistill.student_rows import pad_rows
from raydistill.training_arguments import data_seed, epoch_batches

GROUPED_BATCHES = 50  # that are made together, to be of like length


class WorkerBatches:
    """One worker's batches of token ids and soft labels.

    Args:
        arguments: tell how large they are, in what order they come, and whether the last one is left out.
        tokenizer: tells what they are padded with, and on which side.
    """

    def __init__(self, task: TrainTask, arguments: TrainingArguments, tokenizer: Any, rank: int, world: int) -> None:
        self._task, self._arguments, self._rank, self._world = task, arguments, rank, world
        self._batch_size = arguments.per_device_train_batch_size
        self._collate = partial(
            collate_rows,
            pad_id=tokenizer.pad_token_id,
            num_classes=task.rows.num_classes,
            left=tokenizer.padding_side == "left",
        )

    def __len__(self) -> int:
        """How many there are in an epoch."""
        return epoch_batches(self._arguments, self._task.texts, self._world)

    def of_epoch(self, epoch: int) -> Iterator[Batch]:
        """Those of one pass of the training, in an order that seed, epoch and worker tell."""
        seed = data_seed(self._arguments)
        window = 1
        if self._arguments.train_sampling_strategy == "group_by_length":  # of as many as Trainer's own sampler
            share = self._task.texts // self._world
            window = max(1, min(GROUPED_BATCHES, share // (4 * self._batch_size)))
        return shard_batches(
            TRAIN_SHARD,
            self._collate,
            self._batch_size,
            window=window,
            # Drawn alike on all workers, so that batches by length are of like length on all, and none waits.
            mixed=np.random.default_rng([seed, epoch]),
            drop_last=self._arguments.dataloader_drop_last,
            local_shuffle_buffer_size=max(self._task.spec.shuffle_buffer, window * self._batch_size),
            local_shuffle_seed=int(np.random.SeedSequence([seed, epoch, self._rank]).generate_state(1)[0]),
        )

    def of_evaluation(self) -> Iterator[Batch]:
        """Those of this worker's share of all texts, once."""
        shard, batch_size = self._task.evaluation_shard(self._world), self._arguments.per_device_eval_batch_size
        return shard_batches(shard, self._collate, batch_size, window=GROUPED_BATCHES)


def shard_batches(
    shard: str,
    collate: Callable[[pa.Table], Batch],
    batch_size: int,
    *,
    window: int = 1,
    mixed: np.random.Generator | None = None,
    drop_last: bool = False,
    **iteration: Any,
) -> Iterator[Batch]:
    """Batches of a shard: within every `window` of them of like length, and then in a mixed order if asked for.

    Args:
        iteration: how Ray Data goes over the rows.
    """
    rows = ray.train.get_dataset_shard(shard)
    for table in rows.iter_batches(batch_format="pyarrow", batch_size=window * batch_size, **iteration):
        if window > 1:
            table = table.take(pc.sort_indices(pc.list_value_length(table["input_ids"])))
        starts = np.arange(0, table.num_rows, batch_size)
        for at in mixed.permutation(starts) if mixed is not None else starts:
            batch = table.slice(at, batch_size)
            if batch.num_rows == batch_size or not drop_last:
                yield collate(batch)


def collate_rows(table: pa.Table, pad_id: int, num_classes: int, left: bool) -> Batch:
    """A batch of rows as padded tensors: what `pad_rows` makes of them."""
    return {name: torch.from_numpy(array) for name, array in pad_rows(table, pad_id, num_classes, left=left).items()}

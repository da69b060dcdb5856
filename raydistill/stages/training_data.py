"""The label store as Ray Data streams it to train workers.

Runs in Ray Train's controller and data actors and in data tasks, so it imports neither torch nor transformers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask
from ray.train import DataConfig

from raydistill.files import Folder
from raydistill.kept_rows import KeptRows
from raydistill.label_store import LabelStore, RowGroup
from raydistill.resources import TASK_CPUS
from raydistill.stages.checkpoints import last_report
from raydistill.stages.data_context import data_settings
from raydistill.stages.train_task import TRAIN_SHARD

# Ray Data would gather row groups to 128 MB. What a task takes in memory beside its process grows with both.
BLOCK_BYTES, TASK_BYTES = 2 << 20, 4 << 20
STEP_SECONDS = 0.02


def label_rows(
    rows: KeptRows, *, max_failures: int, seed: int | None = None, storage: Folder | None = None
) -> ray.data.Dataset:
    """The label store as a stream of the student's rows; with a seed, their order is drawn anew each epoch.

    Row groups are drawn from all over the store, and the rows of a task are mixed: of a small store, which is one task,
    each worker gets a piece, which would be the beginning of the corpus else, or its end. The draw depends on seed and
    epoch alone: training that goes on from a checkpoint in `storage` sees what it would have seen undisturbed.

    Args:
        max_failures: how often a task whose process dies is tried again; then the train workers fail.
    """
    task: dict[str, Any] = {"num_cpus": TASK_CPUS, "max_retries": max_failures}
    with data_settings(target_max_block_size=BLOCK_BYTES, custom_execution_callback_classes=[Unhurried]):
        source = LabelSource(rows.store, seed, last_report(storage).get("epoch", 0) if storage else 0)
        groups = ray.data.read_datasource(source, ray_remote_args=task, override_num_blocks=source.num_tasks)
        return groups.map_batches(rows, batch_size=None, batch_format="pyarrow", zero_copy_batch=True, **task)


class LabelSource(Datasource):
    """The row groups of a label store, by name, in an order drawn from seed and epoch.

    `ray.data.read_parquet` would do, but it lists files in a task that takes a whole CPU, whatever `num_cpus` says, and
    waits for ever where the train worker has left less.
    """

    def __init__(self, store: LabelStore, seed: int | None, first_epoch: int) -> None:
        super().__init__()
        self._seed, self._first_epoch, self._groups = seed, first_epoch, store.row_groups()
        size = sum(group.size for group in self._groups)
        self.num_tasks = min(len(self._groups), math.ceil(size / TASK_BYTES))

    def estimate_inmemory_data_size(self) -> int | None:
        return sum(group.size for group in self._groups)

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        order, draw = np.arange(len(self._groups)), [0]
        if self._seed is not None:
            # Ray Data counts the executions of a dataset: each is an epoch, until training is over.
            draw = [self._seed, self._first_epoch + (data_context._execution_idx if data_context else 0)]
            np.random.default_rng(draw).shuffle(order)
        shares = [[self._groups[at] for at in share] for share in np.array_split(order, self.num_tasks)]
        # From 1 on, for numpy draws with a 0 at the end as without it.
        return [ReadTask(partial(_named, share, [*draw, number]), unknown) for number, share in enumerate(shares, 1)]


class Unhurried(ExecutionCallback):
    """Has Ray Data look around fifty times a second at most.

    Its loop blocks on running tasks. While there are none, or all are held back because the trainer has enough, it
    spins and takes a core, for most of an epoch.
    """

    def __init__(self) -> None:
        self._before = 0.0

    def on_execution_step(self, executor: Any) -> None:
        """Pause, if the last one was just now."""
        time.sleep(max(0.0, self._before + STEP_SECONDS - time.monotonic()))
        self._before = time.monotonic()


def _named(groups: Sequence[RowGroup], draw: Sequence[int]) -> list[pa.Table]:
    """What `KeptRows` is to read in one task, and what the order of its rows is to be drawn from."""
    return [pa.Table.from_pylist([group._asdict() | {"draw": draw} for group in groups])]


class EvenOrWhole(DataConfig):
    """Training rows are dealt out evenly, so that no worker waits for another; evaluation leaves no row out."""

    def configure(
        self, datasets: dict[str, Any], world_size: int, worker_handles: Any, worker_node_ids: Any, **_: Any
    ) -> Any:
        # Starts the process that the first rows will be read in: it takes as long as train workers take to load torch.
        ray.remote(num_cpus=TASK_CPUS)(_begin).remote()
        shares: list[dict[str, Any]] = [{} for _ in range(world_size)]
        for name, dataset in datasets.items():
            dataset.context.execution_options.preserve_order = True  # the same seed gives the same student
            splits = dataset.streaming_split(world_size, equal=name == TRAIN_SHARD, locality_hints=worker_node_ids)
            for share, split in zip(shares, splits, strict=True):
                share[name] = split
        return shares


def _begin() -> None:
    """Do nothing, in a process that has loaded this module by then."""

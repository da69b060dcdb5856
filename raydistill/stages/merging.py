"""Small label parts become large ones while labels are made: a store of a billion texts is no million small files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import ray

from raydistill.label_store import LabelStore
from raydistill.resources import TASK_CPUS

CLOSE_SECONDS = 30.0
# Of a slow teacher a block is some texts, or one: so many parts are merged, however little they hold. What has become a
# tenth of a file then waits for the rest of it: else all would be written again and again.
MOST_TINY, TINY = 1000, 0.1
logger = logging.getLogger(__name__)


class Merger:
    """Merges parts in tasks of its own, as soon as there are enough for a file of the size wanted, or very many.

    A merge that fails leaves its parts as they were. Close it, so that none goes on behind.

    Args:
        target_bytes: of a merged file; parts of half of it are large enough.
        moved: called whenever a task is done with.

    Attributes:
        parts: the parts that stand for all that were added.
    """

    def __init__(self, store: LabelStore, target_bytes: int, moved: Callable[[], None] = lambda: None) -> None:
        self._store, self._target, self._moved = store, target_bytes, moved
        remote: Any = ray.remote(num_cpus=TASK_CPUS, max_retries=0)
        self._merge: Any = remote(merge_parts)
        # Asked for only once a merge has been heard of: a task that was taken for lost removes nothing.
        self._end: Any = remote(end_replacement)
        self.parts: set[str] = set()
        self._small: dict[str, int] = {}
        self._running: dict[Any, _Step] = {}

    def add(self, name: str, size: int) -> None:
        """Take a part in."""
        self._take(name, size)
        self._gather(timeout=0)

    def add_others(self, sizes: Mapping[str, int]) -> None:
        """Take in all of these parts that have not been."""
        for name, size in sizes.items():
            if name not in self.parts:
                self.add(name, size)

    def finish(self) -> None:
        """Wait for what is under way. What is too little for a file stays as it is."""
        while self._running:
            self._gather(timeout=None)
        for merged, sources in self._store.finish_replacements():  # of tasks that were lost
            self.parts = (self.parts - set(sources)) | {merged}

    def close(self) -> None:
        """Stop what is under way, and wait until it has stopped: nobody else may find it at work in the store.

        A task that its file system holds up, or that is on a node out of reach, may outlive this, and does no harm.
        """
        for ref in self._running:
            ray.cancel(ref, force=True)
        if self._running:
            ray.wait(list(self._running), num_returns=len(self._running), timeout=CLOSE_SECONDS)
        self._running.clear()

    def _take(self, name: str, size: int) -> None:
        self.parts.add(name)
        if size >= self._target // 2:
            return
        self._small[name] = size
        tiny = [name for name, its_size in self._small.items() if its_size < TINY * self._target]
        if sum(self._small.values()) >= self._target:
            self._begin(list(self._small))
        elif len(tiny) >= MOST_TINY:
            self._begin(tiny)

    def _begin(self, names: list[str]) -> None:
        for name in names:
            del self._small[name]
        self._running[self._merge.remote(self._store, names)] = _Step(names)

    def _gather(self, timeout: float | None) -> None:
        """Take in what has been merged."""
        if not self._running:
            return
        done, _ = ray.wait(list(self._running), num_returns=1, timeout=timeout)
        for ref in done:
            step = self._running.pop(ref)
            self._moved()
            try:
                answer = ray.get(ref)
            except Exception as error:
                logger.warning("a merge of %d label files failed (%s)", len(step.sources), error)
                if step.merged:  # what was removed is in the merged part; `finish` removes the rest
                    self.parts = (self.parts - set(step.sources)) | {step.merged[0]}
                continue
            if step.merged is None:
                end = self._end.remote(self._store, answer[0], step.sources)
                self._running[end] = _Step(step.sources, answer)
            else:
                self.parts -= set(step.sources)
                self._take(*step.merged)


def merge_parts(store: LabelStore, names: Sequence[str]) -> tuple[str, int]:
    """`LabelStore.merge_parts` as a task."""
    return store.merge_parts(names)


def end_replacement(store: LabelStore, name: str, sources: Sequence[str]) -> None:
    """`LabelStore.end_replacement` as a task."""
    store.end_replacement(name, sources)


class _Step(NamedTuple):
    """Of a merge: its sources are being put together or, once there is a name and a size, removed."""

    sources: list[str]
    merged: tuple[str, int] | None = None

"""Small label parts become large ones while labels are made: a store of a billion texts is no million small files."""

from __future__ import annotations

import contextlib
from typing import Any, cast

import ray

from raydistill.label_store import LabelStore


class Merger:
    """Merges parts in tasks of its own, as soon as there are enough for a file of the size wanted.

    Args:
        target_bytes: of a merged file; parts of half of it are large enough.
        task_cpus: what a task takes.

    Attributes:
        parts: the parts that stand for all that were added.
    """

    def __init__(self, store: LabelStore, target_bytes: int, task_cpus: float) -> None:
        self._store, self._target = store, target_bytes
        # A task that is lost leaves its merge half-done on disk, where trying again would not find its sources.
        remote: Any = ray.remote(num_cpus=task_cpus, max_retries=0)
        self._merge: Any = remote(cast(Any, LabelStore.merge_parts))
        self.parts: set[str] = set()
        self._small: dict[str, int] = {}
        self._running: dict[Any, list[str]] = {}

    def add(self, name: str, size: int) -> None:
        """Take a part in."""
        self.parts.add(name)
        if size < self._target // 2:
            self._small[name] = size
            if sum(self._small.values()) >= self._target:
                names = list(self._small)
                self._small.clear()
                self._running[self._merge.remote(self._store, names)] = names
        self._gather(wait=False)

    def finish(self) -> None:
        """Wait for what is under way. What is too little for a file stays as it is."""
        while self._running:
            self._gather(wait=True)
        for merged, sources in self._store.finish_replacements():  # of tasks that were lost
            self.parts = (self.parts - set(sources)) | {merged}

    def _gather(self, *, wait: bool) -> None:
        if not self._running:
            return
        done, _ = ray.wait(list(self._running), num_returns=1, timeout=None if wait else 0)
        for ref in done:
            names = self._running.pop(ref)
            with contextlib.suppress(ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError):
                merged, size = ray.get(ref)
                self.parts -= set(names)
                self.add(merged, size)

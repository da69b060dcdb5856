"""What a teacher actor does with the blocks of the corpus that come to it."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raydistill.errors import ModelError, RaydistillError
from raydistill.label_store import logits_column
from raydistill.specs import TeacherSpec
from raydistill.stages.ingest import pack, unpack


class TeacherActor:
    """A teacher in an actor: loads once, scores the new texts of block after block.

    May be called for two blocks at a time: one is then unpacked and tokenised while the model is at work on the other.
    What the user can mend is raised with the first block: from a constructor Ray passes on its text alone.
    """

    def __init__(self, spec: TeacherSpec) -> None:
        self.fault: RaydistillError | None = None
        try:
            self.teacher = self.load(spec)
        except RaydistillError as fault:
            self.fault = fault
        self._model_in_use = threading.Lock()
        self._free_since = time.perf_counter()

    def load(self, spec: TeacherSpec) -> Any:
        """Anything with `tokenize` and `score_tokenized` of `Teacher`."""
        from raydistill.teacher import Teacher  # here, so that the tasks of this module start without torch

        return Teacher.load(spec)

    def __call__(self, packed: pa.Table) -> pa.Table:
        """Adds columns entailment and contradiction (null where there was nothing to score) and what it took."""
        if self.fault:
            raise self.fault
        block, effort = unpack(packed)
        texts = block["text"].to_pylist()
        rows = [i for i, text in enumerate(texts) if text]
        started = time.perf_counter()
        tokenized = self.teacher.tokenize([texts[i] for i in rows])
        tokenizing = time.perf_counter() - started
        with self._model_in_use:
            idle = time.perf_counter() - self._free_since
            effort.tokenize_seconds = min(tokenizing, idle)  # what was done beside another block costs nothing
            effort.wait_seconds = idle - effort.tokenize_seconds
            try:
                entailment, contradiction = self.teacher.score_tokenized(tokenized, effort)
            except FloatingPointError as error:
                bad = block["text_id"][rows[error.args[1]]].as_py()
                raise ModelError(
                    f"the teacher gives logits that are not finite for the text with id {bad}. If it runs in fp16 or "
                    "bf16, try --teacher-precision fp32."
                ) from None
            self._free_since = time.perf_counter()
        where = _positions(rows, len(texts))
        block = block.append_column("entailment", logits_column(entailment).take(where))
        return pack(block.append_column("contradiction", logits_column(contradiction).take(where)), effort)


def _positions(rows: Sequence[int], length: int) -> pa.Array:
    """For each of `length` rows its place among `rows`, or null."""
    where: npt.NDArray[np.int64] = np.full(length, -1, dtype=np.int64)
    where[list(rows)] = np.arange(len(rows))
    return pa.array(where, mask=where < 0)

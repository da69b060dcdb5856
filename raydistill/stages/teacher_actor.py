"""What a teacher actor does with the blocks of the corpus that come to it."""

from __future__ import annotations

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

    What the user can mend is raised with the first block: from a constructor Ray passes on its text alone.
    """

    def __init__(self, spec: TeacherSpec) -> None:
        self.fault: RaydistillError | None = None
        try:
            self.teacher = self.load(spec)
        except RaydistillError as fault:
            self.fault = fault
        self._free_since = time.perf_counter()

    def load(self, spec: TeacherSpec) -> Any:
        """Anything with `Teacher.score`."""
        from raydistill.teacher import Teacher  # here, so that the tasks of this module start without torch

        return Teacher.load(spec)

    def __call__(self, packed: pa.Table) -> pa.Table:
        """Adds columns entailment and contradiction (null where there was nothing to score) and what it took."""
        if self.fault:
            raise self.fault
        block, effort = unpack(packed)
        effort.wait_seconds = time.perf_counter() - self._free_since
        texts = block["text"].to_pylist()
        rows = [i for i, text in enumerate(texts) if text]
        try:
            entailment, contradiction = self.teacher.score([texts[i] for i in rows], effort)
        except FloatingPointError as error:
            bad = block["text_id"][rows[error.args[1]]].as_py()
            raise ModelError(
                f"the teacher gives logits that are not finite for the text with id {bad}. If it runs in fp16 or bf16, "
                "try --teacher-precision fp32."
            ) from None
        where = _positions(rows, len(texts))
        block = block.append_column("entailment", logits_column(entailment).take(where))
        packed = pack(block.append_column("contradiction", logits_column(contradiction).take(where)), effort)
        self._free_since = time.perf_counter()
        return packed


def _positions(rows: Sequence[int], length: int) -> pa.Array:
    """For each of `length` rows its place among `rows`, or null."""
    where: npt.NDArray[np.int64] = np.full(length, -1, dtype=np.int64)
    where[list(rows)] = np.arange(len(rows))
    return pa.array(where, mask=where < 0)

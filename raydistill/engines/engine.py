"""What an engine is, and how its speed is measured."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from raydistill.errors import ModelError

Inputs = Mapping[str, npt.NDArray[np.int64]]
PendingLogits = Callable[[], npt.NDArray[np.float32]]
EXACT = "fp32"  # the number format that every other one is held against
# How far logits may lie from what they should be, as a share of the largest: machines and engines round otherwise, and
# a reduced precision more so. What is damaged, or another model, is off by its whole size.
TOLERANCE = {EXACT: 1e-3, "bf16": 0.2, "fp16": 0.2, "int8": 0.3}
LONG_SECONDS = 2.0  # of measuring
NO_MEMORY = re.compile(r"out of memory|can't allocate memory|ALLOC_FAILED", re.IGNORECASE)


class Engine(Protocol):
    """A sequence classifier ready to run.

    Attributes:
        backend: torch, torch-compile or openvino.
        precision: fp32, bf16, fp16 or int8.
        memory_error: what it raises where a batch is too large for the memory.
        ahead: how many batches may be started before the logits of the first are asked for.
        packs: it computes nothing for padding.
        fallback: why it is not the one that was to be; empty where it is.
    """

    backend: str
    precision: str
    memory_error: type[Exception]
    ahead: int
    packs: bool
    fallback: str

    def start(self, inputs: Inputs) -> PendingLogits:
        """Begin a batch; what comes back gives its logits once they are there."""

    def logits(self, inputs: Inputs) -> npt.NDArray[np.float32]:
        """(B, labels) float32, from arrays of (B, L) int64 under the model's own input names."""

    def recover(self) -> None:
        """Give back what a failed batch has left, before a smaller one is tried.

        Raises:
            DeviceLostError: none will succeed any more.
        """


def is_for_memory(engine: Engine, error: Exception) -> bool:
    """Whether a batch failed for want of memory, which CPUs and cuBLAS tell of in words alone."""
    told = isinstance(error, RuntimeError) and NO_MEMORY.search(str(error))
    return isinstance(error, engine.memory_error) or bool(told)


def share_off(found: npt.NDArray[np.float32], wanted: npt.NDArray[np.float32]) -> float:
    """The largest difference of logits, as a share of the largest, or of 1 if that is smaller.

    Raises:
        ValueError: they are not of one shape.
    """
    if found.shape != wanted.shape:
        raise ValueError(f"logits of shape {found.shape} where {wanted.shape} was to be expected")
    return float(np.abs(found - wanted).max() / max(1.0, float(np.abs(wanted).max())))


def expect_like(
    engine: Engine, batches: Iterable[Inputs], wanted: Iterable[npt.NDArray[np.float32]], most: float
) -> None:
    """Raise ModelError where an engine's logits are further off than `most`, as `share_off` says, or not numbers."""
    for batch, logits in zip(batches, wanted, strict=True):
        if not (off := share_off(engine.logits(batch), logits)) <= most:
            raise ModelError(f"run by {engine_name(engine)} its logits are off by {off:.2g} of their size")


def engine_name(engine: Engine) -> str:
    """What it is, for people: "openvino fp32"."""
    return f"{engine.backend} {engine.precision}"


def tokens_per_second(engine: Engine, batches: Sequence[Inputs], rounds: int = 3) -> float:
    """The best of a few rounds over some batches, after one to warm up; of one that takes its time, no more."""
    tokens = sum(next(iter(batch.values())).size for batch in batches)
    seconds: list[float] = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        for batch in batches:
            engine.logits(batch)
        seconds.append(time.perf_counter() - started)
        if sum(seconds[1:]) > LONG_SECONDS:
            break
    return tokens / min(seconds[1:])

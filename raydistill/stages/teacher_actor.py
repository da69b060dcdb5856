"""A teacher in Ray: what an actor does with the blocks of the corpus, and tasks that have what it has."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from raydistill.errors import DeviceLostError, ModelError, RaydistillError, first_line
from raydistill.label_store import LabelStore, logits_column
from raydistill.pairs import Ints
from raydistill.quick_imports import quick_imports
from raydistill.resources import Plan
from raydistill.specs import SYSTEMATIC, Effort, TeacherSpec, Tolerance
from raydistill.stages.attempts import Attempt
from raydistill.stages.ingest import block_name, unpack
from raydistill.stages.notes import Notes
from raydistill.stages.receipts import write_block

BACK_OFF_SECONDS, MOST_DOUBLINGS = 0.5, 6  # before what a process has died at is tried again
SCORED, ABLE, LOADING = "scored", "able", "loading/"
logger = logging.getLogger(__name__)


def as_planned(spec: TeacherSpec, plan: Plan) -> TeacherSpec:
    """The teacher as an actor of this plan loads it."""
    return dataclasses.replace(spec, use_gpu=plan.teacher_gpus > 0, threads=plan.teacher_threads)


def teacher_task(function: Callable[..., Any], plan: Plan) -> Any:
    """A function that tries a teacher as a Ray task, with what an actor of this plan has.

    Our own errors pass through; any other exception becomes a ModelError. If its process dies, it is not tried again:
    Ray would do so without end where memory is short.
    """

    @functools.wraps(function)
    def told(*given: Any, **more: Any) -> Any:
        with machine_told("tried"):
            return function(*given, **more)

    remote: Any = ray.remote(num_cpus=plan.teacher_cpus, num_gpus=plan.teacher_gpus, max_retries=0)
    return remote(told)


@contextlib.contextmanager
def machine_told(what: str) -> Iterator[None]:
    """Raise what a teacher fails with as ModelError that names the machine, but our own errors as they are."""
    try:
        yield
    except RaydistillError:
        raise
    except Exception as error:
        logger.exception("the teacher cannot be %s", what)
        raise ModelError(
            f"the teacher cannot be {what} on {platform.node()} ({describe_fault(error)}). The log has more."
        ) from None


class TeacherActor:
    """A teacher in an actor: loads once, scores the new texts of block after block, and writes them.

    Nobody else writes what it has scored: so no more is lost with a process, or with the driver, than is under way.
    May be called for two blocks at a time: one is then written, or tokenised, while the model is at work on the other.
    What the user can mend is raised with the first block: from a constructor Ray passes on its text alone.

    Args:
        max_failures: how often the process may die at a block.
    """

    def __init__(self, spec: TeacherSpec, store: LabelStore, max_failures: int = Tolerance.max_failures) -> None:
        self.store = store
        self._notes, self._max_failures = Notes(type(self).__name__), max_failures
        self._ended: list[Attempt] = []
        self.fault: RaydistillError | None = None
        self._has_scored = False
        loading = f"{LOADING}{ray.get_runtime_context().get_actor_id()}"  # which one that is started again keeps
        loads: int = self._notes.read(loading, 0)
        back_off(loads)
        self._notes.write(loading, loads + 1)
        try:
            with machine_told("loaded"):
                self.teacher = self.load(spec)
        except RaydistillError as fault:
            where = "" if platform.node() in str(fault) else f" (On {platform.node()}.)"
            self.fault = type(fault)(f"{fault}{where}")
        if not self.fault:  # else the next one waits the longer
            self._notes.remove(loading)
        self._failed, self._able = 0, False  # texts before the first that could be scored; whether there is one
        self._name = uuid.uuid4().hex
        self._model_in_use, self._two_at_a_time = threading.Lock(), spec.use_gpu
        self._free_since = time.perf_counter()

    def load(self, spec: TeacherSpec) -> Any:
        """Anything with `tokenize` and `score_tokenized` of `Teacher`."""
        with quick_imports():
            from raydistill.teacher import Teacher  # here, so that the tasks of this module start without torch

        return Teacher.load(spec)

    def __call__(self, packed: pa.Table) -> pa.Table:
        """Score and write a block; what comes back is its receipt.

        Raises:
            ModelError, FaultError: see `score`.
            OSError: it cannot be written.
        """
        receipt = write_block(*self.score(packed), self.store)
        if not self._two_at_a_time:
            self._free_since = time.perf_counter()
        return receipt

    def score(self, packed: pa.Table) -> tuple[pa.Table, Effort]:
        """Adds columns entailment and contradiction (null where there was nothing to score, or it could not be) and why
        it could not be; also what it took.

        Raises:
            ModelError: not one of the first texts can be scored: that is the teacher's fault and not theirs.
            FaultError: the process died too often at this block.
        """
        if self.fault:
            if self._notes.read(SCORED):
                logger.error("%s: %s", platform.node(), self.fault)
                self._end("others have loaded the teacher: this process ends, and another one tries anew")
            raise self.fault
        block, effort = unpack(packed)
        attempt = self._attempt(block_name(block))
        texts, ids = block["text"].to_pylist(), block["text_id"].to_pylist()
        fatal = {i for i, text in enumerate(texts) if text and attempt.fatal and ids[i] in attempt.fatal}
        rows = np.array([i for i, text in enumerate(texts) if text and i not in fatal], dtype=np.int64)
        scores = self._score([texts[i] for i in rows], [ids[i] for i in rows], attempt, effort)
        entailment, contradiction, faults = scores
        effort.actor, effort.scored_at = self._name, time.time()
        # Known texts could be scored too; what was rejected before comes among them as new.
        if len(faults) < len(rows) or pc.any(pc.greater_equal(block["known_index"], 0)).as_py():
            if not self._able:
                self._able = True
                self._notes.write(ABLE, True)
        elif faults and not self._able:
            self._failed += len(faults)
            if self._failed >= SYSTEMATIC and not self._notes.read(ABLE):
                first = describe_fault(faults[min(faults)])
                raise ModelError(f"the teacher can score none of {self._failed:,} texts: {first}.")
        good = np.setdiff1d(np.arange(len(rows)), list(faults))
        where = _positions(rows[good], good, len(texts))
        reasons = dict.fromkeys(fatal, "it takes the teacher's process down")
        reasons |= {int(rows[i]): describe_fault(fault) for i, fault in faults.items()}
        block = block.append_column("rejected", pa.array([reasons.get(i) for i in range(len(texts))], pa.string()))
        block = block.append_column("entailment", logits_column(entailment).take(where))
        self._ended.append(attempt)
        if not self._has_scored:
            self._has_scored = True
            self._notes.write(SCORED, True)
        return block.append_column("contradiction", logits_column(contradiction).take(where)), effort

    def _attempt(self, block: str) -> Attempt:
        """Of those before, what they have made has been handed over by now."""
        ended, self._ended = self._ended, []
        for attempt in ended:
            attempt.end()
        attempt = Attempt(self._notes, block, self._max_failures)
        back_off(attempt.deaths)
        return attempt

    def _score(self, texts: Sequence[str], ids: Sequence[str], attempt: Attempt, effort: Effort) -> Any:
        """As `Teacher.score_some`; what takes the process down leaves a note on it."""
        with contextlib.ExitStack() as model_in_use:
            if attempt.deaths:  # what may take the process down again is not to do so beside another block
                model_in_use.enter_context(self._model_in_use)
            attempt.begin()
            started = time.perf_counter()
            tokenized = None if attempt.careful else self.teacher.tokenize(texts)
            tokenizing = time.perf_counter() - started
            if not attempt.deaths:
                model_in_use.enter_context(self._model_in_use)
            idle = time.perf_counter() - self._free_since
            effort.tokenize_seconds = min(tokenizing, idle)  # what was done beside another block costs nothing
            effort.wait_seconds = idle - effort.tokenize_seconds
            try:
                if tokenized is None:
                    scores = self._score_one_by_one(texts, ids, attempt, effort)
                else:
                    scores = self.teacher.score_tokenized(tokenized, effort)
            except DeviceLostError:
                logger.exception("the GPU is lost")
                self._end("this process ends, and another one begins anew")
            self._free_since = time.perf_counter()
        return scores

    @staticmethod
    def _end(why: str) -> NoReturn:
        """An error would end the stage; of an actor that died, Ray gives the block to the next."""
        logger.error(why)
        logging.shutdown()
        os._exit(1)

    def _score_one_by_one(self, texts: Sequence[str], ids: Sequence[str], attempt: Attempt, effort: Effort) -> Any:
        """The same of a block that has taken its process down: each text is noted before it is tried."""
        num_classes = self.teacher.score_tokenized(self.teacher.tokenize([]), Effort())[0].shape[1]
        logits = np.full((2, len(texts), num_classes), np.nan, dtype=np.float32)
        faults: dict[int, Exception] = {}
        for i, (text, text_id) in enumerate(zip(texts, ids, strict=True)):
            attempt.begin(trying=text_id)
            entailment, contradiction, fault = self.teacher.score_tokenized(self.teacher.tokenize([text]), effort)
            logits[:, i] = entailment[0], contradiction[0]
            faults |= {i: fault[0]} if fault else {}
        attempt.begin()
        return logits[0], logits[1], faults


def back_off(deaths: int) -> None:
    """Wait the longer, the more processes have died at what is to be tried."""
    if deaths:
        time.sleep(BACK_OFF_SECONDS * 2 ** min(deaths - 1, MOST_DOUBLINGS))


def describe_fault(fault: Exception) -> str:
    """In one line, why a text could not be scored."""
    if isinstance(fault, FloatingPointError):
        return "its logits are not finite (if the teacher runs in fp16 or bf16, try --teacher-precision fp32)"
    return f"{type(fault).__name__}: {first_line(fault)}"


def _positions(rows: Ints, sources: Ints, length: int) -> pa.Array:
    """For each of `length` rows the source that goes there, or null."""
    where = np.full(length, -1, dtype=np.int64)
    where[rows] = sources
    return pa.array(where, mask=where < 0)

"""The teacher stage: corpus -> teacher actors -> label store, streamed through Ray Data."""

from __future__ import annotations

import contextlib
import dataclasses
import uuid
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy

from raydistill.corpus import gather_splits, make_splits
from raydistill.corpus_files import CorpusFile
from raydistill.engines.offers import export_pays, openvino_installed
from raydistill.known_texts import zeros_on_disk
from raydistill.label_store import LabelStore
from raydistill.occurrences import correct_occurrences
from raydistill.progress import Console, Progress
from raydistill.rejected import set_aside
from raydistill.resources import TASK_CPUS, Plan
from raydistill.specs import BYTES_PER_TOKEN, Effort, TeacherSpec, Tolerance
from raydistill.stages.attempts import progress_made
from raydistill.stages.data_context import RestsWhileAllWork, data_settings
from raydistill.stages.faults import no_actor_left, our_errors
from raydistill.stages.ingest import CorpusSource
from raydistill.stages.merging import Merger
from raydistill.stages.notes import notes_on
from raydistill.stages.teacher_actor import TeacherActor, as_planned
from raydistill.stages.watchdog import watched
from raydistill.stopping import Stop, orderly_stop

SPLIT_BYTES = 64 << 20
# A block is the unit of progress and of what a crash costs, so it is measured in an actor's work, by the rate
# that a core or a GPU may be expected to reach: of the slowest teachers, a single text. A large block takes memory.
# (A core with AVX-512 was found to reach 1.2e11 and 1.9e11, others 7e10.) The other machines are taken to be like this.
CORE_FLOPS = 1.5e11 if pa.runtime_info().detected_simd_level == "avx512" else 7e10
GPU_FLOPS = 1.5e14
LEAST_PARAMETERS = 1_000_000  # a smaller model costs no less: it is not the products that take its time
LARGEST_BLOCK_BYTES = 16 << 20
# With fewer, some actors idle at the end; but a small corpus is not cut into smaller ones for that.
BLOCKS_PER_ACTOR, SMALLEST_SHARE_BYTES = 8, 16 << 10
MOST_BLOCKS = 100_000  # while they are not too large: of each the driver keeps some kilobytes until the end
READ_AHEAD = 4  # tasks for each actor, at the most, whose first blocks may be its first one
BLOCKS_PER_SECOND = 20  # of all actors: a driver on two cores, with all other tasks beside it, passes on 40


@dataclasses.dataclass
class Counts:
    """What a pass over the corpus met. `texts` counts every occurrence, blanks and rejected ones left out.

    known: texts that were labelled before; removed: those of the store that the corpus does not hold any more.
    startup_seconds, first_block_seconds, last_block_seconds: until the first block was begun, until it was labelled,
    and until the last one was.
    """

    texts: int = 0
    blanks: int = 0
    rejected: int = 0
    known: int = 0
    removed: int = 0
    labelled: int = 0
    startup_seconds: float = 0.0
    first_block_seconds: float = 0.0
    last_block_seconds: float = 0.0
    engines: dict[str, int] = dataclasses.field(default_factory=dict)  # pairs that each scored
    effort: Effort = dataclasses.field(default_factory=Effort)

    def add(self, receipt: dict[str, Any], seconds: float) -> str | None:
        """Add what one block met; the engine that scored it is returned if none of it did so before.

        Args:
            seconds: how long the stage has lasted.
        """
        effort = Effort(**receipt["effort"])
        if not self.first_block_seconds:
            self.first_block_seconds = round(seconds, 3)
            self.startup_seconds = round(max(0.0, seconds - effort.busy_seconds - effort.write_seconds), 3)
        self.last_block_seconds = round(seconds, 3)
        self.effort += effort
        new_engine = effort.engine if effort.pairs and effort.engine not in self.engines else None
        if effort.pairs:
            self.engines[effort.engine] = self.engines.get(effort.engine, 0) + effort.pairs
        for name in ("texts", "blanks", "labelled"):
            setattr(self, name, getattr(self, name) + receipt[name])
        self.rejected += receipt["rejected_texts"]
        return new_engine


def label_corpus(
    files: Sequence[CorpusFile],
    text_column: str,
    spec: TeacherSpec,
    store: LabelStore,
    plan: Plan,
    progress: Progress,
    *,
    file_bytes: int,
    most_rejected: int,
    tolerance: Tolerance,
    actor: type = TeacherActor,
) -> Counts:
    """Label every text that the store does not hold yet, then set the store's occurrences right.

    A text counts as done when a part of the store holds its id: where it stands in the corpus, how the corpus is cut
    into blocks and how large the cluster is do not matter. A stop lets every actor finish the block that it is at.

    Args:
        file_bytes: how large a label file is to become where there are labels enough.
        most_rejected: how many texts may fail to be scored.
        actor: what scores blocks; made with the spec.

    Raises:
        CorpusError, ModelError.
        FaultError: the stage stood still, or actors died, beyond what is borne.
        KeyboardInterrupt: a signal asked for the end.
    """
    earlier = _mended_parts(store, progress.console)
    known = store.known_texts(earlier)
    with store.room_for_ids() as folder:
        counted = zeros_on_disk(len(known), folder)
    known_ref = ray.put(known.ids()) if len(known) else None  # in memory that all tasks of a node share
    counts, passed, at_rest = Counts(), 0, int(known.occurrences.sum())
    spec = as_planned(spec, plan)
    actor = type(f"{actor.__name__}-{uuid.uuid4().hex[:8]}", (actor,), {})  # to tell its actors from those of others
    with (
        our_errors(),
        notes_on(actor.__name__) as notes,
        no_actor_left(actor.__name__),
        # A packed block is a row: neither merged nor cut.
        data_settings(target_max_block_size=1, custom_execution_callback_classes=[RestsWhileAllWork]),
        contextlib.closing(Merger(store, file_bytes, progress.touch)) as merger,
        orderly_stop(progress.console.say, tolerance.grace_seconds) as stop,
        watched(
            progress,
            stop,
            stall_seconds=tolerance.stall_seconds,
            most_restarts=tolerance.max_failures * plan.teacher_actors_max,
            found=lambda: progress_made(notes),
        ),
    ):
        with (
            set_aside(store.folder, most_rejected) as rejected,
            contextlib.closing(
                _receipts(files, text_column, spec, store, known_ref, plan, tolerance, actor)
            ) as receipts,
        ):
            for receipt in _until_stopped(receipts, stop, plan.teacher_actors_min):
                if engine := counts.add(receipt, progress.seconds):
                    hint = engine_hint(engine, spec, counts.effort.fallback)
                    progress.console.say(f"       {engine} runs the teacher{hint}")
                rejected.add(receipt["rejected"], receipt["rejected_texts"])
                if receipt["part"]:
                    merger.add(receipt["part"], receipt["part_bytes"])
                np.add.at(counted, receipt["known_index"], receipt["known_occurrences"])
                passed += sum(receipt["known_occurrences"])
                _show(counts, passed, at_rest - passed, progress)
        stop.conclude()  # before what is done to a store that all texts have been met for
        merger.finish()
        for orphan in set(store.own_parts()) - set(earlier) - merger.parts:
            store.folder.delete(orphan)  # left by an actor that died after writing and did it again
        correct_occurrences(store, earlier, known, counted, progress.touch)
        sizes, own = store.folder.sizes(".parquet"), set(store.own_parts())
        # Of earlier passes, and what has replaced such.
        merger.add_others({name: size for name, size in sizes.items() if name in own})
        merger.finish()
    counts.known = int(np.count_nonzero(counted))
    counts.removed = len(counted) - counts.known
    return counts


def engine_hint(engine: str, spec: TeacherSpec, fallback: str) -> str:
    """Why it is not the one that was to be; or what may be faster than the one that `auto` has taken."""
    if fallback:
        return f" ({fallback})"
    known = spec.use_gpu or spec.backend != "auto" or not export_pays(spec) or openvino_installed()
    if known or not engine.startswith("torch"):
        return ""
    return " (OpenVINO may be faster on this CPU: pip install 'raydistill[openvino]')"


def _mended_parts(store: LabelStore, console: Console) -> list[str]:
    """The parts of earlier passes, once what a kill or a power cut has left is ended, undone or removed."""
    store.finish_replacements()
    for name in store.damaged_parts():
        console.say(f"       {store.folder.where(name)} is damaged: its labels are made anew")
        store.folder.delete(name)
    return store.parts()


def _until_stopped(receipts: Iterable[dict[str, Any]], stop: Stop, actors: int) -> Iterator[dict[str, Any]]:
    """All receipts; once a stop is asked for, until every actor has done with the block that it was at then.

    Args:
        actors: so many there are at the least: one whose first block is under way has not been heard of. (One that is
            gone or cannot load is waited for as well, until the grace is over.)
    """
    at_work: set[str] = set()
    done: set[str] = set()
    for receipt in receipts:
        yield receipt
        effort = Effort(**receipt["effort"])
        at_work.add(effort.actor)
        if stop.asked_at is not None and effort.scored_at > stop.asked_at:
            done.add(effort.actor)
            if len(done) >= max(len(at_work), actors):
                return


def _show(counts: Counts, passed: int, to_pass: int, progress: Progress) -> None:
    effort = counts.effort
    padding = f"{1 - effort.tokens / effort.padded_tokens:.0%} padding" if effort.padded_tokens else ""
    work = {"pairs": effort.pairs, "tokens": effort.tokens}
    progress.update(counts.texts + counts.rejected, padding, work, passed=passed, to_pass=max(to_pass, 0))


def block_bytes(files: Sequence[CorpusFile], spec: TeacherSpec, plan: Plan, seconds: float) -> int:
    """Bytes of text in a block, as far as they are scored.

    So many seconds of work, but every actor gets several; more where all is large.
    """
    rate = plan.teacher_gpus * GPU_FLOPS if plan.teacher_gpus else plan.teacher_threads * CORE_FLOPS
    flops_per_byte = 2 * max(spec.parameters, LEAST_PARAMETERS) * len(spec.class_names) / BYTES_PER_TOKEN
    corpus = sum(file.likely_bytes for file in files)
    seconds = max(seconds, plan.teacher_actors_max / BLOCKS_PER_SECOND)
    wanted = max(int(seconds * rate / flops_per_byte), -(-corpus // MOST_BLOCKS))
    share = max(int(corpus * spec.scored_share) // (BLOCKS_PER_ACTOR * plan.teacher_actors_max), SMALLEST_SHARE_BYTES)
    return min(wanted, share, LARGEST_BLOCK_BYTES)


def _receipts(
    files: Sequence[CorpusFile],
    text_column: str,
    spec: TeacherSpec,
    store: LabelStore,
    known_ref: ray.ObjectRef | None,
    plan: Plan,
    tolerance: Tolerance,
    actor: type,
) -> Generator[dict[str, Any]]:
    """Run the pass; one row of counts comes back for each block, and no text."""
    size = block_bytes(files, spec, plan, tolerance.block_seconds)
    total = sum(file.size for file in files)
    task_bytes = min(SPLIT_BYTES, max(size, total // 4))
    # Small files are read at as many places at a time as there are actors.
    gathered = gather_splits(
        make_splits(files, task_bytes), min(task_bytes, max(size, total // plan.teacher_actors_max))
    )
    early = READ_AHEAD * plan.teacher_actors_max  # as many tasks may begin before the first one has its block
    source = CorpusSource(gathered, text_column, size, known_ref, spec.work_bytes, early)
    task: dict[str, Any] = {"num_cpus": TASK_CPUS, "max_retries": tolerance.max_failures}
    blocks = ray.data.read_datasource(source, override_num_blocks=len(gathered), ray_remote_args=task)
    receipts = blocks.map_batches(
        actor,
        fn_constructor_args=(spec, store, tolerance.max_failures),
        batch_size=1,  # a block; for GPUs Ray Data wants a number
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=ActorPoolStrategy(
            min_size=plan.teacher_actors_min,
            max_size=plan.teacher_actors_max,
            # Beside a GPU's work the CPU makes the next block ready and writes the last; beside a CPU's, it would take
            # its cores.
            max_concurrent_calls_per_actor=2 if plan.teacher_gpus else 1,
            enable_true_multi_threading=True,
        ),
        num_cpus=plan.teacher_cpus,
        num_gpus=plan.teacher_gpus or None,
        max_restarts=-1,  # over days many may be lost: the watchdog ends a run whose actors die while nothing gets done
        max_task_retries=-1,  # the attempts at a block are counted: see `Attempt`
    )
    for batch in receipts.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from batch.to_pylist()

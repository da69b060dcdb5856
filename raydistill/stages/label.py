"""The teacher stage: corpus -> teacher actors -> label store, streamed through Ray Data."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
from ray.data import ActorPoolStrategy

from raydistill.corpus import make_splits
from raydistill.corpus_files import CorpusFile
from raydistill.errors import ModelError, RaydistillError
from raydistill.label_store import KnownTexts, LabelStore, logits_column
from raydistill.progress import Progress
from raydistill.resources import Plan
from raydistill.specs import Effort, TeacherSpec
from raydistill.stages.cluster import data_settings, our_errors
from raydistill.stages.ingest import CorpusSource, pack, unpack

SPLIT_BYTES = 64 << 20
# A block is the unit of progress and of what a crash costs; its work is about its bytes times the number of classes.
BLOCK_WORK_BYTES, SMALLEST_BLOCK_BYTES = 1 << 20, 16 << 10
BLOCKS_PER_ACTOR = 8  # with fewer, some actors idle at the end


@dataclasses.dataclass
class Counts:
    """What a pass over the corpus met. `texts` counts every occurrence, blanks left out."""

    texts: int = 0
    blanks: int = 0
    known: int = 0
    labelled: int = 0
    pairs: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    tokenize_seconds: float = 0.0
    forward_seconds: float = 0.0
    engines: dict[str, int] = dataclasses.field(default_factory=dict)  # pairs that each scored

    def add(self, receipt: dict[str, Any]) -> None:
        """Add what one block met."""
        for field in dataclasses.fields(self):
            if field.name != "engines":
                setattr(self, field.name, getattr(self, field.name) + (receipt.get(field.name) or 0))
        if receipt["pairs"]:
            self.engines[receipt["engine"]] = self.engines.get(receipt["engine"], 0) + receipt["pairs"]


def label_corpus(
    files: Sequence[CorpusFile], text_column: str, spec: TeacherSpec, store: LabelStore, plan: Plan, progress: Progress
) -> Counts:
    """Label every text that the store does not hold yet, then set the store's occurrences right.

    A text counts as done when a part of the store holds its id: where it stands in the corpus, how the corpus is cut
    into blocks and how large the cluster is do not matter. Raises CorpusError, ModelError.
    """
    earlier = store.parts()
    known = store.known_texts(earlier)
    counted = np.zeros(len(known), dtype=np.int64)
    counts, written = Counts(), set()
    spec = dataclasses.replace(spec, use_gpu=plan.teacher_gpus > 0, threads=plan.teacher_threads)
    store.folder.sweep()
    with our_errors(), data_settings(target_max_block_size=1):  # a packed block is a row: neither merged nor cut
        for receipt in _receipts(files, text_column, spec, store, known, plan):
            counts.add(receipt)
            if receipt["part"]:
                written.add(receipt["part"])
            np.add.at(counted, receipt["known_index"], receipt["known_occurrences"])
            progress.update(counts.texts, work=(counts.pairs, "pairs"))
    for orphan in set(store.parts()) - set(earlier) - written:
        store.folder.delete(orphan)  # left by a task that died after writing and was run again
    store.correct_occurrences(earlier, known, counted)
    counts.known = int((counted > 0).sum())
    return counts


def block_bytes(files: Sequence[CorpusFile], num_classes: int, plan: Plan) -> int:
    """Bytes of text in a block: a fixed amount of work, and small enough that every actor gets several."""
    share = sum(file.size for file in files) // (BLOCKS_PER_ACTOR * plan.teacher_actors_max)
    return max(min(BLOCK_WORK_BYTES // num_classes, share), SMALLEST_BLOCK_BYTES)


def _receipts(
    files: Sequence[CorpusFile], text_column: str, spec: TeacherSpec, store: LabelStore, known: KnownTexts, plan: Plan
) -> Iterator[dict[str, Any]]:
    """Run the pass; one row of counts comes back for each block, and no text."""
    size = block_bytes(files, len(spec.class_names), plan)
    splits = make_splits(files, min(SPLIT_BYTES, max(size, sum(file.size for file in files) // 4)))
    source = CorpusSource(splits, text_column, size, ray.put(known) if len(known) else None)
    blocks = ray.data.read_datasource(source, override_num_blocks=len(splits), num_cpus=plan.task_cpus)
    scored = blocks.map_batches(
        TeacherActor,
        fn_constructor_args=(spec,),
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=ActorPoolStrategy(min_size=plan.teacher_actors_min, max_size=plan.teacher_actors_max),
        num_cpus=plan.teacher_cpus,
        num_gpus=plan.teacher_gpus or None,
    )
    receipts = scored.map_batches(
        partial(write_block, store=store),
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        num_cpus=plan.task_cpus,
    )
    for batch in receipts.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from batch.to_pylist()


class TeacherActor:
    """A teacher in an actor: loads once, scores the new texts of block after block.

    What the user can mend is raised with the first block: from a constructor Ray passes on its text alone.
    """

    def __init__(self, spec: TeacherSpec) -> None:
        from raydistill.teacher import Teacher  # here, so that the tasks of this module start without torch

        self.fault: RaydistillError | None = None
        try:
            self.teacher = Teacher.load(spec)
        except RaydistillError as fault:
            self.fault = fault

    def __call__(self, packed: pa.Table) -> pa.Table:
        """Adds columns entailment and contradiction (null where there was nothing to score) and what it took."""
        if self.fault:
            raise self.fault
        block = unpack(packed)
        texts = block["text"].to_pylist()
        rows = [i for i, text in enumerate(texts) if text]
        effort = Effort()
        try:
            entailment, contradiction = self.teacher.score([texts[i] for i in rows], effort)
        except FloatingPointError as error:
            bad = block["text_id"][rows[error.args[1]]].as_py()
            raise ModelError(
                f"the teacher gives logits that are not finite for the text with id {bad}. If it runs in fp16 or bf16, "
                "try --teacher-precision fp32."
            ) from None
        where = _positions(rows, len(texts))
        return pack(
            block.append_column("entailment", logits_column(entailment).take(where)).append_column(
                "contradiction", logits_column(contradiction).take(where)
            ),
            dataclasses.asdict(effort),
        )


def _positions(rows: Sequence[int], length: int) -> pa.Array:
    """For each of `length` rows its place among `rows`, or null."""
    where: npt.NDArray[np.int64] = np.full(length, -1, dtype=np.int64)
    where[list(rows)] = np.arange(len(rows))
    return pa.array(where, mask=where < 0)


def write_block(packed: pa.Table, store: LabelStore) -> pa.Table:
    """Write the scored rows as a part of the store; return one row that says what the block held."""
    block, effort = unpack(packed), packed["effort"][0].as_py()
    scored = block.filter(block["entailment"].is_valid())
    known = block.filter(pc.greater_equal(block["known_index"], 0))
    blanks = block.filter(pc.equal(block["text"], ""))
    part = store.write_part(scored) if scored.num_rows else None
    receipt = {
        "part": part,
        "texts": _sum(scored["occurrences"]) + _sum(known["occurrences"]),
        "labelled": scored.num_rows,
        "blanks": _sum(blanks["occurrences"]),
        "known_index": known["known_index"].to_pylist(),
        "known_occurrences": known["occurrences"].to_pylist(),
        **effort,
    }
    return pa.table({name: pa.array([value], RECEIPT.field(name).type) for name, value in receipt.items()})


RECEIPT = pa.schema(
    [
        ("part", pa.string()),
        *[(name, pa.int64()) for name in ("texts", "labelled", "blanks", "pairs", "tokens", "padded_tokens")],
        ("known_index", pa.list_(pa.int64())),
        ("known_occurrences", pa.list_(pa.int64())),
        *[(name, pa.float64()) for name in ("tokenize_seconds", "forward_seconds")],
        ("engine", pa.string()),
    ]
)


def _sum(column: pa.ChunkedArray) -> int:
    return pc.sum(column).as_py() or 0

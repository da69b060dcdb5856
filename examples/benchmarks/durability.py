"""What does it cost that labels survive a power cut, a kill and a second reading?

    pip install -e '.[demo]' && python examples/benchmarks/durability.py

The demo's teacher labels BBC News first sentences, in turn as it is, and without what only durability wants: label
files are neither on disk before they are named (fsync) nor named by their checksum, and nothing is counted at the end.
Two runs are never as fast, so the share of the stage is told too that writing (fsync and checksum included, the files
themselves as well) and counting take: the cost is less. Prints a Markdown table: medians, least and most in brackets.
"""

from __future__ import annotations

import dataclasses
import io
import os
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tables import at_least_one, benchmark_parser, publish, spread

from raydistill.corpus_files import find_files
from raydistill.label_store import SCHEMA, LabelStore
from raydistill.nli import describe_teacher
from raydistill.progress import Console
from raydistill.resources import Request, make_plan
from raydistill.specs import TeacherSpec, Tolerance
from raydistill.stages.cluster import connection, free_nodes
from raydistill.stages.demo import CLASSES, TEMPLATE, prepare_demo
from raydistill.stages.label import label_corpus
from raydistill.teacher import Teacher


class CarelessStore(LabelStore):
    """Writes a label file under its name at once, and trusts that it will be there."""

    def write_part(self, table: pa.Table) -> tuple[str, int]:
        """Write rows of `SCHEMA` as a new part."""
        name = f"part-{uuid.uuid4().hex}.parquet"
        path = Path(self.path, name)
        pq.write_table(table.select(SCHEMA.names).cast(SCHEMA), path, compression="zstd")
        return name, path.stat().st_size


def labelled(
    kind: type[LabelStore], corpus: Path, folder: str, spec: TeacherSpec, block_seconds: float
) -> tuple[float, float]:
    """Seconds of the label stage, and of writing and counting in it."""
    store = kind(folder)
    store.folder.create()
    progress = Console(io.StringIO()).stage("label", "texts")
    tolerance = Tolerance(block_seconds=block_seconds)
    limits: dict[str, Any] = {"file_bytes": 256 << 20, "most_rejected": 0, "tolerance": tolerance}
    plan = make_plan(free_nodes(), Request())
    began = time.monotonic()
    counts = label_corpus(find_files([str(corpus)]), "text", spec, store, plan, progress, **limits)
    counting = time.monotonic()
    if kind is LabelStore:
        assert store.census(about=counts.texts).texts == counts.texts
    ended = time.monotonic()
    return ended - began, counts.effort.write_seconds + ended - counting


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--texts", type=int, default=3000)
    parser.add_argument("--rounds", type=at_least_one, default=5)
    parser.add_argument("--block-seconds", type=float, default=1.0, help="shorter than by default: more files")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, connection(None):
        os.environ["RAYDISTILL_CACHE"] = f"{temporary}/cache"
        files, _ = prepare_demo(f"{temporary}/demo", texts=1000)
        sentences = files.corpus.read_text(encoding="utf-8").splitlines()
        corpus = Path(temporary) / "corpus.txt"
        corpus.write_text("".join(f"{sentences[i % len(sentences)]} {i}\n" for i in range(arguments.texts)))
        spec = TeacherSpec(str(files.teacher), tuple(CLASSES), TEMPLATE, fingerprint="benchmark")
        spec = dataclasses.replace(spec, parameters=describe_teacher(spec)["teacher_parameters"])
        Teacher.load(spec)  # makes the export
        ratios, shares = [], []
        for number in range(arguments.rounds):
            kinds = [LabelStore, CarelessStore] if number % 2 else [CarelessStore, LabelStore]
            took = {
                kind: labelled(kind, corpus, f"{temporary}/{number}-{kind.__name__}", spec, arguments.block_seconds)
                for kind in kinds
            }
            ratios.append(took[LabelStore][0] / took[CarelessStore][0])
            shares.append(took[LabelStore][1] / took[LabelStore][0])
    what = f"{arguments.texts:,} texts, blocks of about {arguments.block_seconds:g} s"
    row = {"label stage": what, "times the same without durability": spread(ratios, ".3f")}
    row |= {"writing and counting, of it": spread(shares, ".2%")}
    publish([row], arguments, ratios=ratios, shares=shares)


if __name__ == "__main__":
    main()

"""What does the Ray stage cost beside the same teacher in one process?

    pip install -e '.[demo]' && python examples/benchmarks/ray_overhead.py

The demo's teacher labels BBC News first sentences, or whole documents (`--of documents --texts 1000`), each some times
over with another number in front, in turn in this process and through the label stage, which must find the same
logits: one actor of all cores, then one actor a core. Steady state is, of each actor, from its first block that comes
back to its last; start-up is what comes before the first block of all is begun, and what comes before that one is
labelled is told, too. Prints a Markdown table.

On a GPU, one actor has all of it, then two have half of it each:

    pip install -e '.[demo]' && python examples/benchmarks/ray_overhead.py --device cuda --shape roberta-large \\
        --texts 70000 --rounds 1
"""

from __future__ import annotations

import dataclasses
import io
import os
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
from shapes import CHOICES, teacher_of_shape
from tables import at_least_one, benchmark_parser, publish, spread

from raydistill.corpus import text_id
from raydistill.corpus_files import find_files
from raydistill.label_store import LabelStore, logits_matrix
from raydistill.nli import describe_teacher
from raydistill.progress import Console
from raydistill.resources import Plan, Request, make_plan
from raydistill.specs import BYTES_PER_TOKEN, TeacherSpec, Tolerance
from raydistill.stages import label as stage
from raydistill.stages.cluster import connection, free_nodes
from raydistill.stages.demo import CLASSES, TEMPLATE, demo_documents, prepare_demo
from raydistill.stages.label import Counts
from raydistill.teacher import Teacher

FILE_BYTES = 256 << 20
SAME_FP32, SAME_BF16 = 1e-4, 0.05  # logits, of batches of other sizes


@dataclasses.dataclass
class Diary(Counts):
    """A label stage's counts that keep when blocks came back: (seconds, pairs) of each actor."""

    seen: dict[str, list[tuple[float, int]]] = dataclasses.field(default_factory=lambda: defaultdict(list))

    def add(self, receipt: dict[str, Any], seconds: float) -> str | None:
        self.seen[receipt["effort"]["actor"]].append((seconds, receipt["effort"]["pairs"]))
        return super().add(receipt, seconds)

    def rate(self) -> float:
        """Pairs a second of all actors, each from its first block to its last.

        From the first block of all, the others' first ones would count as done in no time.
        """
        if any(len(blocks) < 2 for blocks in self.seen.values()):
            raise SystemExit("too few --texts: an actor had a single block")
        return sum(
            sum(pairs for _, pairs in blocks[1:]) / (blocks[-1][0] - blocks[0][0]) for blocks in self.seen.values()
        )


def in_process(spec: TeacherSpec, texts: list[str]) -> tuple[float, Any]:
    """(pairs a second of the teacher alone, its entailment logits)."""
    teacher = Teacher.load(spec)
    teacher.score(texts[:50])
    started = time.monotonic()
    logits = teacher.score(texts)[0]
    return len(texts) * len(CLASSES) / (time.monotonic() - started), logits


def expect_same(rows: pa.Table, corpus: Path, wanted: Any, most: float) -> None:
    """Raise AssertionError unless the label stage has found for each text what the teacher alone has."""
    order = {text_id(text): i for i, text in enumerate(corpus.read_text(encoding="utf-8").splitlines())}
    at = [order[key] for key in rows["text_id"].to_pylist()]
    assert sorted(at) == list(range(len(wanted)))
    np.testing.assert_allclose(logits_matrix(rows["entailment"], len(CLASSES)), wanted[at], atol=most)


def through_ray(spec: TeacherSpec, corpus: Path, store: Path, plan: Plan, wanted: Any) -> tuple[float, Counts]:
    """(pairs a second in steady state, what the stage has counted)."""
    labels = LabelStore(str(store))
    labels.folder.create()
    limits: dict[str, Any] = {"file_bytes": FILE_BYTES, "most_rejected": 0, "tolerance": Tolerance()}
    with mock.patch.object(stage, "Counts", Diary):
        counts: Any = stage.label_corpus(
            find_files([str(corpus)]),
            "text",
            spec,
            labels,
            plan,
            Console(io.StringIO()).stage("label", "texts"),
            **limits,
        )
    rows = [table for part in labels.parts() for table in labels.read_part(part, ["text_id", "entailment"])]
    expect_same(pa.concat_tables(rows), corpus, wanted, SAME_BF16 if spec.use_gpu else SAME_FP32)
    return counts.rate(), counts


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--texts", type=int, default=4000)
    parser.add_argument("--of", choices=["sentences", "documents"], default="sentences")
    parser.add_argument("--rounds", type=at_least_one, default=5)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--shape", choices=CHOICES, default="demo")
    arguments = parser.parse_args()
    cores, on_gpu = os.cpu_count() or 1, arguments.device == "cuda"
    layouts = {f"1 actor on {cores} cores": Request(teacher_actors="1", use_cpu=True)}
    layouts[f"{cores} actors on {cores} cores"] = Request(teacher_actors=str(cores), use_cpu=True)
    if on_gpu:
        layouts = {"1 actor on a GPU": Request(teacher_actors="1")}
        layouts["2 actors on a GPU"] = Request(teacher_actors="2", teacher_gpus_per_actor=0.5)
    with tempfile.TemporaryDirectory() as temporary, connection(None):
        os.environ["RAYDISTILL_CACHE"] = f"{temporary}/cache"
        files, _ = prepare_demo(f"{temporary}/demo", texts=1000)
        whole = arguments.of == "documents"
        known = demo_documents() if whole else files.corpus.read_text(encoding="utf-8").splitlines()
        texts = [f"{i} {' '.join(known[i % len(known)].split())}" for i in range(arguments.texts)]
        corpus = Path(temporary) / "corpus.txt"
        corpus.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
        teacher = str(teacher_of_shape(arguments.shape, files))
        spec = TeacherSpec(teacher, tuple(CLASSES), TEMPLATE, threads=cores, fingerprint="benchmark", use_gpu=on_gpu)
        about = describe_teacher(spec)
        most = BYTES_PER_TOKEN * about["max_length"]  # as the label stage of a run takes it
        spec = dataclasses.replace(spec, parameters=about["teacher_parameters"], scored_bytes=most)
        share = min(1.0, sum(spec.work_bytes(len(text)) for text in texts) / sum(map(len, texts)))
        spec = dataclasses.replace(spec, scored_share=share)
        in_process(spec, texts[:100])  # makes the export
        before, logits = in_process(spec, texts)
        ratios: dict[str, list[float]] = {name: [] for name in layouts}
        stages: dict[str, list[Counts]] = {name: [] for name in layouts}
        for number in range(arguments.rounds):
            for name, request in layouts.items():
                plan = make_plan(free_nodes(), request)
                rate, counts = through_ray(spec, corpus, Path(temporary) / f"{number}-{name}", plan, logits)
                after, _ = in_process(spec, texts)
                ratios[name].append(rate / statistics.mean([before, after]))
                before = after
                stages[name].append(counts)
    starts = {name: [counts.startup_seconds for counts in found] for name, found in stages.items()}
    firsts = {name: [counts.first_block_seconds for counts in found] for name, found in stages.items()}
    rows = [
        {
            "label stage": name,
            "steady state, of the teacher alone": spread(found),
            "start-up": f"{statistics.median(starts[name]):.1f} s",
            "first block labelled after": f"{statistics.median(firsts[name]):.1f} s",
        }
        for name, found in ratios.items()
    ]
    publish(rows, arguments, ratios=ratios, starts=starts, first_blocks=firsts)


if __name__ == "__main__":
    main()

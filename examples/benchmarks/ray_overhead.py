"""What does the Ray stage cost beside the same teacher in one process?

    pip install -e '.[demo]' && python examples/benchmarks/ray_overhead.py

The demo's teacher labels BBC News first sentences, each some times over with another ending, in turn in this process
and through the label stage, which must find the same logits: one actor of all cores, then one actor a core. Steady
state is from the first block that comes back to the last; start-up is what comes before, less the first block's own
work. Prints a Markdown table.

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
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
from shapes import CHOICES, teacher_of_shape
from tables import at_least_one, benchmark_parser, publish, spread

from raydistill.corpus import text_id
from raydistill.corpus_files import find_files
from raydistill.label_store import LabelStore, logits_matrix
from raydistill.nli import describe_teacher
from raydistill.progress import Console, Progress
from raydistill.resources import Plan, Request, make_plan
from raydistill.specs import TeacherSpec, Tolerance
from raydistill.stages.cluster import connection, free_nodes
from raydistill.stages.demo import CLASSES, TEMPLATE, prepare_demo
from raydistill.stages.label import label_corpus
from raydistill.teacher import Teacher

FILE_BYTES = 256 << 20
SAME_FP32, SAME_BF16 = 1e-4, 0.05  # logits, of batches of other sizes


class Watch(Progress):
    """A console's progress that keeps when how many pairs were done."""

    def __init__(self) -> None:
        super().__init__(Console(io.StringIO()), "label", "texts", None)
        self.seen: list[tuple[float, int]] = []

    def update(self, done: int, note: str = "", work: Mapping[str, int] = MappingProxyType({}), **more: int) -> None:
        super().update(done, note, work, **more)
        self.seen.append((self.seconds, work["pairs"]))


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


def through_ray(spec: TeacherSpec, corpus: Path, store: Path, plan: Plan, wanted: Any) -> tuple[float, float]:
    """(pairs a second in steady state, seconds before the first block's own work)."""
    watch = Watch()
    labels = LabelStore(str(store))
    labels.folder.create()
    limits: dict[str, Any] = {"file_bytes": FILE_BYTES, "most_rejected": 0, "tolerance": Tolerance()}
    label_corpus(find_files([str(corpus)]), "text", spec, labels, plan, watch, **limits)
    rows = [table for part in labels.parts() for table in labels.read_part(part, ["text_id", "entailment"])]
    expect_same(pa.concat_tables(rows), corpus, wanted, SAME_BF16 if spec.use_gpu else SAME_FP32)
    (first, before), (last, after) = watch.seen[0], watch.seen[-1]
    rate = (after - before) / (last - first)
    return rate, first - before / (rate / plan.teacher_actors_max)


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--texts", type=int, default=4000)
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
        sentences = files.corpus.read_text(encoding="utf-8").splitlines()
        texts = [f"{sentences[i % len(sentences)]} {i}" for i in range(arguments.texts)]
        corpus = Path(temporary) / "corpus.txt"
        corpus.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
        teacher = str(teacher_of_shape(arguments.shape, files))
        spec = TeacherSpec(teacher, tuple(CLASSES), TEMPLATE, threads=cores, fingerprint="benchmark", use_gpu=on_gpu)
        spec = dataclasses.replace(spec, parameters=describe_teacher(spec)["teacher_parameters"])
        in_process(spec, texts[:100])  # makes the export
        before, logits = in_process(spec, texts)
        ratios: dict[str, list[float]] = {name: [] for name in layouts}
        starts: dict[str, list[float]] = {name: [] for name in layouts}
        for number in range(arguments.rounds):
            for name, request in layouts.items():
                plan = make_plan(free_nodes(), request)
                rate, first = through_ray(spec, corpus, Path(temporary) / f"{number}-{name}", plan, logits)
                after, _ = in_process(spec, texts)
                ratios[name].append(rate / statistics.mean([before, after]))
                before = after
                starts[name].append(first)
    rows = [
        {
            "label stage": name,
            "steady state, of the teacher alone": spread(found),
            "start-up": f"{statistics.median(starts[name]):.1f} s",
        }
        for name, found in ratios.items()
    ]
    publish(rows, arguments, ratios=ratios, starts=starts)


if __name__ == "__main__":
    main()

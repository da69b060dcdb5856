"""What does the Ray stage cost beside the same teacher in one process?

    pip install -e '.[demo]' && python examples/benchmarks/ray_overhead.py

The demo's teacher labels BBC News first sentences, each some times over with another ending, in turn in this process
and through the label stage: one actor of all cores, then one actor a core. Steady state is from the first block that
comes back to the last; start-up is what comes before, less the first block's own work. Prints a Markdown table.
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

from tables import benchmark_parser, publish

from raydistill.corpus_files import find_files
from raydistill.label_store import LabelStore
from raydistill.progress import Console, Progress
from raydistill.resources import Plan, Request, make_plan
from raydistill.specs import TeacherSpec, Tolerance
from raydistill.stages.cluster import connection, free_nodes
from raydistill.stages.demo import CLASSES, TEMPLATE, prepare_demo
from raydistill.stages.label import label_corpus
from raydistill.teacher import Teacher, describe_teacher

FILE_BYTES = 256 << 20


class Watch(Progress):
    """A console's progress that keeps when how many pairs were done."""

    def __init__(self) -> None:
        super().__init__(Console(io.StringIO()), "label", "texts", None)
        self.seen: list[tuple[float, int]] = []

    def update(self, done: int, note: str = "", work: Mapping[str, int] = MappingProxyType({})) -> None:
        super().update(done, note, work)
        self.seen.append((self.seconds, work["pairs"]))


def in_process(spec: TeacherSpec, texts: list[str]) -> float:
    """Pairs a second of the teacher alone."""
    teacher = Teacher.load(spec)
    teacher.score(texts[:50])
    started = time.monotonic()
    teacher.score(texts)
    return len(texts) * len(CLASSES) / (time.monotonic() - started)


def through_ray(spec: TeacherSpec, corpus: Path, store: Path, plan: Plan) -> tuple[float, float]:
    """(pairs a second in steady state, seconds before the first block's own work)."""
    watch = Watch()
    labels = LabelStore(str(store))
    labels.folder.create()
    limits: dict[str, Any] = {"file_bytes": FILE_BYTES, "most_rejected": 0, "tolerance": Tolerance()}
    label_corpus(find_files([str(corpus)]), "text", spec, labels, plan, watch, **limits)
    (first, before), (last, after) = watch.seen[0], watch.seen[-1]
    rate = (after - before) / (last - first)
    return rate, first - before / (rate / plan.teacher_actors_max)


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--texts", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as temporary, connection(None):
        os.environ["RAYDISTILL_CACHE"] = f"{temporary}/cache"
        files, _ = prepare_demo(f"{temporary}/demo", texts=1000)
        sentences = files.corpus.read_text(encoding="utf-8").splitlines()
        texts = [f"{sentences[i % len(sentences)]} {i}" for i in range(arguments.texts)]
        corpus = Path(temporary) / "corpus.txt"
        corpus.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
        spec = TeacherSpec(str(files.teacher), tuple(CLASSES), TEMPLATE, threads=cores, fingerprint="benchmark")
        spec = dataclasses.replace(spec, parameters=describe_teacher(spec)["teacher_parameters"])
        alone = in_process(spec, texts[: len(texts) // 4])  # makes the export
        ratios: dict[int, list[float]] = {1: [], cores: []}
        starts: dict[int, list[float]] = {1: [], cores: []}
        for number in range(arguments.rounds):
            for actors in ratios:
                before = in_process(spec, texts[: len(texts) // 4])
                plan = make_plan(free_nodes(), Request(teacher_actors=str(actors)))
                rate, first = through_ray(spec, corpus, Path(temporary) / f"{number}-{actors}", plan)
                alone = statistics.mean([before, in_process(spec, texts[: len(texts) // 4])])
                ratios[actors].append(rate / alone)
                starts[actors].append(first)
    rows = [
        {
            "label stage": f"{actors} actor{'s' * (actors > 1)} on {cores} cores",
            "steady state, of the teacher alone": f"{statistics.median(found):.2f} ({min(found):.2f}–{max(found):.2f})",
            "start-up": f"{statistics.median(starts[actors]):.1f} s",
        }
        for actors, found in ratios.items()
    ]
    publish(rows, arguments)


if __name__ == "__main__":
    main()

"""What does it save that of the first layer each distinct token of a batch is multiplied once?

    pip install -e '.[demo,openvino]' && python examples/benchmarks/first_layer.py

First sentences and whole documents of BBC News, with 2, 5 and 20 classes, in batches as the teacher makes them. Each
batch is scored by an engine with and without it, by turns, several rounds, of which the median counts. How much faster
all batches are together, the least and most of them in brackets, and how many of their tokens are distinct. With
--precision, in another one than fp32, in which raydistill leaves it out. Prints a Markdown table; --json keeps it.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import tempfile
import time
from typing import Any

import torch
from shapes import CHOICES, TOPICS, batches_of, distinct_share, profiles_of, teacher_of_shape
from tables import at_least_one, benchmark_parser, publish, times_as_fast

from raydistill.engines import exported, torch_engine
from raydistill.first_layer import PRECISIONS, share_first_layer
from raydistill.specs import TeacherSpec
from raydistill.stages.demo import TEMPLATE, prepare_demo
from raydistill.teacher import Teacher

WITHOUT, WITH = "without", "with"


def load(spec: TeacherSpec, how: str) -> Teacher:
    """The teacher with or without it."""
    shared: list[bool] = []

    def share(model: Any, precision: str) -> bool:
        shared.append(how == WITH and share_first_layer(model, precision))
        return shared[-1]

    torch_engine.share_first_layer = exported.share_first_layer = share
    teacher = Teacher.load(spec)
    assert (teacher.engine.backend, shared) == (spec.backend, [how == WITH])
    return teacher


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--shape", choices=CHOICES, default="demo")
    parser.add_argument("--backends", choices=["torch", "openvino"], nargs="+", default=["torch", "openvino"])
    parser.add_argument("--precision", choices=["fp32", "bf16", "int8"], default="fp32")
    parser.add_argument("--classes", type=int, nargs="+", default=[2, 5, 20])
    parser.add_argument("--documents", type=int, default=16)
    parser.add_argument("--sentences", type=int, default=200)
    parser.add_argument("--batches", type=at_least_one, default=8, help="of each kind of text, or a few more")
    parser.add_argument("--rounds", type=at_least_one, default=9)
    parser.add_argument("--threads", type=at_least_one, default=os.cpu_count())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    PRECISIONS.add(arguments.precision)
    rows: list[dict[str, Any]] = []
    kept: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["RAYDISTILL_CACHE"] = f"{temporary}/cache"
        files, _ = prepare_demo(f"{temporary}/demo", texts=arguments.sentences)
        folder = teacher_of_shape(arguments.shape, files)
        profiles = profiles_of(files, arguments.documents)
        for number in arguments.classes:
            spec = TeacherSpec(str(folder), tuple(TOPICS[:number]), TEMPLATE, precision=arguments.precision)
            spec = dataclasses.replace(spec, threads=arguments.threads, work=0.0)  # not to measure anything
            for profile, texts in profiles.items():
                row: dict[str, Any] = {"classes": number, "texts": profile}
                for backend in arguments.backends:
                    teachers = {how: load(dataclasses.replace(spec, backend=backend), how) for how in (WITHOUT, WITH)}
                    torch.set_num_threads(arguments.threads)  # of which a load may have taken fewer
                    batches = batches_of(teachers[WITH], texts)
                    batches = batches[:: max(1, len(batches) // arguments.batches)]
                    row["distinct tokens"] = f"{distinct_share(batches):.0%}"
                    seconds: dict[str, list[float]] = {how: [] for how in teachers}
                    for batch in batches:
                        took: dict[str, list[float]] = {how: [] for how in teachers}
                        for _ in range(arguments.rounds):
                            for how, teacher in teachers.items():
                                started = time.perf_counter()
                                teacher.engine.logits(batch)
                                took[how].append(time.perf_counter() - started)
                        for how, each in took.items():
                            seconds[how].append(statistics.median(each))
                    ratios = times_as_fast(seconds[WITHOUT], seconds[WITH])
                    together = sum(seconds[WITHOUT]) / sum(seconds[WITH])
                    row[f"{backend}, times as fast"] = f"{together:.2f} ({min(ratios):.2f}–{max(ratios):.2f})"
                    kept[f"{number} classes, {profile}, {backend}"] = ratios
                rows.append(row)
    publish(rows, arguments, batches=kept)


if __name__ == "__main__":
    main()

"""How many tokens should a batch have on a CPU?

    pip install -e '.[demo,int8]' && python examples/benchmarks/budget.py

Whole BBC News documents and their first sentences, five topics, with batches of 512 to 16,384 tokens, in turn, several
rounds, for each engine that is offered for CPUs. How fast each is beside the budget that is used, 2,048: medians, least
and most in brackets. Prints a Markdown table; --json keeps it.
"""

from __future__ import annotations

import os
import tempfile
import time

import torch
from shapes import CHOICES, native_engines, profiles_of, teacher_of_shape
from tables import at_least_one, benchmark_parser, publish, spread, times_as_fast

from raydistill.engines.budget import CPU_LEAST
from raydistill.specs import TeacherSpec
from raydistill.stages.demo import CLASSES, TEMPLATE, prepare_demo
from raydistill.teacher import Teacher

BUDGETS = [512, 1024, CPU_LEAST, 4096, 8192, 16384]


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--shape", choices=CHOICES, default="demo")
    parser.add_argument("--rounds", type=at_least_one, default=5)
    parser.add_argument("--documents", type=int, default=26, help="of up to 128 tokens, so some 16,000 for a round")
    parser.add_argument("--sentences", type=int, default=100)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    rounds: dict[str, dict[int, list[float]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["RAYDISTILL_CACHE"] = f"{temporary}/cache"
        files, _ = prepare_demo(f"{temporary}/demo", texts=arguments.sentences)
        folder = teacher_of_shape(arguments.shape, files)
        profiles = profiles_of(files, arguments.documents, arguments.sentences)
        for backend, precision in native_engines("cpu"):
            spec = TeacherSpec(
                str(folder), tuple(CLASSES), TEMPLATE, backend=backend, precision=precision, threads=arguments.threads
            )
            teacher = Teacher.load(spec)
            torch.set_num_threads(arguments.threads)  # of which a load may have taken fewer
            for profile, texts in profiles.items():
                seconds = rounds[f"{backend} {precision}, {profile}"] = {budget: [] for budget in BUDGETS}
                teacher.score(texts)
                for _ in range(arguments.rounds):
                    for budget, took in seconds.items():
                        teacher.token_budget = budget
                        started = time.perf_counter()
                        teacher.score(texts)
                        took.append(time.perf_counter() - started)
                row = {"engine": f"{backend} {precision}", "texts": profile}
                for budget, took in seconds.items():
                    row[f"{budget:,}"] = spread(times_as_fast(seconds[CPU_LEAST], took))
                rows.append(row)
    publish(rows, arguments, seconds=rounds)


if __name__ == "__main__":
    main()

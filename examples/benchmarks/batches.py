"""What does it gain to end a batch where the pairs after it would be padded for more than another batch costs?

    pip install -e '.[demo,openvino]' && python examples/benchmarks/batches.py

First sentences of BBC News, five topics, in blocks of 8, 64 and 256 texts, each sorted by length: with full batches,
and with ones that end where another saves more than 16, 32, 64 or 128 tokens of padding. By turns, several rounds, each
with other texts. How fast each is beside full batches, and the padding it leaves: medians, least and most in brackets.
Prints a Markdown table; --json keeps it.
"""

from __future__ import annotations

import os
import tempfile
import time

import torch
from shapes import CHOICES, teacher_of_shape
from tables import at_least_one, benchmark_parser, publish, spread, times_as_fast

from raydistill import pairs
from raydistill.engines.budget import CPU_LEAST
from raydistill.specs import Effort, TeacherSpec
from raydistill.stages.demo import CLASSES, TEMPLATE, prepare_demo
from raydistill.teacher import Teacher

FULL = "full"
COSTS = {FULL: CPU_LEAST**2, "16 tokens": 16, "32 tokens": 32, "64 tokens": 64, "128 tokens": 128}


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--shape", choices=CHOICES, default="demo")
    parser.add_argument("--backend", choices=["torch", "openvino"], default="openvino")
    parser.add_argument("--blocks", type=at_least_one, nargs="+", default=[8, 64, 256], help="texts")
    parser.add_argument("--least", type=at_least_one, default=128, help="texts of a round, in one block or several")
    parser.add_argument("--rounds", type=at_least_one, default=5)
    parser.add_argument("--threads", type=at_least_one, default=os.cpu_count())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows, rounds = [], {}
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["RAYDISTILL_CACHE"] = f"{temporary}/cache"
        files, _ = prepare_demo(f"{temporary}/demo", texts=1825)
        folder = teacher_of_shape(arguments.shape, files)
        sentences = files.corpus.read_text(encoding="utf-8").splitlines()
        spec = TeacherSpec(
            str(folder),
            tuple(CLASSES),
            TEMPLATE,
            backend=arguments.backend,
            precision="fp32",
            threads=arguments.threads,
        )
        teacher = Teacher.load(spec)
        torch.set_num_threads(arguments.threads)  # of which a load may have taken fewer
        teacher.token_budget = CPU_LEAST
        teacher.warm_up(sentences)
        for block in arguments.blocks:
            of_round = max(block, arguments.least // block * block)
            seconds: dict[str, list[float]] = {name: [] for name in COSTS}
            efforts = {name: Effort() for name in COSTS}
            for number in range(arguments.rounds):
                texts = [sentences[(number * of_round + i) % len(sentences)] for i in range(of_round)]
                for name, cost in COSTS.items():
                    pairs.BATCH_SHARE = CPU_LEAST / cost
                    started = time.perf_counter()
                    for at in range(0, of_round, block):
                        teacher.score(texts[at : at + block], efforts[name])
                    seconds[name].append(time.perf_counter() - started)
            row = {"shape": arguments.shape, "engine": arguments.backend, "texts of a block": f"{block:,}"}
            for name, took in seconds.items():
                padding = 1 - efforts[name].tokens / efforts[name].padded_tokens
                speed = spread(times_as_fast(seconds[FULL], took))
                row[name] = f"{'1.00' if name == FULL else speed}, {padding:.1%} padding"
            rows.append(row)
            rounds[block] = seconds
    publish(rows, arguments, seconds=rounds)


if __name__ == "__main__":
    main()

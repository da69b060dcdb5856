"""How long until the first labels of a large teacher are on disk?

    pip install -e '.[demo]' && python examples/benchmarks/first_block.py

`raydistill label` with a teacher of RoBERTa-large's shape on BBC News, from the command to its first label file; then
it is killed. For first sentences and whole documents: few of them, and so many that it pays to convert the teacher,
the first time on a machine and once that is in its cache. Prints a Markdown table.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from shapes import CHOICES, teacher_of_shape
from tables import at_least_one, benchmark_parser, publish, spread

from raydistill.stages.demo import CLASSES, demo_documents, demo_sentences, prepare_demo

FEW, MANY = 100, 20_000  # texts


def first_labels(corpus: Path, classes: Path, teacher: Path, cache: Path) -> float:
    """Seconds until there are any."""
    with tempfile.TemporaryDirectory() as folder:
        options = {
            "data-file": corpus,
            "class-names-file": classes,
            "teacher-name-or-path": teacher,
            "output-dir": Path(folder, "out"),
        }
        flags = [str(token) for name, value in options.items() for token in (f"--{name}", value)]
        began = time.monotonic()
        run = subprocess.Popen(
            [sys.executable, "-m", "raydistill", "label", *flags],
            env=os.environ | {"RAYDISTILL_CACHE": str(cache)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while not list(Path(folder, "out", "labels").glob("part-*.parquet")):
            assert run.poll() is None, "the run ended before"
            time.sleep(0.02)
        took = time.monotonic() - began
        for number in (signal.SIGTERM, signal.SIGTERM):  # the second ends it without its blocks under way
            run.send_signal(number)
            time.sleep(1.0)
        run.wait()
    return took


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--shape", choices=CHOICES, default="roberta-large")
    parser.add_argument("--texts", type=int, nargs=2, default=[FEW, MANY])
    parser.add_argument("--rounds", type=at_least_one, default=3)
    arguments = parser.parse_args()
    rows, raw = [], {}
    with tempfile.TemporaryDirectory() as temporary:
        files, _ = prepare_demo(f"{temporary}/demo", texts=10)
        teacher = teacher_of_shape(arguments.shape, files)
        classes = Path(temporary, "classes.txt")
        classes.write_text("".join(f"{name}\n" for name in CLASSES))
        kinds = {"first sentences": demo_sentences(), "whole documents": demo_documents()}
        for kind, texts in kinds.items():
            row = {"texts": kind}
            for number in arguments.texts:
                corpus = Path(temporary, f"{number}.txt")
                lines = (" ".join(texts[i % len(texts)].split()) for i in range(number))
                corpus.write_text("".join(f"{i} {line}\n" for i, line in enumerate(lines)), encoding="utf-8")
                rounds: dict[str, list[float]] = {"the first time on a machine": [], "after that": []}
                for at in range(arguments.rounds):
                    for times in rounds.values():
                        cache = Path(temporary, f"cache-{kind}-{number}-{at}")
                        times.append(first_labels(corpus, classes, teacher, cache))
                for when, times in rounds.items():
                    row[f"{number:,} texts, {when}"] = f"{spread(times, '.1f')} s"
                    raw[f"{kind}, {number}, {when}"] = times
            rows.append(row)
    publish(rows, arguments, seconds=raw)


if __name__ == "__main__":
    main()

"""Do the teachers of one machine share their weights?

    pip install -e '.[demo]' && python examples/benchmarks/sharing.py

Processes load a teacher of RoBERTa-large's shape at the same time, as teacher actors do, from files that are not in the
system's cache. What each has in memory: all of it, and its part of it, where what several have is divided among them;
what all together have read from the disk; and how long the slowest took. Prints a Markdown table; --json keeps it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from shapes import CHOICES, teacher_of_shape
from tables import benchmark_parser, publish

from raydistill.specs import TeacherSpec
from raydistill.stages.demo import CLASSES, TEMPLATE, prepare_demo
from raydistill.teacher import Teacher

MB = 1e6


def load(folder: str, backend: str) -> None:
    """Load a teacher, score a text, say how long that took, and wait to be looked at."""
    started = time.monotonic()
    spec = TeacherSpec(folder, tuple(CLASSES), TEMPLATE, threads=1, backend=backend, fingerprint="benchmark")
    teacher = Teacher.load(spec)
    teacher.score(["The match was won in the last minute."])
    print(time.monotonic() - started, flush=True)
    sys.stdin.readline()


def forget(folder: Path) -> None:
    """Put files out of the system's cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def together(folders: list[Path], backend: str, number: int) -> dict[str, Any]:
    """A row: so many processes at a time."""
    for folder in folders:
        forget(folder)
    command = [sys.executable, __file__, "--load", str(folders[0]), backend]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    started = [subprocess.Popen(command, text=True, **pipes) for _ in range(number)]
    seconds = [float(process.stdout.readline()) for process in started if process.stdout]
    looked_at = [psutil.Process(process.pid) for process in started]
    memory = [process.memory_full_info() for process in looked_at]
    read = sum(process.io_counters().read_bytes for process in looked_at)
    for process in started:
        process.communicate("\n")
    return {
        "engine": backend,
        "processes": number,
        "in memory, each": f"{max(each.rss for each in memory) / MB:,.0f} MB",
        "its part, each": f"{max(each.pss for each in memory) / MB:,.0f} MB",
        "read from disk, together": f"{read / MB:,.0f} MB",
        "loaded after": f"{max(seconds):.0f} s",
    }


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--shape", choices=CHOICES, default="roberta-large")
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--load", nargs=2, metavar=("FOLDER", "BACKEND"), help="what each process does")
    arguments = parser.parse_args()
    if arguments.load:
        load(*arguments.load)
        return
    with tempfile.TemporaryDirectory(dir=".") as temporary:  # on a disk: the system's own may be in memory
        cache = Path(temporary, "cache")
        os.environ["RAYDISTILL_CACHE"] = str(cache)
        files, _ = prepare_demo(f"{temporary}/demo", texts=10)
        teacher = teacher_of_shape(arguments.shape, files)
        weights = (teacher / "model.safetensors").stat().st_size
        print(f"weights: {weights / MB:,.0f} MB")
        rows = []
        for backend in ("torch", "openvino"):
            together([teacher, cache], backend, 1)  # makes the export
            rows += [together([teacher, cache], backend, number) for number in (1, arguments.processes)]
        publish(rows, arguments)


if __name__ == "__main__":
    main()

"""Does memory stay flat as the corpus grows? Peak resident memory of driver and workers, for two sizes of corpus.

    pip install -e '.[test]' && python examples/benchmarks/memory.py

Runs `raydistill run` over short made-up texts with tiny random models, so that memory and not the forward pass is what
is seen. Memory is what a process holds for itself (anonymous pages and mapped files); Ray's object store, which all
processes share and which has a bound of its own, is left out. Linux only: reads /proc.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import psutil
from tables import benchmark_parser, publish

OTHERS = "read, merge and data tasks"
KINDS = {  # the beginnings of the titles that Ray gives its processes
    "ray::MapWorker": "teacher actor",
    "ray::_RayTrainWorker": "train worker",
    "ray::RayTrainWorker": "train worker",
    "ray::TrainController": "train controller",
    "ray::SplitCoordinator": "data coordinator of the training",
    "ray::": OTHERS,
}


def resident(pid: int, of: str) -> tuple[str, float] | None:
    """(title, resident MB of these kinds of pages) of a process."""
    try:
        status = Path("/proc", str(pid), "status").read_text()
        title = Path("/proc", str(pid), "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return None
    held = re.findall(rf"^Rss(?:{of}):\s+(\d+)", status, re.MULTILINE)
    return (title, sum(map(int, held)) / 1024) if held else None


def peak_memory(driver: subprocess.Popen[bytes], every: float = 0.2, of: str = "Anon|File") -> dict[str, float]:
    """Peak MB by kind of process, of the driver and what it has started, sampled until it ends.

    Args:
        of: which pages: those of its own, of files, or both.
    """
    peaks: dict[str, float] = defaultdict(float)
    started: list[int] = []
    titles: dict[int, str] = {}  # a process keeps the first telling title: idle ones are renamed
    while driver.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):  # it ends just now
            started = [child.pid for child in psutil.Process(driver.pid).children(recursive=True)]
        for pid in (driver.pid, *started):
            if not (found := resident(pid, of)):
                continue
            title, size = found
            kind = next((name for start, name in KINDS.items() if title.startswith(start)), "")
            kind = "driver" if pid == driver.pid else kind
            if kind and titles.get(pid, OTHERS) == OTHERS:
                titles[pid] = kind
            if pid in titles:
                peaks[titles[pid]] = max(peaks[titles[pid]], size)
        time.sleep(every)
    return peaks


def measure(teacher: Path, student: Path, texts: int) -> dict[str, float]:
    """Peak MB by kind of process, sampled while `raydistill run` runs."""
    with tempfile.TemporaryDirectory() as folder:
        corpus, classes = Path(folder, "corpus.txt"), Path(folder, "classes.txt")
        with corpus.open("w") as stream:
            stream.writelines(f"a short text with the number {i} and some more words\n" for i in range(texts))
        classes.write_text("sport\npolitics\n")
        options = {
            "data-file": corpus,
            "class-names-file": classes,
            "output-dir": Path(folder, "out"),
            "teacher-name-or-path": teacher,
            "student-name-or-path": student,
        }
        flags = [str(token) for name, value in options.items() for token in (f"--{name}", value)]
        process = subprocess.Popen([sys.executable, "-m", "raydistill", "run", *flags])
        peaks = peak_memory(process)
        assert process.returncode == 0
    return peaks


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--sizes", type=int, nargs=2, default=[2000, 200_000])
    arguments = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
    from tiny_models import save_classifier, save_encoder

    with tempfile.TemporaryDirectory() as folder:
        teacher, student = save_classifier(Path(folder, "teacher")), save_encoder(Path(folder, "student"))
        small, large = (measure(teacher, student, size) for size in arguments.sizes)
    first, second = (f"{size:,} texts" for size in arguments.sizes)
    rows = [
        {
            "process": kind,
            first: f"{small[kind]:.0f} MB",
            second: f"{large[kind]:.0f} MB",
            "ratio": f"{large[kind] / small[kind]:.2f}",
        }
        for kind in sorted(small.keys() & large.keys())
    ]
    publish(rows, arguments)


if __name__ == "__main__":
    main()

"""Does memory stay flat as the corpus grows? Peak resident memory of driver and workers, for two sizes of corpus.

    pip install -e '.[test]' && python examples/benchmarks/memory.py

Runs `raydistill run` over short made-up texts with tiny random models, so that memory and not the forward pass is what
is seen. Memory is what a process holds for itself (anonymous pages and mapped files); Ray's object store, which all
processes share and which has a bound of its own, is left out. Linux only: reads /proc.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

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


def resident(pid: str) -> tuple[str, float] | None:
    """(title, resident MB that are not shared) of a process."""
    try:
        status = Path("/proc", pid, "status").read_text()
        title = Path("/proc", pid, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return None
    held = re.findall(r"^Rss(?:Anon|File):\s+(\d+)", status, re.MULTILINE)
    return (title, sum(map(int, held)) / 1024) if held else None


def peak_memory(driver: subprocess.Popen[bytes], every: float = 0.2) -> dict[str, float]:
    """Peak MB by kind of process, sampled until the driver ends."""
    peaks: dict[str, float] = defaultdict(float)
    titles: dict[str, str] = {}  # a process keeps the first telling title: idle ones are renamed
    while driver.poll() is None:
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or not (found := resident(entry.name)):
                continue
            title, size = found
            kind = next((name for start, name in KINDS.items() if title.startswith(start)), "")
            kind = "driver" if entry.name == str(driver.pid) else kind
            if kind and titles.get(entry.name, OTHERS) == OTHERS:
                titles[entry.name] = kind
            if entry.name in titles:
                peaks[titles[entry.name]] = max(peaks[titles[entry.name]], size)
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

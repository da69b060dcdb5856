"""Does memory stay flat as the corpus grows? Peak resident memory of driver and workers, for two sizes of corpus.

    python examples/benchmarks/memory.py TEACHER_DIR --sizes 2000 200000

Labels short made-up texts with a teacher that should be trivial (a tiny random model), so that memory and not the
forward pass is what is seen. Linux only: reads /proc.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

KINDS = {
    "ray::MapWorker": "teacher actor",
    "ray::ReadCorpusSource": "read and write tasks",
    "ray::MapBatches": "read and write tasks",
    "ray::IDLE": "read and write tasks",
}


def resident(pid: str) -> tuple[str, float] | None:
    """(command line, peak resident MB without shared memory) of a process."""
    try:
        status = Path("/proc", pid, "status").read_text()
        command = Path("/proc", pid, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    if "RssAnon" not in fields:
        return None
    return command, int(fields["RssAnon"].split()[0]) / 1024


def measure(teacher: str, texts: int) -> dict[str, float]:
    """Peak MB by kind of process, sampled while `raydistill label` runs."""
    peaks: dict[str, float] = defaultdict(float)
    with tempfile.TemporaryDirectory() as folder:
        corpus, classes = Path(folder, "corpus.txt"), Path(folder, "classes.txt")
        with corpus.open("w") as stream:
            stream.writelines(f"a short text with the number {i} and some more words\n" for i in range(texts))
        classes.write_text("sport\npolitics\n")
        inputs = ["--data-file", corpus, "--class-names-file", classes, "--teacher-name-or-path", teacher]
        output = ["--output-dir", Path(folder, "out")]
        process = subprocess.Popen([sys.executable, "-m", "raydistill", "label", *inputs, *output])
        while process.poll() is None:
            for entry in Path("/proc").iterdir():
                if entry.name.isdigit() and (found := resident(entry.name)):
                    command, size = found
                    kind = next((name for start, name in KINDS.items() if command.startswith(start)), None)
                    kind = "driver" if entry.name == str(process.pid) else kind
                    if kind:
                        peaks[kind] = max(peaks[kind], size)
            time.sleep(0.2)
        assert process.returncode == 0
    return peaks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher")
    parser.add_argument("--sizes", type=int, nargs=2, default=[2000, 200_000])
    options = parser.parse_args()
    small, large = (measure(options.teacher, size) for size in options.sizes)
    print(f"| process | {options.sizes[0]:,} texts | {options.sizes[1]:,} texts | ratio |\n| --- | --- | --- | --- |")
    for kind in small:
        print(f"| {kind} | {small[kind]:.0f} MB | {large[kind]:.0f} MB | {large[kind] / small[kind]:.2f} |")


if __name__ == "__main__":
    main()

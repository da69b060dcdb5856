"""What does a run take beside the models' own work? The wall clock of 1,000 texts with models that cost nothing.

    pip install -e '.[test]' && python examples/benchmarks/overhead.py

Tiny random models score and train within a second or two; what is left is starting Python, Ray and its workers, loading
libraries, planning, and writing labels and student. After the runs whose wall clock counts, one more is watched, which
may take its time too: which process lived from when to when and took how much of the processors; their sum, over the
cores, is what the wall clock is made of. Prints when each line of its console came.
"""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
from tables import at_least_one, benchmark_parser, markdown, publish, spread


def cpu_seconds(command: list[str]) -> float:
    """CPU time of a command and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def timed(command: list[str], *, tell: bool = False) -> tuple[float, dict[str, float]]:
    """(seconds of a command, what its summary says of them); tells what its console says, and when."""
    started = time.monotonic()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said: dict[str, float] = {}
    for line in process.stderr:
        if line.startswith("  time "):
            found = re.findall(r"([a-z-]+) (?:([0-9]+) min )?([0-9.]+) s", line)
            said = {name: 60 * int(minutes or 0) + float(seconds) for name, minutes, seconds in found}
        if tell:
            print(f"{time.monotonic() - started:5.1f} s  {line.rstrip()}")
    assert process.wait() == 0
    return time.monotonic() - started, said


class Processes(threading.Thread):
    """Notes, ten times a second, the processes that have begun since it was made; for an otherwise idle machine."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        # By number, as what a process says of its beginning may be a second off the clock.
        self.over, self._earlier = threading.Event(), set(psutil.pids())
        self._seen: dict[tuple[int, float], dict[str, Any]] = {}

    def run(self) -> None:
        while not self.over.wait(0.1):
            for process in psutil.process_iter():
                try:
                    if process.pid in self._earlier:
                        continue
                    with process.oneshot():
                        created, title = process.create_time(), " ".join(process.cmdline()) or process.name()
                        times = process.cpu_times()
                    now = time.monotonic()
                    seen = self._seen.setdefault((process.pid, created), {"from": now})
                    seen |= {"title": title or seen.get("title", ""), "to": now, "cpu": times.user + times.system}
                except psutil.Error:
                    continue

    def rows(self) -> list[dict[str, str]]:
        """In the order in which they began; seconds are from the first one's beginning."""
        began = min(seen["from"] for seen in self._seen.values())
        return [
            {
                "process": short_title(seen["title"]),
                "from": f"{seen['from'] - began:.1f} s",
                "to": f"{seen['to'] - began:.1f} s",
                "CPU": f"{seen['cpu']:.1f} s",
            }
            for seen in sorted(self._seen.values(), key=lambda seen: seen["from"])
            if seen["cpu"] >= 0.1
        ]

    def cpu(self) -> float:
        """Seconds of all of them together."""
        return sum(seen["cpu"] for seen in self._seen.values())


def short_title(title: str) -> str:
    """What a process is, of its command line: Ray's own name for a worker, the program, or the Python module."""
    words = title.split()
    if not words or words[0].startswith("ray::"):
        return title[:60]
    if "-m" in words[:3]:
        return " ".join(words[words.index("-m") + 1 :][:2])
    program = Path(words[0]).name
    scripts = [Path(word).name for word in words[1:] if word.endswith(".py")]
    return scripts[0] if program.startswith("python") and scripts else program


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--rounds", type=at_least_one, default=5)
    arguments = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
    from tiny_models import save_classifier, save_encoder

    raydistill = [sys.executable, "-m", "raydistill"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        teacher, student = save_classifier(folder / "teacher"), save_encoder(folder / "student")
        corpus, classes = folder / "corpus.txt", folder / "classes.txt"
        corpus.write_text("".join(f"a text with the number {i} and more words\n" for i in range(arguments.texts)))
        classes.write_text("sport\npolitics\nmoney\nart\ntechnology\n")
        inputs = ["--data-file", str(corpus), "--class-names-file", str(classes)]
        models = ["--teacher-name-or-path", str(teacher), "--student-name-or-path", str(student)]
        command = [*raydistill, "run", *inputs, *models, "--output-dir"]
        outs = [folder / f"round-{number}" for number in range(arguments.rounds)]
        walls, said = zip(*(timed([*command, str(out)]) for out in outs), strict=True)
        stages = [json.loads((out / "run.json").read_text())["stages"] for out in outs]
        processes = Processes()
        processes.start()
        timed([*command, str(folder / "watched")], tell=True)
        processes.over.set()
        processes.join()
    figures = {
        f"wall clock of a run over {arguments.texts:,} texts with tiny models": walls,
        "of it: start-up (libraries, Ray, the models are checked)": [times["start-up"] for times in said],
        "of it: label stage": [stage["label"]["seconds"] for stage in stages],
        "of the label stage: until its first block is begun": [stage["label"]["startup_seconds"] for stage in stages],
        "of the label stage: until its first block is labelled": [
            stage["label"]["first_block_seconds"] for stage in stages
        ],
        "from the command to the first labelled block, at most": [
            wall - times["total"] + times["start-up"] + times.get("audit", 0.0) + stage["label"]["first_block_seconds"]
            for wall, times, stage in zip(walls, said, stages, strict=True)
        ],
        "of it: train stage": [stage["train"]["seconds"] for stage in stages],
        "of it: Ray ends": [times["shutdown"] for times in said],
        "of it: Python begins and ends": [wall - times["total"] for wall, times in zip(walls, said, strict=True)],
    }
    rows: list[dict[str, Any]] = [
        {"what": what, "figure": f"{spread(values, '.1f')} s"} for what, values in figures.items()
    ]
    rows.append({"what": "CPU time of all its processes, when watched", "figure": f"{processes.cpu():.1f} s"})
    for flags in (["--help"], ["run", "--help"]):
        figure = f"{cpu_seconds([*raydistill, *flags]):.2f} s"
        rows.append({"what": f"CPU time of `raydistill {' '.join(flags)}`", "figure": figure})
    print(f"\n{markdown(processes.rows())}\n")
    publish(rows, arguments, seconds=figures, processes=processes.rows())


if __name__ == "__main__":
    main()

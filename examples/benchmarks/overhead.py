"""What does a run take beside the models' own work? The wall clock of 1,000 texts with models that cost nothing.

    pip install -e '.[test]' && python examples/benchmarks/overhead.py

Tiny random models score and train within a second or two; what is left is starting Python, Ray and its workers, loading
libraries, planning, and writing labels and student. Prints when each line of the console came.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tables import benchmark_parser, publish


def cpu_seconds(command: list[str]) -> float:
    """CPU time of a command and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--texts", type=int, default=1000)
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
        command = [*raydistill, "run", *inputs, *models, "--output-dir", str(folder / "out")]
        started = time.monotonic()
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        for line in process.stderr:
            print(f"{time.monotonic() - started:5.1f} s  {line.rstrip()}")
        assert process.wait() == 0
        wall = time.monotonic() - started
    rows = [{"what": f"wall clock of a run over {arguments.texts:,} texts with tiny models", "figure": f"{wall:.1f} s"}]
    for flags in (["--help"], ["run", "--help"]):
        figure = f"{cpu_seconds([*raydistill, *flags]):.2f} s"
        rows.append({"what": f"CPU time of `raydistill {' '.join(flags)}`", "figure": figure})
    print()
    publish(rows, arguments)


if __name__ == "__main__":
    main()

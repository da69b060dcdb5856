"""What does it take to go on where very much is labelled already?

    pip install -e '.[test]' && python examples/benchmarks/resume.py

A label store of so many texts is made up (their logits mean nothing), and a corpus of the same texts in another order
with 2,000 new ones at its beginning. `raydistill label` goes on: time from its start to the first new label file, and
in all, with the peak memory that its processes have for themselves (without the pages of files, of ids among others,
which the system takes back where it needs them), and what of the label files says which texts are finished. Tiny random
models. Prints a Markdown table. With RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES=80000000 Ray's object store is too small
for the ids of five million texts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from memory import OTHERS, peak_memory
from tables import benchmark_parser, publish

from raydistill.corpus import text_id
from raydistill.label_store import SCHEMA, LabelStore, logits_column

CLASSES = ("sport", "politics", "money", "art", "technology")
NEW, PART_ROWS = 2_000, 50_000  # as of a block of short texts


def fill(store: LabelStore, texts: int) -> None:
    """Label files of so many texts."""
    rng = np.random.default_rng(0)
    for at in range(0, texts, PART_ROWS):
        names = [f"old text {i}" for i in range(at, min(at + PART_ROWS, texts))]
        logits = rng.normal(size=(2, len(names), len(CLASSES))).astype(np.float32)
        columns = [[text_id(name) for name in names], names, np.ones(len(names), dtype=np.int64)]
        store.write_part(pa.table([*columns, *map(logits_column, logits)], schema=SCHEMA))


def measure(texts: int) -> dict[str, float]:
    """Go on with so many finished; what it took."""
    from tiny_models import save_classifier

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
        corpus, new = folder / "corpus.txt", "".join(f"a text with the number {i}\n" for i in range(NEW))
        corpus.write_text(new)
        options = ["--data-file", str(corpus), "--class-names-file", str(folder / "classes.txt")]
        options += ["--teacher-name-or-path", str(save_classifier(folder / "teacher")), "--output-dir"]
        command = [sys.executable, "-m", "raydistill", "label", *options, str(folder / "out")]
        corpus.write_text("old text 0\n")
        subprocess.run(command, check=True, capture_output=True)  # for the records of a store
        store = LabelStore(str(folder / "out" / "labels"))
        for name in store.parts():
            store.folder.delete(name)
        fill(store, texts)
        with corpus.open("w") as stream:
            stream.write(new)
            stream.writelines(f"old text {i}\n" for i in reversed(range(texts)))
        there, first = set(store.parts()), []

        def look() -> None:
            while not first and not over.wait(0.05):
                if set(store.parts()) - there:
                    first.append(time.monotonic())

        over = threading.Event()
        began = time.monotonic()
        driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        watch = threading.Thread(target=look)
        watch.start()
        peaks = peak_memory(driver, every=0.5, of="Anon")
        whole = time.monotonic() - began
        over.set()
        watch.join()
        assert driver.returncode == 0
        record = json.loads((folder / "out" / "run.json").read_text())
        assert record["stages"]["label"]["labelled"] == NEW
        assert record["counts"]["texts"] == texts + NEW
        ids, files = of_ids(store)
    return {"first": first[0] - began, "whole": whole, "ids": ids, "files": files, **peaks}


def of_ids(store: LabelStore) -> tuple[float, float]:
    """Bytes of the ids in the label files for each text, and of the files."""
    ids, rows = 0, 0
    for name in store.parts():
        with store.folder.open(name) as source:
            metadata = pq.ParquetFile(source).metadata
        groups = [metadata.row_group(at) for at in range(metadata.num_row_groups)]
        ids += sum(group.column(SCHEMA.get_field_index("text_id")).total_compressed_size for group in groups)
        rows += metadata.num_rows
    return ids / rows, sum(store.folder.sizes(".parquet").values()) / rows


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--texts", type=int, nargs="+", default=[20_000, 5_000_000])
    arguments = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
    os.environ |= {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    rows = []
    for texts in arguments.texts:
        found = measure(texts)
        rows.append(
            {
                "finished texts": f"{texts:,}",
                "to the first new label file": f"{found['first']:.0f} s",
                "in all": f"{found['whole']:.0f} s",
                "peak: driver": f"{found['driver']:.0f} MB",
                "peak: other tasks": f"{found[OTHERS]:.0f} MB",
                "ids, of the label files, for a million texts": f"{found['ids']:.0f} of {found['files']:.0f} MB",
            }
        )
    publish(rows, arguments)


if __name__ == "__main__":
    main()

"""What does it save that texts are tokenised once, and not in every epoch?

    pip install -e '.[demo]' && python examples/benchmarks/tokenizing.py

A label store of BBC News documents, again and again with a number in front; the demo's student, cut to 128 tokens. The
time of one data task for what an epoch reads: the first one, which makes rows and keeps them, and a later one; medians
of several rounds in turn, least and most in brackets. Prints a Markdown table; --json keeps it.
"""

from __future__ import annotations

import statistics
import tempfile
import time

import numpy as np
import pyarrow as pa
from tables import at_least_one, benchmark_parser, publish, spread

from raydistill.corpus import text_id
from raydistill.files import Folder
from raydistill.kept_rows import KeptRows
from raydistill.label_store import LabelStore, logits_column
from raydistill.pretrained import load_tokenizer
from raydistill.specs import ModelSpec
from raydistill.stages.demo import CLASSES, demo_documents, prepare_demo
from raydistill.stages.training_data import LabelSource
from raydistill.student_rows import StudentRows


def fill(store: LabelStore, texts: list[str], part_texts: int) -> None:
    """Label parts of so many texts, with random logits."""
    rng = np.random.default_rng(0)
    store.folder.create()
    for at in range(0, len(texts), part_texts):
        some = texts[at : at + part_texts]
        entailment, contradiction = rng.normal(size=(2, len(some), len(CLASSES))).astype(np.float32)
        store.write_part(
            pa.table(
                {
                    "text_id": [text_id(text) for text in some],
                    "text": some,
                    "occurrences": np.ones(len(some), dtype=np.int64),
                    "entailment": logits_column(entailment),
                    "contradiction": logits_column(contradiction),
                }
            )
        )


def epoch(rows: KeptRows) -> tuple[float, int]:
    """Seconds that reading all rows takes, in one task, and how many there are."""
    source = LabelSource(rows.store, None, 0)
    started = time.perf_counter()
    number = sum(table.num_rows for task in source.get_read_tasks(1) for named in task() for table in rows(named))
    return time.perf_counter() - started, number


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--texts", type=int, default=6000)
    parser.add_argument("--rounds", type=at_least_one, default=5)
    arguments = parser.parse_args()
    documents = demo_documents()
    texts = [f"{i} {documents[i % len(documents)]}" for i in range(arguments.texts)]
    with tempfile.TemporaryDirectory() as temporary:
        _, demo = prepare_demo(f"{temporary}/demo", texts=10)
        student = ModelSpec(demo.student_name_or_path)
        rows = StudentRows.of(
            load_tokenizer(student),
            student,
            max_length=128,
            num_classes=len(CLASSES),
            temperature=1.0,
            multi_label=False,
        )
        store = LabelStore(f"{temporary}/labels")
        fill(store, texts, 2000)
        took: dict[str, list[float]] = {"made, not kept": [], "made and kept": [], "read": []}
        for number in range(arguments.rounds):
            folder = Folder(f"{temporary}/rows{number}")
            kept = KeptRows.in_folder(folder, store, rows)
            for name, one in zip(took, (KeptRows(store, rows), kept, kept), strict=True):
                seconds, met = epoch(one)
                assert met == len(texts)
                took[name].append(seconds)
        labels, size = sum(store.folder.sizes().values()), sum(folder.sizes().values())
    table = []
    for name, seconds in took.items():
        shares = [own / first for own, first in zip(seconds, took["made, not kept"], strict=True)]
        table.append(
            {
                "an epoch's rows": name,
                "texts/s": f"{len(texts) / statistics.median(seconds):,.0f}",
                "time, of making them": spread(shares, ".3f"),
            }
        )
    megabytes = {"label files": labels, "kept rows": size, "texts": sum(map(len, texts))}
    print(", ".join(f"{what} {size / 1e6:.1f} MB" for what, size in megabytes.items()), end="\n\n")
    publish(table, arguments, seconds=took, bytes=megabytes)


if __name__ == "__main__":
    main()

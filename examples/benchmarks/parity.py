"""Does raydistill give what the original script's method gives? Soft labels to 1e-5, students within a point.

    pip install -e '.[demo]' && python examples/benchmarks/parity.py

Runs on the demo's texts, teacher and student; prints a Markdown table. Students are compared over several seeds: of 400
held-out texts a point is four. Means, and the mean difference to the plain Trainer of the same seed with its standard
error, in points.
"""

from __future__ import annotations

import csv
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd
from plain_trainer import train_plainly
from seed_method import seed_logits, seed_soft_labels
from tables import benchmark_parser, beside, publish

from raydistill import DistillConfig, label, soft_labels, train
from raydistill.stages.demo import TEMPLATE, prepare_demo
from raydistill.student import load_trained_student, predict

PLAIN = "plain Trainer, batch 32"
TRAINING = {"num_train_epochs": 2, "learning_rate": 2e-4, "warmup_steps": 10}


def compare_labels(store: pd.DataFrame, logits: dict[str, np.ndarray], rows: list[tuple[str, str]]) -> None:
    """Largest difference of soft labels, for both rules and two temperatures."""
    entailment, contradiction = np.stack(store.entailment), np.stack(store.contradiction)
    reference = np.stack([logits[text] for text in store.text])
    import torch

    for multi_label in (False, True):
        for temperature in (1.0, 2.0):
            ours = soft_labels(entailment, contradiction, temperature=temperature, multi_label=multi_label)
            seeds = seed_soft_labels(torch.from_numpy(reference), 0, temperature, multi_label)
            name = f"soft labels, {'multi' if multi_label else 'single'}-label, T = {temperature:g}"
            rows.append((name, f"largest difference {np.abs(ours - seeds).max():.1e} over {len(store):,} texts"))


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--texts", type=int, default=1825)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=None, help="where to work; a temporary folder by default")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        files, config = prepare_demo(str(folder / "demo"), texts=arguments.texts)
        student = config.student_name_or_path
        base = {
            "data_file": str(files.corpus),
            "class_names_file": str(files.class_names),
            "teacher_name_or_path": str(files.teacher),
            "student_name_or_path": student,
            "hypothesis_template": TEMPLATE,
        }
        labelled = label(DistillConfig(output_dir=str(folder / "labelled"), **base))
        store = pd.read_parquet(labelled.labels)
        names = files.class_names.read_text().split()
        distinct = list(store.text.unique())
        logits = dict(zip(distinct, seed_logits(str(files.teacher), distinct, names, TEMPLATE).numpy(), strict=True))
        rows: list[tuple[str, str]] = []
        compare_labels(store, logits, rows)

        corpus = files.corpus.read_text(encoding="utf-8").splitlines()
        targets = soft_labels(np.stack([logits[text][:, 0] for text in corpus]), np.zeros((len(corpus), len(names))))
        with files.held_out.open(encoding="utf-8", newline="") as stream:
            held_out = list(csv.DictReader(stream))
        unseen, truth = [row["text"] for row in held_out], np.array([names.index(row["topic"]) for row in held_out])

        def judge(path: Path) -> dict[str, float]:
            model, tokenizer = load_trained_student(str(path))
            found = predict(model, tokenizer, corpus).argmax(-1), predict(model, tokenizer, unseen).argmax(-1)
            return {"agreement": np.mean(found[0] == targets.argmax(-1)), "accuracy": np.mean(found[1] == truth)}

        students: dict[str, list[dict[str, float]]] = defaultdict(list)
        for seed in range(42, 42 + arguments.seeds):
            plain = folder / f"{seed}-plain"
            train_plainly(student, corpus, targets, plain, seed=seed, **TRAINING)
            students[PLAIN].append(judge(plain))
            for workers, batch in ((1, 32), (2, 16), (2, 32)):
                output = folder / f"{seed}-{workers}x{batch}"
                options = base | TRAINING | {"train_workers": workers, "per_device_train_batch_size": batch}
                options["seed"] = seed
                train(DistillConfig(output_dir=str(output), labels=str(labelled.labels), **options))
                name = f"raydistill, {workers} worker{'s' * (workers > 1)}, batch {batch} each"
                students[name].append(judge(output))
    for name, found in students.items():
        said = [f"{what} {np.mean([one[what] for one in found]):.1%}" for what in ("agreement", "accuracy")]
        if name != PLAIN:
            apart = [beside(students[PLAIN], found, what) for what in ("agreement", "accuracy")]
            said.append(f"beside the plain one's {' and '.join(apart)} points")
        rows.append((f"student, {name}", ", ".join(said)))
    publish([{"what": name, "figure": figure} for name, figure in rows], arguments, students=students)


if __name__ == "__main__":
    main()

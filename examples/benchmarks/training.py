"""How fast is the student trained beside a plain `Trainer`, and is it as good?

    pip install -e '.[demo]' && python examples/benchmarks/training.py

BBC News: whole documents and first sentences by turns, all cut to --max-length tokens. The demo's teacher labels some
of them once. Then a plain single-process `Trainer` and raydistill's train stage make as many updates of the same rows
with the same arguments, in turn, one seed a round. A run's time is from its first update to its last, with all that
lies between; start-up is told apart. Students are judged on all the texts that were not trained on. Prints a Markdown
table of medians, least and most in brackets, and of loss and quality beside the plain Trainer's: the mean difference in
a round and its standard error; --json keeps it all. The loss of an epoch tells most, as all its texts are in it;
quality needs more rounds than time does, of fewer methods:

    python examples/benchmarks/training.py --epochs 3 --rounds 8 \\
        --methods "plain Trainer, batches by length" "raydistill, 1 worker" "raydistill, 1 worker, batches by length"
"""

from __future__ import annotations

import json
import math
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read with torch: equal work, for raydistill's workers have it so

import numpy as np
import pandas as pd
import torch
from plain_trainer import train_plainly
from tables import at_least_one, benchmark_parser, beside, publish, spread

from raydistill import DistillConfig, label, soft_labels, train
from raydistill.specs import TeacherSpec
from raydistill.stages.cluster import connection
from raydistill.stages.demo import (
    CLASSES,
    HELD_OUT,
    TEMPLATE,
    demo_documents,
    demo_sentences,
    demo_topics,
    prepare_demo,
)
from raydistill.student import load_trained_student, predict
from raydistill.teacher import Teacher

PLAIN = "plain Trainer"
PLAINLY = {  # name -> options of the plain one
    PLAIN: {},
    "plain Trainer, bf16": {"bf16": True},
    "plain Trainer, batches by length": {"train_sampling_strategy": "group_by_length"},
}
BATCH, LOG_EVERY = 32, 5
WORKERS = {  # name -> workers and options
    "raydistill, 1 worker": (1, {}),
    "raydistill, 2 workers": (2, {}),
    "raydistill, 1 worker, bf16": (1, {"bf16": True}),
    "raydistill, 1 worker, batches by length": (1, {"train_sampling_strategy": "group_by_length"}),
}


def corpus_of(kind: str) -> list[str]:
    """First sentences, whole documents, or the one and the other by turns: one text of each document."""
    documents, sentences = demo_documents(), demo_sentences()
    choice = {"sentences": [sentences], "documents": [documents], "mixed": [documents, sentences]}[kind]
    return [choice[i % len(choice)][i] for i in range(len(documents))]


def through_ray(config: dict[str, Any], workers: int, training: dict[str, Any], updates: int) -> dict[str, Any]:
    """What `train_plainly` tells, of the train stage."""
    result = train(
        DistillConfig(
            **config,
            train_workers=workers,
            per_device_train_batch_size=BATCH // workers,
            do_eval=False,
            save_steps=updates,  # for the losses that stand in a checkpoint
            save_total_limit=1,
            **training,
        )
    )
    record = json.loads(Path(result.output_dir, "run.json").read_text())["stages"]["train"]
    parts = record["worker_seconds"]
    (state,) = Path(result.output_dir, "checkpoints").rglob("trainer_state.json")
    seconds = parts["steps"] + parts["data"] + parts["between"]
    return {
        "startup": record["seconds"] - seconds - parts["checkpoints"],
        "seconds": seconds,
        "steps": parts["steps"],
        "updates": record["updates"],
        "losses": [entry["loss"] for entry in json.loads(state.read_text())["log_history"] if "loss" in entry],
    }


def table(runs: dict[str, list[dict[str, Any]]]) -> list[dict[str, str]]:
    rows = []
    for name, found in runs.items():
        times = [plain["seconds"] / own["seconds"] for plain, own in zip(runs[PLAIN], found, strict=True)]
        apart = [
            float(np.abs(np.subtract(plain["losses"], own["losses"])).mean())
            for plain, own in zip(runs[PLAIN], found, strict=True)
        ]
        rows.append(
            {
                "method": name,
                "updates": "/".join(sorted({str(run["updates"]) for run in found})),
                "seconds": spread([run["seconds"] for run in found], ".1f"),
                "times the plain Trainer": spread(times),
                "not in updates": spread([1 - run["steps"] / run["seconds"] for run in found], ".1%"),
                "start-up": f"{statistics.median(run['startup'] for run in found):.1f} s",
                "losses apart, mean": f"{statistics.mean(apart):.3f}",
                "loss of the last epoch": spread([run["last_epoch"] for run in found], ".3f"),
                "the same beside it, hundredths": beside(runs[PLAIN], found, "last_epoch"),
                "agreement": spread([run["agreement"] for run in found], ".1%"),
                "accuracy": spread([run["accuracy"] for run in found], ".1%"),
                "agreement beside it, points": beside(runs[PLAIN], found, "agreement"),
                "accuracy beside it, points": beside(runs[PLAIN], found, "accuracy"),
            }
        )
    return rows


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--corpus", choices=["mixed", "sentences", "documents"], default="mixed")
    parser.add_argument("--texts", type=int, default=640)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--rounds", type=at_least_one, default=3, help="each with a seed of its own")
    parser.add_argument("--no-bf16", action="store_true")
    parser.add_argument("--methods", nargs="+", choices=[*PLAINLY, *WORKERS][1:], help="beside the plain Trainer")
    arguments = parser.parse_args()
    if arguments.methods is None:
        arguments.methods = [*PLAINLY, *WORKERS][1:]
    if arguments.no_bf16:
        arguments.methods = [name for name in arguments.methods if "bf16" not in name]
    with tempfile.TemporaryDirectory() as temporary, connection(None):
        folder = Path(temporary)
        files, demo = prepare_demo(str(folder / "demo"), texts=1000)
        everything, topics = corpus_of(arguments.corpus), demo_topics()
        taught = slice(HELD_OUT, HELD_OUT + arguments.texts)
        texts = everything[taught]
        seen = set(texts)
        unseen = [text for text in everything if text not in seen]
        truth = np.array([CLASSES.index(topics[at]) for at, text in enumerate(everything) if text not in seen])
        (folder / "corpus.txt").write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
        base: dict[str, Any] = {
            "data_file": str(folder / "corpus.txt"),
            "class_names_file": str(files.class_names),
            "teacher_name_or_path": str(files.teacher),
            "student_name_or_path": demo.student_name_or_path,
            "hypothesis_template": TEMPLATE,
            "teacher_max_length": arguments.max_length,
        }
        store = label(DistillConfig(output_dir=str(folder / "labelled"), **base)).labels
        labelled = (
            pd.read_parquet(store).drop_duplicates("text").set_index("text").loc[[text.strip() for text in texts]]
        )
        targets = soft_labels(np.stack(labelled.entailment), np.stack(labelled.contradiction))
        teacher = Teacher.load(
            TeacherSpec(str(files.teacher), tuple(CLASSES), TEMPLATE, max_length=arguments.max_length, backend="torch")
        )
        judged = teacher.score(unseen)[0].argmax(-1)
        updates = arguments.epochs * math.ceil(len(texts) / BATCH)

        runs: dict[str, list[dict[str, Any]]] = {}
        for number in range(arguments.rounds):
            training = {
                "num_train_epochs": arguments.epochs,
                "learning_rate": 2e-4,
                "warmup_steps": 10,
                "logging_steps": math.gcd(LOG_EVERY, updates // arguments.epochs),  # which an epoch is a multiple of
                "seed": 42 + number,
            }

            def keep(name: str, output: Path, run: dict[str, Any]) -> None:
                found = predict(*load_trained_student(str(output)), unseen).argmax(-1)
                run |= {"agreement": float(np.mean(found == judged)), "accuracy": float(np.mean(found == truth))}
                logged = max(len(run["losses"]) // arguments.epochs, 1)  # in an epoch
                run["last_epoch"] = statistics.mean(run["losses"][-logged:])
                runs.setdefault(name, []).append(run)
                if arguments.json:  # so that a run that is stopped leaves what it has found
                    arguments.json.write_text(json.dumps({"arguments": vars(arguments), "runs": runs}, default=str))

            for name in [PLAIN, *arguments.methods]:
                output = folder / f"{number}-{name}"
                if name in WORKERS:
                    workers, options = WORKERS[name]
                    places = {"output_dir": str(output), "labels": store, "student_max_length": arguments.max_length}
                    keep(name, output, through_ray(base | places, workers, training | options, updates))
                    continue
                mine = training | PLAINLY[name]
                keep(
                    name,
                    output,
                    train_plainly(
                        demo.student_name_or_path, texts, targets, output, max_length=arguments.max_length, **mine
                    ),
                )
    publish(table(runs), arguments, threads=torch.get_num_threads(), runs=runs)


if __name__ == "__main__":
    main()

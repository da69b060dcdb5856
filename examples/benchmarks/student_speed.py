"""How much faster than the teacher is the student at classifying?

    pip install -e '.[demo,openvino]' && python examples/benchmarks/student_speed.py

BBC News, whole documents and first sentences by turns, all cut to the teacher's 128 tokens; 2, 5 and 20 classes. The
teacher by the original script's loop and by raydistill, in fp32; the student, an encoder of the same size, by a
plain transformers pipeline and by `raydistill.student.predict`. Every method classifies the same texts with the same
threads, in turn, several rounds; medians, least and most in brackets. Both of the teacher's must come to the same soft
labels, and both of the student's. Its head is not trained: only its speed is asked. Prints a Markdown table; --json
keeps it.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from seed_method import seed_score
from shapes import TOPICS
from tables import at_least_one, benchmark_parser, publish, spread, times_as_fast
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from raydistill.distillation import soft_labels
from raydistill.specs import ModelSpec, TeacherSpec
from raydistill.stages.demo import TEMPLATE, demo_documents, prepare_demo
from raydistill.student import load_student, predict
from raydistill.teacher import Teacher

SEED, ENGINE = "teacher, the loop", "teacher, raydistill"
PIPELINE, PREDICT = "student, pipeline", "student, predict"
MOST_APART = 1e-4


def methods(
    teacher: str, student: str, names: list[str], texts: list[str], threads: int
) -> dict[str, Callable[[], Any]]:
    """What classifies the texts into these classes, by name; models are loaded and warm."""
    nli = AutoModelForSequenceClassification.from_pretrained(teacher).eval()
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    spec = TeacherSpec(teacher, tuple(names), TEMPLATE, threads=threads, fingerprint="benchmark")
    engine = Teacher.load(spec)
    torch.set_num_threads(threads)  # of which a load may have taken fewer
    model, student_tokenizer = load_student(ModelSpec(student), names, multi_label=False)
    student_tokenizer.model_max_length = tokenizer.model_max_length
    classify = pipeline("text-classification", model=model.eval(), tokenizer=student_tokenizer, batch_size=32, top_k=1)
    found: dict[str, Callable[[], Any]] = {
        SEED: lambda: seed_score(nli, tokenizer, texts, names, TEMPLATE).numpy()[..., engine.label_ids],
        ENGINE: lambda: np.stack(engine.score(texts), -1),
        PIPELINE: lambda: [best["score"] for (best,) in classify(texts, truncation=True)],
        PREDICT: lambda: predict(model, student_tokenizer, texts),
    }
    engine.score(texts[:4])
    predict(model, student_tokenizer, texts[:4])
    return found


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--rounds", type=at_least_one, default=5)
    parser.add_argument("--classes", type=int, nargs="+", default=[2, 5, 20])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows: list[dict[str, Any]] = []
    rounds: dict[int, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["RAYDISTILL_CACHE"] = f"{temporary}/cache"
        files, demo = prepare_demo(f"{temporary}/demo", texts=arguments.texts)
        sentences = files.corpus.read_text(encoding="utf-8").splitlines()
        kinds = (demo_documents(), sentences)
        texts = [kinds[i % 2][i] for i in range(arguments.texts)]
        for number in arguments.classes:
            runs = methods(str(files.teacher), demo.student_name_or_path, TOPICS[:number], texts, arguments.threads)
            seconds = rounds[number] = {name: [] for name in runs}
            for _ in range(arguments.rounds):
                found = {}
                for name, run in runs.items():
                    started = time.perf_counter()
                    found[name] = run()
                    seconds[name].append(time.perf_counter() - started)
                labels = {name: soft_labels(found[name][..., 0], found[name][..., 1]) for name in (SEED, ENGINE)}
                apart = {
                    ENGINE: np.abs(labels[ENGINE] - labels[SEED]).max(),
                    PREDICT: np.abs(found[PREDICT].max(-1) - np.array(found[PIPELINE])).max(),
                }
                assert max(apart.values()) < MOST_APART, apart
            for name, took in seconds.items():
                rows.append(
                    {
                        "classes": number,
                        "method": name,
                        "texts/s": spread([len(texts) / one for one in took], ".1f"),
                        "times the loop": spread(times_as_fast(seconds[SEED], took), ".1f"),
                        "times the teacher in raydistill": spread(times_as_fast(seconds[ENGINE], took), ".1f"),
                        "soft labels off those of the method above": f"{apart[name]:.1e}" if name in apart else "",
                    }
                )
    publish(rows, arguments, seconds=rounds)


if __name__ == "__main__":
    main()

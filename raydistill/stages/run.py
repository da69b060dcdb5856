"""A run: check everything, plan, label, train, report. Also the stages alone, as `label` and `train`."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import sys
import time
import uuid
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from raydistill.class_names import read_class_names
from raydistill.config import LABELS_PRODUCT, STUDENT_PRODUCT, DistillConfig
from raydistill.corpus import check_readable, estimate_texts
from raydistill.corpus_files import CorpusFile, find_files
from raydistill.errors import ConfigError, CorpusError, RunDirError
from raydistill.files import located
from raydistill.label_store import LabelStore
from raydistill.progress import Chatter, Console, duration
from raydistill.resources import Plan, Request, make_plan
from raydistill.run_dir import CHECKPOINTS, RunDir
from raydistill.specs import StudentSpec, TeacherSpec

LABEL, TRAIN = "label", "train"
PRODUCTS = {LABEL: LABELS_PRODUCT, TRAIN: STUDENT_PRODUCT}


@dataclasses.dataclass(frozen=True)
class DistillResult:
    """What a run leaves.

    Attributes:
        output_dir: a folder that `AutoModelForSequenceClassification.from_pretrained` loads, if a student was trained.
        labels: the label store.
        counts: texts, distinct, duplicates, blanks, pairs, … of the corpus.
        figures: single-label: agreement; multi-label: mean_absolute_difference, f1_macro and f1/<class>; and loss.
        seconds: of each stage that ran, and in all.
    """

    output_dir: Path
    labels: Path
    counts: dict[str, int]
    figures: dict[str, float]
    seconds: dict[str, float]


def distill(config: DistillConfig, console: Console | None = None) -> DistillResult:
    """Label a corpus and train the student on the labels; continues an earlier run of the same options.

    Raises RaydistillError for what the user can mend; nothing is begun then.
    """
    return run_stages(config, (LABEL, TRAIN), console)


def label(config: DistillConfig, console: Console | None = None) -> DistillResult:
    """The teacher stage alone: make or continue the label store. Raises RaydistillError."""
    return run_stages(config, (LABEL,), console)


def train(config: DistillConfig, console: Console | None = None) -> DistillResult:
    """The student stage alone, from a label store: `config.labels`, or OUTPUT_DIR/labels. Raises RaydistillError."""
    return run_stages(config, (TRAIN,), console)


def run_stages(
    config: DistillConfig, stages: tuple[str, ...], console: Console | None = None, *, own_process: bool = False
) -> DistillResult:
    """Run some stages, here or behind a Ray client.

    Args:
        own_process: this process is there for the run alone: what it prints goes to the run's log.

    Raises:
        RaydistillError.
    """
    with Chatter() if own_process else contextlib.nullcontext() as chatter:
        console = console or (chatter.console if chatter else Console())
        if config.address or "ray" in sys.modules:
            from raydistill.stages.remote import behind_client, run_behind_client

            if behind_client(config.address):
                return run_behind_client(config.address, partial(_run_here, config, stages), console)
        return _run_here(config, stages, console, chatter)


def _run_here(
    config: DistillConfig, stages: tuple[str, ...], console: Console, chatter: Chatter | None
) -> DistillResult:
    return Job.prepare(config, stages).execute(console, chatter)


@dataclasses.dataclass
class Job:
    """A run whose input is known to be good. Made by `prepare`, which writes nothing; `execute` does the work."""

    config: DistillConfig
    stages: tuple[str, ...]
    run_dir: RunDir
    store: LabelStore
    class_names: list[str]
    files: list[CorpusFile]
    labelling: dict[str, Any]

    @classmethod
    def prepare(cls, config: DistillConfig, stages: tuple[str, ...]) -> Job:
        """Check all that can be checked without Ray. Raises RaydistillError."""
        labelled_here = LABEL in stages
        config.check(["data_file", "class_names_file", "output_dir"] if labelled_here else ["output_dir"])
        files: list[CorpusFile] = []
        if labelled_here:
            class_names = read_class_names(config.class_names_file)
            files = find_files(config.data_file)
            check_readable(files, config.text_column)
        run_dir = RunDir.claim(config, [PRODUCTS[stage] for stage in stages])
        store = LabelStore(run_dir.labels_path if labelled_here or not config.labels else config.labels)
        if not labelled_here:
            class_names = store.complete_record()["labelling"]["class_names"]
        if len(class_names) == 1 and not config.multi_label and TRAIN in stages:
            raise ConfigError(
                f"there is only one class, {class_names[0]!r}: against no other, its probability is always 1. Name a "
                "second class, or use --multi-label to judge it by itself."
            )
        labelling = _check_models(config, stages, class_names)
        fresh = config.overwrite_output_dir and labelled_here
        if labelled_here and not fresh and (record := store.record()):
            _expect_same_labelling(record["labelling"], labelling, store)
        return cls(config, stages, run_dir, store, class_names, files, labelling)

    @property
    def teacher_spec(self) -> TeacherSpec:
        """The teacher as workers load it."""
        return _teacher_spec(self.config, self.class_names)

    def execute(self, console: Console, chatter: Chatter | None = None) -> DistillResult:
        """Start or join Ray, plan, and run the stages; with `dry_run`, print the plan only.

        The output directory is touched only when the plan is known to fit.

        Args:
            chatter: what this process prints, workers' output included, goes to the run's log.

        Raises:
            RaydistillError.
        """
        from raydistill.stages.cluster import connection, free_nodes

        started = time.monotonic()
        with connection(self.config.address, worker_output=chatter is not None):
            plan = make_plan(free_nodes(), _request(self.config))
            texts = self._announce(console, plan)
            if self.config.dry_run:
                return DistillResult(self.run_dir.path, Path(self.store.path), {}, {}, {})
            products = [PRODUCTS[stage] for stage in self.stages]
            self.run_dir.begin(self.config, products, versions=versions(), plan=dataclasses.asdict(plan))
            if chatter:
                chatter.keep_in(self.run_dir.log_path)
            if LABEL in self.stages:
                self._label(plan, console, texts)
            if TRAIN in self.stages:
                self._train(plan, console)
        self.run_dir.update(seconds=round(time.monotonic() - started, 3))
        return self._finish(console)

    def _announce(self, console: Console, plan: Plan) -> int | None:
        """Say what is to be done; returns the number of texts, which may be an estimate, or None for none to label."""
        texts = None
        if LABEL in self.stages:
            texts, exact = estimate_texts(self.files, self.config.text_column)
            about = "" if exact else "about "
            pairs = texts * len(self.class_names)
            console.say(
                f"corpus {about}{texts:,} texts × {len(self.class_names)} classes = {about}{pairs:,} pairs, "
                f"in {_count(len(self.files), 'file')}"
            )
        console.say(f"plan   {describe_plan(plan, self.stages)}")
        return texts

    def _label(self, plan: Plan, console: Console, texts: int | None) -> None:
        from raydistill.stages.label import label_corpus

        corpus = corpus_signature(self.files, self.config.text_column)
        record = self.store.record()
        if record and (record.get("complete") or {}).get("corpus") == corpus:
            console.say(f"label  done before: {record['complete']['texts']:,} texts in {self.store.path}")
            return
        self.store.folder.create()
        self.store.write_record({"labelling": self.labelling, "versions": versions(), "complete": None})
        with console.stage("label", "texts", texts) as progress:
            counts = label_corpus(self.files, self.config.text_column, self.teacher_spec, self.store, plan, progress)
        if not counts.texts:
            raise CorpusError(f"--data-file {self.config.data_file[0]}: holds blank texts only.")
        complete = {
            "id": uuid.uuid4().hex,
            "corpus": corpus,
            "texts": counts.texts,
            "distinct": counts.distinct,
            "duplicates": counts.texts - counts.distinct,
            "blanks": counts.blanks,
            "pairs": counts.texts * len(self.class_names),
        }
        self.store.write_record({"labelling": self.labelling, "versions": versions(), "complete": complete})
        effort = dataclasses.asdict(counts) | {"seconds": round(progress.seconds, 3), "finished": True}
        self.run_dir.update(counts=_counts(complete), stages={LABEL: effort})

    def _train(self, plan: Plan, console: Console) -> None:
        from raydistill.stages.train import train_student

        labels = self.store.complete_record()["complete"]
        self.run_dir.update(counts=_counts(labels))
        earlier = self.run_dir.record.get("stages", {}).get(TRAIN, {})
        checkpoints = self.run_dir.path / CHECKPOINTS
        if earlier.get("labels") == labels["id"] and earlier.get("finished"):
            console.say(f"train  done before: {self.run_dir.path}")
        else:
            if earlier.get("labels") != labels["id"]:
                shutil.rmtree(checkpoints, ignore_errors=True)  # they were trained on other labels
            self.run_dir.update(stages={TRAIN: {"labels": labels["id"], "finished": False}})
            spec = StudentSpec(
                name_or_path=located(self.config.student_name_or_path),
                class_names=tuple(self.class_names),
                multi_label=self.config.multi_label,
                temperature=self.config.temperature,
                max_length=self.config.student_max_length,
                use_fast_tokenizer=self.config.use_fast_tokenizer,
                shuffle_buffer=self.config.shuffle_buffer,
                training=self.config.training,
            )
            with console.stage("train", "steps") as progress:
                student = train_student(spec, self.store, labels["texts"], plan, self.run_dir.path, progress)
            self.run_dir.publish(student.folder)
            seconds = round(progress.seconds, 3)
            stage = {"labels": labels["id"], "finished": True, "updates": student.updates, "seconds": seconds}
            self.run_dir.update(figures=student.figures, stages={TRAIN: stage})
        if not int(self.config.training.get("save_total_limit") or 0):
            shutil.rmtree(checkpoints, ignore_errors=True)

    def _finish(self, console: Console) -> DistillResult:
        record = self.run_dir.record
        seconds = {name: stage["seconds"] for name, stage in record.get("stages", {}).items() if "seconds" in stage}
        result = DistillResult(
            output_dir=self.run_dir.path,
            labels=Path(self.store.path),
            counts=record.get("counts", {}),
            figures=record.get("figures", {}) if TRAIN in self.stages else {},
            seconds=seconds | {"total": record["seconds"]},
        )
        counts = result.counts
        rows = [
            (
                "texts",
                f"{counts['texts']:,}, {counts['duplicates']:,} duplicates; {counts['blanks']:,} blank ones dropped",
            )
        ]
        rows += [("pairs", f"{counts['pairs']:,}")]
        rows += [(name.replace("_", " "), f"{value:.4f}") for name, value in result.figures.items()]
        rows += [("time", ", ".join(f"{name} {duration(value)}" for name, value in result.seconds.items()))]
        rows += [("labels", str(result.labels))]
        rows += [("student", str(result.output_dir))] if TRAIN in self.stages else []
        rows += [("log", str(self.run_dir.log_path))] if self.run_dir.log_path.exists() else []
        console.say("done")
        console.table(rows)
        return result


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    packages = ("raydistill", "ray", "torch", "transformers", "tokenizers", "pyarrow", "numpy")
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # the package's own code, brought to a worker without an installation
    return found


def corpus_signature(files: Sequence[CorpusFile], text_column: str) -> str:
    """Changes when a file of the corpus does: names, sizes and times, not contents."""
    facts = [[file.path, file.size, file.modified] for file in files]
    return hashlib.blake2b(json.dumps([text_column, facts]).encode(), digest_size=16).hexdigest()


def describe_plan(plan: Plan, stages: Sequence[str]) -> str:
    """One line for people."""
    parts = []
    if LABEL in stages:
        least, most = plan.teacher_actors_min, plan.teacher_actors_max
        number = _count(most, "teacher actor") if least == most else f"{least} to {_count(most, 'teacher actor')}"
        parts.append(f"{number} of {_size(plan.teacher_cpus, plan.teacher_gpus)}")
    if TRAIN in stages:
        parts.append(f"{_count(plan.train_workers, 'train worker')} of {_size(plan.train_cpus, plan.train_gpus)}")
    return f"{_count(plan.nodes, 'node')}: {', then '.join(parts)}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + "s" * (number != 1)


def _size(cpus: float, gpus: float) -> str:
    return f"{cpus:g} CPU" + (f" and {gpus:g} GPU" if gpus else "")


def _counts(complete: dict[str, Any]) -> dict[str, int]:
    return {name: complete[name] for name in ("texts", "distinct", "duplicates", "blanks", "pairs")}


def _request(config: DistillConfig) -> Request:
    return Request(**{field.name: getattr(config, field.name) for field in dataclasses.fields(Request)})


def _check_models(config: DistillConfig, stages: Sequence[str], class_names: Sequence[str]) -> dict[str, Any]:
    """What the labels are made with, if they are made here. Raises ModelError and ConfigError.

    The heavy imports begin here, after all that can be told without them.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if config.training or TRAIN in stages:
        from raydistill.training_arguments import training_arguments

        training_arguments(config.training, output_dir="unused", use_cpu=True)
    if TRAIN in stages:
        from raydistill.student import student_config

        student_config(located(config.student_name_or_path), class_names, multi_label=config.multi_label)
    if LABEL not in stages:
        return {}
    from raydistill.teacher import describe_teacher

    return describe_teacher(_teacher_spec(config, class_names))


def _teacher_spec(config: DistillConfig, class_names: Sequence[str]) -> TeacherSpec:
    return TeacherSpec(
        name_or_path=located(config.teacher_name_or_path),
        class_names=tuple(class_names),
        hypothesis_template=config.hypothesis_template,
        batch_size=config.teacher_batch_size,
        max_length=config.teacher_max_length,
        precision=config.teacher_precision,
        entailment_id=config.entailment_id,
        contradiction_id=config.contradiction_id,
        use_fast_tokenizer=config.use_fast_tokenizer,
    )


def _expect_same_labelling(then: dict[str, Any], now: dict[str, Any], store: LabelStore) -> None:
    differences = [
        f"{name} was {then.get(name)}, now {now[name]}"
        for name in now
        if then.get(name) != now[name] and name != "teacher"  # wherever it lies now: its fingerprint is what counts
    ]
    if differences:
        raise RunDirError(
            f"{store.path}: its labels were made otherwise ({'; '.join(differences)}). Use another --output-dir, or "
            "start anew with --overwrite-output-dir."
        )

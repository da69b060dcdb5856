"""What is checked before a run starts, and what its models are to workers."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from raydistill.config import LABEL, TRAIN, DistillConfig
from raydistill.corpus_files import CorpusFile
from raydistill.errors import ConfigError, CorpusError, ModelError, RunDirError, counted, shown
from raydistill.files import Folder
from raydistill.label_store import LabelStore
from raydistill.option_values import flag
from raydistill.paths import globbed, is_uri, located, those_within
from raydistill.run_dir import CHECKPOINTS, EVENTS, LABELS, WRITTEN
from raydistill.specs import StudentSpec, TeacherSpec, Tolerance
from raydistill.student_rows import StudentRows

TEACHER_OPTION, STUDENT_OPTION = "--teacher-name-or-path", "--student-name-or-path"
TOLD_BY_FINGERPRINT = ("teacher", "teacher_revision", "teacher_parameters", "trust_remote_code")


@dataclasses.dataclass(frozen=True)
class Training:
    """A training as the driver needs to know it, which loads no transformers.

    `rows`: how rows of the label store become the student's.
    `least_texts`: of one worker.
    `many_passes`: texts are gone over more than once.
    `evaluates_midway`: the student is evaluated before it is trained to the end, too.
    `seed`: what the order of texts is drawn from.
    `checkpoints`: how many are kept when it has ended.
    `for_gpus`: what was asked for that only a GPU can do.
    """

    student: StudentSpec
    rows: StudentRows
    least_texts: int
    many_passes: bool
    evaluates_midway: bool
    seed: int
    checkpoints: int
    for_gpus: tuple[str, ...]

    def expect_enough(self, texts: int, workers: int) -> None:
        """Raise ConfigError where some train worker would have nothing to do."""
        if texts // workers < self.least_texts:
            raise ConfigError(
                f"{counted(texts, 'text')} for {counted(workers, 'train worker')} are too few: each needs "
                f"{self.least_texts} or more. Use fewer --train-workers or a smaller batch."
            )


@dataclasses.dataclass(frozen=True)
class Models:
    """The models as workers load them, pinned: `teacher` if labels are made here, `training` if a student is trained.

    `labelling`: what the labels are made with.
    `teacher_parameters`, `student_parameters`: how many there are, embeddings included.
    `notes`: lines about requests that can be met only in part, such as a maximum length above the model's own.
    """

    teacher: TeacherSpec | None = None
    training: Training | None = None
    labelling: dict[str, Any] = dataclasses.field(default_factory=dict)
    teacher_parameters: int = 0
    student_parameters: int = 0
    notes: tuple[str, ...] = ()


def check_models(config: DistillConfig, stages: Sequence[str], class_names: Sequence[str]) -> Models:
    """See that teacher and student can be had. Loads torch and transformers. Raises ModelError and ConfigError."""
    if config.training or TRAIN in stages:
        from raydistill.training_arguments import data_seed, evaluates_midway
        from raydistill.training_checks import checked_arguments, expect_metric, gpu_only

        arguments = checked_arguments(config.training)
    from raydistill.pretrained import count_parameters

    models, wanted = Models(), dict[str, Any]()
    if LABEL in stages:
        wanted[TEACHER_OPTION] = _teacher_spec(config, class_names)
    if TRAIN in stages:
        events = _events_folder(config) if "tensorboard" in (arguments.report_to or ()) else None
        expect_metric(arguments, class_names, multi_label=config.multi_label)
        wanted[STUDENT_OPTION] = _student_spec(config, class_names, events)
    found = _all_pinned(wanted)
    if TRAIN in stages:
        from raydistill.student import student_rows

        student = found[STUDENT_OPTION]
        rows, parameters = student_rows(student), count_parameters(student, STUDENT_OPTION)
        notes = _cut_at("student", config.student_max_length, rows.max_length)
        more = arguments.do_eval or arguments.num_train_epochs > 1 or arguments.max_steps > 0
        training = Training(
            student=student,
            rows=rows,
            least_texts=arguments.per_device_train_batch_size if arguments.dataloader_drop_last else 1,
            many_passes=arguments.do_train and more,
            evaluates_midway=evaluates_midway(arguments),
            seed=data_seed(arguments),
            checkpoints=arguments.save_total_limit or 0,
            for_gpus=gpu_only(config.training, arguments),
        )
        models = Models(training=training, student_parameters=parameters, notes=notes)
    if LABEL in stages:
        from raydistill.nli import describe_teacher

        teacher = found[TEACHER_OPTION]
        labelling = describe_teacher(teacher)
        teacher = dataclasses.replace(
            teacher, fingerprint=labelling["teacher_fingerprint"], parameters=labelling["teacher_parameters"]
        )
        parameters = count_parameters(teacher, TEACHER_OPTION)
        notes = _cut_at("teacher", config.teacher_max_length, labelling["max_length"]) + models.notes
        models = dataclasses.replace(
            models, teacher=teacher, labelling=labelling, teacher_parameters=parameters, notes=notes
        )
    return models


def _all_pinned(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Models by the options that name them, `pretrained.pinned`. Raises ModelError, naming all that cannot be had."""
    from raydistill.pretrained import pinned

    found, faults = {}, []
    for option, model in wanted.items():
        try:
            found[option] = pinned(model, option)
        except ModelError as fault:
            faults.append(str(fault))
    if faults:
        raise ModelError(" ".join(faults))
    return found


def _cut_at(model: str, asked: int | None, tokens: int) -> tuple[str, ...]:
    return (
        (f"--{model}-max-length {asked}: the {model} reads {tokens} tokens at most",) if (asked or 0) > tokens else ()
    )


def _teacher_spec(config: DistillConfig, class_names: Sequence[str]) -> TeacherSpec:
    return TeacherSpec(
        name_or_path=located(config.teacher_name_or_path),
        class_names=tuple(class_names),
        hypothesis_template=config.hypothesis_template,
        batch_size=config.teacher_batch_size,
        max_length=config.teacher_max_length,
        precision=config.teacher_precision,
        backend=config.teacher_backend,
        strict=config.strict,
        entailment_id=config.entailment_id,
        contradiction_id=config.contradiction_id,
        revision=config.teacher_revision,
        **_trust(config),
    )


def _student_spec(config: DistillConfig, class_names: Sequence[str], logging_dir: str | None) -> StudentSpec:
    return StudentSpec(
        name_or_path=located(config.student_name_or_path),
        class_names=tuple(class_names),
        multi_label=config.multi_label,
        temperature=config.temperature,
        max_length=config.student_max_length,
        shuffle_buffer=config.shuffle_buffer,
        training=config.training,
        logging_dir=logging_dir,
        revision=config.student_revision,
        **_trust(config),
    )


def _events_folder(config: DistillConfig) -> str:
    """Where TensorBoard's events go. Raises ConfigError where they cannot."""
    assert config.output_dir is not None
    out = Folder(config.output_dir)
    where = config.logging_dir or (f"{out.local}/{EVENTS}" if out.local else out.path)
    if is_uri(where):
        raise ConfigError("--report-to tensorboard writes to a disk: give a folder on one with --logging-dir.")
    folder = Folder(where)
    if hindrance := folder.hindrance():
        raise ConfigError(f"--logging-dir {folder.path}: {hindrance}.")
    for taken in (out.where(LABELS), out.where(CHECKPOINTS), config.labels):
        if taken and those_within([folder.path], taken):
            raise ConfigError(f"--logging-dir {folder.path}: {taken} is for other files. Give a folder of its own.")
    return folder.path


def _trust(config: DistillConfig) -> dict[str, Any]:
    """What holds for both models."""
    return {
        "trust_remote_code": config.trust_remote_code,
        "allow_pickle_weights": config.allow_pickle_weights,
        "use_fast_tokenizer": config.use_fast_tokenizer,
    }


def expect_corpus_elsewhere(config: DistillConfig, files: Sequence[CorpusFile]) -> None:
    """Raise ConfigError where a later run would take what this one writes for a part of the corpus."""
    assert config.output_dir is not None
    inside = [entry for entry in config.data_file if those_within([config.output_dir], entry)]
    inside += those_within([file.path for file in files], config.output_dir)
    if inside:
        raise ConfigError(
            f"--output-dir {config.output_dir} and --data-file {inside[0]}: one lies in the other. Give the output a "
            "folder of its own."
        )
    reaching = [entry for entry in config.data_file for name in WRITTEN if globbed(entry, config.output_dir, name)]
    if reaching:
        raise ConfigError(
            f"--output-dir {config.output_dir} and --data-file {reaching[0]}: going on, the run would read what it has "
            "written. Give the output a folder of its own."
        )


def expect_absolute_paths(config: DistillConfig) -> None:
    """Raise ConfigError for a relative path: behind a Ray client it would be one of some worker's own folder."""
    for name in ("data_file", "class_names_file", "output_dir", "labels"):
        value = getattr(config, name)
        for path in value if isinstance(value, tuple) else [value]:
            if path and not is_uri(path) and not os.path.isabs(os.path.expanduser(path)):
                raise ConfigError(
                    f"{flag(name)} {path}: with a ray:// address every path is one of the cluster's. Give an absolute "
                    "one, or a URI."
                )


def expect_same_labelling(
    record: dict[str, Any], now: dict[str, Any], store: LabelStore, *, overwriting: bool = False
) -> None:
    """Raise RunDirError, with what differs, where a store's labels were made otherwise than they would be now.

    Args:
        record: of the store.
        overwriting: they were to be overwritten, but this very command had begun them.
    """
    then = record["labelling"]
    if (record.get("scoring") or {}).get("precision") == now["precision"]:  # to which `auto`, or an audit, has come
        then = then | {"precision": now["precision"]}
    differences = [
        f"{name} was {shown(then.get(name))}, now {shown(value)}"
        for name, value in _without_place(now).items()
        if then.get(name) != value
    ]
    if differences:
        commit = then.get("teacher_revision")
        moved = commit and commit != now["teacher_revision"]
        raise RunDirError(
            f"{store.path}: its labels were made otherwise ({'; '.join(differences)}). Use another --output-dir, "
            + (f"go on with --teacher-revision {commit}, " if moved else "")
            + ("or remove that folder to start anew." if overwriting else "or start anew with --overwrite-output-dir.")
        )


def labels_identity(record: dict[str, Any]) -> str:
    """What the record of a complete store says of its labels: which texts, how often, and what made them, as a hash."""
    facts = [record["complete"]["id"], _without_place(record["labelling"]), record["scoring"].get("precision")]
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()


def store_counts(complete: dict[str, Any]) -> dict[str, int]:
    """What `run.json` says of a complete store's texts."""
    return {name: complete[name] for name in ("texts", "distinct", "duplicates", "blanks", "rejected", "pairs")}


def _without_place(labelling: dict[str, Any]) -> dict[str, Any]:
    """What labels are made with, wherever the teacher lies now: its fingerprint is what counts."""
    return {name: value for name, value in labelling.items() if name not in TOLD_BY_FINGERPRINT}


def tolerance_of(config: DistillConfig) -> Tolerance:
    """What stages are to bear."""
    return Tolerance(
        block_seconds=config.block_seconds,
        max_failures=config.max_failures,
        stall_seconds=60 * config.stall_timeout,
        grace_seconds=config.grace,
        checkpoint_seconds=60 * config.checkpoint_minutes,
    )


def no_text(config: DistillConfig) -> CorpusError:
    """The error of a corpus that has none."""
    return CorpusError(f"--data-file {config.data_file[0]}: holds no text but blank ones.")

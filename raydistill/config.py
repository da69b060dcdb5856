"""The options of raydistill, each declared once: flags, config files, the Python API and `run.json` are read off here.

Fields of transformers' `TrainingArguments` are options too, by their own names; they are collected here as given and
typed in `training_arguments.py`, so that this module imports nothing heavy.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any

from raydistill.errors import ConfigError, shown
from raydistill.option_values import (
    MINUTES,
    NO_LARGER,
    ONE_OR_MORE,
    SHARE,
    TEMPERATURE,
    ZERO_OR_MORE,
    Bounds,
    converted,
    flag,
    is_encoding,
    is_text,
    option,
    template_faults,
    truth,
)
from raydistill.redaction import redacted
from raydistill.specs import Tolerance

ESSENTIALS, TEACHER, STUDENT = "Essentials", "Teacher", "Student"
RESOURCES, BEHAVIOUR, FAULTS = "Resources", "Behaviour", "Faults"
LABEL, TRAIN = "label", "train"  # the stages
LABELS_PRODUCT, STUDENT_PRODUCT = "labels", "student"  # and what they make

# Names that users of Hugging Face's zero-shot distillation script and of older transformers know -> today's option.
FORMER_NAMES = {
    "multi_class": "multi_label",
    "no_cuda": "use_cpu",
    "evaluation_strategy": "eval_strategy",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "warmup_ratio": "warmup_steps",
}
SAYS_NOTHING = ("none", "false", "no", "off", "0", "0.0")
# TrainingArguments fields, of today or dropped by transformers 5, that change nothing here: taken, and left aside.
IGNORED_NAMES = frozenset({"tpu_num_cores", "local_rank", "remove_unused_columns"})
# Beginnings of TrainingArguments fields that leave the student as it is: a run may go on with others.
NOT_SHAPING = ("logging_", "log_", "report_to", "run_name", "disable_tqdm", "per_device_eval_", "save_total_limit")


@dataclasses.dataclass(init=False, eq=True)
class DistillConfig:
    """All that one run is told. Keyword arguments are the options by name, as in the README's table and `raydistill run
    --help`, and `TrainingArguments` fields:

    >>> DistillConfig(data_file="corpus.txt", class_names_file="classes.txt", output_dir="out", learning_rate=3e-5)

    Text values are converted to the option's type, as on the command line. Raises ConfigError for a value that cannot
    be converted; `check` says whether the values make sense together. An unknown name is refused when the run begins.
    """

    data_file: tuple[str, ...] = option(
        (),
        "The corpus: text (one per line), CSV, TSV, JSON lines or Parquet, plain or compressed; a file, a directory, "
        "a glob, or an s3:// or gs:// URI. May be given several times.",
        group=ESSENTIALS,
        stage=LABEL,
        changes=LABELS_PRODUCT,
        path=True,
    )
    class_names_file: str | None = option(
        None,
        "Text file with one class name per line, or its URI.",
        group=ESSENTIALS,
        stage=LABEL,
        changes=LABELS_PRODUCT,
        path=True,
    )
    output_dir: str | None = option(
        None,
        "Where the student, the label store, run.json and the log go: a folder, or an s3:// or gs:// URI.",
        group=ESSENTIALS,
    )
    teacher_name_or_path: str = option(
        "roberta-large-mnli",
        "The NLI teacher: a hub name or a folder.",
        group=ESSENTIALS,
        stage=LABEL,
        changes=LABELS_PRODUCT,
        path=True,
    )
    student_name_or_path: str = option(
        "distilbert-base-uncased",
        "The model to fine-tune: a hub name or a folder.",
        group=ESSENTIALS,
        stage=TRAIN,
        changes=STUDENT_PRODUCT,
        path=True,
    )
    hypothesis_template: str = option(
        "This example is {}.",
        "Turns a class name into an NLI hypothesis; {} stands for the name.",
        group=ESSENTIALS,
        stage=LABEL,
        changes=LABELS_PRODUCT,
    )
    multi_label: bool = option(
        False,
        "Judge each class by itself instead of letting the classes compete (formerly --multi_class).",
        group=ESSENTIALS,
        changes=STUDENT_PRODUCT,
    )
    temperature: float = option(
        1.0,
        "Divides the teacher's logits before the softmax.",
        group=ESSENTIALS,
        changes=STUDENT_PRODUCT,
        bounds=TEMPERATURE,
    )
    address: str | None = option(
        None,
        "Ray cluster to join: auto, host:port or ray://host:port. Without it, or with local, a private Ray is started "
        "here and stopped at the end.",
        group=ESSENTIALS,
    )

    text_column: str = option(
        "text",
        "Column with the text, for CSV, TSV, JSON lines and Parquet.",
        group=BEHAVIOUR,
        stage=LABEL,
        changes=LABELS_PRODUCT,
    )
    encoding: str = option(
        "utf-8",
        "Encoding of text, CSV, TSV and JSON lines: a name that Python knows, such as latin-1, cp1252 or utf-16.",
        group=BEHAVIOUR,
        stage=LABEL,
        changes=LABELS_PRODUCT,
    )
    overwrite_output_dir: bool = option(
        False,
        "Start over in a directory that is not empty: an earlier run's files are removed (its labels too, "
        "except by `train`) and a model there is replaced; other files stay. A run that was begun with this flag "
        "and the same options, and was stopped, is resumed.",
        group=BEHAVIOUR,
    )
    label_file_mb: int = option(
        256,
        "Target size of a label file in megabytes: smaller ones are merged as soon as there are enough of them.",
        group=BEHAVIOUR,
        stage=LABEL,
        bounds=ONE_OR_MORE,
    )
    allow_pickle_weights: bool = option(
        False,
        "Accept pickled weights (pytorch_model.bin) of a teacher or student that has no model.safetensors. Only "
        "tensors are read from them.",
        group=BEHAVIOUR,
    )
    trust_remote_code: bool = option(
        False,
        "Run the Python code that a teacher or student brings along, on this machine and on every node, with all your "
        "rights. Read it first.",
        group=BEHAVIOUR,
    )
    use_fast_tokenizer: bool = option(True, "Use fast (Rust) tokenizers where there are any.", group=BEHAVIOUR)
    dry_run: bool = option(
        False,
        "Print the plan and a quote of the label stage (the teacher is tried for about 15 s), keep the quote in "
        "run.json, and stop.",
        group=BEHAVIOUR,
    )
    price_per_hour: float | None = option(
        None,
        "Price of an hour of all planned machines together: adds a cost to the quote.",
        group=BEHAVIOUR,
        stage=LABEL,
        bounds=ZERO_OR_MORE,
    )

    teacher_revision: str | None = option(
        None,
        "Branch, tag or commit of a teacher from the hub. By default its main branch as it is when the run begins.",
        group=TEACHER,
        stage=LABEL,
        changes=LABELS_PRODUCT,
    )
    teacher_batch_size: int = option(
        32,
        "Upper bound on a forward pass: this many pairs of maximum length, so more pairs when texts are shorter; on a "
        "GPU that is given pairs without padding, this many times 2,048 tokens. A CPU is mostly given less.",
        group=TEACHER,
        stage=LABEL,
        bounds=ONE_OR_MORE,
    )
    teacher_max_length: int | None = option(
        None,
        "Longest pair in tokens; longer texts are cut. By default the teacher's own limit.",
        group=TEACHER,
        stage=LABEL,
        changes=LABELS_PRODUCT,
        bounds=ONE_OR_MORE,
    )
    teacher_precision: str = option(
        "auto",
        "Number format of the forward pass; auto is bf16 (or fp16) on a GPU and fp32 on a CPU. int8 is for CPUs.",
        group=TEACHER,
        stage=LABEL,
        changes=LABELS_PRODUCT,
        choices=("auto", "fp32", "bf16", "fp16", "int8"),
    )
    teacher_backend: str = option(
        "auto",
        "What runs the teacher: auto is PyTorch on a GPU, and on a CPU OpenVINO where it is installed and faster. "
        "torch-compile takes about ten seconds first, which can pay for long work on a GPU.",
        group=TEACHER,
        stage=LABEL,
        choices=("auto", "torch", "torch-compile", "openvino"),
    )
    audit_texts: int = option(
        256,
        "How many texts of the corpus are scored in fp32 too, before a reduced precision is used.",
        group=TEACHER,
        stage=LABEL,
        bounds=ONE_OR_MORE,
    )
    min_agreement: float = option(
        0.99,
        "Share of the audited texts on which both must name the same class (multi-label: share of all yes or no "
        "answers); below it the teacher runs in fp32.",
        group=TEACHER,
        stage=LABEL,
        bounds=SHARE,
    )
    strict: bool = option(
        False,
        "Stop, instead of falling back, where a reduced precision misses --min-agreement or the chosen backend cannot "
        "run the teacher.",
        group=TEACHER,
        stage=LABEL,
    )
    entailment_id: int | None = option(
        None,
        "Index of the teacher's entailment logit, where its config does not name it.",
        group=TEACHER,
        stage=LABEL,
        changes=LABELS_PRODUCT,
        bounds=ZERO_OR_MORE,
    )
    contradiction_id: int | None = option(
        None,
        "Index of the teacher's contradiction logit, where its config does not name it.",
        group=TEACHER,
        stage=LABEL,
        changes=LABELS_PRODUCT,
        bounds=ZERO_OR_MORE,
    )
    labels: str | None = option(
        None,
        "For `train`: the label store to train from. By default OUTPUT_DIR/labels.",
        group=STUDENT,
        stage=TRAIN,
        changes=STUDENT_PRODUCT,
        path=True,
    )
    student_revision: str | None = option(
        None,
        "Branch, tag or commit of a student from the hub. By default its main branch as it is when the run begins.",
        group=STUDENT,
        stage=TRAIN,
        changes=STUDENT_PRODUCT,
    )
    student_max_length: int | None = option(
        None,
        "Longest text in tokens; longer ones are cut. By default the student's own limit.",
        group=STUDENT,
        stage=TRAIN,
        changes=STUDENT_PRODUCT,
        bounds=ONE_OR_MORE,
    )
    logging_dir: str | None = option(
        None,
        "Folder for TensorBoard's events with --report-to tensorboard; every node must be able to write there. By "
        "default OUTPUT_DIR/runs.",
        group=STUDENT,
        stage=TRAIN,
    )
    shuffle_buffer: int = option(
        10_000,
        "Texts that each train worker holds to shuffle them; pieces of the store, each mixed, come in shuffled order "
        "besides.",
        group=STUDENT,
        stage=TRAIN,
        changes=STUDENT_PRODUCT,
        bounds=ONE_OR_MORE,
    )

    teacher_actors: str | None = option(
        None,
        "Teacher actors: N, or MIN:MAX for a pool that grows. By default as many as fit.",
        group=RESOURCES,
        stage=LABEL,
    )
    teacher_gpus_per_actor: float | None = option(
        None,
        "GPUs for each teacher actor, 1 at most; 0.5 puts two on a GPU, 0 uses the CPU.",
        group=RESOURCES,
        stage=LABEL,
    )
    teacher_cpus_per_actor: float | None = option(
        None,
        "CPUs for each teacher actor. By default up to 4 (with --teacher-actors an even share, up to 32); beside a GPU "
        "up to 1.",
        group=RESOURCES,
        stage=LABEL,
    )
    train_workers: str | None = option(
        None,
        "Workers that train the student: N, or MIN:MAX for as many as there is room for at the time. By default one "
        "per GPU, or one on CPUs.",
        group=RESOURCES,
        stage=TRAIN,
    )
    gpus_per_train_worker: float | None = option(
        None, "GPUs for each train worker, 0 or 1.", group=RESOURCES, stage=TRAIN
    )
    cpus_per_train_worker: float | None = option(
        None,
        "CPUs for each train worker. By default what its node has left, up to 32; beside a GPU up to 1.",
        group=RESOURCES,
        stage=TRAIN,
    )
    use_cpu: bool = option(False, "Leave GPUs alone, for teacher and student (formerly --no_cuda).", group=RESOURCES)

    max_rejected: float = option(
        0.001,
        "Share of the corpus that the teacher may fail to score. Such texts are set aside in labels/_rejected.jsonl; "
        "with more of them the run stops.",
        group=FAULTS,
        stage=LABEL,
        bounds=SHARE,
    )
    max_failures: int = option(
        Tolerance.max_failures,
        "How often a process that died (actor, task, train workers) is restarted while its stage makes no progress.",
        group=FAULTS,
        bounds=ZERO_OR_MORE,
    )
    block_seconds: float = option(
        Tolerance.block_seconds,
        "Target seconds of a teacher actor's work per block, which is also what losing an actor costs. Shorter blocks "
        "cost more reading and writing; at most 20 a second are made, over all actors.",
        group=FAULTS,
        stage=LABEL,
        bounds=Bounds("between 0.01 and 3600", lambda seconds: 0.01 <= seconds <= 3600),
    )
    stall_timeout: float = option(
        Tolerance.stall_seconds / 60,
        "Minutes without progress after which a stage ends with an error.",
        group=FAULTS,
        bounds=MINUTES,
    )
    grace: float = option(
        Tolerance.grace_seconds,
        "Seconds that a stop (Ctrl-C, SIGTERM) leaves to finish the blocks under way or to keep a checkpoint. A second "
        "signal stops at once.",
        group=FAULTS,
        bounds=ZERO_OR_MORE,
    )
    checkpoint_minutes: float = option(
        Tolerance.checkpoint_seconds / 60,
        "Minutes between checkpoints that training can be resumed from, besides those of --save-steps.",
        group=FAULTS,
        stage=TRAIN,
        bounds=MINUTES,
    )

    training: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __init__(self, **options: Any) -> None:
        known = {field.name: field for field in option_fields()}
        options = by_present_names(options)
        for name, field in known.items():
            given = options.pop(name, None)
            setattr(self, name, field.default if given is None else converted(field, given))
        training = options.pop("training", None)
        training = {} if training is None else training
        if not isinstance(training, Mapping):
            raise ConfigError(
                f"training {training!r} must hold TrainingArguments fields by name. Give each as an option of its own."
            )
        named = {str(name).replace("-", "_"): value for name, value in training.items()}
        if len(named) < len(training):
            raise ConfigError("training names an option twice, once with - and once with _. Keep one.")
        training = by_present_names(named)
        if ours := sorted(training.keys() & known.keys()):
            raise ConfigError(f"{flag(ours[0])} is an option of its own: give it outside of `training`.")
        self.training = training | options

    def check(self, required: Iterable[str]) -> None:
        """Raise ConfigError with every fault that can be seen without opening a file or a model.

        Args:
            required: names of options that must be given.
        """
        faults = [f"{flag(name)} is missing" for name in required if not getattr(self, name)]
        faults += template_faults(self.hypothesis_template)
        for field in option_fields():
            value, bounds = getattr(self, field.name), field.metadata["bounds"]
            if value == "" or (isinstance(value, tuple) and "" in value):
                faults.append(f"{flag(field.name)} is empty")
            elif bounds and value is not None:
                faults += bounds.faults(field.name, value) or NO_LARGER.faults(field.name, value)
        if self.teacher_precision == "int8" and self.teacher_backend.startswith("torch"):
            faults.append(
                f"--teacher-precision int8 is done by OpenVINO: leave --teacher-backend {self.teacher_backend} out"
            )
        given = {field.name: getattr(self, field.name) for field in option_fields()} | self.training
        for name, value in given.items():
            for item in value if isinstance(value, tuple) else [value]:
                if not is_text([name, item]):
                    faults.append(f"{flag(name)} {shown(item)} must be UTF-8 text without NUL")
        if self.encoding and not is_encoding(self.encoding):
            faults.append(
                f"--encoding {shown(self.encoding)} is no encoding of text that Python knows: try utf-8, latin-1, "
                "cp1252 or utf-16"
            )
        if faults:
            raise ConfigError("; ".join(faults) + ".")

    def options(self) -> dict[str, Any]:
        """Every option as plain JSON values, `TrainingArguments` fields under `training`, for `run.json`; no secret."""
        return redacted(json.loads(json.dumps(dataclasses.asdict(self), default=str)))

    def that_change(self, product: str) -> dict[str, Any]:
        """The options that shape a product ("labels" or "student"), as plain JSON values."""
        from raydistill.paths import located  # which imports pyarrow: not for --help

        values = self.options()
        shaping = [field for field in option_fields() if field.metadata["changes"] == product]
        chosen = {f.name: located(values[f.name]) if f.metadata["path"] else values[f.name] for f in shaping}
        if product == STUDENT_PRODUCT:
            given = values["training"].items()
            chosen["training"] = {name: value for name, value in given if not name.startswith(NOT_SHAPING)}
        return chosen


def by_present_names(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options by the names that they have now; those of the original script and transformers 4 are understood.

    Where both names are given, the former one counts only if the present one is None, off or 0: so transformers 4 took
    a `warmup_ratio` beside `warmup_steps`.
    """
    present = {name: value for name, value in options.items() if name not in IGNORED_NAMES | FORMER_NAMES.keys()}
    for former, name in FORMER_NAMES.items():
        if options.get(former) is not None and str(present.get(name)).lower() in SAYS_NOTHING:
            present[name] = options[former]
    if (grouped := present.pop("group_by_length", None)) is not None:
        way = "group_by_length" if truth("group_by_length", grouped) else "random"
        if present.get("train_sampling_strategy") is None:
            present["train_sampling_strategy"] = way
    return present


def options_of(stages: Iterable[str]) -> list[dataclasses.Field[Any]]:
    """The declared options that some of these stages look at."""
    return [field for field in option_fields() if field.metadata["stage"] in (None, *stages)]


def option_fields() -> list[dataclasses.Field[Any]]:
    """The declared options, in order, without the bag of `TrainingArguments` fields."""
    return [field for field in dataclasses.fields(DistillConfig) if field.metadata]

"""transformers' `TrainingArguments`, any field by its own name: typed by transformers, complained of in our words."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn, cast, get_type_hints

import numpy as np
from transformers import HfArgumentParser, TrainingArguments
from transformers.integrations import get_available_reporting_integrations
from transformers.utils import is_liger_kernel_available

from raydistill.config import IGNORED_NAMES, SAYS_NOTHING, option_fields
from raydistill.errors import ConfigError, first_line, shown
from raydistill.metrics import figures, sums_size
from raydistill.option_values import NO_LARGER, SHARE, ZERO_OR_MORE, Bounds, flag, suggest, truth

# Where Hugging Face's zero-shot distillation script differs from transformers, and what is faster (see the benchmarks).
# Checkpoints that are only made to continue a run go when it ends.
DEFAULTS: dict[str, Any] = {
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 128,
    "num_train_epochs": 1.0,
    "do_train": True,
    "do_eval": True,
    "save_total_limit": 0,
    "report_to": "none",
    "disable_tqdm": True,
    "train_sampling_strategy": "group_by_length",
}
OURS = frozenset({"output_dir", "use_cpu"}) | IGNORED_NAMES
OF_THE_DEVICE = frozenset({"tf32", "ddp_backend"})  # transformers asks the device and the process group about them
REFUSED = {
    "fsdp": "workers train whole copies of the student (DDP)",
    "fsdp_config": "workers train whole copies of the student (DDP)",
    "deepspeed": "workers train whole copies of the student (DDP)",
    "auto_find_batch_size": "give --per-device-train-batch-size",
    "push_to_hub": "push OUTPUT_DIR yourself when the run is done",
    # Trainer would write it into every checkpoint.
    "hub_token": "nothing is pushed to the hub; to load from it, set HF_TOKEN in the environment",
    "resume_from_checkpoint": "the same command goes on by itself",
    "dataloader_num_workers": "Ray Data's tasks read and tokenise",
    "debug": "what looks into transformers' own loop does not know how batches are made here",
    "enable_jit_checkpoint": "a stop (SIGTERM) keeps a checkpoint as it is",
}
CHECKPOINTING = ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs")  # by the transformers' version
NOT_OF_TORCH = ("every_n_layers", "offload")  # what these hold for transformers
_FIELDS = {field.name: field for field in dataclasses.fields(TrainingArguments)}
DDP_BACKENDS = tuple(_FIELDS["ddp_backend"].metadata.get("choices", ()))
# What libraries say of values by.
REFUSALS = (ValueError, TypeError, ImportError, AttributeError, ArithmeticError, RuntimeError, OSError)
MOST_NAMED = 5  # figures, in an error line

HINTS = {name: str(hint) for name, hint in get_type_hints(TrainingArguments).items()}
TABLES = {name for name, hint in HINTS.items() if "dict" in hint}
SEVERAL = {name for name, hint in HINTS.items() if "list" in hint}
SWITCHES = {name for name, hint in HINTS.items() if hint in ("<class 'bool'>", "bool | None")}
EITHER = {name for name, hint in HINTS.items() if ("bool" in hint or "False" in hint) and name not in SWITCHES | TABLES}
WHOLE = {name for name, hint in HINTS.items() if "int" in hint.replace("Interval", "")}

NUMBER = Bounds("a number", lambda value: -math.inf < value < math.inf)
COUNT = Bounds("from 1 to 1000000000", lambda value: 1 <= value <= 1_000_000_000)  # what is multiplied with others
BELOW_ONE = Bounds("from 0 to below 1", lambda value: 0 <= value < 1)
SEED = Bounds("from 0 to 4294967295", lambda value: value is None or 0 <= value < 1 << 32)
BOUNDS = {  # what would only be met with in a worker
    "per_device_train_batch_size": COUNT,
    "per_device_eval_batch_size": COUNT,
    "gradient_accumulation_steps": COUNT,
    "max_steps": NO_LARGER,
    "num_train_epochs": Bounds("0 or more, up to 1000000000", lambda value: 0 <= value <= 1_000_000_000),
    "learning_rate": ZERO_OR_MORE,
    "warmup_steps": ZERO_OR_MORE,
    "weight_decay": ZERO_OR_MORE,
    "max_grad_norm": ZERO_OR_MORE,
    "adam_beta1": BELOW_ONE,
    "adam_beta2": BELOW_ONE,
    "adam_epsilon": ZERO_OR_MORE,
    "label_smoothing_factor": SHARE,
    "seed": SEED,
    "data_seed": SEED,
    "ddp_bucket_cap_mb": Bounds("0 or more", lambda value: value is None or value >= 0),
    "ddp_timeout": Bounds("from 0 to 1000000000", lambda value: 0 <= value <= 1_000_000_000),
    "include_num_input_tokens_seen": Bounds(
        "all, non_padding or no", lambda value: value in ("all", "non_padding", "no")
    ),
    "train_sampling_strategy": Bounds("random or group_by_length", lambda way: way in ("random", "group_by_length")),
    "report_to": Bounds(
        "what is installed here", lambda value: set(value) <= set(get_available_reporting_integrations())
    ),
}


class _Parser(HfArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message[0].upper()}{message[1:]}.")


def field_names() -> list[str]:
    """The `TrainingArguments` fields that a user may set."""
    return [field.name for field in dataclasses.fields(TrainingArguments) if field.init and field.name not in OURS]


def field_defaults() -> dict[str, Any]:
    """What each field of `TrainingArguments` is that is not given."""
    made = [field for field in dataclasses.fields(TrainingArguments) if field.init]
    values = {
        field.name: field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        for field in made
    }
    return {name: getattr(value, "value", value) for name, value in (values | DEFAULTS).items()}


def training_arguments(given: Mapping[str, Any], *, output_dir: str, use_cpu: bool) -> TrainingArguments:
    """`TrainingArguments` from options as given (text from the command line, or typed values; None for the default).

    Raises ConfigError for an unknown name, with the nearest known one, and for a value of the wrong type.
    """
    known = field_names()
    for name in given:
        if name not in known:
            near = suggest(name, ({*known} - REFUSED.keys()).union(field.name for field in option_fields()))
            raise ConfigError(f"No such option: {flag(name)}.{near}")
        if name in REFUSED:
            if given[name] and str(given[name]).lower() not in (*SAYS_NOTHING, "n", "f"):
                raise ConfigError(f"{flag(name)} does not go with raydistill: {REFUSED[name]}.")
        elif isinstance(given[name], bool) and name not in SWITCHES | EITHER:
            raise ConfigError(f"{flag(name)} is no switch: give it a value (and quote YAML's no and off).")
        elif (_is_list(given[name]) and len(given[name]) != 1 and name not in SEVERAL) or (
            isinstance(given[name], Mapping) and name not in TABLES
        ):
            raise ConfigError(f"{flag(name)} {shown(given[name])} must be one value.")
    off = REFUSED.keys() & given.keys()
    values = DEFAULTS | {name: value for name, value in given.items() if value is not None and name not in off}
    parser = _Parser(cast(Any, TrainingArguments))
    try:
        ready = {name: found for name, value in values.items() if (found := _ready(name, value)) is not None}
        left = {name: value for name, value in values.items() if name not in ready}
        parser.set_defaults(**ready)
        for name in ready.keys() & EITHER:
            parser._option_string_actions[f"--{name}"].type = None  # which a text that is a default goes through, too
        tokens = [token for name, value in left.items() for token in _tokens(name, value)]
        (arguments,) = parser.parse_args_into_dataclasses(
            ["--output_dir", output_dir, "--use_cpu", str(use_cpu), *tokens], look_for_args_file=False
        )
    except REFUSALS as error:
        raise _refused(error, given, partial(training_arguments, output_dir=output_dir, use_cpu=use_cpu)) from None
    faults = [fault for name, bounds in BOUNDS.items() for fault in bounds.faults(name, getattr(arguments, name))]
    numbers = {name: value for name in given if type(value := getattr(arguments, name)) in (int, float)}
    faults += [fault for name in numbers.keys() - BOUNDS.keys() for fault in NUMBER.faults(name, numbers[name])]
    if faults:
        raise ConfigError("; ".join(faults) + ".")
    return arguments


def checked_arguments(given: Mapping[str, Any]) -> TrainingArguments:
    """As `training_arguments`, where there need be no GPU: for what the driver must know. Raises ConfigError."""
    backend: Any = given.get("ddp_backend")
    if any(one not in (None, *DDP_BACKENDS) for one in (backend if _is_list(backend) else [backend])):
        raise ConfigError(f"--ddp-backend {shown(backend)} must be one of {', '.join(DDP_BACKENDS)}.")
    if given.get("tf32") is not None:
        truth("tf32", given["tf32"])
    elsewhere = {name: value for name, value in given.items() if name not in OF_THE_DEVICE}
    arguments = training_arguments(elsewhere, output_dir="unused", use_cpu=True)
    try:
        _expect_trainable(arguments)
    except REFUSALS as error:
        raise _refused(error, elsewhere, checked_arguments) from None
    return arguments


def _expect_trainable(arguments: TrainingArguments) -> None:
    """Raise an error where a worker could do nothing with them: that would be after all texts were labelled."""
    import torch
    from torch.utils.checkpoint import checkpoint
    from transformers import Trainer, get_scheduler  # here, for it takes a second, and help needs neither

    weights = torch.nn.Linear(1, 1)
    if not arguments.optim_target_modules:  # which are looked up in the student itself
        with _said_of("optimizer", arguments.optim, "optim_args", arguments.optim_args):
            Trainer.get_optimizer_cls_and_kwargs(arguments, cast(Any, weights))
    with _said_of("schedule", arguments.lr_scheduler_type, "lr_scheduler_kwargs", arguments.lr_scheduler_kwargs):
        get_scheduler(
            arguments.lr_scheduler_type,
            torch.optim.SGD(weights.parameters(), lr=arguments.learning_rate),
            num_warmup_steps=0,
            num_training_steps=1,
            scheduler_specific_kwargs=dict(cast(Any, arguments.lr_scheduler_kwargs) or {}),
        )
    for name in CHECKPOINTING:
        settings = dict(getattr(arguments, name, None) or {})
        layers = settings.get("every_n_layers", 1)
        if not isinstance(layers, int) or layers < 1:
            raise ValueError("every_n_layers must be 1 or more")
        if kept := {key: value for key, value in settings.items() if key not in NOT_OF_TORCH}:
            inputs = torch.zeros(1, 1, requires_grad=True)
            checkpoint(weights, inputs, **{"use_reentrant": False, **kept})
    if arguments.use_liger_kernel and not is_liger_kernel_available():
        raise ImportError("it needs what is not installed here: pip install liger-kernel")
    if arguments.torch_compile:
        _expect_compiler(arguments.torch_compile_backend or "inductor", arguments.torch_compile_mode)
    if arguments.save_strategy == "best" and not arguments.metric_for_best_model:
        raise ConfigError("--save-strategy best needs --metric-for-best-model.")


@contextlib.contextmanager
def _said_of(what: str, kind: Any, option: str, value: Any) -> Iterator[None]:
    """Say with an error what could not be made, and of which option."""
    try:
        yield
    except REFUSALS as error:
        given = f" with {flag(option)} {shown(value)}" if value else f", without {flag(option)} at least"
        raise ValueError(f"{getattr(kind, 'value', kind)} cannot be the {what}{given} ({first_line(error)})") from error


def _expect_compiler(backend: str, mode: str | None) -> None:
    from accelerate.utils import DynamoBackend
    from torch._dynamo.backends.registry import lookup_backend
    from torch._inductor import list_mode_options

    known = [name.lower() for name in DynamoBackend.list()]
    if backend.lower() not in known:
        raise ConfigError(f"--torch-compile-backend {shown(backend)} must be one of {', '.join(known)}.")
    if backend.lower() != "no":
        lookup_backend(backend.lower())  # which raises RuntimeError where it is not installed
    modes = list(list_mode_options())
    if mode is not None and backend.lower() == "inductor" and mode not in modes:
        raise ConfigError(f"--torch-compile-mode {shown(mode)} must be one of {', '.join(modes)}.")


def expect_metric(arguments: TrainingArguments, class_names: Sequence[str], *, multi_label: bool) -> None:
    """Raise ConfigError where evaluations are to be compared by a figure that there is not."""
    metric = arguments.metric_for_best_model
    if metric is None or not evaluates_midway(arguments):
        return
    found = [*figures(np.zeros(sums_size(len(class_names), multi_label)), class_names, multi_label=multi_label), "loss"]
    if metric.removeprefix("eval_") not in found:
        raise ConfigError(
            f"--metric-for-best-model {metric}: there is no such figure, but {', '.join(found[:MOST_NAMED])}."
        )


def _refused(
    error: Exception, given: Mapping[str, Any], check: Callable[[Mapping[str, Any]], TrainingArguments]
) -> ConfigError:
    """What a library says of options, and of which of them, if it says the same of one alone, and not of none."""
    said = f"{' '.join(str(error).split()).rstrip('.')}."

    def says_so(some: Mapping[str, Any]) -> bool:
        try:
            check(some)
        except ConfigError as fault:
            return str(fault).endswith(said)
        return False

    where = "TrainingArguments"
    if given and not says_so({}):
        alone = (name for name in given if len(given) == 1 or says_so({name: given[name]}))
        if name := next(alone, None):
            where = f"{flag(name)} {shown(given[name])}"
    return ConfigError(f"{where}: {said}")


def _ready(name: str, value: Any) -> Any:
    """A value that `TrainingArguments` takes and HfArgumentParser does not, as that would have it; None for others."""
    if name in SEVERAL and (_is_list(value) or value == ""):
        return list(map(str, value))
    if name in TABLES and isinstance(value, str) and value.lstrip().startswith("{"):
        return json.loads(value)
    if name in EITHER:
        return {"true": True, "yes": True, "false": False, "off": False}.get(str(value).lower(), value)
    plain = isinstance(value, str | int | float | enum.Enum) or _is_list(value)
    return None if plain else value


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _tokens(name: str, value: Any) -> list[str]:
    """A value as transformers' own command line would have it."""
    value = value.value if isinstance(value, enum.Enum) else value
    if isinstance(value, float) and value.is_integer() and name in WHOLE:  # as JSON may have it
        value = int(value)
    if _is_list(value):
        return [f"--{name}", *map(str, value)]
    return [f"--{name}={value}"]


def share_update(batch_size: int, accumulation: int, planned: int, workers: int) -> tuple[int, int]:
    """How so many workers make an update as large as the workers planned would have made it.

    Args:
        batch_size, accumulation: `per_device_train_batch_size` and `gradient_accumulation_steps` with those planned.

    Returns:
        the two for each of `workers`: no batch is larger than planned, and the update is as large, or larger by what
        it takes to deal it out evenly.
    """
    steps = -(-accumulation * planned // workers)
    return -(-batch_size * accumulation * planned // (workers * steps)), steps


def gpu_only(given: Mapping[str, Any], arguments: TrainingArguments) -> tuple[str, ...]:
    """What was asked for that a CPU does not do."""
    tf32 = str(given.get("tf32")).lower() not in (*SAYS_NOTHING, "")
    return ("--fp16",) * arguments.fp16 + ("--tf32",) * tf32


def data_seed(arguments: TrainingArguments) -> int:
    """What the order of texts is drawn from: `data_seed`, or else `seed`, as in transformers."""
    return arguments.seed if arguments.data_seed is None else arguments.data_seed


def evaluates_midway(arguments: TrainingArguments) -> bool:
    """Whether the student is evaluated before it is trained to the end, too."""
    return arguments.eval_strategy != "no" or arguments.eval_on_start


def count_updates(arguments: TrainingArguments, texts: int, workers: int) -> int:
    """The updates of a training with so many workers, as `Trainer` counts them: the end of its schedule."""
    if arguments.max_steps > 0:
        return arguments.max_steps
    share, batch = texts // workers, arguments.per_device_train_batch_size
    batches = share // batch if arguments.dataloader_drop_last else -(-share // batch)
    updates = max(-(-batches // arguments.gradient_accumulation_steps), 1)
    return math.ceil(arguments.num_train_epochs * updates)

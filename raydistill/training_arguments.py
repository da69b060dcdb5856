"""transformers' `TrainingArguments`, any field by its own name: typed by transformers, complained of in our words."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NoReturn, cast, get_type_hints

from transformers import HfArgumentParser, TrainingArguments
from transformers.integrations import get_available_reporting_integrations

from raydistill.config import IGNORED_NAMES, SAYS_NOTHING, option_fields
from raydistill.errors import ConfigError, shown
from raydistill.metrics import LESS_IS_BETTER
from raydistill.option_values import NO_LARGER, SHARE, ZERO_OR_MORE, Bounds, flag, is_list, suggest

# Where Hugging Face's zero-shot distillation script differs from transformers. Checkpoints that are only made to
# continue a run go when it ends.
DEFAULTS: dict[str, Any] = {
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 128,
    "num_train_epochs": 1.0,
    "do_train": True,
    "do_eval": True,
    "save_total_limit": 0,
    "report_to": "none",
    "disable_tqdm": True,
}
OURS = frozenset({"output_dir", "use_cpu"}) | IGNORED_NAMES
REFUSED = {
    "fsdp": "workers train whole copies of the student (DDP)",
    "fsdp_config": "workers train whole copies of the student (DDP)",
    "deepspeed": "workers train whole copies of the student (DDP)",
    "auto_find_batch_size": "give --per-device-train-batch-size",
    "push_to_hub": "push OUTPUT_DIR yourself when the run is done",
    # Trainer would write it into every checkpoint.
    "hub_token": "nothing is pushed to the hub; to load from it, set HF_TOKEN in the environment",
    "resume_from_checkpoint": "the same command goes on by itself",
    "save_only_model": "what goes on from a checkpoint needs the optimizer's state",
    "dataloader_num_workers": "Ray Data's tasks read and tokenise",
    "debug": "what looks into transformers' own loop does not know how batches are made here",
    "enable_jit_checkpoint": "a stop (SIGTERM) keeps a checkpoint as it is",
}
# What libraries say of values by.
REFUSALS = (ValueError, TypeError, ImportError, AttributeError, ArithmeticError, RuntimeError, OSError)

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
        elif (is_list(given[name]) and len(given[name]) != 1 and name not in SEVERAL) or (
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
        raise refused(error, given, partial(training_arguments, output_dir=output_dir, use_cpu=use_cpu)) from None
    faults = [fault for name, bounds in BOUNDS.items() for fault in bounds.faults(name, getattr(arguments, name))]
    numbers = {name: value for name in given if type(value := getattr(arguments, name)) in (int, float)}
    faults += [fault for name in numbers.keys() - BOUNDS.keys() for fault in NUMBER.faults(name, numbers[name])]
    if faults:
        raise ConfigError("; ".join(faults) + ".")
    if arguments.max_steps <= 0:  # off, as its help says; of 0, Trainer would make one update
        arguments.max_steps = -1
    if arguments.metric_for_best_model and given.get("greater_is_better") is None:
        # Trainer takes every figure for better when greater, but for those whose names end in "loss".
        arguments.greater_is_better = arguments.metric_for_best_model.removeprefix("eval_") not in LESS_IS_BETTER
    return arguments


def refused(
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
    if name in SEVERAL and (is_list(value) or value == ""):
        return list(map(str, value))
    if name in TABLES and isinstance(value, str) and value.lstrip().startswith("{"):
        return json.loads(value)
    if name in EITHER:
        return {"true": True, "yes": True, "false": False, "off": False}.get(str(value).lower(), value)
    plain = isinstance(value, str | int | float | enum.Enum) or is_list(value)
    return None if plain else value


def _tokens(name: str, value: Any) -> list[str]:
    """A value as transformers' own command line would have it."""
    value = value.value if isinstance(value, enum.Enum) else value
    if isinstance(value, float) and value.is_integer() and name in WHOLE:  # as JSON may have it
        value = int(value)
    if is_list(value):
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


def data_seed(arguments: TrainingArguments) -> int:
    """What the order of texts is drawn from: `data_seed`, or else `seed`, as in transformers."""
    return arguments.seed if arguments.data_seed is None else arguments.data_seed


def needs_whole_batches(arguments: TrainingArguments, workers: int) -> bool:
    """Whether something was asked for that wants the model to see each batch as one, and not in parts.

    A compiler compiles each shape anew, the size of NEFTune's noise is that of a batch, and several workers may, by
    some settings of theirs, checkpoint the activations of a layer but once in an update.
    """
    checkpoints = arguments.gradient_checkpointing and workers > 1
    return bool(arguments.torch_compile or checkpoints or arguments.neftune_noise_alpha is not None)


def evaluates_midway(arguments: TrainingArguments) -> bool:
    """Whether the student is evaluated before it is trained to the end, too."""
    return arguments.eval_strategy != "no" or arguments.eval_on_start


def epoch_batches(arguments: TrainingArguments, texts: int, workers: int) -> int:
    """The batches that each of so many workers has in an epoch."""
    share, batch = texts // workers, arguments.per_device_train_batch_size
    return share // batch if arguments.dataloader_drop_last else -(-share // batch)


def count_updates(arguments: TrainingArguments, texts: int, workers: int) -> int:
    """The updates of a training with so many workers, as `Trainer` counts them: the end of its schedule."""
    if arguments.max_steps > 0:
        return arguments.max_steps
    batches = epoch_batches(arguments, texts, workers)
    updates = max(-(-batches // arguments.gradient_accumulation_steps), 1)
    return math.ceil(arguments.num_train_epochs * updates)

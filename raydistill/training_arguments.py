"""transformers' `TrainingArguments`, any field by its own name: typed by transformers, complained of in our words."""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Mapping
from typing import Any, NoReturn, cast

from transformers import HfArgumentParser, TrainingArguments

from raydistill.config import flag, option_fields, suggest
from raydistill.errors import ConfigError

# Where the seed script differs from transformers. Checkpoints that are only made to continue a run go when it ends.
SEED_DEFAULTS: dict[str, Any] = {
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 128,
    "num_train_epochs": 1.0,
    "do_train": True,
    "do_eval": True,
    "save_total_limit": 0,
    "report_to": "none",
    "disable_tqdm": True,
}
OURS = frozenset({"output_dir", "use_cpu", "local_rank", "remove_unused_columns"})


class _Parser(HfArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message[0].upper()}{message[1:]}.")


def field_names() -> list[str]:
    """The `TrainingArguments` fields that a user may set."""
    return [field.name for field in dataclasses.fields(TrainingArguments) if field.init and field.name not in OURS]


def training_arguments(given: Mapping[str, Any], *, output_dir: str, use_cpu: bool) -> TrainingArguments:
    """`TrainingArguments` from options as given (text from the command line, or typed values).

    Raises ConfigError for an unknown name, with the nearest known one, and for a value of the wrong type.
    """
    known = field_names()
    for name in given:
        if name not in known:
            raise ConfigError(
                f"No such option: {flag(name)}.{suggest(name, [*known, *(f.name for f in option_fields())])}"
            )
    values = {**SEED_DEFAULTS, **given}
    tokens = [token for name, value in values.items() if value is not None for token in _tokens(name, value)]
    try:
        (arguments,) = _Parser(cast(Any, TrainingArguments)).parse_args_into_dataclasses(
            ["--output_dir", output_dir, "--use_cpu", str(use_cpu), *tokens], look_for_args_file=False
        )
    except (ValueError, TypeError, ImportError, NotImplementedError) as error:
        raise ConfigError(f"TrainingArguments: {' '.join(str(error).split())}") from None
    return arguments


def _tokens(name: str, value: Any) -> list[str]:
    """A value as transformers' own command line would have it."""
    value = value.value if isinstance(value, enum.Enum) else value
    if isinstance(value, Mapping):
        return [f"--{name}", json.dumps(value)]
    if isinstance(value, list | tuple):
        return [f"--{name}", *map(str, value)]
    return [f"--{name}={value}"]

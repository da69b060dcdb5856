"""What no worker could do with `TrainingArguments`: found before work begins, not after all texts are labelled."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
from transformers import TrainingArguments
from transformers.utils import is_liger_kernel_available

from raydistill.config import SAYS_NOTHING
from raydistill.errors import ConfigError, first_line, shown
from raydistill.metrics import figures, sums_size
from raydistill.option_values import flag, is_list, truth
from raydistill.training_arguments import REFUSALS, evaluates_midway, refused, training_arguments

OF_THE_DEVICE = frozenset({"tf32", "ddp_backend"})  # transformers asks the device and the process group about them
DDP_BACKENDS = tuple(TrainingArguments.__dataclass_fields__["ddp_backend"].metadata.get("choices", ()))
CHECKPOINTING = ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs")  # by the transformers' version
NOT_OF_TORCH = ("every_n_layers", "offload")  # what these hold for transformers
MOST_NAMED = 5  # figures, in an error line


def checked_arguments(given: Mapping[str, Any]) -> TrainingArguments:
    """As `training_arguments`, where there need be no GPU: for what the driver must know. Raises ConfigError."""
    backend: Any = given.get("ddp_backend")
    if any(one not in (None, *DDP_BACKENDS) for one in (backend if is_list(backend) else [backend])):
        raise ConfigError(f"--ddp-backend {shown(backend)} must be one of {', '.join(DDP_BACKENDS)}.")
    if given.get("tf32") is not None:
        truth("tf32", given["tf32"])
    elsewhere = {name: value for name, value in given.items() if name not in OF_THE_DEVICE}
    arguments = training_arguments(elsewhere, output_dir="unused", use_cpu=True)
    try:
        _expect_trainable(arguments)
    except REFUSALS as error:
        raise refused(error, elsewhere, checked_arguments) from None
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


def gpu_only(given: Mapping[str, Any], arguments: TrainingArguments) -> tuple[str, ...]:
    """What was asked for that a CPU does not do."""
    tf32 = str(given.get("tf32")).lower() not in (*SAYS_NOTHING, "")
    return ("--fp16",) * arguments.fp16 + ("--tf32",) * tf32

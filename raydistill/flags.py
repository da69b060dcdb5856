"""The flags of `run`, `label` and `train`: read off `DistillConfig`, and all others left to `TrainingArguments`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Sequence
from typing import Any

import click

from raydistill.config import ESSENTIALS, FORMER_NAMES, DistillConfig, by_present_names, option_fields
from raydistill.errors import ConfigError
from raydistill.option_values import flag, suggest

NEGATIVE_NUMBER = re.compile(r"-\.?\d")
KINDS = {"int": "INTEGER", "float": "NUMBER", "bool": "[true|false]"}


class GroupedCommand(click.Command):
    """A command whose help puts the common options first and points at the many others."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if record := parameter.get_help_record(ctx):
                groups.setdefault(getattr(parameter, "group", "Other"), []).append(record)
        for group in sorted(groups, key=lambda name: name != ESSENTIALS):
            with formatter.section(group):
                formatter.write_dl(groups[group])
        with formatter.section("Training"):
            formatter.write_text(
                "Any field of transformers.TrainingArguments by its own name, such as --learning-rate 3e-5 "
                "--num-train-epochs 2 --fp16; --help-all lists them. Options may be written with - or _."
            )


class GroupedOption(click.Option):
    """An option that knows its heading."""

    def __init__(self, *args: Any, group: str = "Other", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.group = group


def config_options(command: Callable[..., Any], shown: Collection[str]) -> Callable[..., Any]:
    """Give a command every option of `DistillConfig`, and `--config`; its help shows some of them."""
    former: dict[str, list[str]] = {}
    for old, new in FORMER_NAMES.items():
        former.setdefault(new, []).append(old)
    for field in reversed(option_fields()):
        kind = str(field.type).removesuffix(" | None")
        extra: dict[str, Any] = {"is_flag": False, "flag_value": "true"} if kind == "bool" else {}
        if kind.startswith("tuple"):
            extra = {"multiple": True}
        default = "" if field.default in (None, (), False) else f"  [default: {field.default}]"
        choices = "|".join(field.metadata["choices"])
        command = click.option(
            *[flag(name) for name in (field.name, *former.get(field.name, []))],
            field.name,
            cls=GroupedOption,
            group=field.metadata["group"],
            metavar=f"[{choices}]" if choices else KINDS.get(kind, "TEXT"),
            help=field.metadata["help"] + default,
            hidden=field.name not in shown,
            **extra,
        )(command)
    command = click.option(
        "--config", cls=GroupedOption, group=ESSENTIALS, metavar="FILE", help="Options in YAML or JSON; flags win."
    )(command)
    return click.option(
        "--help-all",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_help_all,
        cls=GroupedOption,
        help="Show this message and every TrainingArguments field, and exit.",
    )(command)


def _help_all(ctx: click.Context, parameter: click.Parameter, asked: bool) -> None:
    if not asked:
        return
    from transformers import TrainingArguments

    from raydistill.training_arguments import DEFAULTS, REFUSED, field_names

    click.echo(ctx.get_help() + "\n\nTrainingArguments:")
    fields = {field.name: field for field in dataclasses.fields(TrainingArguments)}
    for name in (name for name in field_names() if name not in REFUSED):
        default = DEFAULTS.get(name, fields[name].default)
        shown = (
            ""
            if default is dataclasses.MISSING or default is None
            else f"  [default: {getattr(default, 'value', default)}]"
        )
        about = " ".join(str(fields[name].metadata.get("help", "")).split())
        click.echo(f"  {flag(name)}{shown}\n      {about}" if about else f"  {flag(name)}{shown}")
    ctx.exit()


def collect_config(flags: dict[str, Any], leftover: Sequence[str]) -> DistillConfig:
    """One config from flags, `TrainingArguments` flags, and the file that --config or a lone FILE.json names.

    Flags win over the file.
    """
    path = flags.pop("config", None)
    given = {name: value for name, value in flags.items() if value not in (None, ())}
    if not given and path is None and len(leftover) == 1 and leftover[0].endswith(".json"):
        path, leftover = leftover[0], []
    given |= training_flags(leftover)
    if path is None:
        return DistillConfig(**given)
    from raydistill.config_file import read_config_file

    return DistillConfig(**by_present_names(read_config_file(path)) | by_present_names(given))


def training_flags(leftover: Sequence[str]) -> dict[str, Any]:
    """--name value and --name=value as text by name, --name and --no_name as True and False.

    Raises ConfigError for anything else.
    """
    found: dict[str, str | bool] = {}
    waiting = list(leftover)
    while waiting:
        token = waiting.pop(0)
        if not token.startswith("--"):
            if token.startswith("-") and len(token) > 1:
                raise ConfigError(f"No such option: {token}.")
            near = suggest(token.replace("-", "_"), (field.name for field in option_fields()))
            if token.endswith((".json", ".yaml", ".yml")):
                near = " A file of options is given with --config."
            raise ConfigError(f"Unexpected argument {token!r}: options begin with --.{near}")
        name, equals, value = token[2:].partition("=")
        name = name.replace("-", "_")
        if equals:
            found[name] = value
        elif waiting and (not waiting[0].startswith("-") or NEGATIVE_NUMBER.match(waiting[0])):
            found[name] = waiting.pop(0)
        elif name.startswith("no_"):
            name = name.removeprefix("no_")
            if any(field.name == name and field.type != "bool" for field in option_fields()):
                raise ConfigError(f"No such option: {token}. {flag(name)} is no switch.")
            found[name] = False
        else:
            found[name] = True
    return found

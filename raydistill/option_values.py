"""The names and values of options: text from a command line or a file, or typed already, becomes what is declared."""

from __future__ import annotations

import codecs
import dataclasses
import difflib
import math
import string
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from raydistill.errors import ConfigError, shown


class Bounds(NamedTuple):
    """The values that an option takes of those of its type: in words, and as a test."""

    wanted: str
    hold: Callable[[Any], bool]

    def faults(self, name: str, value: Any) -> list[str]:
        """What is wrong with a value, if anything is."""
        told = f"{value:g}" if isinstance(value, float) else value
        return [] if self.hold(value) else [f"{flag(name)} {told} must be {self.wanted}"]


ONE_OR_MORE = Bounds("1 or more", lambda value: value >= 1)
ZERO_OR_MORE = Bounds("0 or more", lambda value: 0 <= value < math.inf)
TEMPERATURE = Bounds("a number above 0.000001", lambda value: 1e-6 < value < math.inf)  # logits are divided by it
MINUTES = Bounds("a number of minutes above 0", lambda value: value > 0)
NO_LARGER = Bounds("at most 1000000000", lambda value: value <= 1_000_000_000)  # what C and clocks can hold
SHARE = Bounds("a share between 0 and 1", lambda value: 0 <= value <= 1)


def option(
    default: Any,
    help: str,
    *,
    group: str,
    stage: str | None = None,
    changes: str | None = None,
    choices: tuple[str, ...] = (),
    bounds: Bounds | None = None,
    path: bool = False,
) -> Any:
    """The declaration of an option, a field of `DistillConfig`.

    Args:
        default: the value when nothing is given.
        help: one sentence or two for `--help` and the README's table.
        group: the heading it stands under in `--help`.
        stage: the only stage that looks at it.
        changes: the product that another value would change ("labels" or "student"): it may not differ when a run
            continues in its output directory. None where it only changes how the work is done.
        choices: the values allowed, for text options.
        bounds: the values allowed, for numbers.
        path: whether it names files, which may be named in several ways.
    """
    metadata = {
        "help": help,
        "group": group,
        "stage": stage,
        "changes": changes,
        "choices": choices,
        "bounds": bounds,
        "path": path,
    }
    return dataclasses.field(default=default, metadata=metadata)


def flag(name: str) -> str:
    """The command-line spelling of an option."""
    return "--" + name.replace("_", "-")


def suggest(name: str, known: Iterable[str]) -> str:
    """' Did you mean …?' with the nearest known name, or ''."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean {flag(near[0])}?" if near else ""


def converted(field: dataclasses.Field[Any], value: Any) -> Any:
    """A value of the field's declared type. Raises ConfigError."""
    kind = str(field.type).removesuffix(" | None")
    try:
        if kind == "tuple[str, ...]":
            if isinstance(value, Mapping | bytes):
                raise ValueError
            items = [value] if isinstance(value, str | Path) else list(value)
            if not all(isinstance(item, str | Path) for item in items):
                raise ValueError
            return tuple(map(str, items))
        if kind == "bool":
            return truth(field.name, value)
        if kind == "int":
            if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
                raise ValueError
            return int(value)
        if kind == "float":
            if isinstance(value, bool):
                raise ValueError
            return float(value)
        if isinstance(value, Mapping | list | tuple):
            raise ValueError
        if isinstance(value, bool):
            raise ConfigError(
                f"{flag(field.name)} {value} must be text. YAML takes words like no and off for that: put it in quotes."
            )
    except (TypeError, ValueError):
        wanted = {"int": "a whole number", "float": "a number"}.get(kind, "text")
        raise ConfigError(f"{flag(field.name)} {shown(value)} must be {wanted}.") from None
    value = str(value)
    if field.metadata["choices"] and value not in field.metadata["choices"]:
        raise ConfigError(f"{flag(field.name)} {shown(value)} must be one of {', '.join(field.metadata['choices'])}.")
    return value


def truth(name: str, value: Any) -> bool:
    """The value of an option that is true or false. Raises ConfigError."""
    word = str(value).lower()
    if word not in ("true", "false", "yes", "no", "1", "0", "on", "off"):
        raise ConfigError(f"{flag(name)} {shown(value)} must be true or false.")
    return word in ("true", "yes", "1", "on")


def is_list(value: Any) -> bool:
    """Whether several values were given for one option."""
    return isinstance(value, list | tuple)


def is_encoding(name: str) -> bool:
    """Whether Python knows how to write text in it."""
    try:
        # base64 and its like are codecs too, but not for text; IDNA is for the names of hosts.
        return bool("a".encode(name)) and codecs.lookup(name).name != "idna"
    except (LookupError, ValueError):
        return False


def is_text(value: Any) -> bool:
    """Whether the texts in a value can be written as UTF-8, as those of a command line need not be, and have no NUL."""
    if isinstance(value, str):
        return "\0" not in value and value == value.encode(errors="ignore").decode()
    items = (
        [*value, *value.values()] if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    )
    return all(map(is_text, items))


def template_faults(template: str) -> list[str]:
    """What is wrong with a hypothesis template, if anything is."""
    try:
        fields = [field[1:] for field in string.Formatter().parse(template) if field[1] is not None]
        fits = fields in ([("", "", None)], [("0", "", None)])
    except ValueError:
        fits = False
    if fits:
        return []
    return [
        f"--hypothesis-template {shown(template)} must have {{}} once, for the class name, and no other brace: "
        "try 'This text is about {}.'"
    ]

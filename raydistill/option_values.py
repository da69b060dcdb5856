"""The values of options: text from a command line or a file, or typed already, becomes what the option declares."""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raydistill.errors import ConfigError, shown


def flag(name: str) -> str:
    """The command-line spelling of an option."""
    return "--" + name.replace("_", "-")


def converted(field: dataclasses.Field[Any], value: Any) -> Any:
    """A value of the field's declared type. Raises ConfigError."""
    kind = str(field.type).removesuffix(" | None")
    try:
        if kind == "tuple[str, ...]":
            return (str(value),) if isinstance(value, str | Path) else tuple(str(item) for item in value)
        if kind == "bool":
            return _to_bool(value)
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
        wanted = {"bool": "true or false", "int": "a whole number", "float": "a number"}.get(kind, "text")
        raise ConfigError(f"{flag(field.name)} {shown(value)} must be {wanted}.") from None
    value = str(value)
    if field.metadata["choices"] and value not in field.metadata["choices"]:
        raise ConfigError(f"{flag(field.name)} {shown(value)} must be one of {', '.join(field.metadata['choices'])}.")
    return value


def _to_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).lower()
    if word not in ("true", "false", "yes", "no", "1", "0", "on", "off"):
        raise ValueError
    return word in ("true", "yes", "1", "on")


def is_encoding(name: str) -> bool:
    """Whether Python knows how to write text in it."""
    try:
        return bool("a".encode(name))  # base64 and its like are codecs too, but not for text
    except (LookupError, ValueError):
        return False


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

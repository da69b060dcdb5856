"""The values of options: text from a command line or a file, or typed already, becomes what the option declares."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raydistill.errors import ConfigError


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
    except (TypeError, ValueError):
        wanted = {"bool": "true or false", "int": "a whole number", "float": "a number"}.get(kind, "text")
        raise ConfigError(f"{flag(field.name)} {value!r} must be {wanted}.") from None
    value = str(value)
    if field.metadata["choices"] and value not in field.metadata["choices"]:
        raise ConfigError(f"{flag(field.name)} {value!r} must be one of {', '.join(field.metadata['choices'])}.")
    return value


def _to_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).lower()
    if word not in ("true", "false", "yes", "no", "1", "0", "on", "off"):
        raise ValueError
    return word in ("true", "yes", "1", "on")

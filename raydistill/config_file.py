"""The file that --config names."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from raydistill.errors import ConfigError, first_line, shown
from raydistill.option_values import is_text


class _YamlLoader(yaml.SafeLoader):
    """YAML as it is meant here."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):  # a few lines of them unfold to gigabytes
            raise yaml.composer.ComposerError(None, None, "aliases are not read", self.peek_event().start_mark)
        return super().compose_node(parent, index)

    def construct_int(self, node: Any) -> int | str:
        return node.value if ":" in node.value else self.construct_yaml_int(node)  # YAML 1.1 reads 1:2 as 62

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        return _pairs(self.construct_pairs(node, deep))


_YamlLoader.add_constructor("tag:yaml.org,2002:int", _YamlLoader.construct_int)


def _pairs(pairs: Sequence[tuple[Any, Any]]) -> dict[Any, Any]:
    """A mapping of what a file says; what it says twice would be lost in part."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise ValueError(f"{twice!r} stands there twice; several values are a list")
    return found


def read_config_file(path: str) -> dict[str, Any]:
    """Options from a YAML or JSON file, by the names of the flags, with - or _. Raises ConfigError."""
    if not is_text(path):  # Ray keeps the command line
        raise ConfigError(f"--config {shown(path)} must be named in UTF-8, without NUL.")
    try:
        text = Path(os.path.expanduser(path)).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise ConfigError(f"--config {path}: cannot be read ({first_line(error)}).") from None
    kind = "JSON" if path.endswith(".json") else "YAML"
    try:
        values = json.loads(text, object_pairs_hook=_pairs) if kind == "JSON" else _YamlLoader(text).get_single_data()
    except RecursionError:
        raise ConfigError(f"--config {path}: is not {kind} of options: it is nested too deeply.") from None
    except (ValueError, TypeError, yaml.YAMLError) as error:
        hint = " Quote a value that has a colon in it." if "mapping values are not allowed" in str(error) else ""
        raise ConfigError(f"--config {path}: is not {kind} ({' '.join(str(error).split())}).{hint}") from None
    if not isinstance(values, Mapping):
        raise ConfigError(f"--config {path}: must hold options as `name: value` pairs.")
    if "config" in values:
        raise ConfigError(f"--config {path}: names another file of options with `config`. Put them all in one.")
    try:
        return _pairs([(str(name).replace("-", "_"), value) for name, value in values.items()])
    except ValueError as error:
        raise ConfigError(f"--config {path}: {error}.") from None

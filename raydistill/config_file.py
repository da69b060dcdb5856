"""The file that --config names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raydistill.errors import ConfigError


def read_config_file(path: str) -> dict[str, Any]:
    """Options from a YAML or JSON file, by the names of the flags, with - or _. Raises ConfigError."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path}: cannot be read ({error}).") from None
    if path.endswith(".json"):
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise ConfigError(f"--config {path}: is not JSON ({error}).") from None
    else:
        import yaml

        try:
            values = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--config {path}: is not YAML ({' '.join(str(error).split())}).") from None
    if not isinstance(values, Mapping):
        raise ConfigError(f"--config {path}: must hold options as `name: value` pairs.")
    return {str(name).replace("-", "_"): value for name, value in values.items()}

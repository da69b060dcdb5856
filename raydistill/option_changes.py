"""In which options a run is no longer what it was."""

from __future__ import annotations

from typing import Any

from raydistill.config import DistillConfig
from raydistill.option_values import flag
from raydistill.paths import located


def option_changes(then: dict[str, Any], config: DistillConfig, product: str) -> list[str]:
    """Which options that shape a product ("labels" or "student") have another value now, a line for each.

    Args:
        then: what `config.that_change(product)` was, as JSON gives it back; empty if nothing is known.
    """
    if not then:
        return []
    now = config.that_change(product)
    then = DistillConfig().that_change(product) | then  # an option that is newer than the run was at its default
    lines = []
    for name in now:
        old = then.get(name)
        if name == "data_file":
            old = located(old)  # once, globs were kept as they were given
        if name == "data_file" and isinstance(old, list) and (set(now[name]) >= set(old) or set(now[name]) <= set(old)):
            continue  # a corpus may grow or shrink by files, as a folder's may
        pairs = [(name, old, now[name])]
        if name == "training":
            pairs = _unlike(old if isinstance(old, dict) else {}, now[name])
        lines += [f"{flag(key)} was {_shown(old)}, now {_shown(new)}" for key, old, new in pairs if not _same(old, new)]
    return lines


def _unlike(then: dict[str, Any], now: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """(name, then, now) of `TrainingArguments` fields; one that is left out, or None, is at its default."""
    then, now = ({name: value for name, value in given.items() if value is not None} for given in (then, now))
    defaults: dict[str, Any] = {}
    if then.keys() != now.keys():
        from raydistill.training_arguments import field_defaults  # with transformers, which takes seconds

        defaults = field_defaults()
    return [
        (name, then.get(name), now.get(name))
        for name in sorted(then.keys() | now.keys())
        if not _same(then.get(name, defaults.get(name)), now.get(name, defaults.get(name)))
    ]


def _same(old: Any, new: Any) -> bool:
    """Whether two spellings, such as "3e-5" and 3e-05 or "true" and True, are one value."""
    if str(old) == str(new) or {str(old).lower(), str(new).lower()} in ({"true"}, {"false"}):
        return True
    try:
        return float(old) == float(new)
    except (TypeError, ValueError):
        return False


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "not given" if value is None else str(value)

"""Distil a slow zero-shot NLI classifier into a small, fast one, at any scale.

The public face is what `__all__` lists; importing it costs nothing until a name is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raydistill.config import DistillConfig as DistillConfig
    from raydistill.distillation import soft_labels as soft_labels
    from raydistill.errors import RaydistillError as RaydistillError
    from raydistill.result import DistillResult as DistillResult
    from raydistill.stages.run import distill as distill
    from raydistill.stages.run import label as label
    from raydistill.stages.run import train as train

__version__ = "0.1.0"

_HOMES = {
    "DistillConfig": "config",
    "DistillResult": "result",
    "RaydistillError": "errors",
    "distill": "stages.run",
    "label": "stages.run",
    "soft_labels": "distillation",
    "train": "stages.run",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'raydistill' has no attribute {name!r}")
    return getattr(importlib.import_module(f"raydistill.{_HOMES[name]}"), name)

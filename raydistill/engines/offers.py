"""Which engines there are, before anything heavy is loaded."""

from __future__ import annotations

import importlib.util

from raydistill.errors import ConfigError

# Pairs times parameters, from which on a faster engine is worth the seconds that exporting a teacher takes, and from
# which on what suits a CPU is worth those of measuring it.
EXPORT_PAYS, MEASURING_PAYS = 1e10, 1e12


def openvino_installed(precision: str = "fp32") -> bool:
    """Whether OpenVINO, and what else a number format needs, is there."""
    needed = ["openvino", *(["nncf"] if precision == "int8" else [])]
    return all(importlib.util.find_spec(name) for name in needed)


def check_backend(backend: str, precision: str, *, use_gpu: bool) -> None:
    """Raise ConfigError for what cannot be had here; every line says what to do."""
    option = "--teacher-precision int8" if precision == "int8" else "--teacher-backend openvino"
    if precision != "int8" and backend != "openvino":
        return
    if use_gpu:
        raise ConfigError(f"{option} is for CPUs, and the teacher is to run on GPUs. Leave it out, or add --use-cpu.")
    if not openvino_installed(precision):
        extra = "int8" if precision == "int8" else "openvino"
        raise ConfigError(f"{option}: not installed: pip install 'raydistill[{extra}]'.")

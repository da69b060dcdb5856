"""Which engines there are, before anything heavy is loaded."""

from __future__ import annotations

import importlib.util

from raydistill.errors import ConfigError
from raydistill.specs import TeacherSpec

# Work is pairs times parameters. Exporting a teacher takes some seconds, and of a large one as long as hundreds of its
# pairs: it pays from so much work and so many pairs on. To measure what suits a CPU pays from so much work on.
EXPORT_PAYS, EXPORT_PAIRS, MEASURING_PAYS = 1e10, 1000, 1e12


def openvino_installed(precision: str = "fp32") -> bool:
    """Whether OpenVINO, and what else a number format needs, is there."""
    needed = ["openvino", *(["nncf"] if precision == "int8" else [])]
    return all(importlib.util.find_spec(name) for name in needed)


def export_pays(spec: TeacherSpec) -> bool:
    """Whether there is work enough for an exported teacher, where none was asked for."""
    return spec.work >= max(EXPORT_PAYS, EXPORT_PAIRS * spec.parameters)


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

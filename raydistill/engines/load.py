"""Which engine runs the teacher: as asked, or the faster one."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence

from raydistill.engines import openvino_engine
from raydistill.engines.engine import EXACT, Engine, Inputs
from raydistill.engines.exported import ExportedTeacher, exported_teacher
from raydistill.errors import ConfigError, ModelError, first_line

logger = logging.getLogger(__name__)

INSTALL = {EXACT: "pip install 'raydistill[openvino]'", "int8": "pip install 'raydistill[int8]'"}


@dataclasses.dataclass(frozen=True)
class EngineRequest:
    """What an engine is wanted for.

    Attributes:
        name_or_path: the teacher.
        fingerprint: of its weights, for the cache of exports; None where it is not known.
        backend: auto, torch or openvino.
        precision: fp32, bf16, fp16 or int8.
        pad_token_id: the tokenizer's.
        threads: CPU threads; None for the default.
    """

    name_or_path: str
    fingerprint: str | None
    backend: str
    precision: str
    pad_token_id: int
    use_gpu: bool
    threads: int | None


def check_backend(backend: str, precision: str, *, use_gpu: bool) -> None:
    """Raise ConfigError for what cannot be had here; every line says what to do."""
    if use_gpu:
        if backend == "openvino" or precision == "int8":
            what = "--teacher-backend openvino" if backend == "openvino" else "--teacher-precision int8"
            raise ConfigError(f"{what} is for CPUs, and the teacher is to run on GPUs. Leave it out, or add --use-cpu.")
        return
    if (backend == "openvino" or precision == "int8") and not openvino_engine.installed(precision):
        what = "--teacher-precision int8" if precision == "int8" else "--teacher-backend openvino"
        raise ConfigError(f"{what}: not installed: {INSTALL.get(precision, INSTALL[EXACT])}.")


def load_engine(request: EngineRequest, batches: Sequence[Inputs]) -> Engine:
    """The engine asked for; with backend "auto", the faster of those that can be had.

    Args:
        batches: a few batches of pairs: what an exported teacher is traced with, checked with and measured on.

    Raises:
        ConfigError: the backend or the number format cannot be had here.
        ModelError: int8 was asked for, and the teacher cannot be converted.
    """
    check_backend(request.backend, request.precision, use_gpu=request.use_gpu)
    auto = request.backend == "auto"
    if request.use_gpu or request.backend == "torch" or (auto and not openvino_engine.installed(request.precision)):
        return _torch_engine(request)
    if openvino_engine.lacks(request.precision):
        if request.precision == "int8" or not auto:
            raise ConfigError(f"--teacher-precision {request.precision}: this machine's CPU cannot compute in it.")
        return _torch_engine(request)
    try:
        entry, engine = _exported_engine(request, batches)
    except (ModelError, OSError) as error:
        if request.precision == "int8":
            raise ModelError(f"--teacher-precision int8: {first_line(error)}.") from None
        logger.warning("%s; PyTorch runs the teacher", error)
        return _torch_engine(request)
    if auto and request.precision != "int8":
        fallback: list[Engine] = []

        def rival() -> Engine:
            fallback.append(_torch_engine(request))
            return fallback[0]

        if not entry.beats(engine, rival, request.threads):
            return fallback[0] if fallback else _torch_engine(request)
    return engine


def _exported_engine(request: EngineRequest, batches: Sequence[Inputs]) -> tuple[ExportedTeacher, Engine]:
    def fill(entry: ExportedTeacher) -> None:
        from raydistill.engines.torch_engine import load_exact

        entry.write(load_exact(request.name_or_path, request.pad_token_id), batches, request.precision)

    entry = exported_teacher(request.fingerprint, request.precision, fill)
    try:
        return entry, entry.load(request.precision, request.threads)
    except Exception as error:  # whatever a damaged file may raise
        logger.warning("%s: made anew (%s)", entry.folder, first_line(error))
    entry.discard()
    entry = exported_teacher(request.fingerprint, request.precision, fill)
    try:
        return entry, entry.load(request.precision, request.threads)
    except RuntimeError as error:
        raise ModelError(f"OpenVINO cannot run the converted teacher ({first_line(error)}).") from None


def _torch_engine(request: EngineRequest) -> Engine:
    from raydistill.engines.torch_engine import TorchEngine

    return TorchEngine.load(
        request.name_or_path, request.precision, pad_token_id=request.pad_token_id, use_gpu=request.use_gpu
    )

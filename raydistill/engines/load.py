"""Which engine runs the teacher: as asked, or the faster one."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Sequence
from functools import partial
from types import MethodType

import numpy as np
import psutil
import torch
from accelerate.utils import compile_regions

from raydistill.engines import openvino_engine, torch_engine
from raydistill.engines.cache import remembered
from raydistill.engines.engine import EXACT, TOLERANCE, Engine, Inputs, engine_name, expect_like, tokens_per_second
from raydistill.engines.exported import ExportedTeacher, exported_teacher
from raydistill.engines.offers import MEASURING_PAYS, check_backend, export_pays, openvino_installed
from raydistill.engines.packed import Packing, take_packed, take_padded
from raydistill.engines.torch_engine import TorchEngine
from raydistill.errors import ConfigError, EngineError, ModelError, first_line
from raydistill.specs import TeacherSpec

logger = logging.getLogger(__name__)

# How far logits of the same weights in the same precision may lie apart, as `share_off` says.
SAME_WEIGHTS = {EXACT: TOLERANCE[EXACT], "bf16": 0.1, "fp16": 0.02}
REPEATED = 8  # what packing is tried with, for rows that are longer than pairs usually may be


def expect_native(spec: TeacherSpec) -> None:
    """Raise ConfigError where this machine would only emulate the number format asked for: slower than fp32."""
    if spec.use_gpu:
        emulated = spec.precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False)
    elif openvino_installed():
        emulated = openvino_engine.lacks(spec.precision)
    else:
        emulated = torch_engine.cpu_emulates(spec.precision)
    if emulated:
        device = "GPU" if spec.use_gpu else "CPU"
        raise ConfigError(
            f"--teacher-precision {spec.precision}: this machine's {device} cannot compute in it. Leave it out."
        )


def resolve_precision(precision: str, *, use_gpu: bool) -> str:
    """The number format for a device; "auto" is exact on a CPU, and the fastest that keeps the ranking on a GPU."""
    if precision != "auto":
        return precision
    if not use_gpu:
        return EXACT
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def load_engine(spec: TeacherSpec, pad_token_id: int, batches: Sequence[Inputs]) -> Engine:
    """The engine asked for; with backend "auto", the faster of those that can be had.

    Args:
        pad_token_id: the tokenizer's.
        batches: a few batches of pairs: what an exported teacher is traced with, checked with and measured on.

    Raises:
        ConfigError: the backend or the number format cannot be had here.
        EngineError: the teacher cannot be converted, and int8 was asked for, or another backend with `strict`.
    """
    check_backend(spec.backend, spec.precision, use_gpu=spec.use_gpu)
    if spec.threads:
        torch.set_num_threads(spec.threads)
    if spec.use_gpu:
        return _gpu_engine(spec, pad_token_id, batches)
    return _cpu_engine(spec, pad_token_id, batches)


def _torch_engine(spec: TeacherSpec, precision: str, pad_token_id: int, batches: Sequence[Inputs]) -> TorchEngine:
    """PyTorch on a CPU, with as many threads as are fastest.

    Where cores have two threads each, one for each core may do better than one for each CPU that Ray counts. OpenVINO
    sees to that itself.
    """
    tune = spec.backend != "torch-compile"
    engine = TorchEngine.load(spec, precision, pad_token_id=pad_token_id, use_gpu=False, tune=tune)
    cores = psutil.cpu_count(logical=False)
    if spec.work < MEASURING_PAYS or not (spec.threads and cores and spec.threads > cores):
        return engine
    choices = [spec.threads, cores]

    def rates() -> list[float]:
        found = []
        for threads in choices:
            torch.set_num_threads(threads)
            found.append(_rate(engine, batches))
        return found

    question = f"tokens/s of {engine_name(engine)} with {choices[0]} and {cores} threads"
    torch.set_num_threads(choices[int(np.argmax(remembered(spec.fingerprint, question, rates)))])
    return engine


def _gpu_engine(spec: TeacherSpec, pad_token_id: int, batches: Sequence[Inputs]) -> Engine:
    precision = resolve_precision(spec.precision, use_gpu=True)
    engine = TorchEngine.load(spec, precision, pad_token_id=pad_token_id, use_gpu=True)
    if precision != EXACT:
        engine = packed_engine(engine, batches)
    return compiled_engine(engine, batches, strict=spec.strict) if spec.backend == "torch-compile" else engine


def _cpu_engine(spec: TeacherSpec, pad_token_id: int, batches: Sequence[Inputs]) -> Engine:
    precision = resolve_precision(spec.precision, use_gpu=False)
    in_torch = partial(_torch_engine, spec, precision, pad_token_id, batches)
    if spec.backend == "torch-compile":
        return compiled_engine(in_torch(), batches, strict=spec.strict)
    asked = spec.backend == "openvino" or precision == "int8"
    if spec.backend == "torch" or not (asked or export_pays(spec)) or not openvino_installed(precision):
        return in_torch()
    try:
        if openvino_engine.lacks(precision):  # labels that were begun elsewhere are gone on with, however slowly
            raise ModelError(f"OpenVINO cannot compute in {precision} on this CPU.")
        engine = _exported_engine(spec, precision, pad_token_id, batches)
    except (ModelError, OSError) as error:
        if precision == "int8" or (asked and spec.strict):
            option = "--teacher-precision int8" if precision == "int8" else "--teacher-backend openvino"
            raise EngineError(f"{option}: {first_line(error)}.") from None
        logger.warning("PyTorch runs the teacher", exc_info=True)
        in_pytorch = in_torch()
        in_pytorch.fallback = first_line(error)
        return in_pytorch
    if asked:
        return engine
    question = f"tokens/s of {engine_name(engine)} and torch with {spec.threads or os.cpu_count()} threads"
    own, rival = remembered(spec.fingerprint, question, lambda: [_rate(engine, batches), _rate(in_torch(), batches)])
    gc.collect()  # the rival may hold itself
    return engine if own > rival else in_torch()


def _rate(engine: Engine, batches: Sequence[Inputs]) -> float:
    """Tokens per second of the longest batch."""
    return round(tokens_per_second(engine, [max(batches, key=lambda batch: batch["input_ids"].size)]), 1)


def packed_engine(engine: TorchEngine, batches: Sequence[Inputs]) -> TorchEngine:
    """The same engine given pairs without padding, and seen to give the same logits; or as it is, where that fails."""
    packing = Packing.of(engine.model)
    # Where pairs are padded on the left, a model reads a padding token.
    if packing is None or not all(batch["attention_mask"][:, 0].all() for batch in batches):
        return engine
    try:
        repeated = [{name: np.tile(array, (REPEATED, 1)) for name, array in batch.items()} for batch in batches]
        wanted = [engine.logits(batch) for batch in repeated]
        take_packed(engine.model)
        packed = TorchEngine(engine.model, packing=packing)
        expect_like(packed, repeated, wanted, SAME_WEIGHTS[engine.precision])
        return packed
    except Exception:  # of a kernel that is not made for this GPU or these shapes, anything
        logger.warning("the teacher is given pairs with padding", exc_info=True)
    take_padded(engine.model)
    engine.recover()
    return engine


def compiled_engine(engine: TorchEngine, batches: Sequence[Inputs], *, strict: bool) -> TorchEngine:
    """The same engine compiled, and seen to give the same logits; or as it is, where it cannot be."""
    try:
        # Layer by layer, for nearly all are one program: that takes seconds where the whole model takes a minute. And
        # one for batches of any shape: they are sorted by length, so nearly each has its own.
        model = compile_regions(engine.model, dynamic=True)
        if "forward" in vars(model):  # of a narrowed one, bound to what was not compiled
            model.forward = MethodType(model.forward.__func__, model)
        compiled = TorchEngine(model, packing=engine.packing, compiled=True)
        wanted = [engine.logits(batch) for batch in batches]
        expect_like(compiled, batches, wanted, SAME_WEIGHTS[engine.precision])
        return compiled
    except Exception as error:  # of a compiler, anything
        if strict:
            raise EngineError(f"--teacher-backend torch-compile: {first_line(error)}.") from None
        logger.warning("the teacher cannot be compiled; PyTorch runs it as it is", exc_info=True)
        engine.fallback = f"torch.compile cannot: {first_line(error)}"
        return engine


def _exported_engine(spec: TeacherSpec, precision: str, pad_token_id: int, batches: Sequence[Inputs]) -> Engine:
    def fill(entry: ExportedTeacher) -> None:
        entry.write(torch_engine.load_exact(spec, pad_token_id), batches, precision, spec.threads)
        gc.collect()  # the model may hold itself

    entry = exported_teacher(spec.fingerprint, precision, fill)
    try:
        return entry.load(precision, spec.threads)
    except Exception as error:  # whatever a damaged file may raise
        logger.warning("%s: made anew (%s)", entry.folder, first_line(error))
    try:
        entry.discard()
        fingerprint = spec.fingerprint
    except OSError:  # of a cache that may only be read
        fingerprint = None
    entry = exported_teacher(fingerprint, precision, fill)
    try:
        return entry.load(precision, spec.threads)
    except Exception as error:
        raise ModelError(f"OpenVINO cannot run the converted teacher ({first_line(error)}).") from None

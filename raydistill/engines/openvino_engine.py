"""OpenVINO: on CPUs faster than PyTorch, in fp32 by fused layers, and in bf16 and int8 where the CPU has them.

The model is traced and converted once and kept in a cache (`exported.py`); from there it loads in about a second (of a
large one some more, as its checksums are looked at), without its weights being read by PyTorch.
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from raydistill.engines.engine import Inputs, PendingLogits
from raydistill.errors import ConversionError, ModelError, first_line

HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": None}  # int8: activations as the CPU does best
CAPABILITIES = {"bf16": "BF16", "fp16": "FP16", "int8": "INT8"}


class OpenVinoEngine:
    """A converted model, compiled for this CPU.

    Args:
        path: the model.xml that `convert` has written.
        input_names: of the model, in order.
        precision: a name of `HINTS`.
        threads: CPU threads to use; None for all.

    Raises:
        RuntimeError: the file is damaged.
    """

    backend = "openvino"
    memory_error: type[Exception] = MemoryError
    ahead = 0  # what puts the next batch together would take its cores
    packs = False
    fallback = ""

    def __init__(self, path: Path, input_names: Sequence[str], precision: str, threads: int | None) -> None:
        core = _openvino().Core()
        settings = {
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # actors beside each other would all be pinned to the same cores
            "CACHE_DIR": "",
            **({"INFERENCE_NUM_THREADS": threads} if threads else {}),
            **({"INFERENCE_PRECISION_HINT": hint} if (hint := HINTS[precision]) else {}),
        }
        self.precision, self._inputs = precision, list(input_names)
        self._request = core.compile_model(core.read_model(path), "CPU", settings).create_infer_request()

    def logits(self, inputs: Inputs) -> npt.NDArray[np.float32]:
        """(B, labels) float32, from arrays of (B, L) int64 under the model's own input names."""
        found = self._request.infer([inputs[name] for name in self._inputs], share_inputs=True)
        return np.array(found[0], dtype=np.float32)  # a copy: the request writes its next result in the same place

    def start(self, inputs: Inputs) -> PendingLogits:
        """The same, computed at once."""
        found = self.logits(inputs)
        return lambda: found

    def recover(self) -> None:
        """Nothing to give back."""


def lacks(precision: str) -> bool:
    """Whether this machine's CPU cannot compute in a number format."""
    wanted = CAPABILITIES.get(precision)
    return wanted is not None and wanted not in _openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def convert(model: Any, example: Inputs, precision: str, path: Path) -> None:
    """Convert a PyTorch classifier and write it to a model.xml and the model.bin beside it.

    For int8 the weights of linear layers are rounded, symmetrically, a scale for each output channel; activations are
    rounded on the fly when the model runs. That needs no calibration texts. (Quantising activations beforehand was
    twice as fast, and changed the winning class of 1.2 to 1.6 % of the texts.) Embeddings stay as large as they are: to
    look them up takes no longer, and rounded they changed the class of half as many texts again.

    Raises:
        ConversionError: the model cannot be converted.
        ModelError: there is no room for that, or OpenVINO is broken.
        OSError: it cannot be written.
    """
    openvino = _openvino()
    names, tensors = list(example), tuple(torch.from_numpy(array) for array in example.values())
    shapes = [openvino.PartialShape([-1, -1])] * len(names)
    try:
        with _quiet():
            converted = openvino.convert_model(Positional(model, names).eval(), example_input=tensors, input=shapes)
            if precision == "int8":
                import nncf

                looked_up = nncf.IgnoredScope(types=["Gather"], validate=False)  # of which there need be none
                converted = nncf.compress_weights(
                    converted, mode=nncf.CompressWeightsMode.INT8_SYM, ignored_scope=looked_up
                )
    except Exception as error:  # whatever a tracer, a converter or the model's own code may raise
        fault = ModelError if isinstance(error, (MemoryError, OSError)) else ConversionError
        raise fault(f"OpenVINO cannot convert {type(model).__name__} ({_reason(error)}).") from error
    try:
        openvino.save_model(converted, path, compress_to_fp16=False)
    except RuntimeError as error:  # as on a full disk, of which it says no more
        raise OSError(f"{path.parent}: cannot be written ({_reason(error)})") from None


class Positional(torch.nn.Module):
    """Takes its inputs by position, as the converter wants them, and gives the logits alone."""

    def __init__(self, model: Any, names: Sequence[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        """(B, labels)."""
        return self.model(**dict(zip(self.names, tensors, strict=True))).logits


def _reason(error: Exception) -> str:
    """What an error of OpenVINO's comes to: what the tracer met, or the last line, after those on its own sources."""
    if error.__cause__ is not None:
        return f"{type(error.__cause__).__name__}: {error.__cause__}".split("\n")[0]
    return first_line(Exception(str(error).strip().split("\n")[-1].lstrip("- ")))


def _openvino() -> Any:
    """The library. Raises ModelError where it is installed but broken."""
    # Without this, importing OpenVINO sends usage statistics to its makers. It has a stand-in for where it is missing.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except (ImportError, OSError) as error:  # as of a shared library that this system lacks
        raise ModelError(f"OpenVINO cannot be imported ({first_line(error)}).") from error
    return openvino


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Tracing warns of every Python branch, NNCF draws bars, and the converter takes over the root logger."""
    before, level, handlers = logging.root.manager.disable, logging.root.level, logging.root.handlers[:]
    logging.disable(logging.INFO)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        logging.root.setLevel(level)
        logging.root.handlers[:] = handlers

"""PyTorch: always there, on CPUs and GPUs."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from raydistill.engines.engine import EXACT, Inputs, PendingLogits
from raydistill.engines.packed import Packing
from raydistill.errors import DeviceLostError, first_line
from raydistill.first_layer import share_first_layer
from raydistill.last_layer import narrow_last_layer
from raydistill.onednn import use_faster_products
from raydistill.pretrained import load_classifier
from raydistill.specs import ModelSpec

DTYPES = {EXACT: torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


# Shape and number of the products that are timed. A format that takes more than 1.25 times as long as fp32 counts as
# emulated: emulated ones take 2 to 8 times as long.
ROWS, WIDTH, ROUNDS, EMULATED = 256, 768, 8, 1.25


def cpu_emulates(precision: str) -> bool:
    """Whether this machine's CPU has no instructions for a number format, by the time that a product takes in it."""

    def seconds(dtype: torch.dtype) -> float:
        rows, weights = torch.ones(ROWS, WIDTH, dtype=dtype), torch.ones(WIDTH, WIDTH, dtype=dtype)
        taken = []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            torch.nn.functional.linear(rows, weights)
            taken.append(time.perf_counter() - started)
        return min(taken)

    return precision in ("bf16", "fp16") and seconds(DTYPES[precision]) > EMULATED * seconds(DTYPES[EXACT])


class TorchEngine:
    """A model run by PyTorch itself, with its own attention kernels.

    Args:
        model: a sequence classifier, on its device, in its number format.
        packing: how its pairs are packed, of one that takes them so; None for padded ones.
        compiled: it has been through `torch.compile`.
    """

    memory_error: type[Exception] = torch.OutOfMemoryError
    fallback = ""

    def __init__(self, model: Any, *, packing: Packing | None = None, compiled: bool = False) -> None:
        self.model, self.packing, self.packs = model.eval(), packing, packing is not None
        self.backend = "torch-compile" if compiled else "torch"
        self.precision = next(name for name, dtype in DTYPES.items() if dtype == model.dtype)
        self.ahead = 1 if self.device.type == "cuda" else 0  # a GPU computes while the next batch is put together

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    @classmethod
    def load(
        cls, model: ModelSpec, precision: str, *, pad_token_id: int, use_gpu: bool, tune: bool = False
    ) -> TorchEngine:
        """Load in a number format of `DTYPES`. Raises ModelError.

        Args:
            tune: multiply what pairs have in common once (`raydistill.first_layer`), and by the faster library
                (`raydistill.onednn`), where that pays: for CPUs, and not to be compiled.
        """
        loaded = load_exact(model, pad_token_id)
        if tune:
            share_first_layer(loaded, precision)
            if precision == EXACT:
                use_faster_products(loaded)
        return cls(loaded.to(device="cuda" if use_gpu else "cpu", dtype=DTYPES[precision]))

    def logits(self, inputs: Inputs) -> npt.NDArray[np.float32]:
        """(B, labels) float32, from arrays of (B, L) int64 under the model's own input names."""
        return self.start(inputs)()

    @torch.inference_mode()
    def start(self, inputs: Inputs) -> PendingLogits:
        """The same, without waiting for a GPU."""
        more = {}
        if self.packing is not None:
            inputs, more["max_length_q"] = self.packing.pack(inputs)
        tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
        if self.device.type != "cuda":
            found = self.model(**tensors, **more).logits.float()
            return found.numpy
        tensors = {name: tensor.pin_memory().to(self.device, non_blocking=True) for name, tensor in tensors.items()}
        # Copied now: asked for later, the copy would queue up behind the next batch.
        found = self.model(**tensors, **more).logits.float().to("cpu", non_blocking=True)
        copied = torch.cuda.Event(blocking=True)  # who waits leaves the core to the tokenizer
        copied.record()

        def wait() -> npt.NDArray[np.float32]:
            copied.synchronize()
            return found.numpy()

        return wait

    def recover(self) -> None:
        """Give back what a failed batch has left. Raises DeviceLostError after a fault of the GPU, as CUDA's are."""
        if self.device.type != "cuda":
            return
        try:
            torch.cuda.empty_cache()
            torch.cuda.synchronize(self.device)
        except RuntimeError as error:
            raise DeviceLostError(f"the GPU is lost: {first_line(error)}") from error


def load_exact(model: ModelSpec, pad_token_id: int) -> Any:
    """The teacher in fp32 on the CPU, with no more of the last layer than its classifier reads. Raises ModelError."""
    loaded = load_classifier(model, dtype=torch.float32).eval()
    loaded.config.pad_token_id = pad_token_id
    loaded.config.use_cache = False  # a decoder that classifies says nothing more, and could not be converted
    narrow_last_layer(loaded)
    return loaded

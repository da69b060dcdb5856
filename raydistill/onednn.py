"""On a CPU, let the faster library multiply in fp32: the one that PyTorch takes, or oneDNN.

On x86 PyTorch takes MKL, which uses no more than AVX2 on CPUs that are not Intel's. oneDNN, which is in PyTorch for
other work, uses what there is: it is twice as fast on an AMD EPYC of the fifth generation. Sums are made in another
order, so the last digits differ.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from raydistill.engines.cache import remembered

Product = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

# Of the products that both are tried on, how often, how much faster oneDNN must be (where they are near, nothing is
# changed), and how far results may lie apart, as a share of the largest.
ROWS, WIDTH, ROUNDS, FASTER, SAME = 512, 768, 8, 1.25, 1e-5


class OneDnnLinear(nn.Linear):
    """A linear layer that oneDNN multiplies, where it is computed in fp32 on a CPU."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(..., inputs) -> (..., outputs)."""
        exact = input.dtype == self.weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        if exact and input.device.type == "cpu" and input.dim() > 1 and input.numel():
            return _Linear.apply(input, self.weight, self.bias)
        return super().forward(input)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(states, weight)
        return onednn_linear(states, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        states, weight = ctx.saved_tensors
        of_states, of_weight, of_bias = ctx.needs_input_grad
        rows = gradients[0].flatten(0, -2)
        read = states.flatten(0, -2).contiguous()  # oneDNN crawls over gaps
        return (
            onednn_linear(gradients[0], weight.T) if of_states else None,
            onednn_linear(rows.T, read.T) if of_weight else None,
            rows.sum(0) if of_bias else None,
        )


def onednn_linear(states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """What `torch.nn.functional.linear` gives, by oneDNN, without gradients: (..., D) and (O, D) -> (..., O), fp32."""
    return torch.ops.mkldnn._linear_pointwise(states, weight, bias, "none", [], "")


def use_faster_products(model: nn.Module) -> bool:
    """Have oneDNN multiply a model's linear layers, where that is faster on this CPU; whether it is.

    Parameters keep their names and values, and gradients flow as before (but not a second time, through gradients).

    Args:
        model: in fp32 on the CPU, and not to be compiled.
    """
    if not _onednn_is_faster():
        return False
    for module in model.modules():
        if type(module) is nn.Linear and type(module.weight) is nn.Parameter:
            module.__class__ = OneDnnLinear
    return True


def _onednn_is_faster() -> bool:
    """As found once on each machine: all processes of a run, and those that go on with it, multiply alike."""
    if not torch.backends.mkldnn.is_available():
        return False
    question = f"seconds of fp32 products by PyTorch and by oneDNN with {torch.get_num_threads()} threads"
    own, other = remembered("products", question, _seconds)
    return other is not None and own > FASTER * other


@torch.no_grad()
def _seconds() -> tuple[float, float | None]:
    """What the three products of a training step take each library, at best; None where oneDNN's are not the same."""
    random = torch.Generator().manual_seed(0)
    states, weight, gradients = (torch.randn(rows, WIDTH, generator=random) for rows in (ROWS, WIDTH, ROWS))
    products = ((states, weight), (gradients, weight.T), (gradients.T, states.T))

    def run(multiply: Product) -> tuple[float, list[torch.Tensor]]:
        started = time.perf_counter()
        found = [multiply(*given) for given in products]
        return time.perf_counter() - started, found

    own, other = [], []
    try:
        for _ in range(ROUNDS):
            (seconds, wanted), (others, found) = run(nn.functional.linear), run(onednn_linear)
            own.append(seconds)
            other.append(others)
    except (AttributeError, RuntimeError):  # not a part of PyTorch's that it promises to keep
        return 0.0, None
    same = all(bool((one - two).abs().max() <= SAME * two.abs().max()) for one, two in zip(found, wanted, strict=True))
    return min(own), min(other) if same else None

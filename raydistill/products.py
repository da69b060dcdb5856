"""On a CPU, let the faster library multiply: the one that PyTorch takes for fp32, or oneDNN.

PyTorch multiplies fp32 with MKL, which uses no more than AVX2 on CPUs that are not Intel's. oneDNN, which is a part of
PyTorch for bf16, uses what there is: it is twice as fast on an AMD EPYC with AVX-512. Sums are made in another order,
so the last digits differ.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

# Of the product that both are tried on, how often, and how much faster oneDNN must be: where they are near, nothing is
# changed.
ROWS, WIDTH, ROUNDS, FASTER = 512, 768, 8, 1.25


class OneDnnLinear(nn.Linear):
    """A linear layer that oneDNN multiplies, where it is computed in fp32 on a CPU."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(..., inputs) -> (..., outputs)."""
        exact = input.dtype == self.weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        if exact and input.device.type == "cpu":
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
        return (
            onednn_linear(gradients[0], weight.T) if of_states else None,
            onednn_linear(rows.T, states.flatten(0, -2).T) if of_weight else None,
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
        if type(module) is nn.Linear:
            module.__class__ = OneDnnLinear
    return True


@functools.cache
@torch.no_grad()
def _onednn_is_faster() -> bool:
    if not torch.backends.mkldnn.is_available():
        return False
    rows, weight = torch.ones(ROWS, WIDTH), torch.ones(WIDTH, WIDTH)
    try:
        return _least_seconds(nn.functional.linear, rows, weight) > FASTER * _least_seconds(onednn_linear, rows, weight)
    except (AttributeError, RuntimeError):  # not a part of PyTorch's that it promises to keep
        return False


def _least_seconds(multiply: Callable[..., torch.Tensor], *given: torch.Tensor) -> float:
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        multiply(*given)
        seconds.append(time.perf_counter() - started)
    return min(seconds)

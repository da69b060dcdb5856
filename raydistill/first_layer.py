"""Of the first layer, compute queries, keys and values once for each token, not once for each pair.

What enters the first layer depends on a token, its type and its place alone, and most of a batch is there several
times: the tokens of a text stand in the same places beside each of the K hypotheses. So of the tokens of a batch the
distinct ones are multiplied with the weights, and the rows of the result are put where they belong. Of five hypotheses
that spares some three quarters of these products, which are a fourth of a layer: 4 % of all products of six layers, of
which the last one is narrowed (`raydistill.last_layer`), 2 % of twelve, 1 % of twenty-four.

On CPUs only: to know how many tokens are distinct, one would have to wait for a GPU. And in fp32 only: a CPU with
instructions for bf16 or int8 multiplies rows sooner than it puts them in place and, for each new number of distinct
tokens, makes its kernels anew. The logits stay what they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from raydistill.stand_ins import bears_no_trial, stand_in, trial_batch

PRECISIONS = {"fp32"}  # where it pays
MOST_PLACES = 2048  # of tokens in a row: what finds the same ones takes eight bytes for each token and place


class DistinctTokens:
    """The distinct tokens of the batch under way, as they leave a model's embeddings.

    Args:
        embed: the `forward` of the embeddings.
        padding_idx: the token that some models count no place for.
    """

    def __init__(self, embed: Any, padding_idx: int | None) -> None:
        self._embed, self._padding_idx = embed, padding_idx
        self.states: torch.Tensor | None = None  # (B, L, D): what the embeddings gave
        self._distinct = self._which = torch.empty(0)  # (U, D), and the row of it for each of the B·L tokens

    def embed(self, *given: Any, **named: Any) -> Any:
        """Stands in for the embeddings' `forward`."""
        states = self._embed(*given, **named)
        parts = [part for part in (*given, *named.values()) if isinstance(part, torch.Tensor)]
        if any(part.is_floating_point() or part.shape != states.shape[:2] for part in parts):
            self.states = None  # not tokens, but what others have made of them
            return states
        same = self._same(parts)
        places = torch.arange(same.shape[0], device=states.device)
        number = (same == places).long().cumsum(0) - 1  # of each distinct token, from 0 on
        self._which = number.index_select(0, same)
        some = torch.zeros_like(places).scatter(0, self._which, same)[: self._which.max() + 1]
        self.states, self._distinct = states, states.flatten(0, 1).index_select(0, some)
        return states

    def _same(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """(B·L,) int64: where each token is found, one place for all that are the same.

        What is made on the way stays small, for OpenVINO has 32 bits for it, and in some places 24.
        """
        ids = parts[0]
        length = ids.shape[1]
        number = same_places(ids.flatten())
        for part in parts[1:]:  # as of its type
            number = same_places(number * (part.max() + 1) + part.flatten())
        places = torch.arange(number.shape[0], device=ids.device)
        if self._padding_idx is not None:  # behind padding, a place may count otherwise
            padding = ids == self._padding_idx
            behind = (padding.cumsum(1) > 0) & ~padding
            number = torch.where(behind.flatten(), number.shape[0] + places, number)
        return same_places(number * length + places % length)

    def project(self, linear: nn.Linear, states: torch.Tensor) -> torch.Tensor:
        """Stands in for the `forward` of a linear layer: (B, L, D) -> (B, L, outputs)."""
        forward = type(linear).forward  # its own, not this one
        if states is not self.states:
            return forward(linear, states)
        rows = forward(linear, self._distinct)
        return rows.index_select(0, self._which).unflatten(0, states.shape[:2])


def same_places(numbers: torch.Tensor) -> torch.Tensor:
    """For each of (N,) int64 from 0 on, a place where the same one is found, one for all that are the same: (N,) int64.

    By a table, for that takes no sorting: OpenVINO's way to distinct numbers takes the square of N.
    """
    places = torch.arange(numbers.shape[0], device=numbers.device)
    size: Any = numbers.max() + 1
    table = torch.zeros(size, dtype=torch.long, device=numbers.device)
    return table.scatter(0, numbers, places).index_select(0, numbers)


@torch.inference_mode()
def share_first_layer(model: Any, precision: str = "fp32") -> bool:
    """Make a classifier multiply each distinct token of a batch once with the weights that all are multiplied with.

    These are found by what they are given. A model that is built otherwise than BERT, or whose layers are given what
    depends on more than a token and its place, stays untouched, as does one that is to run in none of `PRECISIONS`, or
    that `bears_no_trial` or that reads more than `MOST_PLACES` tokens.

    Args:
        model: a sequence classifier in evaluation mode, in fp32, on the CPU.
        precision: what it is to run in afterwards.

    Returns:
        whether it was changed.
    """
    places = getattr(model.config, "max_position_embeddings", None) or 0
    if precision not in PRECISIONS or bears_no_trial(model) or places > MOST_PLACES:
        return False
    try:
        embeddings, words = model.base_model.embeddings, model.get_input_embeddings()
        tokens = DistinctTokens(embeddings.forward, getattr(words, "padding_idx", None))
    except (AttributeError, NotImplementedError):
        return False
    readers: list[nn.Linear] = []
    states: list[Any] = []

    def read(linear: Any, given: tuple[Any, ...]) -> None:
        if states and given and given[0] is states[-1]:
            readers.append(linear)

    hooks = [part.register_forward_pre_hook(read) for part in model.modules() if type(part) is nn.Linear]
    hooks.append(embeddings.register_forward_hook(lambda module, given, found: states.append(found)))
    try:
        model(**trial_batch(model))
    except Exception:  # of a model that is built otherwise, anything
        return False
    finally:
        for hook in hooks:
            hook.remove()
    parts = [(linear, "forward", partial(tokens.project, linear)) for linear in readers]
    return stand_in(model, [(embeddings, "forward", tokens.embed), *parts] if parts else [])

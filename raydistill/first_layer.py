"""Of the first layer, compute queries, keys and values once for each token, not once for each pair.

What enters the first layer depends on a token, its type and its place alone, and most of a batch is there several
times: the tokens of a text stand in the same places beside each of the K hypotheses. So of the tokens of a batch the
distinct ones are multiplied with the weights, and the rows of the result are put where they belong. Of five hypotheses
that spares some three quarters of these products, which are a fourth of a layer: 4 % of the time of six layers, of
which the last one is narrowed (`raydistill.first_token`), 2 % of twelve, 1 % of twenty-four.

For CPUs: how many tokens are distinct, a GPU would have to be waited for. The logits stay what they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from raydistill.stand_ins import stand_in, trial_batch


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
        self._which = self._numbered(parts)
        places = torch.arange(self._which.shape[0], device=states.device)
        some = torch.zeros_like(places).scatter(0, self._which, places)  # a place of each, whichever; the rest are none
        self.states, self._distinct = states, states.flatten(0, 1).index_select(0, some[: self._which.max() + 1])
        return states

    def _numbered(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """(B·L,) int64: a number for each token, the same for those that are one, from 0 on.

        What the numbers are made from stays small: OpenVINO has 32 bits, and for a choice between numbers but 24.
        """
        ids = number = parts[0]
        for part in parts[1:]:  # as of its type
            number = torch.unique(number * (part.max() + 1) + part, return_inverse=True)[1].view(ids.shape)
        if self._padding_idx is not None:  # behind padding, a place may count otherwise
            padding = ids == self._padding_idx
            behind = (padding.cumsum(1) > 0) & ~padding
            own = number.max() + 1 + torch.arange(number.numel(), device=ids.device).view(ids.shape)
            number = torch.where(behind, own, number)
        number = number * ids.shape[1] + torch.arange(ids.shape[1], device=ids.device)
        return torch.unique(number.flatten(), return_inverse=True)[1]

    def project(self, linear: nn.Linear, states: torch.Tensor) -> torch.Tensor:
        """Stands in for the `forward` of a linear layer: (B, L, D) -> (B, L, outputs)."""
        if states is not self.states:
            return nn.functional.linear(states, linear.weight, linear.bias)
        rows = nn.functional.linear(self._distinct, linear.weight, linear.bias)
        return rows.index_select(0, self._which).unflatten(0, states.shape[:2])


@torch.inference_mode()
def share_first_layer(model: Any) -> bool:
    """Make a classifier multiply each distinct token of a batch once with the weights that all are multiplied with.

    These are found by what they are given. A model that is built otherwise than BERT, or whose layers are given what
    depends on more than a token and its place, stays untouched.

    Args:
        model: a sequence classifier in evaluation mode, in fp32, on the CPU.

    Returns:
        whether it was changed.
    """
    if model.config._attn_implementation != "sdpa" and not model.config.model_type.startswith("deberta"):
        return False  # BigBird, once it has had a short text, would attend in another way for good
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

"""Of the last layer, compute only what the classifier reads: the first token.

BERT, RoBERTa, DistilBERT and their kin classify by the first token of the last layer. Its attention needs the keys and
values of all tokens, but the query, the output projection and the feed-forward network of the first one alone: five
sixths of a layer are computed for nothing. Left out, the logits stay what they are, and a model of L layers takes about
1 − 5/(6·L) of the time: 0.86 for six layers, 0.93 for twelve. Of DeBERTa's, whose attention is of another kind, queries
are made for all tokens, so it takes 1 − 3/(4·L). Gradients stay what they are too, for nothing flows back through the
tokens left out, and parameters keep their names: a student is trained in this form.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

MOST_OFF = 1e-4  # of logits; a model that reads more than the first token is off by far more


class _FirstTokenBlock(nn.Module):
    """Stands in for an attention block, and has its parts by the names that a checkpoint knows."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.self, self.output = attention.self, attention.output
        self.train(attention.training)


class FirstTokenAttention(_FirstTokenBlock):
    """That of a BERT-like layer: the first token alone attends."""

    def forward(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **_: Any) -> Any:
        """hidden_states (B, L, D) -> ((B, 1, D), None)."""
        inner: Any = self.self
        context = _first_context(inner, inner.query, inner.key, inner.value, hidden_states, attention_mask)
        return self.output(context, hidden_states[:, :1]), None


class FirstTokenOutput(_FirstTokenBlock):
    """That of a DeBERTa layer: all tokens attend, but only the first one goes on."""

    def forward(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor, **more: Any) -> Any:
        """hidden_states (B, L, D) -> ((B, 1, D), None)."""
        context = self.self(hidden_states, attention_mask, **more)[0]
        return self.output(context[:, :1], hidden_states[:, :1]), None


def first_token_layer(
    layer: Any, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **_: Any
) -> torch.Tensor:
    """Stands in for the `forward` of a layer of DistilBERT, which adds and normalises outside its attention.

    hidden_states (B, L, D) -> (B, 1, D).
    """
    inner = layer.attention
    context = _first_context(inner, inner.q_lin, inner.k_lin, inner.v_lin, hidden_states, attention_mask)
    attended = layer.sa_layer_norm(inner.out_lin(context) + hidden_states[:, :1])
    return layer.output_layer_norm(layer.ffn(attended) + attended)


def _first_context(
    inner: Any,
    query: nn.Module,
    key: nn.Module,
    value: nn.Module,
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor | None,
) -> torch.Tensor:
    """What the first token gathers from all, (B, 1, D); `inner` says how attention is done."""

    def heads(layer: nn.Module, states: torch.Tensor) -> torch.Tensor:
        return layer(states).unflatten(-1, (-1, inner.attention_head_size)).transpose(1, 2)

    context = nn.functional.scaled_dot_product_attention(
        heads(query, hidden_states[:, :1]),
        heads(key, hidden_states),
        heads(value, hidden_states),
        attn_mask=attention_mask if attention_mask is None else attention_mask[:, :, :1],
        dropout_p=inner.dropout.p if inner.training else 0.0,
        scale=inner.scaling,
    )
    return context.transpose(1, 2).flatten(2)


@torch.inference_mode()
def narrow_last_layer(model: Any) -> bool:
    """Make a classifier compute the first token only in its last layer, where that leaves its logits as they are.

    Tried on a few tokens: a model that is built otherwise, or reads more than the first token, stays untouched.

    Args:
        model: a sequence classifier in evaluation mode, in fp32, on any device.

    Returns:
        whether it was changed.
    """
    try:
        found = _stand_in(model)
    except (AttributeError, IndexError, TypeError):
        return False
    if found is None:
        return False
    parent, name, narrow = found
    tokens = 3 + torch.arange(16, device=model.device).reshape(2, 8) % max(1, model.config.vocab_size - 3)
    mask = torch.ones_like(tokens)
    mask[0, 5:] = 0
    whole = getattr(parent, name)
    try:
        before = model(input_ids=tokens, attention_mask=mask).logits
        setattr(parent, name, narrow)
        after = model(input_ids=tokens, attention_mask=mask).logits
        same = bool(((after - before).abs() <= MOST_OFF * before.abs().clamp(min=1)).all())
    except Exception:  # of a model that is built otherwise, anything
        same = False
    if not same:
        setattr(parent, name, whole)
    return same


def _stand_in(model: Any) -> tuple[nn.Module, str, Any] | None:
    """(module, name of a part of it, what may stand in for that part); None for models of no kind known here."""
    body, kind = model.base_model, model.config.model_type
    if kind.startswith("deberta"):
        layer = body.encoder.layer[-1]
        return layer, "attention", FirstTokenOutput(layer.attention)
    if model.config._attn_implementation != "sdpa":
        return None
    if kind == "distilbert":
        layer = body.transformer.layer[-1]
        return layer, "forward", partial(first_token_layer, layer)
    layer = body.encoder.layer[-1]
    return layer, "attention", FirstTokenAttention(layer.attention)

"""Of the last layer, compute only what the classifier reads: the first token.

BERT, RoBERTa, DistilBERT and their kin classify by the first token of the last layer. All else of that layer is made
for nothing, but for keys and values, which the one query needs of all tokens; and these need not be made either. For
each head, q · (W x + b) = (Wᵀ q) · x + q · b, where the last term is the same for all x, so nothing to a softmax; and
Σ p (W x + b) = W (Σ p x) + b, as Σ p = 1. So the query goes through the keys' weights and attends to the tokens
themselves, and what it has gathered goes through the values' weights: the layer costs next to nothing, and a model of
L layers takes about 1 − 1/L of the time, 0.83 for six layers, 0.92 for twelve. Of DeBERTa's, whose attention is of
another kind, queries, keys and values are made of all tokens, so it takes 1 − 3/(4·L).

BART reads the last token (the final </s>) of its decoder instead, whose last layer is narrowed in the same way, both of
its attentions included.

The logits stay what they are, but for the last digits. So do gradients, for nothing flows back through the tokens left
out (dropout of the attention, under which Σ p is 1 on average only, spares the values' b), and parameters keep their
names: a student is trained in this form.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput

from raydistill.stand_ins import StandIn, stand_in

Projections = tuple[nn.Linear, nn.Linear, nn.Linear]  # to queries, keys and values


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
        context = _first_context(inner, (inner.query, inner.key, inner.value), hidden_states, attention_mask)
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
    context = _first_context(inner, (inner.q_lin, inner.k_lin, inner.v_lin), hidden_states, attention_mask)
    attended = layer.sa_layer_norm(inner.out_lin(context) + hidden_states[:, :1])
    return layer.output_layer_norm(layer.ffn(attended) + attended)


def last_token_layer(
    layer: Any,
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    encoder_hidden_states: torch.Tensor | None = None,
    encoder_attention_mask: torch.Tensor | None = None,
    **_: Any,
) -> torch.Tensor:
    """Stands in for the `forward` of the last layer of BART's decoder, of which the last token is read.

    hidden_states (B, L, D) -> (B, 1, D).
    """
    places = torch.arange(hidden_states.shape[1], device=hidden_states.device)
    whole = torch.ones_like(hidden_states[:, :, 0], dtype=torch.bool)
    mask = whole[:, None, None] if encoder_attention_mask is None else encoder_attention_mask[:, :, :1]
    kept = mask if mask.dtype == torch.bool else mask == 0
    last = (kept[:, 0, 0] * places).amax(-1)
    state = hidden_states.gather(1, last[:, None, None].expand(-1, 1, hidden_states.shape[-1]))

    def dropped(states: torch.Tensor, share: float) -> torch.Tensor:
        return nn.functional.dropout(states, share, layer.training)

    def attend(attention: Any, tokens: Any, visible: torch.Tensor) -> torch.Tensor:
        context = one_query(
            state,
            tokens,
            (attention.q_proj, attention.k_proj, attention.v_proj),
            visible,
            scale=attention.scaling,
            head_size=attention.head_dim,
            dropout=attention.dropout if attention.training else 0.0,
        )
        return state + dropped(attention.out_proj(context), layer.dropout)

    state = layer.self_attn_layer_norm(attend(layer.self_attn, hidden_states, (places <= last[:, None])[:, None, None]))
    state = layer.encoder_attn_layer_norm(attend(layer.encoder_attn, encoder_hidden_states, mask))
    inner = dropped(layer.activation_fn(layer.fc1(state)), layer.activation_dropout)
    state = layer.final_layer_norm(state + dropped(layer.fc2(inner), layer.dropout))
    return state


def last_token_logits(
    model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **_: Any
) -> SequenceClassifierOutput:
    """Stands in for the `forward` of BART's classifier, whose decoder gives one token.

    Its own looks for the last </s>, and refuses a batch of texts in some of which there are more of them.
    """
    states = model.model(input_ids, attention_mask=attention_mask, use_cache=False)[0]
    return SequenceClassifierOutput(logits=model.classification_head(states[:, 0]))


def _first_context(
    inner: Any, projections: Projections, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None
) -> torch.Tensor:
    """What the first token gathers from all, (B, 1, D), by a BERT's or DistilBERT's own attention."""
    return one_query(
        hidden_states[:, :1],
        hidden_states,
        projections,
        None if attention_mask is None else attention_mask[:, :, :1],
        scale=inner.scaling,
        head_size=inner.attention_head_size,
        dropout=inner.dropout.p if inner.training else 0.0,
    )


def one_query(
    asking: torch.Tensor,
    tokens: torch.Tensor,
    projections: Projections,
    mask: torch.Tensor | None,
    *,
    scale: float,
    head_size: int,
    dropout: float,
) -> torch.Tensor:
    """What one token of each text gathers from many by attention, without their keys and values.

    Args:
        asking: (B, 1, D).
        tokens: (B, L, D).
        mask: (B, 1, 1, L), as of `scaled_dot_product_attention`.
        head_size: of a head, D / H.

    Returns:
        (B, 1, D), before the projection of the output.
    """

    def by_head(states: torch.Tensor) -> torch.Tensor:
        return states.unflatten(0, (-1, head_size))

    query, key, value = projections
    queries = by_head(query(asking[:, 0]).T).transpose(1, 2) @ by_head(key.weight)  # (H, B, D)
    gathered = nn.functional.scaled_dot_product_attention(
        queries.transpose(0, 1)[:, None],  # those of all heads: (B, 1, H, D), for the tokens are one head
        tokens[:, None],
        tokens[:, None],
        attn_mask=mask,
        dropout_p=dropout,
        scale=scale,
    )
    context = gathered[:, 0].transpose(0, 1) @ by_head(value.weight).transpose(1, 2)  # (H, B, D / H)
    context = context.transpose(0, 1).flatten(1)[:, None] + value.bias
    return context + 0 * key.bias.sum()  # no gradient, but distributed training expects one of each


def narrow_last_layer(model: Any) -> bool:
    """Make a classifier compute the first token only in its last layer, where that leaves its logits as they are.

    A model that is built otherwise, or reads more than the first token, stays untouched.

    Args:
        model: a sequence classifier in evaluation mode, in fp32, on any device.

    Returns:
        whether it was changed.
    """
    try:
        parts = _stand_ins(model)
    except (AttributeError, IndexError, TypeError):
        return False
    return stand_in(model, parts)


def _stand_ins(model: Any) -> list[StandIn]:
    """None for models of no kind known here."""
    body, kind = model.base_model, model.config.model_type
    if kind.startswith("deberta"):
        layer = body.encoder.layer[-1]
        return [(layer, "attention", FirstTokenOutput(layer.attention))]
    if model.config._attn_implementation != "sdpa":
        return []
    if kind == "distilbert":
        layer = body.transformer.layer[-1]
        return [(layer, "forward", MethodType(first_token_layer, layer))]
    if kind == "bart":
        layer = body.decoder.layers[-1]
        if body.decoder.layerdrop:  # a layer that is left out at times narrows nothing then
            return []
        narrow = MethodType(last_token_layer, layer)
        return [(layer, "forward", narrow), (model, "forward", MethodType(last_token_logits, model))]
    layer = body.encoder.layer[-1]
    return [(layer, "attention", FirstTokenAttention(layer.attention))]

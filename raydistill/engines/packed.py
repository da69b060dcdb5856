"""Pairs without padding: those of a batch stand one after the other in one row, and each attends to itself alone.

For GPUs, in bf16 and fp16: nothing is computed for padding, and the attention needs no mask. Of the last layer only the
first token of each pair is computed (see `raydistill.last_layer`), which is also where the row becomes a batch again:
what a model does after its layers needs no change.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers import AttentionInterface

from raydistill.engines.engine import Inputs
from raydistill.last_layer import FirstTokenAttention

try:
    from torch.nn.attention import varlen
except ImportError:  # before PyTorch 2.10
    varlen_attn: Any = None
else:
    varlen_attn = varlen.varlen_attn

ATTENTION = "raydistill_packed"  # its name among those that transformers knows
AMPERE = (8, 0)  # the kernel is for GPUs from there on


@dataclasses.dataclass(frozen=True)
class Packing:
    """How a model's pairs are packed.

    `padding_idx`: RoBERTa and its kin count positions from behind this token, which has none; None for plain ones.
    """

    padding_idx: int | None

    @classmethod
    def of(cls, model: Any) -> Packing | None:
        """That of a narrowed model; None where it can only be given padded pairs. Nothing is changed."""
        if varlen_attn is None or model.config._attn_implementation != "sdpa":
            return None
        if model.device.type == "cuda" and torch.cuda.get_device_capability(model.device) < AMPERE:
            return None
        layers = getattr(getattr(model.base_model, "encoder", None), "layer", None)
        if not layers or not isinstance(layers[-1].attention, FirstTokenAttention):
            return None
        if any(layer.attention.self.scaling != layer.attention.self.attention_head_size**-0.5 for layer in layers):
            return None  # the kernel has this scale
        embeddings = model.base_model.embeddings
        return cls(embeddings.padding_idx if hasattr(embeddings, "create_position_ids_from_input_ids") else None)

    def pack(self, inputs: Inputs) -> tuple[dict[str, npt.NDArray[Any]], int]:
        """A padded batch as one row.

        Args:
            inputs: arrays of (B, L) int64 under the model's own input names, `attention_mask` among them.

        Returns:
            the model's inputs, (1, T) int64 each, `position_ids` among them, and `cu_seq_lens_q` (B + 1,) int32: where
            each pair begins, and T; and the length of the longest.
        """
        kept, ids = inputs["attention_mask"] != 0, inputs["input_ids"]
        lengths = kept.sum(axis=1)
        if self.padding_idx is None:
            positions = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
        else:
            counted = ids != self.padding_idx
            positions = np.cumsum(counted, axis=1) * counted + self.padding_idx
        row = {name: array[kept][None] for name, array in inputs.items() if name != "attention_mask"}
        bounds = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        return row | {"position_ids": positions[kept][None], "cu_seq_lens_q": bounds}, int(lengths.max())


def take_packed(model: Any) -> None:
    """Have a model take packed batches, and no others any more. Raises RuntimeError where it would not."""
    AttentionInterface.register(ATTENTION, packed_attention)
    model.set_attn_implementation(ATTENTION)
    if model.config._attn_implementation != ATTENTION:  # transformers has said no more than a warning
        raise RuntimeError("its attention cannot be set")
    layer = model.base_model.encoder.layer[-1]
    layer.attention = PackedFirstTokenAttention(layer.attention)


def take_padded(model: Any) -> None:
    """Undo `take_packed`, wherever that has got to."""
    model.set_attn_implementation("sdpa")
    layer = model.base_model.encoder.layer[-1]
    if isinstance(layer.attention, PackedFirstTokenAttention):
        layer.attention = FirstTokenAttention(layer.attention)


def packed_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    *,
    cu_seq_lens_q: torch.Tensor,
    max_length_q: int,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """(1, H, T, D) each -> (1, T, H, D), as transformers has it of an attention function."""
    tokens = (states[0].transpose(0, 1) for states in (query, key, value))
    return varlen_attn(*tokens, cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q)[None], None


class PackedFirstTokenAttention(nn.Module):
    """`FirstTokenAttention` for packed batches; gives back a batch."""

    def __init__(self, attention: FirstTokenAttention) -> None:
        super().__init__()
        self.self, self.output = attention.self, attention.output

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: None = None,
        *,
        cu_seq_lens_q: torch.Tensor,
        max_length_q: int,
        **_: Any,
    ) -> tuple[torch.Tensor, None]:
        """hidden_states (1, T, D) -> ((B, 1, D), None)."""
        inner: Any = self.self
        tokens = hidden_states[0]
        first = tokens[cu_seq_lens_q[:-1]]

        def heads(layer: nn.Module, states: torch.Tensor) -> torch.Tensor:
            return layer(states).unflatten(-1, (-1, inner.attention_head_size))

        each = torch.arange(len(cu_seq_lens_q), dtype=torch.int32, device=tokens.device)
        context = varlen_attn(
            heads(inner.query, first),
            heads(inner.key, tokens),
            heads(inner.value, tokens),
            each,
            cu_seq_lens_q,
            1,
            max_length_q,
        )
        return self.output(context.flatten(1)[:, None], first[:, None]), None

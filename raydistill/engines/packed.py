"""Pairs without padding: those of a batch stand one after the other in one row, and each attends to itself alone.

For GPUs, in bf16 and fp16: nothing is computed for padding, and the attention needs no mask. Of the last layer only the
first token of each pair is computed (see `raydistill.first_token`), which is also where the row becomes a batch again:
what a model does after its layers needs no change.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers import AttentionInterface

from raydistill.engines.engine import Inputs
from raydistill.first_token import FirstTokenAttention

try:
    from torch.nn.attention import varlen
except ImportError:  # before PyTorch 2.10
    varlen_attn: Any = None
else:
    varlen_attn = varlen.varlen_attn

ATTENTION = "raydistill_packed"  # its name among those that transformers knows


def pack(inputs: Inputs, first_position: int) -> tuple[dict[str, npt.NDArray[Any]], int]:
    """A padded batch as one row.

    Args:
        inputs: arrays of (B, L) int64 under the model's own input names, `attention_mask` among them.
        first_position: the position of a pair's first token.

    Returns:
        the model's inputs, (1, T) int64 each, `position_ids` among them, and `cu_seq_lens_q` (B + 1,) int32: where each
        pair begins, and T; and the length of the longest.
    """
    kept = inputs["attention_mask"] != 0
    lengths = kept.sum(axis=1)
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    row = {name: array[kept][None] for name, array in inputs.items() if name != "attention_mask"}
    row["position_ids"] = (np.arange(bounds[-1]) - np.repeat(bounds[:-1], lengths) + first_position)[None]
    return row | {"cu_seq_lens_q": bounds.astype(np.int32)}, int(lengths.max())


def take_packed(model: Any) -> int | None:
    """Have a narrowed model take packed batches, and no others any more.

    Args:
        model: a sequence classifier.

    Returns:
        the position of a pair's first token; None where it cannot take them, and stays as it is.
    """
    if varlen_attn is None or model.config._attn_implementation != "sdpa":
        return None
    layers = getattr(getattr(model.base_model, "encoder", None), "layer", [])
    if not len(layers) or not isinstance(layers[-1].attention, FirstTokenAttention):
        return None
    AttentionInterface.register(ATTENTION, packed_attention)
    model.set_attn_implementation(ATTENTION)
    layers[-1].attention = PackedFirstTokenAttention(layers[-1].attention)
    embeddings = model.base_model.embeddings
    # RoBERTa and its kin begin to count behind the index of the padding token.
    return embeddings.padding_idx + 1 if hasattr(embeddings, "create_position_ids_from_input_ids") else 0


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

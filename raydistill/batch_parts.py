"""In training, compute a batch in parts of like length: little padding is computed, whatever texts stand together.

A batch of texts drawn at random is padded to its longest, a third of it and more where lengths are mixed. Drawing texts
of like length instead changes what an update is made of, and with it what a student becomes. So the order of texts is
left alone: those of a batch are sorted by length, and where padding would cost more than another pass the model is
given them apart. No text is computed with regard to another, so logits, loss and gradients are those of the whole batch
(what dropout drops is drawn otherwise), and there is one backward pass and one update as before.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import numpy as np
import torch
from transformers.modeling_outputs import SequenceClassifierOutput

from raydistill.pairs import budget_batches
from raydistill.stand_ins import stand_in

# The budget of a part, of which another part costs a 64th. That of a GPU, which has not been measured, errs on the side
# of whole batches: a part is some hundred kernels to be started.
PART_TOKENS = {"cpu": 8192, "cuda": 524_288}


def compute_in_parts(model: Any, token_budget: int) -> bool:
    """Have a classifier compute its batches in parts, as `budget_batches` makes them, where its logits stay the same.

    A model that looks from one text to another, or at its padding, stays untouched, as far as a few tokens tell.

    Args:
        model: a sequence classifier in evaluation mode, in fp32, on any device.

    Returns:
        whether it was changed: then its `forward` takes `input_ids` and `attention_mask`, (B, L) int64 and padded on
        the right, and nothing else.
    """
    try:
        words = model.get_input_embeddings()
        in_parts = _InParts(model.forward, words.forward)
    except (AttributeError, NotImplementedError):  # it has no embeddings of words
        return False
    parts = [(model, "forward", MethodType(in_parts.forward, model)), (words, "forward", in_parts.embed)]
    same = stand_in(model, parts)
    in_parts.token_budget = token_budget
    return same


class _InParts:
    """What stands in for the `forward` of a classifier and of its word embeddings; at first each text is a part."""

    def __init__(self, whole: Any, look_up: Any) -> None:
        self.token_budget = 1
        self._whole, self._look_up = whole, look_up
        self._ids: torch.Tensor | None = None  # of the part under way
        self._embedded = torch.empty(0)

    def forward(self, _: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SequenceClassifierOutput:
        lengths = attention_mask.sum(1).numpy(force=True)
        parts = list(budget_batches(lengths, self.token_budget))
        order = np.concatenate(parts)
        ids, mask = input_ids[order], attention_mask[order]
        embedded = self._look_up(ids)  # once for all parts, for its gradient is as large as the vocabulary
        logits, at = [], 0
        for part in parts:
            rows, columns = slice(at, at + len(part)), slice(max(1, lengths[part[0]]))
            self._ids, self._embedded = ids[rows, columns].contiguous(), embedded[rows, columns]
            logits.append(self._whole(input_ids=self._ids, attention_mask=mask[rows, columns].contiguous()).logits)
            at += len(part)
        self._ids, self._embedded = None, torch.empty(0)
        return SequenceClassifierOutput(logits=torch.cat(logits)[np.argsort(order)])

    def embed(self, input_ids: torch.Tensor) -> torch.Tensor:
        ids = self._ids
        same = ids is not None and (input_ids.data_ptr(), input_ids.shape) == (ids.data_ptr(), ids.shape)
        return self._embedded if same else self._look_up(input_ids)

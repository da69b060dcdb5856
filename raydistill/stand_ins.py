"""Parts of a classifier replaced by cheaper ones, where that leaves its logits as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

StandIn = tuple[nn.Module, str, Any]  # a module, the name of a part of it, and what may stand in for that part

MOST_OFF = 1e-4  # of logits: a model that works otherwise than was taken is off by far more


@torch.inference_mode()
def stand_in(model: Any, parts: Sequence[StandIn]) -> bool:
    """Replace parts of a classifier, unless its logits of a few tokens change, or it fails.

    Args:
        model: a sequence classifier in evaluation mode, in fp32, on any device; it is not run where there are no parts,
            or where it `bears_no_trial`.

    Returns:
        whether there were any and they were replaced, all of them.
    """
    if not parts or bears_no_trial(model):
        return False
    whole = [(module, name, getattr(module, name)) for module, name, _ in parts]
    try:
        batch = trial_batch(model)
        before = model(**batch).logits
        for module, name, part in parts:
            setattr(module, name, part)
        after = model(**batch).logits
        same = bool(((after - before).abs() <= MOST_OFF * before.abs().clamp(min=1)).all())
    except Exception:  # of a model that is built otherwise, anything
        same = False
    if not same:
        for module, name, part in whole:
            setattr(module, name, part)
    return same


def bears_no_trial(model: Any) -> bool:
    """Whether a model would be another for having had a few tokens: BigBird, which attends otherwise from then on."""
    return getattr(model.config, "attention_type", None) == "block_sparse"


def trial_batch(model: Any) -> dict[str, torch.Tensor]:
    """Three texts of eight tokens; most of the third's are from one of the others, in their places.

    One is padded, one has a padding token in its midst, and each an end of text, if the model has such tokens.
    """
    end, padding = (getattr(model.config, name, None) for name in ("eos_token_id", "pad_token_id"))
    some = [token for token in range(3, min(20, model.config.vocab_size)) if token not in (end, padding)] or [0]
    tokens = torch.tensor((some * 24)[:24], device=model.device).reshape(3, 8)
    if end is not None:
        tokens[[0, 1], [4, 7]] = end
    tokens[2, 0::2], tokens[2, 1::2] = tokens[0, 0::2], tokens[1, 1::2]
    tokens[2, 4] = some[0]
    if padding not in (None, end):
        tokens[1, 2] = padding
    mask = torch.ones_like(tokens)
    mask[0, 5:] = 0
    if padding is not None:  # by which some find the last token
        tokens[0, 5:] = padding
    return {"input_ids": tokens, "attention_mask": mask}

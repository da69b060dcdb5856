"""Batches in parts of like length: the same logits and gradients, and little padding is computed."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import FAMILIES, MAX_LENGTH, make_classifier, make_tokenizer
from torch import nn
from transformers import BertForSequenceClassification, CanineConfig, CanineForSequenceClassification

from raydistill.batch_parts import compute_in_parts
from raydistill.last_layer import narrow_last_layer
from raydistill.onednn import use_faster_products
from raydistill.pairs import padded_tokens


def batch_of(lengths, model=None):
    """Texts of so many tokens, padded on the right; they end as the model wants it."""
    mask = (torch.arange(max(1, *lengths)) < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(5, 20, mask.shape, generator=torch.Generator().manual_seed(sum(lengths)))
    end, padding = (getattr(model and model.config, name, None) for name in ("eos_token_id", "pad_token_id"))
    if end is not None:
        ids[torch.arange(len(lengths)), torch.tensor(lengths) - 1] = end
    return {"input_ids": torch.where(mask == 1, ids, padding or 0), "attention_mask": mask}


@pytest.fixture(scope="module")
def models():
    """family -> a classifier, and the same one as a train worker has it, with every text a part or a few in one."""

    def made(family, token_budget):
        if (family, token_budget) not in kept:
            whole = make_classifier(family, make_tokenizer(family))
            parts = copy.deepcopy(whole)
            assert narrow_last_layer(parts.eval())
            use_faster_products(parts)
            assert compute_in_parts(parts, token_budget)
            kept[family, token_budget] = whole.train(), parts.train()
        return kept[family, token_budget]

    kept = {}
    return made


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.integers(1, MAX_LENGTH), min_size=1, max_size=9), token_budget=st.sampled_from([1, 60, 8192])
)
def test_logits_and_gradients_are_those_of_the_whole_batch(family, models, lengths, token_budget):
    whole, parts = models(family, token_budget)
    batch = batch_of(lengths, whole)
    logits = []
    for model in (whole, parts):
        model.zero_grad()
        logits.append(model(**batch).logits)
        logits[-1].logsumexp(-1).mean().backward()
    torch.testing.assert_close(logits[1], logits[0], atol=2e-5, rtol=1e-4)
    for (name, wanted), found in zip(whole.named_parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(found.grad, wanted.grad, atol=2e-5, rtol=1e-3, msg=name)


def test_with_gradient_checkpointing_gradients_are_the_same(models):
    whole, parts = models("bert", 60)
    parts.gradient_checkpointing_enable()
    for model in (whole, parts):
        model.zero_grad()
        model(**batch_of([3, 40, 12, 5])).logits.logsumexp(-1).mean().backward()
    parts.gradient_checkpointing_disable()
    for (name, wanted), found in zip(whole.named_parameters(), parts.named_parameters(), strict=True):
        torch.testing.assert_close(found[1].grad, wanted.grad, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta"])
def test_no_more_is_computed_than_is_counted(family, models):
    _, parts = models(family, 640)
    lengths = [3, 60, 4, 3, 55, 5]
    computed, looked_up = [], []
    layers = (parts.base_model.transformer if family == "distilbert" else parts.base_model.encoder).layer
    words = parts.get_input_embeddings()
    hooks = [
        layers[0].register_forward_hook(lambda module, given, found: computed.append(given[0].shape[:2].numel())),
        words.weight.register_hook(lambda gradient: looked_up.append(gradient)),
    ]
    parts(**batch_of(lengths)).logits.sum().backward()
    for hook in hooks:
        hook.remove()
    assert computed == [2 * 60, 4 * 5]  # of whole batches it would be 6 * 60
    assert sum(computed) == padded_tokens(np.array(lengths), 640)
    assert len(looked_up) == 1


def test_a_text_without_tokens_is_computed_too(models):
    whole, parts = models("bert", 1)
    batch = batch_of([4, 0])
    torch.testing.assert_close(parts(**batch).logits[0], whole(**batch).logits[0], atol=1e-5, rtol=1e-4)
    assert parts(**batch).logits.shape == (2, 3)


class LooksAround(BertForSequenceClassification):
    """What it says of a text depends on those beside it."""

    def forward(self, input_ids, attention_mask):
        logits = super().forward(input_ids, attention_mask).logits
        return type("Output", (), {"logits": logits - logits.mean(0)})()


def test_a_model_that_looks_from_one_text_to_another_stays_as_it_is():
    model = LooksAround(make_classifier("bert", make_tokenizer("bert")).config).eval()
    assert compute_in_parts(model, 60) is False
    assert model.forward.__func__ is LooksAround.forward
    assert model.get_input_embeddings().forward.__func__ is nn.Embedding.forward


def test_a_model_without_embeddings_of_words_stays_as_it_is():
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    model = CanineForSequenceClassification(CanineConfig(**sizes)).eval()
    assert compute_in_parts(model, 60) is False

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
from transformers import (
    BertForSequenceClassification,
    BigBirdConfig,
    BigBirdForSequenceClassification,
    CanineConfig,
    CanineForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
)

from raydistill.batch_parts import compute_in_parts
from raydistill.last_layer import narrow_last_layer
from raydistill.onednn import use_faster_products
from raydistill.pairs import padded_tokens
from raydistill.training_arguments import needs_whole_batches, training_arguments


def batch_of(lengths, model=None):
    """Texts of so many tokens, padded on the right; they end as the model wants it."""
    mask = (torch.arange(max(1, *lengths)) < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(5, 20, mask.shape, generator=torch.Generator().manual_seed(sum(lengths)))
    end, padding = (getattr(model and model.config, name, None) for name in ("eos_token_id", "pad_token_id"))
    if end is not None:
        ids[torch.arange(len(lengths)), torch.tensor(lengths) - 1] = end
    return {"input_ids": torch.where(mask == 1, ids, padding or 0), "attention_mask": mask}


def expect_same(whole, parts, lengths):
    """Logits and gradients of texts of so many tokens."""
    batch, logits = batch_of(lengths, whole), []
    for model in (whole, parts):
        model.zero_grad()
        logits.append(model(**batch).logits)
        logits[-1].logsumexp(-1).mean().backward()
    torch.testing.assert_close(logits[1], logits[0], atol=2e-5, rtol=1e-4)
    for (name, wanted), found in zip(whole.named_parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(found.grad, wanted.grad, atol=2e-5, rtol=1e-3, msg=name)


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
    expect_same(whole, parts, lengths)


def test_with_gradient_checkpointing_gradients_are_the_same(models):
    whole, parts = models("bert", 60)
    parts.gradient_checkpointing_enable()
    expect_same(whole, parts, [3, 40, 12, 5])
    parts.gradient_checkpointing_disable()


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta"])
def test_no_more_is_computed_than_is_counted(family, models):
    _, parts = models(family, 640)
    lengths = [3, 60, 4, 3, 55, 5]
    computed = []
    layers = (parts.base_model.transformer if family == "distilbert" else parts.base_model.encoder).layer
    hook = layers[0].register_forward_hook(lambda module, given, found: computed.append(given[0].shape[:2].numel()))
    parts(**batch_of(lengths))
    hook.remove()
    assert computed == [2 * 60, 4 * 5]  # of whole batches it would be 6 * 60
    assert sum(computed) == padded_tokens(np.array(lengths), 640)


def tiny_gpt2():
    """Which reads the last token, and puts its ids into another shape."""
    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": MAX_LENGTH, "resid_pdrop": 0, "embd_pdrop": 0}
    return GPT2ForSequenceClassification(
        GPT2Config(vocab_size=50, pad_token_id=0, eos_token_id=1, attn_pdrop=0, **sizes)
    )


@pytest.mark.parametrize("made", [lambda: make_classifier("bert", make_tokenizer("bert")), tiny_gpt2])
def test_words_are_looked_up_once_for_all_parts(made):
    whole = made().train()
    parts = copy.deepcopy(whole)
    words, looked_up = parts.get_input_embeddings(), []

    def look_up(ids):
        looked_up.append(ids)
        return nn.Embedding.forward(words, ids)

    words.forward = look_up
    assert compute_in_parts(parts.eval(), 1)
    looked_up.clear()
    expect_same(whole, parts.train(), [3, 40, 12, 5])
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


SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}


def test_a_model_without_embeddings_of_words_stays_as_it_is():
    model = CanineForSequenceClassification(CanineConfig(**SIZES)).eval()
    assert compute_in_parts(model, 60) is False
    model.get_input_embeddings = lambda: model.canine.char_embeddings.LayerNorm.weight  # as Perceiver's
    assert compute_in_parts(model, 60) is False


def test_bigbird_attends_to_long_texts_as_it_did():
    model = BigBirdForSequenceClassification(BigBirdConfig(vocab_size=50, **SIZES)).eval()
    assert compute_in_parts(model, 60) is False
    assert model.bert.attention_type == "block_sparse"  # which one short text turns off


@pytest.mark.parametrize(
    ("given", "workers", "whole"),
    [
        ({}, 2, False),
        ({"torch_compile": True}, 1, True),
        ({"neftune_noise_alpha": 5}, 1, True),
        ({"gradient_checkpointing": True}, 1, False),
        ({"gradient_checkpointing": True}, 2, True),
    ],
)
def test_what_counts_on_whole_batches_has_them(given, workers, whole):
    arguments = training_arguments(given, output_dir="unused", use_cpu=True)
    assert needs_whole_batches(arguments, workers) is whole

"""Of the first layer, each distinct token is multiplied once, and no logit changes for that."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import FAMILIES, make_classifier, make_tokenizer, save_classifier, sentences
from torch import nn
from transformers import AutoModelForSequenceClassification, BigBirdConfig

from raydistill.engines import openvino_engine
from raydistill.engines.openvino_engine import OpenVinoEngine
from raydistill.first_layer import share_first_layer
from raydistill.last_layer import narrow_last_layer

SHARING = [family for family in FAMILIES if family != "bart"]  # whose embeddings are no part of their own
HYPOTHESES = ["about sport", "about politics and money", "art"]


def pairs(tokenizer, texts):
    return tokenizer(
        [text for text in texts for _ in HYPOTHESES], HYPOTHESES * len(texts), padding=True, return_tensors="pt"
    )


def texts_for(tokenizer):
    """Of several lengths; one twice, and one with padding in the midst of it."""
    found = sentences()
    return [found[0], " ".join(found[:4]), found[0], f"the old {tokenizer.pad_token} farmer sold a vote"]


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("family", SHARING)
def test_shared_tokens_leave_the_logits_as_they_are(family, side, narrow):
    tokenizer = make_tokenizer(family, padding_side=side)
    model = make_classifier(family, tokenizer).eval()
    batches = [pairs(tokenizer, texts) for texts in (texts_for(tokenizer), sentences()[5:6])]
    with torch.inference_mode():
        wanted = [model(**batch).logits for batch in batches]
        if narrow:
            assert narrow_last_layer(model)
        assert share_first_layer(model)
        for batch, logits in zip(batches, wanted, strict=True):
            torch.testing.assert_close(model(**batch).logits, logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", SHARING)
def test_each_distinct_token_is_multiplied_once(family, monkeypatch):
    tokenizer = make_tokenizer(family)
    model = make_classifier(family, tokenizer).eval()
    assert share_first_layer(model)
    batch = pairs(tokenizer, sentences()[:2])
    given = [batch[name].tolist() for name in ("input_ids", "token_type_ids") if name in batch]
    if family == "deberta-v2":
        given.append(batch["attention_mask"].tolist())  # which its embeddings are given too
    distinct = {
        (place, *token) for rows in zip(*given, strict=True) for place, token in enumerate(zip(*rows, strict=True))
    }
    replaced = {name: part for name, part in model.named_modules() if "forward" in vars(part)}
    first = {id(part.weight): name for name, part in replaced.items() if isinstance(part, nn.Linear)}
    rows, linear = {}, nn.functional.linear

    def counted(states, weight, bias=None):
        if id(weight) in first:
            rows.setdefault(first[id(weight)], states.shape[:-1].numel())
        return linear(states, weight, bias)

    monkeypatch.setattr(nn.functional, "linear", counted)
    with torch.inference_mode():
        model(**batch)
    assert len(first) == 3
    assert rows == dict.fromkeys(first.values(), len(distinct))
    assert len(distinct) < 0.6 * batch["input_ids"].numel()


@pytest.mark.parametrize("family", SHARING)
def test_openvino_runs_a_shared_first_layer(family, tmp_path):
    tokenizer = make_tokenizer(family)
    model = make_classifier(family, tokenizer).eval()
    batches = [
        {name: batch[name].numpy() for name in tokenizer.model_input_names}
        for batch in (pairs(tokenizer, texts) for texts in (sentences()[:1], texts_for(tokenizer), sentences()[:40]))
    ]
    with torch.inference_mode():
        wanted = [model(**{name: torch.from_numpy(array) for name, array in batch.items()}).logits for batch in batches]
    assert narrow_last_layer(model)
    assert share_first_layer(model)
    openvino_engine.convert(model, batches[0], "fp32", tmp_path / "model.xml")
    engine = OpenVinoEngine(tmp_path / "model.xml", list(batches[0]), "fp32", 1)
    for batch, logits in zip(batches, wanted, strict=True):
        np.testing.assert_allclose(engine.logits(batch), logits, atol=1e-5)


def test_what_comes_as_embeddings_is_not_shared():
    tokenizer = make_tokenizer("bert")
    model = make_classifier("bert", tokenizer).eval()
    batch = pairs(tokenizer, sentences()[:2])
    with torch.inference_mode():
        embedded = {**batch, "inputs_embeds": torch.randn(*batch["input_ids"].shape, 32)}
        del embedded["input_ids"]
        wanted = model(**embedded).logits
        assert share_first_layer(model)
        model(**batch)
        torch.testing.assert_close(model(**embedded).logits, wanted, atol=1e-6, rtol=0)


def test_bigbird_attends_to_long_texts_as_it_did():
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    model = AutoModelForSequenceClassification.from_config(BigBirdConfig(vocab_size=50, **sizes)).eval()
    assert not narrow_last_layer(model)
    assert not share_first_layer(model)
    assert model.bert.attention_type == "block_sparse"  # which one short text turns off


class Embeddings(nn.Module):
    """Depend on more than a token and its place."""

    def __init__(self, embeddings):
        super().__init__()
        self.embeddings = embeddings
        self.word_embeddings = nn.Embedding.from_pretrained(embeddings.word_embeddings.weight)  # of no padding


class OfNeighbours(Embeddings):
    def forward(self, **tokens):
        states = self.embeddings(**tokens)
        return states + states.roll(1, 1)


class BehindPadding(Embeddings):
    """Count no place for padding."""

    def forward(self, input_ids, **tokens):
        kept = input_ids != 0
        return self.embeddings(input_ids=input_ids, **{**tokens, "position_ids": kept.cumsum(1) * kept})


@pytest.mark.parametrize("kind", [OfNeighbours, BehindPadding])
def test_a_model_whose_tokens_depend_on_others_stays_as_it_is(kind):
    tokenizer = make_tokenizer("bert")
    model = make_classifier("bert", tokenizer).eval()
    model.bert.embeddings = kind(model.bert.embeddings)
    batch = pairs(tokenizer, texts_for(tokenizer))
    with torch.inference_mode():
        wanted = model(**batch).logits
        assert not share_first_layer(model)
        torch.testing.assert_close(model(**batch).logits, wanted, atol=0, rtol=0)


@pytest.mark.parametrize("precision", ["bf16", "fp16", "int8"])
def test_a_model_for_a_reduced_precision_stays_as_it_is(precision):
    model = make_classifier("bert", make_tokenizer("bert")).eval()
    assert not share_first_layer(model, precision)
    assert not any("forward" in vars(part) for part in model.modules())
    assert share_first_layer(model)


def test_a_model_that_reads_very_long_texts_stays_as_it_is():
    tokenizer = make_tokenizer("xlm-roberta")
    for places, shared in ((2048, True), (8194, False)):
        model = make_classifier("xlm-roberta", tokenizer, max_position_embeddings=places)
        assert share_first_layer(model.eval()) is shared


def test_a_model_without_embeddings_of_its_own_stays_as_it_is(tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(save_classifier(tmp_path, "bart")).eval()
    assert not share_first_layer(model)
    assert not any("forward" in vars(part) for part in model.modules())

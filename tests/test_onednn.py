"""Linear layers by oneDNN: the same results and gradients, whatever their shapes; only where that is faster."""

from __future__ import annotations

import copy
import os
import platform
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import FAMILIES, make_classifier, make_tokenizer, save_classifier, sentences
from torch import nn
from transformers import AutoModelForSequenceClassification

from raydistill import onednn
from raydistill.engines.torch_engine import TorchEngine
from raydistill.last_layer import narrow_last_layer
from raydistill.onednn import OneDnnLinear, use_faster_products
from raydistill.specs import ModelSpec
from raydistill.stages.private_ray import WORKER_ENVIRONMENT

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")


@pytest.fixture
def faster(monkeypatch, tmp_path):
    """Says how much faster oneDNN must be: 0 for always. What is measured is kept for one test."""
    monkeypatch.setenv("RAYDISTILL_CACHE", str(tmp_path / "cache"))
    return lambda times: monkeypatch.setattr(onednn, "FASTER", times)


def gradients(layer, states, wanted):
    """The result of a layer, and the gradients of what it was made of."""
    states = states.detach().requires_grad_()
    found = layer(states)
    found.backward(wanted)
    return [found.detach(), states.grad, *(parameter.grad for parameter in layer.parameters())]


@settings(max_examples=60)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=3), st.integers(1, 70), st.integers(1, 70), st.booleans())
def test_results_and_gradients_are_those_of_a_linear_layer(shape, inputs, outputs, bias):
    torch.manual_seed(inputs * outputs)
    plain, fast = nn.Linear(inputs, outputs, bias=bias), OneDnnLinear(inputs, outputs, bias=bias)
    fast.load_state_dict(plain.state_dict())
    states, wanted = torch.randn(*shape, inputs), torch.randn(*shape, outputs)
    for one, other in zip(gradients(plain, states, wanted), gradients(fast, states, wanted), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-5)


LAYOUTS = {
    "every other number": lambda: torch.randn(4, 5, 16)[:, :, ::2],
    "axes in another order": lambda: torch.randn(4, 5, 8).transpose(0, 1),
    "the first token": lambda: torch.randn(4, 5, 8)[:, 0],
    "the first token, as a row": lambda: torch.randn(4, 5, 8)[:, :1],
    "one row for all": lambda: torch.randn(8).expand(4, 8),
    "one row": lambda: torch.randn(1, 8),
    "no rows": lambda: torch.randn(0, 8),
    "a vector": lambda: torch.randn(8),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("one_for_all", [False, True])
def test_what_lies_otherwise_in_memory_is_multiplied_as_well(layout, one_for_all):
    plain, fast, states = nn.Linear(8, 3), OneDnnLinear(8, 3), LAYOUTS[layout]()
    fast.load_state_dict(plain.state_dict())
    wanted = torch.ones(()).expand(*states.shape[:-1], 3) if one_for_all else torch.randn(*states.shape[:-1], 3)
    for one, other in zip(gradients(plain, states, wanted), gradients(fast, states, wanted), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-5)


def test_a_frozen_layer_passes_gradients_on_and_takes_none():
    fast = OneDnnLinear(8, 3).requires_grad_(False)
    found = gradients(fast, torch.randn(4, 8), torch.ones(4, 3))
    torch.testing.assert_close(found[1], fast.weight.sum(0).expand(4, 8), rtol=1e-5, atol=1e-5)
    assert found[2:] == [None, None]


def test_in_another_number_format_it_is_the_layer_that_it_was():
    fast, states = OneDnnLinear(8, 3), torch.randn(4, 8)
    with torch.autocast("cpu", torch.bfloat16):
        found = fast(states)
        assert found.dtype == torch.bfloat16
        assert torch.equal(found, nn.functional.linear(states, fast.weight, fast.bias))
    fast, states = fast.to(torch.bfloat16), states.to(torch.bfloat16)
    assert torch.equal(fast(states), nn.functional.linear(states, fast.weight, fast.bias))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_student_has_the_same_gradients(family, faster):
    tokenizer = make_tokenizer(family)
    whole = make_classifier(family, tokenizer)
    student = copy.deepcopy(whole)
    assert narrow_last_layer(student.eval())
    faster(0)
    assert use_faster_products(student)
    student.gradient_checkpointing_enable()
    batch = tokenizer(sentences()[:5], padding=True, return_tensors="pt")
    for model in (whole.train(), student.train()):
        model(**batch).logits.logsumexp(-1).sum().backward()
    for (name, wanted), found in zip(whole.named_parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(found.grad, wanted.grad, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_teacher_has_the_same_logits(family, faster, tmp_path):
    tokenizer = make_tokenizer(family)
    folder = save_classifier(tmp_path / family, family)
    faster(0)
    engine = TorchEngine.load(
        ModelSpec(str(folder)), "fp32", pad_token_id=tokenizer.pad_token_id, use_gpu=False, tune=True
    )
    batch = tokenizer(sentences()[:5], ["about sport"] * 5, padding=True, return_tensors="np")
    plain = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        wanted = plain(**{name: torch.from_numpy(array) for name, array in batch.items()}).logits
    np.testing.assert_allclose(engine.logits(dict(batch)), wanted, atol=1e-5)
    by_onednn = [part for part in engine.model.modules() if isinstance(part, OneDnnLinear)]
    assert len(by_onednn) == sum(isinstance(part, nn.Linear) for part in engine.model.modules())


def test_linear_layers_alone_are_changed_and_parameters_stay(faster):
    class Scaled(nn.Linear):
        """Multiplies in a way of its own."""

    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), Scaled(4, 4), nn.Sequential(nn.Linear(4, 2)))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    faster(0)
    assert use_faster_products(model)
    kinds = [type(module) for module in model.modules() if isinstance(module, nn.Linear)]
    assert kinds == [OneDnnLinear, Scaled, OneDnnLinear]
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("why", ["slower", "without oneDNN", "another PyTorch", "other results"])
def test_nothing_is_changed_where_that_gains_nothing(why, faster, monkeypatch):
    faster(float("inf") if why == "slower" else 0)
    if why == "without oneDNN":
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    if why == "another PyTorch":
        monkeypatch.setattr(onednn, "onednn_linear", lambda *given: torch.ops.mkldnn.no_such_product(*given))
    if why == "other results":
        monkeypatch.setattr(onednn, "onednn_linear", lambda *given: nn.functional.linear(*given).bfloat16().float())
    model = nn.Sequential(nn.Linear(4, 4))
    assert not use_faster_products(model)
    assert type(model[0]) is nn.Linear


def test_what_multiplies_is_found_once_on_a_machine(faster, monkeypatch):
    faster(0)
    assert use_faster_products(nn.Sequential(nn.Linear(4, 4)))
    monkeypatch.setattr(onednn, "onednn_linear", None)  # so nothing can be measured any more
    assert use_faster_products(nn.Sequential(nn.Linear(4, 4)))


@pytest.mark.parametrize(("precision", "tune"), [("bf16", True), ("fp32", False)])
def test_a_teacher_that_is_not_to_be_tuned_or_not_in_fp32_stays_as_it_is(precision, tune, faster, tmp_path):
    folder = save_classifier(tmp_path / "bert")
    faster(0)
    engine = TorchEngine.load(ModelSpec(str(folder)), precision, pad_token_id=0, use_gpu=False, tune=tune)
    assert not any(isinstance(part, OneDnnLinear) for part in engine.model.modules())


MANY_SHAPES = """
import ctypes, psutil, torch
from raydistill.onednn import OneDnnLinear
layer, process, trim = OneDnnLinear(384, 1536), psutil.Process(), ctypes.CDLL(None).malloc_trim
def memory(sizes):
    for size in sizes:
        layer(torch.randn(size, 384, requires_grad=True)).sum().backward()
    trim(0)
    return process.memory_info().rss
before = memory([1000] * 3)
print((memory((torch.randperm(300) + 500).tolist()) - before) >> 20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="memory that is free is given back by a call of glibc's")
def test_a_worker_keeps_little_of_the_shapes_that_it_has_met():
    script = [sys.executable, "-c", MANY_SHAPES]
    found = subprocess.run(script, env=os.environ | WORKER_ENVIRONMENT, check=True, capture_output=True, text=True)
    assert int(found.stdout) < 100  # MB; with oneDNN's defaults some hundreds

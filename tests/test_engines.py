"""Engines: every one gives the plain model's logits; exports are made once, checked, and mended."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import itertools
import multiprocessing
import os
import re
import shutil
import sys
import time

import numpy as np
import pytest
import torch
from tiny_models import FAMILIES, UNCONVERTED, make_classifier, make_tokenizer, save_classifier, sentences
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForSequenceClassification,
    DebertaConfig,
)

from raydistill.engines import cache as cached
from raydistill.engines import exported, openvino_engine, packed, torch_engine
from raydistill.engines.engine import engine_name
from raydistill.engines.load import expect_native, load_engine
from raydistill.engines.offers import check_backend
from raydistill.engines.openvino_engine import OpenVinoEngine
from raydistill.engines.torch_engine import TorchEngine
from raydistill.errors import ConfigError, ConversionError, ModelError, RunDirError
from raydistill.last_layer import narrow_last_layer
from raydistill.specs import TeacherSpec
from raydistill.teacher import Teacher

PACKED = ("bert", "roberta", "xlm-roberta")
FINGERPRINT = "blake2b:0123"


@pytest.fixture(scope="module")
def family_dirs(tmp_path_factory):
    return {family: save_classifier(tmp_path_factory.mktemp(family), family) for family in FAMILIES}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RAYDISTILL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "teachers"


def batches_of(folder, sizes=(2, 5)):
    """Pairs of mixed length, as the model's inputs."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = sentences()
    found = []
    for size in sizes:
        firsts = [" ".join(texts[i : i + 1 + i % 3]) for i in range(size)]
        batch = tokenizer(firsts, ["about sport"] * size, padding=True, return_tensors="np")
        found.append({name: batch[name].astype(np.int64) for name in tokenizer.model_input_names})
    return found


def request(folder, **changes):
    wanted = {
        "fingerprint": FINGERPRINT,
        "backend": "openvino",
        "precision": "fp32",
        "use_gpu": False,
        "threads": 1,
    }
    return TeacherSpec(str(folder), ("sport",), "about {}", **wanted | changes)


def load(spec, batches):
    return load_engine(spec, AutoTokenizer.from_pretrained(spec.name_or_path).pad_token_id, batches)


@torch.inference_mode()
def plain_logits(folder, batch):
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    return model(**{name: torch.from_numpy(array) for name, array in batch.items()}).logits.numpy()


def entries(cache):
    return [path for path in cache.iterdir() if path.is_dir()]


# The first token alone


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [1, 7])
def test_a_narrowed_model_gives_the_same_logits(family, size, family_dirs):
    model = AutoModelForSequenceClassification.from_pretrained(family_dirs[family]).eval()
    assert narrow_last_layer(model)
    batch = batches_of(family_dirs[family], [size])[0]
    with torch.inference_mode():
        found = model(**{name: torch.from_numpy(array) for name, array in batch.items()}).logits.numpy()
    np.testing.assert_allclose(found, plain_logits(family_dirs[family], batch), atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_narrowed_model_computes_one_token_of_its_last_layer(family, family_dirs):
    model = AutoModelForSequenceClassification.from_pretrained(family_dirs[family]).eval()
    narrow_last_layer(model)
    body = model.base_model
    if family == "bart":
        layers = [*body.encoder.layers, *body.decoder.layers]
    else:
        layers = (body.transformer if family == "distilbert" else body.encoder).layer
    seen, keys = [], []
    for layer in layers:
        part = getattr(layer, {"distilbert": "ffn", "bart": "fc1"}.get(family, "intermediate"))
        part.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape[1]))
        for name, part in layer.named_modules():
            if name.endswith(("k_lin", "key", "key_proj", "k_proj")):
                part.register_forward_hook(lambda *_: keys.append(1))
    batch = {name: torch.from_numpy(array) for name, array in batches_of(family_dirs[family])[0].items()}
    model(**batch)
    assert seen == [*[batch["input_ids"].shape[1]] * (len(seen) - 1), 1]
    if "deberta" not in family:
        assert len(keys) == len(layers) - 1 + (len(body.decoder.layers) - 1 if family == "bart" else 0)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_narrowed_model_has_the_gradients_and_the_names_of_the_whole_one(family, checkpointing, family_dirs):
    whole, narrow = (AutoModelForSequenceClassification.from_pretrained(family_dirs[family]) for _ in range(2))
    assert narrow_last_layer(narrow.eval())
    batch = {name: torch.from_numpy(array) for name, array in batches_of(family_dirs[family], [5])[0].items()}
    if checkpointing:
        narrow.gradient_checkpointing_enable()
    for model in (whole.train(), narrow.train()):
        model(**batch).logits.logsumexp(-1).sum().backward()
    assert narrow.state_dict().keys() == whole.state_dict().keys()
    for (name, wanted), found in zip(whole.named_parameters(), narrow.parameters(), strict=True):
        torch.testing.assert_close(found.grad, wanted.grad, atol=1e-5, rtol=1e-4, msg=name)


def test_a_narrowed_bart_takes_texts_together_that_speak_of_its_end_of_text(family_dirs):
    model = AutoModelForSequenceClassification.from_pretrained(family_dirs["bart"]).eval()
    tokenizer = AutoTokenizer.from_pretrained(family_dirs["bart"])
    texts = ["a few words", "a few </s> words", "</s>"]
    with torch.inference_mode():
        wanted = torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in texts])
        assert narrow_last_layer(model)
        found = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("family", "dropout"), [("bert", "attention_probs_dropout_prob"), ("distilbert", "attention_dropout")]
)
def test_a_narrowed_model_drops_attention_out_in_training_only(family, dropout):
    model = make_classifier(family, make_tokenizer(family), **{dropout: 0.5})
    assert narrow_last_layer(model.eval())
    layers = (model.base_model.transformer if family == "distilbert" else model.base_model.encoder).layer
    hidden = torch.randn(1, 9, 32)

    def apart():
        return float((layers[-1](hidden, None) - layers[-1](hidden, None)).abs().max())

    assert apart() == 0
    model.train()  # nothing else drops out
    assert apart() > 1e-3


def test_the_first_deberta_is_narrowed_too():
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    relative = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "vocab_size": 50, "pooler_hidden_size": 32}
    model = AutoModelForSequenceClassification.from_config(DebertaConfig(**sizes, **relative)).eval()
    batch = {"input_ids": torch.randint(3, 50, (3, 20)), "attention_mask": torch.ones(3, 20, dtype=torch.long)}
    with torch.inference_mode():
        wanted = model(**batch).logits
        assert narrow_last_layer(model)
        torch.testing.assert_close(model(**batch).logits, wanted, atol=1e-5, rtol=0)


class MeanOfTokens(BertForSequenceClassification):
    """Reads more than the first token."""

    def forward(self, input_ids, attention_mask, token_type_ids=None):
        hidden = self.bert(input_ids, attention_mask, token_type_ids).last_hidden_state
        return type("Output", (), {"logits": self.classifier(hidden.mean(1))})()


def test_a_model_that_reads_other_tokens_stays_as_it_is():
    model = MeanOfTokens(make_classifier("bert", make_tokenizer("bert")).config).eval()
    attention = model.bert.encoder.layer[-1].attention
    assert narrow_last_layer(model) is False
    assert model.bert.encoder.layer[-1].attention is attention


# OpenVINO


@pytest.mark.parametrize("family", FAMILIES)
def test_openvino_gives_the_plain_models_logits(family, family_dirs, cache):
    batches = batches_of(family_dirs[family])
    engine = load(request(family_dirs[family]), batches)
    assert engine_name(engine) == "openvino fp32"
    for batch in [*batches, *batches_of(family_dirs[family], [1, 3, 8])]:
        np.testing.assert_allclose(engine.logits(batch), plain_logits(family_dirs[family], batch), atol=1e-5)


def test_results_of_earlier_batches_stay_as_they_were(family_dirs, cache):
    first, second = batches_of(family_dirs["bert"], [4, 4])
    engine = load(request(family_dirs["bert"]), [first])
    second["input_ids"][:] = first["input_ids"][:, ::-1]
    before = engine.logits(first)
    kept = before.copy()
    engine.logits(second)
    np.testing.assert_array_equal(before, kept)


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_reduced_precisions_stay_near(precision, family_dirs, cache):
    if openvino_engine.lacks(precision):
        pytest.skip(f"this CPU has no {precision}")
    batch = batches_of(family_dirs["bert"])[1]
    engine = load(request(family_dirs["bert"], precision=precision), [batch])
    assert engine_name(engine) == f"openvino {precision}"
    off = np.abs(engine.logits(batch) - plain_logits(family_dirs["bert"], batch)).max()
    assert 0 < off < 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_int8_rounds_what_is_multiplied_and_not_what_is_looked_up(family, family_dirs, cache):
    if openvino_engine.lacks("int8"):
        pytest.skip("this CPU has no int8")
    load(request(family_dirs[family], precision="int8"), batches_of(family_dirs[family]))
    model = load(request(family_dirs[family], backend="torch"), []).model
    (converted,) = cache.rglob("model.xml")
    constants = re.findall(r'<data element_type="(\w+)" shape="(\d+, \d+)"', converted.read_text())
    linear = {"{}, {}".format(*part.weight.shape) for part in model.modules() if isinstance(part, nn.Linear)}
    assert {shape for kind, shape in constants if kind == "i8"} == linear
    assert ("f32", "{}, {}".format(*model.get_input_embeddings().weight.shape)) in constants


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_the_first_layer_is_shared_in_fp32_alone(precision, family_dirs, cache):
    if openvino_engine.lacks(precision):
        pytest.skip(f"this CPU has no {precision}")
    load(request(family_dirs["bert"], precision=precision), batches_of(family_dirs["bert"]))
    (converted,) = cache.rglob("model.xml")
    shared = {"openvino": "ScatterElementsUpdate" in converted.read_text()}
    if precision != "int8":
        model = load(request(family_dirs["bert"], precision=precision, backend="torch"), []).model
        shared["torch"] = "forward" in vars(model.bert.embeddings)
    assert set(shared.values()) == {precision == "fp32"}


def test_a_model_that_cannot_be_converted_runs_in_pytorch(tmp_path, cache, caplog):
    teacher = save_classifier(tmp_path / "teacher", UNCONVERTED)
    batches = batches_of(teacher)
    engine = load(request(teacher), batches)
    assert engine_name(engine) == "torch fp32"
    assert "cannot convert XLMForSequenceClassification" in caplog.text
    np.testing.assert_allclose(engine.logits(batches[1]), plain_logits(teacher, batches[1]), atol=1e-5)
    with pytest.raises(ModelError, match="--teacher-backend openvino: OpenVINO cannot convert"):
        load(request(teacher, strict=True), batches)
    with pytest.raises(ModelError, match="int8: OpenVINO cannot convert"):
        load(request(teacher, precision="int8"), batches)


@pytest.mark.parametrize(("own", "rival", "name"), [(2.0, 1.0, "openvino fp32"), (1.0, 2.0, "torch fp32")])
def test_auto_takes_what_was_measured_faster_and_measures_once(own, rival, name, family_dirs, cache, monkeypatch):
    measured = []

    def speed(engine, batches, rounds=3):
        measured.append(engine_name(engine))
        return {"openvino fp32": own, "torch fp32": rival}[engine_name(engine)]

    monkeypatch.setattr("raydistill.engines.load.tokens_per_second", speed)
    for _ in range(2):
        engine = load(request(family_dirs["bert"], backend="auto"), batches_of(family_dirs["bert"]))
        assert engine_name(engine) == name
    assert measured == ["openvino fp32", "torch fp32"]


@pytest.mark.parametrize(
    ("work", "parameters", "name"),
    [
        (9e9, 10**6, "torch fp32"),
        (1e10, 10**6, "openvino fp32"),
        (9e10, 10**8, "torch fp32"),  # 900 pairs: of a large teacher little
        (1e11, 10**8, "openvino fp32"),
    ],
)
def test_little_work_does_not_pay_for_an_export(work, parameters, name, family_dirs, cache, monkeypatch):
    monkeypatch.setattr("raydistill.engines.load.tokens_per_second", lambda engine, *_: engine.backend == "openvino")
    spec = request(family_dirs["bert"], backend="auto", work=work, parameters=parameters)
    engine = load(spec, batches_of(family_dirs["bert"]))
    assert engine_name(engine) == name
    assert cache.exists() == (name == "openvino fp32")
    assert (
        engine_name(load(request(family_dirs["bert"], work=work), batches_of(family_dirs["bert"]))) == "openvino fp32"
    )


@pytest.mark.parametrize(
    ("backend", "faster", "cores", "work", "used", "times"),
    [
        ("torch", 1, 1, 1e12, 1, 2),
        ("torch", 2, 1, 1e12, 2, 2),
        ("torch", 1, 2, 1e12, 2, 0),  # a core for each
        ("torch", 1, 1, 9e11, 2, 0),
        ("openvino", 1, 1, 1e12, 2, 0),  # which sees to that itself
    ],
)
def test_where_cores_have_two_threads_each_it_is_measured_once_how_many_pytorch_is_to_use(
    backend, faster, cores, work, used, times, family_dirs, cache, monkeypatch
):
    measured, before = [], torch.get_num_threads()

    def speed(engine, *_):
        measured.append(torch.get_num_threads())
        return float(measured[-1] == faster)

    monkeypatch.setattr("raydistill.engines.load.tokens_per_second", speed)
    monkeypatch.setattr("psutil.cpu_count", lambda logical=True: cores)
    wanted = request(family_dirs["bert"], backend=backend, threads=2, work=work)
    try:
        for _ in range(2):
            torch.set_num_threads(3)
            load(wanted, batches_of(family_dirs["bert"]))
            assert torch.get_num_threads() == used
        assert measured == [2, 1][:times]
    finally:
        torch.set_num_threads(before)


def test_auto_compares_openvino_with_pytorch_at_its_best(family_dirs, cache, monkeypatch):
    def speed(engine, *_):
        return 1.0 if engine.backend == "openvino" else {2: 0.5, 1: 2.0}[torch.get_num_threads()]

    monkeypatch.setattr("raydistill.engines.load.tokens_per_second", speed)
    monkeypatch.setattr("psutil.cpu_count", lambda logical=True: 1)
    before = torch.get_num_threads()
    try:
        for _ in range(2):
            engine = load(request(family_dirs["bert"], backend="auto", threads=2), batches_of(family_dirs["bert"]))
            assert (engine_name(engine), torch.get_num_threads()) == ("torch fp32", 1)
    finally:
        torch.set_num_threads(before)


def test_what_was_measured_is_measured_anew_where_the_note_of_it_is_damaged_or_cannot_be_written(cache, monkeypatch):
    answers = iter(range(10))

    def ask(fingerprint="a teacher", question="how fast"):
        return cached.remembered(fingerprint, question, lambda: next(answers))

    assert [ask(), ask(), ask(question="how slow"), ask("another"), ask()] == [0, 0, 1, 2, 0]
    assert [ask(None), ask(None)] == [3, 4]
    for file, content in zip(sorted((cache.parent / "speeds").glob("*.json")), ("{", "{}", "5"), strict=True):
        file.write_text(content)
    assert sorted([ask(), ask(question="how slow"), ask("another")]) == [5, 6, 7]
    known = ask()
    monkeypatch.setattr(cached.Folder, "write", lambda *_: refuse_in_words())
    once = cached.Once.seconds
    assert [ask(question="how else"), ask(question="how else")] == [8, 9]
    assert cached.Once.seconds == once  # nobody finds that done
    assert ask() == known
    assert cached.Once.seconds > once


@pytest.fixture(scope="module")
def processes():
    """Several at a time, which need not import each for itself what takes seconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "transformers", "openvino", "raydistill.engines.exported"])
    return context


def _ask_slowly(folder, measured, together):
    os.environ["RAYDISTILL_CACHE"] = folder

    def measure():
        measured.put(os.getpid())
        time.sleep(0.5)
        return 7

    together.wait(120)
    assert cached.remembered("a teacher", "how fast", measure) == 7


def test_of_processes_that_ask_together_one_measures(tmp_path, processes):
    measured, together = processes.Queue(), processes.Barrier(3)
    asking = [processes.Process(target=_ask_slowly, args=(str(tmp_path), measured, together)) for _ in range(3)]
    for process in asking:
        process.start()
    for process in asking:
        process.join()
    assert [process.exitcode for process in asking] == [0, 0, 0]
    assert measured.get(timeout=5)
    assert measured.empty()


def test_a_user_without_a_home_has_no_cache_and_is_told(family_dirs, monkeypatch, caplog):
    for name in ("RAYDISTILL_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    class Homeless(type(cached.Path())):
        def expanduser(self):
            raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(cached, "Path", Homeless)
    monkeypatch.setattr("raydistill.engines.load.tokens_per_second", lambda engine, *_: engine.backend == "openvino")
    engine = load(request(family_dirs["bert"], backend="auto"), batches_of(family_dirs["bert"]))
    assert engine_name(engine) == "openvino fp32"
    home = r"\(~/.cache/raydistill: Could not determine home directory. Set RAYDISTILL_CACHE to a folder\)"
    assert re.search(f"the exported teacher cannot be kept {home}", caplog.text)
    assert re.search(f"what is measured cannot be kept {home}", caplog.text)


def test_a_cache_with_a_name_that_libraries_do_not_take_is_none(family_dirs, monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("RAYDISTILL_CACHE", str(tmp_path / "\udcff"))
    monkeypatch.setattr("raydistill.engines.load.tokens_per_second", lambda engine, *_: engine.backend == "openvino")
    engine = load(request(family_dirs["bert"], backend="auto"), batches_of(family_dirs["bert"]))
    assert engine_name(engine) == "openvino fp32"
    assert "a name that is not UTF-8. Set RAYDISTILL_CACHE to another folder" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_without_openvino_auto_is_pytorch(family_dirs, cache, monkeypatch):
    monkeypatch.setattr("raydistill.engines.load.openvino_installed", lambda precision="fp32": False)
    engine = load(request(family_dirs["bert"], backend="auto"), batches_of(family_dirs["bert"]))
    assert engine_name(engine) == "torch fp32"
    assert not cache.exists()


@pytest.mark.parametrize("backend", ["auto", "openvino"])
def test_where_openvino_is_installed_but_broken_pytorch_runs_the_teacher(backend, family_dirs, cache, monkeypatch):
    for module in ("load", "offers"):
        monkeypatch.setattr(f"raydistill.engines.{module}.openvino_installed", lambda precision="fp32": True)
    monkeypatch.setitem(sys.modules, "openvino", None)
    wanted = request(family_dirs["bert"], backend=backend)
    engine = load(wanted, batches_of(family_dirs["bert"]))
    assert engine_name(engine) == "torch fp32"
    assert engine.fallback.startswith("OpenVINO cannot be imported (")
    if backend == "openvino":
        with pytest.raises(ModelError, match=r"^--teacher-backend openvino: OpenVINO cannot be imported \("):
            load(dataclasses.replace(wanted, strict=True), batches_of(family_dirs["bert"]))


@pytest.mark.parametrize(
    ("backend", "precision", "use_gpu", "message"),
    [
        ("openvino", "fp32", False, r"--teacher-backend openvino: not installed: pip install 'raydistill\[openvino\]'"),
        ("auto", "int8", False, r"--teacher-precision int8: not installed: pip install 'raydistill\[int8\]'"),
        ("openvino", "fp32", True, "--teacher-backend openvino is for CPUs"),
        ("auto", "int8", True, "--teacher-precision int8 is for CPUs"),
    ],
)
def test_what_cannot_be_had_is_one_clear_error(backend, precision, use_gpu, message, monkeypatch):
    monkeypatch.setattr("raydistill.engines.offers.openvino_installed", lambda precision="fp32": False)
    with pytest.raises(ConfigError, match=message):
        check_backend(backend, precision, use_gpu=use_gpu)


@pytest.mark.parametrize("backend", ["openvino", "auto", "torch"])
def test_a_number_format_that_the_cpu_lacks_is_an_error_but_labels_begun_elsewhere_are_gone_on_with(
    backend, family_dirs, cache, monkeypatch
):
    monkeypatch.setattr(openvino_engine, "lacks", lambda precision: True)
    spec = request(family_dirs["bert"], precision="bf16", backend=backend)
    with pytest.raises(ConfigError, match=r"--teacher-precision bf16: this machine's CPU cannot compute in it\."):
        expect_native(spec)
    assert engine_name(load(spec, batches_of(family_dirs["bert"]))) == "torch bf16"
    with pytest.raises(ModelError, match=r"--teacher-precision int8: OpenVINO cannot compute in int8 on this CPU\."):
        load(dataclasses.replace(spec, precision="int8", backend="auto"), batches_of(family_dirs["bert"]))


def test_without_openvino_the_cpu_is_asked_itself(family_dirs, monkeypatch):
    found = [torch_engine.cpu_emulates(precision) for precision in ("fp32", "bf16")]
    assert found == [False, openvino_engine.lacks("bf16")]
    monkeypatch.setattr("raydistill.engines.load.openvino_installed", lambda: False)
    for precision in ("auto", "fp32", "int8"):
        expect_native(request(family_dirs["bert"], precision=precision))
    for emulates in (False, True):
        monkeypatch.setattr(torch_engine, "cpu_emulates", lambda precision, found=emulates: found)
        error = pytest.raises(ConfigError, match="fp16: this machine's CPU") if emulates else contextlib.nullcontext()
        with error:
            expect_native(request(family_dirs["bert"], precision="fp16"))


def test_a_number_format_that_the_gpu_only_emulates_is_an_error(family_dirs, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    spec = dataclasses.replace(request(family_dirs["bert"], precision="bf16"), use_gpu=True)
    with pytest.raises(ConfigError, match=r"--teacher-precision bf16: this machine's GPU cannot compute in it\."):
        expect_native(spec)
    expect_native(dataclasses.replace(spec, precision="fp16"))


# The cache


def test_an_export_is_made_once(family_dirs, cache, monkeypatch):
    batches = batches_of(family_dirs["bert"])
    wanted = load(request(family_dirs["bert"]), batches).logits(batches[1])
    monkeypatch.setattr(torch_engine, "load_exact", lambda *_: pytest.fail("the weights were read again"))
    again = load(request(family_dirs["bert"]), batches)
    np.testing.assert_array_equal(again.logits(batches[1]), wanted)
    assert len(entries(cache)) == 1


def test_another_teacher_or_other_weights_have_another_export(family_dirs, cache):
    batches = batches_of(family_dirs["bert"])
    load(request(family_dirs["bert"]), batches)
    load(request(family_dirs["bert"], fingerprint="blake2b:4567"), batches)
    load(request(family_dirs["bert"], precision="int8"), batches)
    assert len(entries(cache)) == 3


def test_without_a_fingerprint_nothing_is_kept(family_dirs, cache):
    batches = batches_of(family_dirs["bert"])
    engine = load(request(family_dirs["bert"], fingerprint=None), batches)
    assert engine_name(engine) == "openvino fp32"
    assert not cache.exists()


@pytest.fixture(scope="module")
def kept(family_dirs, tmp_path_factory):
    """A cache with one export, and what that gives."""
    folder, batches = tmp_path_factory.mktemp("kept"), batches_of(family_dirs["bert"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYDISTILL_CACHE", str(folder))
        return folder, load(request(family_dirs["bert"]), batches).logits(batches[1])


@pytest.mark.parametrize("name", ["model.xml", "model.bin", "inputs.json", "check.npz", "sums.json"])
@pytest.mark.parametrize("damage", ["gone", "cut", "zeros", "one bit"])
def test_a_damaged_export_is_made_anew(name, damage, family_dirs, kept, cache):
    folder, wanted = kept
    shutil.copytree(folder, cache.parent)
    batches = batches_of(family_dirs["bert"])
    file = entries(cache)[0] / name
    content = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        middle = len(content) // 2
        file.write_bytes(
            {
                "cut": content[:middle],
                "zeros": bytes(len(content)),
                "one bit": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
            }[damage]
        )
    again = load(request(family_dirs["bert"]), batches)
    assert engine_name(again) == "openvino fp32"
    np.testing.assert_array_equal(again.logits(batches[1]), wanted)
    assert file.read_bytes()[:1] == content[:1]
    assert name != "model.bin" or file.read_bytes() == content


def test_a_cache_that_cannot_be_written_does_not_stop_the_teacher(family_dirs, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RAYDISTILL_CACHE", str(tmp_path / "file" / "cache"))
    engine = load(request(family_dirs["bert"]), batches_of(family_dirs["bert"]))
    assert engine_name(engine) == "openvino fp32"
    assert "the exported teacher cannot be kept" in caplog.text


def test_of_two_that_find_an_export_damaged_the_second_keeps_what_the_first_has_made(family_dirs, cache):
    batches = batches_of(family_dirs["bert"])
    load(request(family_dirs["bert"]), batches)
    (folder,) = entries(cache)
    (folder / "model.xml").write_text("damaged")
    both = [exported.ExportedTeacher(folder) for _ in range(2)]
    for entry in both:
        with pytest.raises(ModelError, match=r"model\.xml is not what was written"):
            entry.load("fp32", 1)
    both[0].discard()
    assert entries(cache) == []
    load(request(family_dirs["bert"]), batches)
    keep = folder.stat().st_ino  # which a file system may give again: then it would only be made once more
    both[1].discard()
    assert keep == both[1]._loaded or entries(cache) == [folder]


def test_a_cache_that_is_only_read_is_used_if_the_teacher_is_there(family_dirs, cache, monkeypatch):
    batches = batches_of(family_dirs["bert"])
    wanted = load(request(family_dirs["bert"]), batches).logits(batches[1])

    def refused(*_):
        raise OSError(30, "Read-only file system")

    for module in (exported, cached):
        monkeypatch.setattr(module, "locked", refused)
    monkeypatch.setattr(cached.Folder, "write", lambda *_: refuse_in_words())
    monkeypatch.setattr("raydistill.engines.load.tokens_per_second", lambda engine, *_: engine.backend == "openvino")
    make = exported.convert
    monkeypatch.setattr(exported, "convert", lambda *_: pytest.fail("it was converted again"))
    for backend in ("openvino", "auto"):
        engine = load(request(family_dirs["bert"], backend=backend), batches)
        assert engine_name(engine) == "openvino fp32"
        np.testing.assert_array_equal(engine.logits(batches[1]), wanted)

    monkeypatch.setattr(exported, "convert", make)
    model = entries(cache)[0] / "model.bin"
    model.write_bytes(b"damaged")  # then one is made for this process
    np.testing.assert_array_equal(load(request(family_dirs["bert"]), batches).logits(batches[1]), wanted)
    assert model.read_bytes() == b"damaged"


def refuse_in_words():
    raise RunDirError("a cache: cannot be written (Read-only file system).")


def test_what_is_made_for_one_process_leaves_nothing_behind(family_dirs, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("raydistill.engines.load.tokens_per_second", lambda engine, *_: engine.backend == "openvino")
    engine = load(request(family_dirs["bert"], fingerprint=None, backend="auto"), batches_of(family_dirs["bert"]))
    assert engine_name(engine) == "openvino fp32"
    del engine
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room_leaves_pytorch(family_dirs, cache, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exported, "convert", full)
    engine = load(request(family_dirs["bert"]), batches_of(family_dirs["bert"]))
    assert engine_name(engine) == "torch fp32"
    assert "No space left on device" in caplog.text
    assert entries(cache) == []


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (lambda logits: logits + 1, "its logits are off by"),
        (lambda logits: logits[:1], "OpenVINO cannot run the converted teacher"),
        (lambda logits: refuse_the_shape(), "OpenVINO cannot run the converted teacher"),
    ],
)
def test_a_teacher_that_is_only_right_for_the_shape_it_was_traced_with_is_not_kept(
    found, said, family_dirs, cache, monkeypatch, caplog
):
    batches, right = batches_of(family_dirs["bert"]), OpenVinoEngine.logits

    def logits(self, inputs):
        as_traced = inputs["input_ids"].shape == batches[0]["input_ids"].shape
        return right(self, inputs) if as_traced else found(right(self, inputs))

    monkeypatch.setattr(OpenVinoEngine, "logits", logits)
    assert engine_name(load(request(family_dirs["bert"]), batches)) == "torch fp32"
    assert said in caplog.text
    assert entries(cache) == []


def test_a_teacher_that_is_only_right_for_one_length_is_not_kept(tiny_teacher_dir, cache, monkeypatch, caplog):
    right, widths = OpenVinoEngine.logits, set()

    def logits(self, inputs):
        width = inputs["input_ids"].shape[1]
        widths.add(width)
        return right(self, inputs) + (width != max(widths))

    monkeypatch.setattr(OpenVinoEngine, "logits", logits)
    assert Teacher.load(request(tiny_teacher_dir)).engine.backend == "torch"  # which has one hypothesis
    assert len(widths) > 1
    assert "its logits are off by" in caplog.text
    assert not entries(cache)


def test_what_cannot_be_converted_is_not_tried_again_by_those_who_begin_with_it(family_dirs, cache, monkeypatch):
    tries, batches = [], batches_of(family_dirs["bert"])

    def refuse(*_):
        tries.append(0)
        raise ConversionError("OpenVINO cannot convert the teacher (no such operator).")

    monkeypatch.setattr(exported, "convert", refuse)
    for backend in ("openvino", "openvino", "auto"):
        engine = load(request(family_dirs["bert"], backend=backend), batches)
        assert engine_name(engine) == "torch fp32"
        assert "no such operator" in engine.fallback
    assert len(tries) == 1
    load(request(family_dirs["bert"], fingerprint="blake2b:4567"), batches)  # another teacher
    assert len(tries) == 2
    for content in (b"", b"\xff\xfe", b'{"why": 1, "at": null}', b'{"why": "then", "at": 1.0}'):
        for file in cache.glob("*.refusal"):
            file.write_bytes(content)
        tries.clear()
        load(request(family_dirs["bert"]), batches)
        assert len(tries) == 1


def refuse_the_shape():
    raise RuntimeError("a shape that is not the traced one")


def _load_and_count(cache, folder, exports):
    os.environ["RAYDISTILL_CACHE"] = cache  # a fork has the environment of the first one
    make = exported.convert

    def counted(*arguments):
        exports.put(os.getpid())
        make(*arguments)

    exported.convert = counted
    assert engine_name(load(request(folder), batches_of(folder))) == "openvino fp32"


def test_processes_that_start_together_share_one_export(family_dirs, cache, processes):
    exports = processes.Queue()
    args = str(cache.parent), family_dirs["bert"], exports
    loading = [processes.Process(target=_load_and_count, args=args) for _ in range(3)]
    for process in loading:
        process.start()
    for process in loading:
        process.join()
    assert [process.exitcode for process in loading] == [0, 0, 0]
    assert exports.get(timeout=5)
    assert exports.empty()
    assert len(entries(cache)) == 1


def test_what_a_killed_export_has_left_is_swept(family_dirs, cache):
    load(request(family_dirs["bert"]), batches_of(family_dirs["bert"]))
    entry = entries(cache)[0]
    half_made = entry.with_name(f"{entry.name}.999999.tmp")
    shutil.copytree(entry, half_made)
    shutil.rmtree(entry)
    load(request(family_dirs["bert"]), batches_of(family_dirs["bert"]))
    assert entries(cache) == [entry]


def test_the_cache_lies_where_the_environment_says(monkeypatch):
    monkeypatch.delenv("RAYDISTILL_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert str(cached.cache_folder()) == "/somewhere/raydistill"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cached.cache_folder().parts[-2:] == (".cache", "raydistill")
    monkeypatch.setenv("RAYDISTILL_CACHE", "/elsewhere")
    assert str(cached.cache_folder()) == "/elsewhere"


def test_importing_openvino_sends_nothing(family_dirs, cache):
    import sys

    load(request(family_dirs["bert"]), batches_of(family_dirs["bert"]))
    assert sys.modules["openvino_telemetry"] is None


# Without padding


def attention_by_pair(query, key, value, bounds_q, bounds_k, most_q, most_k):
    """What `varlen_attn` computes, which is for GPUs alone."""
    found = torch.empty_like(query)
    for (a, b), (c, d) in zip(itertools.pairwise(bounds_q), itertools.pairwise(bounds_k), strict=True):
        assert b - a <= most_q
        assert d - c <= most_k
        heads = (states.transpose(0, 1) for states in (query[a:b], key[c:d], value[c:d]))
        found[a:b] = torch.nn.functional.scaled_dot_product_attention(*heads).transpose(0, 1)
    return found


@pytest.fixture
def on_a_gpu(monkeypatch):
    """What is loaded for a GPU runs on the CPU, in fp32."""

    def load(spec, precision, *, pad_token_id, use_gpu):
        return TorchEngine(torch_engine.load_exact(spec, pad_token_id))

    monkeypatch.setattr(TorchEngine, "load", load)
    monkeypatch.setattr(packed, "varlen_attn", attention_by_pair)


def for_a_gpu(folder, batches, **changes):
    return load(request(folder, **{"backend": "torch", "precision": "bf16", "use_gpu": True} | changes), batches)


@pytest.mark.parametrize(
    ("family", "backend"),
    [
        *((family, "torch") for family in FAMILIES),
        *(pytest.param(family, "torch-compile", marks=pytest.mark.slow) for family in FAMILIES),
    ],
)
def test_pairs_without_padding_have_the_same_logits(family, backend, family_dirs, on_a_gpu):
    batches = batches_of(family_dirs[family], (2, 5, 1))
    engine = for_a_gpu(family_dirs[family], batches[:1], backend=backend, strict=True)
    assert (engine.packs, engine.backend) == (family in PACKED, backend)
    for batch in batches:
        np.testing.assert_allclose(engine.logits(batch), plain_logits(family_dirs[family], batch), atol=1e-5)


def test_a_padding_token_in_a_text_has_the_position_that_its_model_gives_it(family_dirs, on_a_gpu):
    tokenizer = AutoTokenizer.from_pretrained(family_dirs["roberta"])
    texts = ["the striker <pad> scored twice", "a minister"]
    batch = tokenizer(texts, ["about sport"] * 2, padding=True, return_tensors="np")
    assert (batch["input_ids"][0] == tokenizer.pad_token_id).any()
    assert batch["attention_mask"][0].all()
    engine = for_a_gpu(family_dirs["roberta"], batches_of(family_dirs["roberta"]))
    assert engine.packs
    np.testing.assert_allclose(engine.logits(batch), plain_logits(family_dirs["roberta"], batch), atol=1e-5)


def test_padding_is_not_computed(family_dirs, on_a_gpu, monkeypatch):
    seen = []

    def noted(query, *others):
        seen.append(len(query))
        return attention_by_pair(query, *others)

    batch = batches_of(family_dirs["roberta"], [5])[0]
    engine = for_a_gpu(family_dirs["roberta"], [batch])
    monkeypatch.setattr(packed, "varlen_attn", noted)
    engine.logits(batch)
    total = batch["attention_mask"].sum()
    assert batch["input_ids"].size > total
    assert seen == [*[total] * (engine.model.config.num_hidden_layers - 1), 5]


def fails(*_):
    raise RuntimeError("not for this GPU")


def not_a_number(query, *_):
    return query * float("nan")


@pytest.mark.parametrize("kernel", [None, fails, not_a_number, lambda query, *_: 1 - query])
def test_where_there_is_no_such_kernel_pairs_are_padded(kernel, family_dirs, on_a_gpu, monkeypatch):
    monkeypatch.setattr(packed, "varlen_attn", kernel)
    expect_padded(for_a_gpu(family_dirs["bert"], batches_of(family_dirs["bert"])), family_dirs["bert"])


def test_a_model_whose_attention_cannot_be_set_is_given_padded_pairs(family_dirs, on_a_gpu, monkeypatch):
    monkeypatch.setattr(BertForSequenceClassification, "_can_set_attn_implementation", lambda *_: False)
    expect_padded(for_a_gpu(family_dirs["bert"], batches_of(family_dirs["bert"])), family_dirs["bert"])


def test_pairs_padded_on_the_left_and_exact_ones_stay_padded(family_dirs, on_a_gpu):
    batches = batches_of(family_dirs["bert"])
    flipped = [{name: array[:, ::-1].copy() for name, array in batch.items()} for batch in batches]
    expect_padded(for_a_gpu(family_dirs["bert"], flipped), family_dirs["bert"])
    expect_padded(for_a_gpu(family_dirs["bert"], batches, precision="fp32"), family_dirs["bert"])


def expect_padded(engine, folder):
    assert not engine.packs
    batch = batches_of(folder)[1]
    np.testing.assert_allclose(engine.logits(batch), plain_logits(folder, batch), atol=1e-5)


# Compiled


def test_a_compiled_teacher_gives_the_same_logits_for_batches_of_any_shape(family_dirs):
    batches = batches_of(family_dirs["roberta"], (2, 5, 3, 7))
    engine = load_engine(request(family_dirs["roberta"], backend="torch-compile"), 0, batches[:2])
    assert engine_name(engine) == "torch-compile fp32"
    plain = load_engine(request(family_dirs["roberta"], backend="torch"), 0, batches[:2])
    for batch in batches:
        np.testing.assert_allclose(engine.logits(batch), plain.logits(batch), atol=1e-5)


def test_of_a_narrowed_bart_what_is_compiled_is_what_runs(family_dirs, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda module, **_: module)
    batches = batches_of(family_dirs["bart"])
    engine = load_engine(request(family_dirs["bart"], backend="torch-compile"), 1, batches)
    assert engine_name(engine) == "torch-compile fp32"
    assert engine.model.forward.__self__ is engine.model


def test_a_bart_that_leaves_layers_out_at_random_is_trained_whole(tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(
        save_classifier(tmp_path / "bart", "bart", decoder_layerdrop=0.5)
    )
    assert not narrow_last_layer(model.eval())


def test_what_cannot_be_compiled_runs_as_it_is_or_is_an_error_with_strict(family_dirs, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("no compiler is found\nand much more")

    monkeypatch.setattr(torch, "compile", refuse)
    wanted, batches = request(family_dirs["bert"], backend="torch-compile"), batches_of(family_dirs["bert"])
    assert engine_name(load_engine(wanted, 0, batches)) == "torch fp32"
    with pytest.raises(ModelError, match=r"^--teacher-backend torch-compile: no compiler is found\.$"):
        load_engine(dataclasses.replace(wanted, strict=True), 0, batches)

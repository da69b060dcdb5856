"""The teacher: logits are those of a plain loop, whatever the batches; faults are told in one line."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import (
    FAMILIES,
    MAX_LENGTH,
    NLI_LABELS,
    make_classifier,
    make_config,
    make_tokenizer,
    save_classifier,
    sentences,
)
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertForMaskedLM, CanineTokenizer

from raydistill.engines.load import resolve_precision
from raydistill.engines.torch_engine import TorchEngine
from raydistill.errors import DeviceLostError, ModelError
from raydistill.nli import describe_teacher, make_hypotheses, nli_label_ids
from raydistill.pairs import PairEncoder
from raydistill.pretrained import ensure_pad_token, longest_input, skeleton
from raydistill.specs import SYSTEMATIC, Effort, ModelSpec, TeacherSpec
from raydistill.teacher import Teacher

CLASSES = ("sport", "politics", "money and art", "film")
TEMPLATE = "This text is about {}."
TEXTS = [*sentences()[::6], "a", "unknown Wörter 東京", " ".join(sentences()[:14])]  # the last one is cut
PLAIN_BATCH = 32


def spec_of(path, **changes):
    return TeacherSpec(str(path), CLASSES, TEMPLATE, **{"backend": "torch", **changes})


def plain_logits(folder, texts=TEXTS, classes=CLASSES, max_length=MAX_LENGTH):
    """(N, K, labels): the pairs in their order, in batches of 32, through the tokenizer and the model."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    pairs = [(text, TEMPLATE.replace("{}", name)) for text in texts for name in classes]
    found = []
    with torch.inference_mode():
        for start in range(0, len(pairs), PLAIN_BATCH):
            firsts, seconds = zip(*pairs[start : start + PLAIN_BATCH], strict=True)
            inputs = tokenizer(
                list(firsts),
                list(seconds),
                truncation="only_first",
                max_length=max_length,
                padding=True,
                return_tensors="pt",
            )
            found.append(model(**inputs).logits)
    return torch.cat(found).reshape(len(texts), len(classes), -1).numpy()


@pytest.fixture(autouse=True)
def memory_is_not_waited_for_long(monkeypatch):
    monkeypatch.setattr("raydistill.teacher.MEMORY_WAIT_SECONDS", 0.0)


@pytest.fixture(scope="module")
def family_dirs(tmp_path_factory):
    return {family: save_classifier(tmp_path_factory.mktemp(family), family) for family in FAMILIES}


@pytest.fixture
def tiny_teacher(tiny_teacher_dir):
    return Teacher.load(spec_of(tiny_teacher_dir))


class Wrapped(torch.nn.Module):
    """A thin layer around a real model that a test can let fail."""

    def __init__(self, model, before=lambda inputs: None):
        super().__init__()
        self.model, self.config, self.before = model, model.config, before

    @property
    def device(self):
        return self.model.device

    def forward(self, **inputs):
        self.before(inputs)
        return self.model(**inputs)


# Scores


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_equal_a_plain_loop(family, family_dirs):
    wanted = plain_logits(family_dirs[family])
    entailment, contradiction = Teacher.load(spec_of(family_dirs[family])).score(TEXTS)
    np.testing.assert_allclose(entailment, wanted[..., 2], atol=1e-5)
    np.testing.assert_allclose(contradiction, wanted[..., 0], atol=1e-5)
    assert entailment.dtype == contradiction.dtype == np.float32


@pytest.mark.parametrize(
    ("labels", "entailment_at", "contradiction_at"),
    [
        ({0: "contradiction", 1: "neutral", 2: "entailment"}, 2, 0),
        ({0: "entailment", 1: "neutral", 2: "contradiction"}, 0, 2),
        ({0: "NEUTRAL", 1: "CONTRADICTION", 2: "Entailment"}, 2, 1),
        ({0: "entailment", 1: "not_entailment"}, 0, 1),
        ({0: "NOT_ENTAILMENT", 1: "ENTAILMENT"}, 1, 0),
    ],
)
def test_labels_are_found_in_any_order_and_case(labels, entailment_at, contradiction_at, tmp_path):
    folder = save_classifier(tmp_path / "teacher", "bert", labels)
    wanted = plain_logits(folder)
    entailment, contradiction = Teacher.load(spec_of(folder)).score(TEXTS)
    np.testing.assert_allclose(entailment, wanted[..., entailment_at], atol=1e-5)
    np.testing.assert_allclose(contradiction, wanted[..., contradiction_at], atol=1e-5)


def test_labels_may_be_named_by_index(tmp_path):
    folder = save_classifier(tmp_path / "teacher", "bert", ["LABEL_0", "LABEL_1", "LABEL_2"])
    wanted = plain_logits(folder)
    entailment, contradiction = Teacher.load(spec_of(folder, entailment_id=1, contradiction_id=2)).score(TEXTS)
    np.testing.assert_allclose(entailment, wanted[..., 1], atol=1e-5)
    np.testing.assert_allclose(contradiction, wanted[..., 2], atol=1e-5)


@pytest.mark.parametrize("max_length", [24, 500])
def test_the_longest_pair_is_the_users_or_the_models_limit_whichever_is_less(max_length, tiny_teacher_dir):
    wanted = plain_logits(tiny_teacher_dir, max_length=min(max_length, MAX_LENGTH))
    found = Teacher.load(spec_of(tiny_teacher_dir, max_length=max_length)).score(TEXTS)[0]
    np.testing.assert_allclose(found, wanted[..., 2], atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3, 1000])
def test_the_batch_size_does_not_change_scores(batch_size, tiny_teacher_dir, tiny_teacher):
    found = Teacher.load(spec_of(tiny_teacher_dir, batch_size=batch_size)).score(TEXTS)
    np.testing.assert_allclose(found, tiny_teacher.score(TEXTS), atol=1e-5)


def test_a_forward_pass_holds_no_more_tokens_than_the_batch_size_at_full_length(tiny_teacher_dir):
    teacher = Teacher.load(spec_of(tiny_teacher_dir, batch_size=2))
    sizes = []
    teacher.engine.model = Wrapped(teacher.engine.model, lambda inputs: sizes.append(inputs["input_ids"].numel()))
    teacher.score(TEXTS)
    assert max(sizes) <= 2 * MAX_LENGTH
    assert sizes


def test_dropout_is_off(tmp_path):
    folder = save_classifier(tmp_path / "teacher", hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5)
    teacher = Teacher.load(spec_of(folder))
    np.testing.assert_array_equal(teacher.score(TEXTS), teacher.score(TEXTS))


def test_no_texts_have_no_scores(tiny_teacher):
    entailment, contradiction = tiny_teacher.score([])
    assert entailment.shape == contradiction.shape == (0, len(CLASSES))


def test_effort_counts_pairs_and_tokens(tiny_teacher_dir, tiny_teacher):
    effort = Effort()
    tiny_teacher.score(TEXTS[:5], effort)
    tiny_teacher.score(TEXTS[5:], effort)
    tokenizer = AutoTokenizer.from_pretrained(tiny_teacher_dir)
    tokens = sum(
        len(tokenizer(text, hypothesis, truncation="only_first", max_length=MAX_LENGTH)["input_ids"])
        for text in TEXTS
        for hypothesis in make_hypotheses(TEMPLATE, CLASSES)
    )
    assert (effort.pairs, effort.tokens) == (len(TEXTS) * len(CLASSES), tokens)
    assert effort.padded_tokens >= effort.tokens


def test_an_engine_that_computes_nothing_for_padding_counts_and_is_quoted_none(tiny_teacher, monkeypatch):
    samples = [TEXTS]
    padded, effort = tiny_teacher.work(samples), Effort()
    monkeypatch.setattr(tiny_teacher.engine, "packs", True)
    tiny_teacher.score(TEXTS, effort)
    packed = tiny_teacher.work(samples)
    assert padded.padded_tokens.sum() > padded.tokens.sum()
    assert packed.padded_tokens.sum() == packed.tokens.sum() == effort.padded_tokens == effort.tokens


def test_a_tokenizer_without_a_padding_token_scores_as_a_plain_loop_of_single_pairs(tmp_path):
    folder = save_classifier(tmp_path / "teacher", "roberta")
    plain = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        wanted = [
            [model(**plain(t, TEMPLATE.replace("{}", c), return_tensors="pt")).logits[0, 2] for c in CLASSES]
            for t in TEXTS[:6]
        ]
    plain.pad_token = None
    plain.save_pretrained(folder)
    assert AutoTokenizer.from_pretrained(folder).pad_token_id is None
    np.testing.assert_allclose(Teacher.load(spec_of(folder)).score(TEXTS[:6])[0], wanted, atol=1e-5)


# Logits that are not finite


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_logit_that_is_not_finite_is_an_error_with_the_index_of_the_text(value, tiny_teacher):
    token = tiny_teacher.encoder.tokenizer.convert_tokens_to_ids("farmer")
    with torch.no_grad():
        tiny_teacher.engine.model.bert.embeddings.word_embeddings.weight[token] = value
    texts = ["the striker scored.", "a " * 40, "our bank", "the old farmer lost.", "a", "a farmer"]
    with pytest.raises(FloatingPointError, match="not finite") as error:
        tiny_teacher.score(texts)
    assert error.value.args[1] == 3


def test_a_contradiction_logit_that_is_not_finite_is_an_error_too(tiny_teacher):
    with torch.no_grad():
        tiny_teacher.engine.model.classifier.bias[0] = float("nan")
    with pytest.raises(FloatingPointError) as error:
        tiny_teacher.score(TEXTS)
    assert error.value.args[1] == 0


def test_a_logit_that_nobody_reads_may_be_anything(tiny_teacher):
    with torch.no_grad():
        tiny_teacher.engine.model.classifier.bias[1] = float("nan")
    assert np.isfinite(tiny_teacher.score(TEXTS)).all()


# Memory


def refuse_rows_above(rows, seen, error=torch.OutOfMemoryError("CUDA out of memory")):  # noqa: B008
    def check(inputs):
        seen.append(len(inputs["input_ids"]))
        if seen[-1] > rows:
            raise error

    return check


@pytest.mark.parametrize("ahead", [0, 1, 3])
@pytest.mark.parametrize("rows", [1, 2, 7])
def test_when_memory_runs_out_smaller_batches_give_the_same_scores(rows, ahead, tiny_teacher, tiny_teacher_dir):
    wanted = plain_logits(tiny_teacher_dir)
    tiny_teacher.engine.ahead = ahead
    tiny_teacher.engine.model = Wrapped(tiny_teacher.engine.model, refuse_rows_above(rows, []))
    entailment, contradiction = tiny_teacher.score(TEXTS)
    np.testing.assert_allclose(entailment, wanted[..., 2], atol=1e-5)
    np.testing.assert_allclose(contradiction, wanted[..., 0], atol=1e-5)


def test_when_memory_runs_out_the_budget_is_halved_and_tried_again_with_the_next_texts(tiny_teacher):
    tiny_teacher.token_budget = 16 * MAX_LENGTH
    model, seen = tiny_teacher.engine.model, []
    tiny_teacher.engine.model = Wrapped(model, refuse_rows_above(15, seen))
    texts = ["a " * 100] * 20  # every pair is of full length
    for _ in range(2):
        tiny_teacher.score(texts)
        assert tiny_teacher.token_budget == 8 * MAX_LENGTH
        assert seen == [16, *[8] * (20 * len(CLASSES) // 8)]
        seen.clear()
    tiny_teacher.engine.model = model
    for _ in range(2):
        tiny_teacher.score(texts)
        assert tiny_teacher.token_budget == 16 * MAX_LENGTH


@pytest.mark.parametrize(
    "told", ["[enforce fail] DefaultCPUAllocator: can't allocate memory", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED"]
)
def test_want_of_memory_is_known_by_its_words_too(told, tiny_teacher):
    tiny_teacher.token_budget = 16 * MAX_LENGTH
    tiny_teacher.engine.model = Wrapped(tiny_teacher.engine.model, refuse_rows_above(8, [], RuntimeError(told)))
    tiny_teacher.score(["a " * 100] * 20)
    assert tiny_teacher.token_budget == 8 * MAX_LENGTH


def test_memory_that_others_have_taken_for_a_moment_costs_no_text(tiny_teacher, tiny_teacher_dir, monkeypatch):
    naps = []
    refuse = refuse_rows_above(0, [])
    monkeypatch.setattr(time, "sleep", naps.append)
    tiny_teacher.engine.model = Wrapped(tiny_teacher.engine.model, lambda inputs: naps[1:] or refuse(inputs))
    entailment, _ = tiny_teacher.score(TEXTS)
    assert len(naps) == 2
    np.testing.assert_allclose(entailment, plain_logits(tiny_teacher_dir)[..., 2], atol=1e-5)


def test_memory_that_does_not_suffice_for_one_pair_is_an_error(tiny_teacher):
    tiny_teacher.engine.model = Wrapped(tiny_teacher.engine.model, refuse_rows_above(0, []))
    with pytest.raises(torch.OutOfMemoryError):
        tiny_teacher.score(TEXTS)


def test_where_no_text_at_all_can_be_scored_that_is_found_soon(tiny_teacher):
    seen = []
    tiny_teacher.engine.model = Wrapped(tiny_teacher.engine.model, refuse_rows_above(0, seen))
    texts = [f"text {i}" for i in range(100 * SYSTEMATIC)]
    *logits, faults = tiny_teacher.score_some(texts, Effort())
    assert np.isnan(logits).all()
    assert sorted(faults) == list(range(len(texts)))
    assert {type(fault) for fault in faults.values()} == {torch.OutOfMemoryError}
    assert len(seen) < 20 * SYSTEMATIC


def test_many_texts_that_are_too_long_do_not_condemn_the_others(tiny_teacher):
    def refuse_long(inputs):
        if inputs["input_ids"].shape[1] > MAX_LENGTH // 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    tiny_teacher.engine.model = Wrapped(tiny_teacher.engine.model, refuse_long)
    texts = [f"{i} {'and on ' * 100}" for i in range(2 * SYSTEMATIC)] + [f"text {i}" for i in range(50)]
    entailment, _, faults = tiny_teacher.score_some(texts, Effort())
    assert sorted(faults) == list(range(2 * SYSTEMATIC))
    assert np.isfinite(entailment[2 * SYSTEMATIC :]).all()


def test_a_text_that_fails_beside_others_makes_no_other_batch_smaller(tiny_teacher):
    tiny_teacher.token_budget = 8 * MAX_LENGTH
    texts = [f"text {i}" for i in range(200)] + ["a " * 20]
    wanted, seen = tiny_teacher.score(texts)[0], []

    def refuse_beside_others(inputs):  # as a model may that wants all texts to have as many of some token
        seen.append(len(inputs["input_ids"]))
        if inputs["input_ids"].shape[1] > 20 and seen[-1] > 1:
            raise ValueError("all examples must have the same number of tokens")

    tiny_teacher.engine.model = Wrapped(tiny_teacher.engine.model, refuse_beside_others)
    np.testing.assert_allclose(tiny_teacher.score(texts)[0], wanted, atol=1e-5)
    assert seen.count(1) == len(CLASSES)
    last_alone = len(seen) - seen[::-1].index(1)
    assert max(seen[last_alone:]) == max(seen) > 10
    assert tiny_teacher.token_budget == 8 * MAX_LENGTH


@pytest.mark.parametrize("ahead", [0, 1])
def test_what_was_scored_before_memory_ran_out_is_not_scored_again(ahead, tiny_teacher):
    calls, done = [], []
    tiny_teacher.engine.ahead = ahead

    def fail_once(inputs):
        calls.append(len(inputs["input_ids"]))
        if len(calls) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        done.append(len(inputs["input_ids"]))

    tiny_teacher.token_budget = 512
    tiny_teacher.engine.model = Wrapped(tiny_teacher.engine.model, fail_once)
    tiny_teacher.score(TEXTS)
    assert sum(done) == len(TEXTS) * len(CLASSES)


# Texts that cannot be scored, among others


def score_some(teacher, texts):
    entailment, contradiction, faults = teacher.score_tokenized(teacher.tokenize(texts), Effort())
    return np.stack([entailment, contradiction]), faults


def test_a_text_that_the_tokenizer_cannot_take_leaves_the_others_as_they_are(tiny_teacher, monkeypatch):
    wanted, _ = score_some(tiny_teacher, TEXTS)
    rows = tiny_teacher.encoder._token_rows

    def refusing(texts):
        if TEXTS[2] in texts:
            raise TypeError("no such text")
        return rows(texts)

    monkeypatch.setattr(tiny_teacher.encoder, "_token_rows", refusing)
    found, faults = score_some(tiny_teacher, TEXTS)
    assert list(faults) == [2]
    assert isinstance(faults[2], TypeError)
    others = np.arange(len(TEXTS)) != 2
    np.testing.assert_allclose(found[:, others], wanted[:, others], atol=1e-5)
    assert np.isnan(found[:, 2]).all()
    with pytest.raises(TypeError, match="no such text"):
        tiny_teacher.score(TEXTS)


def test_a_text_too_large_for_the_memory_leaves_the_others_as_they_are(tiny_teacher):
    texts = ["a few words", "a " * 100, "some more words", "b " * 90, "a"]
    wanted, _ = score_some(tiny_teacher, texts)

    def refuse_long(inputs):
        if inputs["input_ids"].shape[1] > 40:
            raise torch.OutOfMemoryError("CUDA out of memory")

    tiny_teacher.engine.model = Wrapped(tiny_teacher.engine.model, refuse_long)
    budget = tiny_teacher.token_budget
    found, faults = score_some(tiny_teacher, texts)
    assert sorted(faults) == [1, 3]
    np.testing.assert_allclose(found[:, [0, 2, 4]], wanted[:, [0, 2, 4]], atol=1e-5)
    assert tiny_teacher.token_budget == budget


@pytest.mark.parametrize("ahead", [0, 1, 3])
@pytest.mark.parametrize("late", [False, True])
def test_a_text_that_the_model_cannot_take_leaves_the_others_as_they_are(ahead, late, tiny_teacher, monkeypatch):
    texts = ["a few words", "a " * 100, "some more words", "b " * 90, "a"]
    wanted, _ = score_some(tiny_teacher, texts)
    start = tiny_teacher.engine.start

    def start_some(inputs):
        def fail():
            raise RuntimeError("index out of range")

        if inputs["input_ids"].shape[1] <= 40:
            return start(inputs)
        return fail if late else fail()

    monkeypatch.setattr(tiny_teacher.engine, "start", start_some)
    tiny_teacher.engine.ahead = ahead
    found, faults = score_some(tiny_teacher, texts)
    assert sorted(faults) == [1, 3]
    assert "index out of range" in str(faults[1])
    np.testing.assert_allclose(found[:, [0, 2, 4]], wanted[:, [0, 2, 4]], atol=1e-5)


def test_a_gpu_that_is_lost_is_no_fault_of_a_text(tiny_teacher, monkeypatch):
    def lost(*_):
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(tiny_teacher.engine, "start", lost)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lost)
    monkeypatch.setattr(TorchEngine, "device", torch.device("cuda"))
    with pytest.raises(DeviceLostError, match="illegal memory access"):
        tiny_teacher.score(TEXTS)


def test_nothing_to_score_is_no_fault(tiny_teacher):
    found, faults = score_some(tiny_teacher, [])
    assert (found.shape, faults) == ((2, 0, len(CLASSES)), {})


def test_batches_are_started_ahead_of_the_logits_that_are_asked_for(tiny_teacher, monkeypatch):
    engine, events = tiny_teacher.engine, []
    start = engine.start

    def noted(inputs):
        found, number = start(inputs), len(events)
        events.append(("start", number))
        return lambda: events.append(("ask", number)) or found()

    monkeypatch.setattr(engine, "start", noted)
    engine.ahead = 1
    tiny_teacher.token_budget = 256
    tiny_teacher.score(TEXTS)
    kinds = [kind for kind, _ in events]
    assert kinds.count("start") == kinds.count("ask") > 2
    assert kinds == ["start", *["start", "ask"] * (kinds.count("start") - 1), "ask"]


# Labels


def test_a_config_that_names_its_labels_once_will_do(tiny_teacher_dir, tmp_path):
    folder = shutil.copytree(tiny_teacher_dir, tmp_path / "teacher")
    config = json.loads((folder / "config.json").read_text())
    del config["label2id"]
    (folder / "config.json").write_text(json.dumps(config))
    ids = describe_teacher(spec_of(folder))
    assert (ids["entailment_id"], ids["contradiction_id"]) == (2, 0)
    assert Teacher.load(spec_of(folder)).label_ids == Teacher.load(spec_of(tiny_teacher_dir)).label_ids


def ids(labels, **asked):
    names = dict(enumerate(labels))
    return nli_label_ids({name: i for i, name in names.items()}, len(labels), spec_of("some/teacher", **asked))


@pytest.mark.parametrize(
    ("labels", "asked", "wanted"),
    [
        (["contradiction", "neutral", "entailment"], {}, (2, 0)),
        (["ENTAILMENT", "NEUTRAL", "CONTRADICTION"], {}, (0, 2)),
        (["entails", "neutral", "contradicts"], {}, (0, 2)),
        (["neutral", "Contradictory", "Entailing"], {}, (2, 1)),
        (["entailment", "not_entailment"], {}, (0, 1)),
        (["not_entailment", "entailment"], {}, (1, 0)),
        (["contradiction", "entailment"], {}, (1, 0)),
        (["LABEL_0", "LABEL_1", "LABEL_2"], {"entailment_id": 2, "contradiction_id": 0}, (2, 0)),
        (["LABEL_0", "LABEL_1"], {"entailment_id": 1}, (1, 0)),
        (["LABEL_0", "LABEL_1"], {"entailment_id": 0}, (0, 1)),
        (["contradiction", "neutral", "LABEL_2"], {"entailment_id": 2}, (2, 0)),
        (["contradiction", "neutral", "entailment"], {"contradiction_id": 1}, (2, 1)),
        (["contradiction", "neutral", "entailment"], {"entailment_id": 0, "contradiction_id": 2}, (0, 2)),
    ],
)
def test_entailment_and_contradiction_are_as_asked_or_as_the_labels_say(labels, asked, wanted):
    assert ids(labels, **asked) == wanted


@pytest.mark.parametrize(
    ("labels", "asked"),
    [
        (["LABEL_0", "LABEL_1", "LABEL_2"], {}),
        (["LABEL_0", "LABEL_1"], {}),
        (["NEGATIVE", "POSITIVE"], {}),
        (["entailment", "neutral", "other"], {}),
        (["contradiction", "neutral", "other"], {}),
        (["LABEL_0", "LABEL_1", "LABEL_2"], {"entailment_id": 2}),
        (["LABEL_0", "LABEL_1", "LABEL_2"], {"contradiction_id": 0}),
        (["contradiction", "neutral", "entailment"], {"entailment_id": 0}),  # both the same
        (["contradiction", "neutral", "entailment"], {"entailment_id": 3}),  # there is none
        (["contradiction", "neutral", "entailment"], {"contradiction_id": 9}),
        (["LABEL_0", "LABEL_1"], {"entailment_id": 2}),
        (["LABEL_0"], {"entailment_id": 0}),
    ],
)
def test_labels_that_tell_nothing_are_an_error_that_names_both_options_and_the_labels(labels, asked):
    with pytest.raises(ModelError) as error:
        ids(labels, **asked)
    message = str(error.value)
    assert "some/teacher" in message
    assert "--entailment-id" in message
    assert "--contradiction-id" in message
    assert ", ".join(f"{i}: {name}" for i, name in enumerate(labels)) in message
    assert "\n" not in message


# Loading


@pytest.mark.parametrize("load", [Teacher.load, describe_teacher])
@pytest.mark.parametrize("name", ["no/such/folder", "/no/such/folder", "./nothing"])
def test_a_teacher_that_is_not_there_is_an_error(load, name):
    with pytest.raises(ModelError, match=f"^--teacher-name-or-path {name}: no such folder"):
        load(spec_of(name))


@pytest.mark.parametrize("load", [Teacher.load, describe_teacher])
def test_a_teacher_that_the_hub_cannot_give_is_an_error(load):
    with pytest.raises(ModelError, match=r"^--teacher-name-or-path nobody/nothing: .*hub") as error:
        load(spec_of("nobody/nothing"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("load", [Teacher.load, describe_teacher])
def test_a_folder_without_a_model_is_an_error(load, tmp_path):
    with pytest.raises(ModelError, match=r"no config\.json"):
        load(spec_of(tmp_path))


@pytest.mark.parametrize("load", [Teacher.load, describe_teacher])
def test_a_model_without_a_classifier_is_an_error(load, tmp_path):
    tokenizer = make_tokenizer("bert")
    BertForMaskedLM(make_config("bert", tokenizer, NLI_LABELS)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="BertForMaskedLM, not a sequence classifier"):
        load(spec_of(tmp_path))


@pytest.mark.parametrize("load", [Teacher.load, describe_teacher])
def test_a_damaged_config_is_an_error(load, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"')
    with pytest.raises(ModelError, match=r"config\.json cannot be read"):
        load(spec_of(tmp_path))


@pytest.mark.parametrize("load", [Teacher.load, describe_teacher])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_without_a_tokenizer_is_an_error(load, family, tmp_path):
    # transformers 5 makes an empty tokenizer up, to which every word is unknown.
    make_classifier(family, make_tokenizer(family)).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="tokenizer"):
        load(spec_of(tmp_path))


@pytest.mark.parametrize("load", [Teacher.load, describe_teacher])
def test_a_hypothesis_that_leaves_no_room_is_found_before_work_begins(load, tiny_teacher_dir):
    spec = dataclasses.replace(spec_of(tiny_teacher_dir), hypothesis_template="a " * 70 + "{}")
    with pytest.raises(ModelError, match="leaves none for the text"):
        load(spec)


def test_precision_auto_is_fp32_on_a_cpu_and_any_other_is_as_asked():
    found = {name: resolve_precision(name, use_gpu=False) for name in ("auto", "fp32", "bf16", "fp16", "int8")}
    assert found == {"auto": "fp32", "fp32": "fp32", "bf16": "bf16", "fp16": "fp16", "int8": "int8"}


def test_the_precision_is_that_of_the_models_weights_and_scores_stay_near(tiny_teacher_dir, tiny_teacher):
    teacher = Teacher.load(spec_of(tiny_teacher_dir, precision="bf16", backend="torch"))
    assert teacher.engine.model.dtype == torch.bfloat16
    entailment = teacher.score(TEXTS)[0]
    assert entailment.dtype == np.float32
    assert np.abs(entailment - tiny_teacher.score(TEXTS)[0]).mean() < 0.1


# What a teacher is


def test_the_description_says_what_labels_depend_on(tiny_teacher_dir):
    found = describe_teacher(spec_of(tiny_teacher_dir, max_length=40, precision="fp32"))
    fingerprint = found.pop("teacher_fingerprint")
    assert fingerprint.startswith("blake2b:")
    assert found == {
        "teacher": str(tiny_teacher_dir),
        "teacher_revision": None,
        "trust_remote_code": False,
        "teacher_parameters": AutoModelForSequenceClassification.from_pretrained(tiny_teacher_dir).num_parameters(
            exclude_embeddings=True
        ),
        "hypothesis_template": TEMPLATE,
        "class_names": list(CLASSES),
        "max_length": 40,
        "precision": "fp32",
        "entailment_id": 2,
        "contradiction_id": 0,
    }
    assert json.loads(json.dumps(found)) == found


def test_the_description_knows_the_models_own_limit(tiny_teacher_dir):
    assert describe_teacher(spec_of(tiny_teacher_dir))["max_length"] == MAX_LENGTH
    assert describe_teacher(spec_of(tiny_teacher_dir, max_length=10_000))["max_length"] == MAX_LENGTH


def fingerprint_of(folder):
    return describe_teacher(spec_of(folder))["teacher_fingerprint"]


def test_the_fingerprint_does_not_depend_on_where_the_model_lies(tiny_teacher_dir, tmp_path):
    copy = shutil.copytree(tiny_teacher_dir, tmp_path / "copy")
    assert fingerprint_of(copy) == fingerprint_of(tiny_teacher_dir)


def test_the_fingerprint_changes_with_a_single_weight(tiny_teacher_dir, tmp_path):
    copy = shutil.copytree(tiny_teacher_dir, tmp_path / "copy")
    weights = load_file(copy / "model.safetensors")
    weights["classifier.bias"][0] += 1e-3
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert fingerprint_of(copy) != fingerprint_of(tiny_teacher_dir)


def test_the_fingerprint_changes_with_the_config(tiny_teacher_dir, tmp_path):
    copy = shutil.copytree(tiny_teacher_dir, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"hidden_act": "relu"}))
    assert fingerprint_of(copy) != fingerprint_of(tiny_teacher_dir)


def test_the_fingerprint_changes_with_the_tokenizer(tiny_teacher_dir, tmp_path):
    copy = shutil.copytree(tiny_teacher_dir, tmp_path / "copy")
    AutoTokenizer.from_pretrained(copy, do_lower_case=False).save_pretrained(copy)
    other = Teacher.load(spec_of(copy)).score(["THE STRIKER SCORED"])
    assert not np.allclose(other, Teacher.load(spec_of(tiny_teacher_dir)).score(["THE STRIKER SCORED"]))
    assert fingerprint_of(copy) != fingerprint_of(tiny_teacher_dir)


# Models and tokenizers


@pytest.mark.parametrize("family", FAMILIES)
def test_the_longest_input_is_the_last_that_the_model_takes(family):
    tokenizer = make_tokenizer(family, model_max_length=10**30)
    model = make_classifier(family, tokenizer)
    limit = longest_input(tokenizer, model)
    assert limit == longest_input(tokenizer, skeleton(model.config, ModelSpec(""))) == MAX_LENGTH
    row = torch.full((1, limit + 1), tokenizer.convert_tokens_to_ids("a"))
    row[0, 0], row[0, -2:] = tokenizer.cls_token_id, tokenizer.sep_token_id
    assert torch.isfinite(model(input_ids=row[:, 1:]).logits).all()
    if family != "deberta-v2":  # which has no table of absolute positions
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=row)


def test_the_longest_input_is_the_tokenizers_where_that_is_less():
    tokenizer = make_tokenizer("bert", model_max_length=20)
    assert longest_input(tokenizer, make_classifier("bert", tokenizer)) == 20


def test_a_padding_token_is_left_as_it_is():
    tokenizer = make_tokenizer("bert")
    assert ensure_pad_token(tokenizer) == tokenizer.convert_tokens_to_ids("[PAD]")


def test_the_end_token_pads_where_there_is_no_padding_token():
    tokenizer = make_tokenizer("roberta")
    tokenizer.pad_token = None
    assert ensure_pad_token(tokenizer) == tokenizer.convert_tokens_to_ids("</s>")
    assert tokenizer.pad_token == "</s>"


def test_a_tokenizer_with_nothing_to_pad_with_is_an_error():
    tokenizer = make_tokenizer("bert")
    tokenizer.pad_token = tokenizer.eos_token = tokenizer.unk_token = None
    with pytest.raises(ModelError, match="padding token"):
        ensure_pad_token(tokenizer)


def test_a_slow_tokenizer_scores_as_a_plain_loop(tmp_path):
    tokenizer = CanineTokenizer(model_max_length=MAX_LENGTH)
    model = make_classifier("bert", make_tokenizer("bert"), vocab_size=0xE010)
    teacher = Teacher(
        TorchEngine(model),
        PairEncoder(tokenizer, ["about a"], MAX_LENGTH),
        entailment_id=2,
        contradiction_id=0,
        token_budget=512,
    )
    with torch.inference_mode():
        wanted = [
            model(**tokenizer(t, "about a", truncation="only_first", max_length=MAX_LENGTH, return_tensors="pt")).logits
            for t in sentences()[:8]
        ]
    np.testing.assert_allclose(teacher.score(sentences()[:8])[0], torch.stack(wanted)[:, 0, 2:], atol=1e-5)

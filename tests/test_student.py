"""The student: its loss, its training step by step, its figures, and what a pipeline makes of it."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import FAMILIES, MAX_LENGTH, make_tokenizer, save_classifier, save_encoder, sentences
from transformers import AutoModelForSequenceClassification, AutoTokenizer, CanineTokenizer, TrainerCallback, pipeline

from raydistill.errors import ConfigError, ModelError
from raydistill.specs import ModelSpec
from raydistill.stages.train_callbacks import KeepPace
from raydistill.student import (
    DistillationTrainer,
    EpochStream,
    expect_finite,
    load_student,
    load_trained_student,
    predict,
    soft_target_loss,
    student_config,
)
from raydistill.training_arguments import training_arguments

CLASSES = ["sport", "politics", "money", "art", "technology"]
MODES = pytest.mark.parametrize("multi_label", [False, True], ids=["single", "multi"])
TEXTS = [*sentences()[:21], "a", "", "unknown Wörter 東京"]


def soft_targets(rows, multi_label, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, len(CLASSES), generator=generator) * 2
    return logits.sigmoid() if multi_label else logits.softmax(-1)


@pytest.fixture
def student(tiny_student_dir):
    def load(multi_label=False):
        torch.manual_seed(0)
        return load_student(ModelSpec(str(tiny_student_dir)), CLASSES, multi_label=multi_label)

    return load


# Loss

BATCHES = st.tuples(st.integers(1, 6), st.integers(2, 5), st.integers(0, 10_000))
SMOOTHING = st.sampled_from([0.0, 0.1, 0.5, 1.0])


def drawn(shape, multi_label):
    rows, classes, seed = shape
    generator = torch.Generator().manual_seed(seed)
    logits, other = torch.randn(2, rows, classes, generator=generator, dtype=torch.float64) * 4
    return logits, other.sigmoid() if multi_label else other.softmax(-1)


@given(BATCHES, SMOOTHING)
def test_the_single_label_loss_is_the_mean_cross_entropy_of_soft_targets(shape, smoothing):
    logits, targets = drawn(shape, multi_label=False)
    z, p = logits.numpy(), targets.numpy()
    p = (1 - smoothing) * p + smoothing / p.shape[1]
    log_softmax = z - np.log(np.exp(z).sum(-1, keepdims=True))
    wanted = np.mean([-np.sum(p[i] * log_softmax[i]) for i in range(len(z))])
    found = soft_target_loss(logits, targets, multi_label=False, smoothing=smoothing)
    assert found.item() == pytest.approx(wanted, abs=1e-9)


@given(BATCHES, SMOOTHING)
def test_the_multi_label_loss_is_the_mean_binary_cross_entropy_of_soft_targets(shape, smoothing):
    logits, targets = drawn(shape, multi_label=True)
    z, p = logits.numpy(), targets.numpy()
    p = (1 - smoothing) * p + smoothing / 2
    says = 1 / (1 + np.exp(-z))
    wanted = np.mean(-(p * np.log(says) + (1 - p) * np.log(1 - says)))
    found = soft_target_loss(logits, targets, multi_label=True, smoothing=smoothing)
    assert found.item() == pytest.approx(wanted, abs=1e-9)


@MODES
def test_the_loss_is_least_where_the_student_says_what_the_teacher_says(multi_label):
    targets = soft_targets(4, multi_label).double()
    logits = (targets.logit() if multi_label else targets.log()).requires_grad_()
    (gradient,) = torch.autograd.grad(soft_target_loss(logits, targets, multi_label=multi_label), logits)
    assert gradient.abs().max() < 1e-6


@MODES
def test_the_loss_stays_finite_for_extreme_logits(multi_label):
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4]])
    targets = torch.tensor([[0.0, 1.0], [0.5, 0.5]])
    assert torch.isfinite(soft_target_loss(logits, targets, multi_label=multi_label))


# Loading


@MODES
def test_the_student_has_one_output_for_each_class_in_order(multi_label, student):
    model, _ = student(multi_label)
    assert model.classifier.out_features == model.config.num_labels == len(CLASSES)
    assert model.config.id2label == dict(enumerate(CLASSES))
    assert model.config.label2id == {name: i for i, name in enumerate(CLASSES)}
    assert model.dtype == torch.float32
    wanted = "multi_label_classification" if multi_label else "single_label_classification"
    assert model.config.problem_type == wanted


def test_the_encoder_is_the_checkpoints(student, tiny_student_dir):
    model, _ = student()
    weights = AutoModelForSequenceClassification.from_pretrained(tiny_student_dir).bert.state_dict()
    for name, tensor in model.bert.state_dict().items():
        if not name.startswith("pooler"):
            torch.testing.assert_close(tensor, weights[name], rtol=0, atol=0)


@pytest.mark.parametrize("labels", [["a", "b"], ["a", "b", "c"], [str(i) for i in range(9)]])
def test_a_head_of_another_size_is_replaced(labels, tmp_path):
    folder = save_classifier(tmp_path, "bert", labels)
    model, tokenizer = load_student(ModelSpec(str(folder)), CLASSES, multi_label=False)
    logits = model(**tokenizer(TEXTS, padding=True, return_tensors="pt")).logits
    assert logits.shape == (len(TEXTS), len(CLASSES))
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_students_of_all_families_load_and_predict(family, tmp_path):
    folder = save_encoder(tmp_path, family)
    model, tokenizer = load_student(ModelSpec(str(folder)), CLASSES, multi_label=False)
    found = predict(model.eval(), tokenizer, TEXTS)
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)


def test_a_student_whose_training_has_diverged_is_told(student):
    model, _ = student()
    expect_finite(model)
    with torch.no_grad():
        next(model.parameters())[0, 0] = float("nan")
    with pytest.raises(ConfigError, match=r"diverged.* lower --learning-rate"):
        expect_finite(model)


def test_a_student_without_a_padding_token_is_given_one(tmp_path):
    folder = save_encoder(tmp_path, "roberta")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    model, tokenizer = load_student(ModelSpec(str(folder)), CLASSES, multi_label=False)
    assert tokenizer.pad_token_id == model.config.pad_token_id == tokenizer.eos_token_id


@pytest.mark.parametrize("load", [student_config, load_student])
def test_a_student_that_is_not_there_is_an_error_that_names_the_option(load):
    with pytest.raises(ModelError, match=r"^--student-name-or-path /no/such/folder: "):
        load(ModelSpec("/no/such/folder"), CLASSES, multi_label=False)


# Predictions


@MODES
def test_predictions_equal_those_of_single_texts(multi_label, student):
    model, tokenizer = student(multi_label)
    model.eval()
    texts = [*TEXTS, " ".join(sentences()[:30])]
    with torch.inference_mode():
        logits = torch.cat(
            [
                model(**tokenizer(text, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")).logits
                for text in texts
            ]
        )
    wanted = logits.sigmoid() if multi_label else logits.softmax(-1)
    for budget in (1, 50, 4096):
        np.testing.assert_allclose(predict(model, tokenizer, texts, budget), wanted, atol=1e-5)


def test_no_texts_have_no_predictions(student):
    model, tokenizer = student()
    assert predict(model, tokenizer, []).shape == (0, len(CLASSES))


def test_predictions_of_a_slow_tokenizer_equal_those_of_single_texts(tmp_path):
    tokenizer = CanineTokenizer(model_max_length=MAX_LENGTH)
    folder = save_encoder(tmp_path, "bert", vocab_size=0xE010)
    model, _ = load_student(ModelSpec(str(folder)), CLASSES, multi_label=False)
    model.eval()
    with torch.inference_mode():
        wanted = torch.cat(
            [
                model(**tokenizer(text, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")).logits
                for text in TEXTS[:4]
            ]
        ).softmax(-1)
    np.testing.assert_allclose(predict(model, tokenizer, TEXTS[:4]), wanted, atol=1e-5)


@MODES
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_text_classification_pipeline_gives_the_same_probabilities(family, multi_label, tmp_path):
    encoder = save_encoder(tmp_path / "encoder", family, initializer_range=0.3)
    model, tokenizer = load_student(ModelSpec(str(encoder)), CLASSES, multi_label=multi_label)
    model.save_pretrained(tmp_path / "student")
    tokenizer.save_pretrained(tmp_path / "student")
    trained, its_tokenizer = load_trained_student(str(tmp_path / "student"))
    wanted = predict(trained, its_tokenizer, TEXTS)
    classify = pipeline("text-classification", model=str(tmp_path / "student"), top_k=None, device="cpu")
    for row, answer in zip(wanted, classify(TEXTS), strict=True):
        found = {item["label"]: item["score"] for item in answer}
        assert set(found) == set(CLASSES)
        np.testing.assert_allclose([found[name] for name in CLASSES], row, atol=1e-5)


@MODES
def test_the_saved_student_is_the_one_that_was_trained(multi_label, student, tmp_path):
    model, tokenizer = student(multi_label)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again, its_tokenizer = load_trained_student(str(tmp_path))
    np.testing.assert_allclose(predict(again, its_tokenizer, TEXTS), predict(model.eval(), tokenizer, TEXTS), atol=1e-6)


def test_a_folder_without_a_student_is_an_error(tmp_path):
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_trained_student(str(tmp_path))


# Batches of an epoch


def test_every_pass_over_a_stream_is_the_next_epoch():
    stream = EpochStream(lambda epoch: iter([{"epoch": epoch}] * 3), 3, first_epoch=4)
    assert len(stream) == 3
    assert [[batch["epoch"] for batch in stream] for _ in range(3)] == [[4] * 3, [5] * 3, [6] * 3]


def test_a_stream_of_another_length_than_said_is_an_error():
    with pytest.raises(RuntimeError, match="had 2 batches of 3"):
        list(EpochStream(lambda epoch: iter([{}] * 2), 3))


# Training

ROWS = 4
EPSILON = 1e-3  # Adam's: with less it makes updates of the rounding errors of gradients that are 0


def batches_of(tokenizer, epoch, number, multi_label, last_rows=ROWS):
    """An epoch's batches: texts, padding and targets differ from batch to batch and from epoch to epoch."""
    order = np.random.default_rng(epoch).permutation(len(sentences()))
    for i in range(number):
        rows = ROWS if i < number - 1 else last_rows
        texts = [sentences()[j] for j in order[i * ROWS : i * ROWS + rows]]
        texts[0] += " a" * (3 * i)
        inputs = tokenizer(texts, padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
        yield {
            "input_ids": inputs["input_ids"],
            "attention_mask": inputs["attention_mask"],
            "labels": soft_targets(rows, multi_label, seed=100 * epoch + i),
        }


def trainer_for(model, tokenizer, folder, *, number, multi_label=False, last_rows=ROWS, first_epoch=0, **training):
    def make(epoch):
        return batches_of(tokenizer, epoch, number, multi_label, last_rows)

    arguments = training_arguments(
        {"logging_strategy": "no", "save_strategy": "no", "per_device_train_batch_size": ROWS, **training},
        output_dir=str(folder),
        use_cpu=True,
    )
    return DistillationTrainer(
        model=model,
        args=arguments,
        processing_class=tokenizer,
        train_batches=EpochStream(make, number, first_epoch),
        eval_batches=lambda: make(999),
        texts=(number - 1) * ROWS + last_rows,
        class_names=CLASSES,
        multi_label=multi_label,
    )


def loss_of(logits, targets, multi_label, smoothing):
    """Written out, for the comparison below."""
    if multi_label:
        targets = targets * (1 - smoothing) + smoothing / 2
        return -(targets * logits.sigmoid().log() + (1 - targets) * (1 - logits.sigmoid()).log()).mean()
    targets = targets * (1 - smoothing) + smoothing / logits.shape[-1]
    return -(targets * logits.log_softmax(-1)).sum(-1).mean()


def train_plainly(model, tokenizer, *, epochs, number, accumulate, rate, multi_label, smoothing, adam, last_rows):
    """A plain loop: linear schedule to 0, each update on the mean of its batches' mean losses."""
    model.train()
    total = epochs * -(-number // accumulate)
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.0, eps=EPSILON) if adam else torch.optim.SGD(parameters)
    updates = 0
    for epoch in range(epochs):
        batches = list(batches_of(tokenizer, epoch, number, multi_label, last_rows))
        for start in range(0, number, accumulate):
            group = batches[start : start + accumulate]
            for batch in group:
                logits = model(batch["input_ids"], batch["attention_mask"]).logits
                (loss_of(logits, batch["labels"], multi_label, smoothing) / len(group)).backward()
            if adam:
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.param_groups[0]["lr"] = rate * (total - updates) / total
            optimizer.step()
            optimizer.zero_grad()
            updates += 1
    return updates


@MODES
@pytest.mark.parametrize(
    ("number", "accumulate", "last_rows", "smoothing", "adam"),
    [
        (6, 1, 4, 0.0, False),
        (6, 3, 4, 0.0, False),
        (7, 4, 4, 0.0, False),
        (7, 4, 4, 0.0, True),
        (5, 2, 1, 0.2, False),
        (2, 5, 4, 0.0, False),
    ],
)
def test_training_makes_the_updates_of_a_plain_loop(
    number, accumulate, last_rows, smoothing, adam, multi_label, student, tmp_path
):
    model, tokenizer = student(multi_label)
    plain = copy.deepcopy(model)
    before = copy.deepcopy(model)
    rate = 1e-3 if adam else 0.5
    updates = train_plainly(
        plain,
        tokenizer,
        epochs=2,
        number=number,
        accumulate=accumulate,
        rate=rate,
        multi_label=multi_label,
        smoothing=smoothing,
        adam=adam,
        last_rows=last_rows,
    )
    trainer = trainer_for(
        model,
        tokenizer,
        tmp_path,
        number=number,
        multi_label=multi_label,
        last_rows=last_rows,
        num_train_epochs=2,
        gradient_accumulation_steps=accumulate,
        learning_rate=rate,
        label_smoothing_factor=smoothing,
        optim="adamw_torch" if adam else "sgd",
        max_grad_norm=1.0 if adam else 0.0,
        adam_epsilon=EPSILON,
    )
    trainer.train()
    assert trainer.state.global_step == trainer.state.max_steps == updates
    assert trainer.state.epoch == 2
    assert trainer.lr_scheduler.get_last_lr()[0] == pytest.approx(0, abs=1e-12)
    moved = 0.0
    for (name, found), wanted, old in zip(
        model.named_parameters(), plain.parameters(), before.parameters(), strict=True
    ):
        torch.testing.assert_close(found, wanted, atol=2e-5 if adam else 1e-5, rtol=1e-4, msg=name)
        moved = max(moved, (found - old).abs().max().item())
    assert moved > 1e-3


def test_each_epoch_has_its_own_batches(student, tmp_path):
    model, tokenizer = student()
    trainer = trainer_for(model, tokenizer, tmp_path, number=3, num_train_epochs=3)
    seen = []
    trainer._train_batches._batches = lambda epoch: (
        seen.append(epoch) or batches_of(tokenizer, epoch, 3, multi_label=False)
    )
    trainer.train()
    assert seen == [0, 1, 2]


def test_max_steps_ends_in_the_midst_of_an_epoch(student, tmp_path):
    model, tokenizer = student()
    trainer = trainer_for(model, tokenizer, tmp_path, number=4, max_steps=6)
    trainer.train()
    assert (trainer.state.global_step, trainer.state.epoch) == (6, 1.5)
    assert trainer.lr_scheduler.get_last_lr()[0] == pytest.approx(0, abs=1e-12)


def test_warmup_and_schedule_are_those_of_the_number_of_updates(student, tmp_path):
    model, tokenizer = student()
    trainer = trainer_for(
        model,
        tokenizer,
        tmp_path,
        number=5,
        num_train_epochs=2,
        warmup_steps=0.2,
        learning_rate=1e-3,
        logging_strategy="steps",
        logging_steps=1,
    )
    trainer.train()
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    wanted = [0, 0.5, *(1 - i / 8 for i in range(8))]
    np.testing.assert_allclose(rates, [1e-3 * share for share in wanted], atol=1e-12)


@pytest.mark.parametrize("stop", [3, 5, 8])
def test_a_run_that_goes_on_from_a_checkpoint_ends_like_one_that_was_never_stopped(stop, student, tmp_path):
    model, tokenizer = student()
    first = copy.deepcopy(model)
    settings = {
        "number": 5,
        "num_train_epochs": 2,
        "learning_rate": 1e-2,
        "save_strategy": "steps",
        "save_steps": 1,
        "save_total_limit": 100,
    }
    whole = trainer_for(first, tokenizer, tmp_path, **settings)
    whole.train()
    checkpoint = tmp_path / f"checkpoint-{stop}"
    # As the train worker does: the epoch that the checkpoint stands in comes first.
    epoch = int(json.loads(Path(checkpoint, "trainer_state.json").read_text())["epoch"])
    resumed = trainer_for(model, tokenizer, tmp_path / "again", first_epoch=epoch, **settings)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert resumed.state.global_step == whole.state.global_step == 10
    for found, wanted in zip(model.parameters(), first.parameters(), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)


def test_a_run_that_was_lost_after_its_last_update_makes_no_other(student, tmp_path):
    model, tokenizer = student()
    settings = {"number": 5, "max_steps": 3, "learning_rate": 1e-2, "lr_scheduler_type": "constant"}
    whole = trainer_for(copy.deepcopy(model), tokenizer, tmp_path, save_strategy="steps", save_steps=3, **settings)
    whole.train()
    resumed = trainer_for(model, tokenizer, tmp_path / "again", **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert resumed.state.global_step == 3
    for found, wanted in zip(model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(found, wanted, atol=0, rtol=0)


class StopAt(TrainerCallback):
    """Asks for a stop at an update."""

    def __init__(self, step):
        self.step, self.asked = step, False

    def on_step_begin(self, args, state, control, **_):
        self.asked = state.global_step + 1 == self.step


def stopped_at(stop, model, tokenizer, folder, **settings):
    """A trainer that was asked to stop at an update, and did."""
    asking, trainer = StopAt(stop), trainer_for(model, tokenizer, folder, **settings)
    for callback in (asking, KeepPace(999, lambda: asking.asked, alone=True)):
        trainer.add_callback(callback)
    trainer.train()
    assert trainer.state.global_step == stop
    assert (folder / f"checkpoint-{stop}").is_dir()
    return trainer


def evaluated(trainer):
    return [entry["step"] for entry in trainer.state.log_history if "eval_loss" in entry]


@pytest.mark.parametrize("every", ["epoch", "steps"])
@pytest.mark.parametrize("stop", [2, 3, 4])
def test_a_stop_spends_no_time_on_an_evaluation_that_is_only_told(every, stop, student, tmp_path):
    settings = {"number": 6, "eval_strategy": every, "eval_steps": 2, "save_strategy": "epoch", "save_total_limit": 9}
    trainer = stopped_at(stop, *student(), tmp_path, **settings)
    assert evaluated(trainer) == ([2] if every == "steps" and stop > 2 else [])


@pytest.mark.parametrize("stop", [2, 3, 4, 5])
@pytest.mark.parametrize(
    "settings",
    [
        {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True},
        {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "best", "metric_for_best_model": "agreement"},
        {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "no", "lr_scheduler_type": "reduce_lr_on_plateau"},
    ],
)
def test_a_stop_changes_no_evaluation_that_the_student_depends_on(settings, stop, student, tmp_path):
    settings = {"number": 4, "num_train_epochs": 2, "learning_rate": 0.05, "save_total_limit": 9, **settings}
    model, tokenizer = student()
    whole = trainer_for(copy.deepcopy(model), tokenizer, tmp_path / "whole", **settings)
    whole.train()
    stopped_at(stop, copy.deepcopy(model), tokenizer, tmp_path / "stopped", **settings)
    resumed = trainer_for(model, tokenizer, tmp_path / "stopped", first_epoch=stop // 4, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "stopped" / f"checkpoint-{stop}"))
    assert evaluated(resumed) == evaluated(whole)
    assert resumed.state.best_global_step == whole.state.best_global_step
    for found, wanted in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)


def test_a_timed_checkpoint_is_kept_where_only_the_best_are(student, tmp_path):
    model, tokenizer = student()
    trainer = trainer_for(
        model,
        tokenizer,
        tmp_path,
        number=5,
        learning_rate=0.0,  # so that no evaluation is better than the first
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="best",
        metric_for_best_model="loss",
        save_total_limit=9,
    )
    trainer.add_callback(KeepPace(0.0, lambda: False, alone=True))
    trainer.train()
    kept = sorted(path.name for path in tmp_path.glob("checkpoint-*"))
    assert kept == [f"checkpoint-{step}" for step in range(1, 5)]
    assert trainer.state.best_global_step == 1


# Evaluation


@MODES
def test_evaluation_gives_the_figures_of_all_texts(multi_label, student, tmp_path):
    model, tokenizer = student(multi_label)
    trainer = trainer_for(model, tokenizer, tmp_path, number=5, multi_label=multi_label, last_rows=1)
    found = trainer.evaluate()
    batches = list(batches_of(tokenizer, 999, 5, multi_label, last_rows=1))
    model.eval()
    with torch.inference_mode():
        logits = torch.cat([model(b["input_ids"], b["attention_mask"]).logits for b in batches])
    targets = torch.cat([b["labels"] for b in batches])
    assert len(targets) == 17
    wanted_loss = loss_of(logits.double(), targets.double(), multi_label, 0.0)
    assert found["eval_loss"] == pytest.approx(wanted_loss.item(), abs=1e-5)
    if multi_label:
        assert set(found) == {
            "eval_loss",
            "eval_f1_macro",
            "eval_mean_absolute_difference",
            *(f"eval_f1/{name}" for name in CLASSES),
        }
        difference = (logits.sigmoid() - targets).abs().mean().item()
        assert found["eval_mean_absolute_difference"] == pytest.approx(difference, abs=1e-5)
    else:
        assert set(found) == {"eval_loss", "eval_agreement"}
        same = (logits.argmax(-1) == targets.argmax(-1)).double().mean().item()
        assert found["eval_agreement"] == pytest.approx(same)


def test_evaluation_is_done_without_dropout_and_training_with_it(tmp_path):
    folder = save_encoder(tmp_path / "student", hidden_dropout_prob=0.5)
    model, tokenizer = load_student(ModelSpec(str(folder)), CLASSES, multi_label=False)
    trainer = trainer_for(
        model, tokenizer, tmp_path / "out", number=4, num_train_epochs=2, eval_strategy="epoch", learning_rate=0.0
    )
    modes = []
    model.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    trainer.train()
    assert modes == [*[True] * 4, *[False] * 4] * 2
    assert trainer.evaluate()["eval_loss"] == trainer.evaluate()["eval_loss"]


def test_evaluation_within_training_is_logged_and_the_best_model_is_loaded_at_the_end(student, tmp_path):
    model, tokenizer = student()
    trainer = trainer_for(
        model,
        tokenizer,
        tmp_path,
        number=4,
        num_train_epochs=3,
        learning_rate=0.05,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=5,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
    )
    trainer.train()
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert len(losses) == 3
    assert trainer.state.best_metric == min(losses)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(losses), abs=1e-6)


@MODES
def test_a_student_learns_what_it_is_taught(multi_label, student, tmp_path):
    model, tokenizer = student(multi_label)
    trainer = trainer_for(
        model, tokenizer, tmp_path, number=4, multi_label=multi_label, num_train_epochs=40, learning_rate=5e-3
    )
    epoch = list(batches_of(tokenizer, 999, 4, multi_label))
    trainer._train_batches._batches = lambda _: iter(epoch)
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_loss"] < before["eval_loss"]
    if not multi_label:
        assert after["eval_agreement"] > 0.9
    else:
        assert after["eval_mean_absolute_difference"] < 0.5 * before["eval_mean_absolute_difference"]


def test_padding_side_left_is_as_good(student):
    model, tokenizer = student()
    left = make_tokenizer("bert", padding_side="left")
    model.eval()
    # Positions are absolute in BERT, so only rows of like length are compared.
    texts = ["the striker scored", "our bank lost a vote", "a minister praised the film", "art"]
    np.testing.assert_allclose(predict(model, left, texts, 1), predict(model, tokenizer, texts, 1), atol=1e-5)

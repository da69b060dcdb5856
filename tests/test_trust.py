"""What models are trusted with: pickles, code of their own, and branches that move."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import (
    TRACE,
    Malice,
    bring_own_code,
    move_main,
    pickle_weights,
    put_on_hub,
    save_classifier,
    save_encoder,
    sentences,
)

from raydistill.cli import main
from raydistill.corpus_files import find_files
from raydistill.corpus_readers import Split, read_split
from raydistill.errors import CorpusError, ModelError, RunDirError
from raydistill.label_store import LabelStore, logits_column
from raydistill.nli import describe_teacher
from raydistill.pretrained import expect_own_weights, load_config, load_tokenizer, pinned, skeleton
from raydistill.specs import ModelSpec, TeacherSpec
from raydistill.student import load_student, load_trained_student
from raydistill.teacher import Teacher

CLASSES = ("sport", "money")
TEXTS = sentences()[:6]


@pytest.fixture(autouse=True)
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that is there once code has run that came with a model."""
    path = tmp_path / "trace"
    monkeypatch.setenv(TRACE, str(path))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    return path


@pytest.fixture
def refusal(
    tmp_path: Path, corpus_file: Path, class_names_file: Path, tiny_teacher_dir: Path, tiny_student_dir: Path, capfd
):
    """The one line in which a run with other models, or other options, is refused; nothing is written."""

    def refuse(teacher: object = tiny_teacher_dir, student: object = tiny_student_dir, *more: str) -> str:
        capfd.readouterr()
        out = tmp_path / "out"
        arguments = ["--data-file", corpus_file, "--class-names-file", class_names_file, "--output-dir", out]
        arguments += ["--teacher-name-or-path", teacher, "--student-name-or-path", student, *more]
        assert main(["run", *map(str, arguments)]) == 2
        said = capfd.readouterr().err
        assert said.startswith("Error: ")
        assert said.count("\n") == 1
        assert not out.exists()
        return said

    return refuse


def teacher_spec(name: object, **trust: object) -> TeacherSpec:
    return TeacherSpec(str(name), CLASSES, "About {}.", backend="torch", **trust)


def scores(spec: TeacherSpec) -> np.ndarray:
    return Teacher.load(spec).score(TEXTS)[0]


# Pickles


def test_pickled_weights_are_refused_in_a_line_that_says_why_and_what_to_do(tmp_path, refusal):
    teacher, student = (
        pickle_weights(save_classifier(tmp_path / "nli")),
        pickle_weights(save_encoder(tmp_path / "model")),
    )
    for said, option in (
        (refusal(teacher), f"--teacher-name-or-path {teacher}"),
        (refusal(student=student), f"--student-name-or-path {student}"),
    ):
        assert f"{option}: its weights are pickled (pytorch_model.bin)" in said
        assert "--allow-pickle-weights" in said


def test_pickled_weights_are_taken_by_leave(tmp_path):
    teacher, student = save_classifier(tmp_path / "teacher"), save_encoder(tmp_path / "student")
    wanted = scores(teacher_spec(teacher))
    encoder = load_student(ModelSpec(str(student)), CLASSES, multi_label=False)[0].bert.state_dict()
    for folder in (teacher, student):
        pickle_weights(folder)
    leave = {"allow_pickle_weights": True}
    np.testing.assert_array_equal(scores(pinned(teacher_spec(teacher, **leave), "teacher")), wanted)
    found = load_student(ModelSpec(str(student), **leave), CLASSES, multi_label=False)[0].bert.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in encoder.items() if not name.startswith("pooler"))


def test_a_pickle_beside_safetensors_is_not_looked_at(tmp_path, trace):
    folder = save_classifier(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    wanted = scores(teacher_spec(folder))
    pickle_weights(folder, {"malice": Malice()})
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    for leave in (False, True):
        np.testing.assert_array_equal(scores(teacher_spec(folder, allow_pickle_weights=leave)), wanted)
    assert not trace.exists()


def test_a_pickle_that_is_more_than_tensors_is_never_run(tmp_path, trace, refusal):
    torch.save({"malice": Malice()}, tmp_path / "check")
    torch.load(tmp_path / "check", weights_only=False)
    assert trace.read_text() == "unpickled\n"
    trace.unlink()

    for folder in (save_classifier(tmp_path / "teacher"), save_encoder(tmp_path / "student")):
        pickle_weights(folder, load_file(folder / "model.safetensors") | {"malice": Malice()})
    assert "--allow-pickle-weights" in refusal(tmp_path / "teacher", tmp_path / "student")
    for leave in (False, True):
        with pytest.raises(ModelError, match="more than tensors" if leave else "cannot be loaded"):
            Teacher.load(teacher_spec(tmp_path / "teacher", allow_pickle_weights=leave))
        with pytest.raises(ModelError, match="more than tensors" if leave else "cannot be loaded"):
            load_student(ModelSpec(str(tmp_path / "student"), allow_pickle_weights=leave), CLASSES, multi_label=False)
    with pytest.raises(ModelError):
        load_trained_student(str(tmp_path / "student"))
    assert not trace.exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
def test_a_pickle_that_was_cut_short_is_one_line(tmp_path, zipped, share):
    folder = pickle_weights(save_classifier(tmp_path / "nli"))
    weights = folder / "pytorch_model.bin"
    torch.save(torch.load(weights), weights, _use_new_zipfile_serialization=zipped)
    weights.write_bytes(weights.read_bytes()[: int(share * weights.stat().st_size)])
    with pytest.raises(ModelError, match=r"damaged|cannot be loaded"):
        expect_own_weights(teacher_spec(folder, allow_pickle_weights=True))


@pytest.mark.parametrize("content", [bytes(4096), b"hello world", b"Repository not found", bytes(range(256)) * 16])
def test_what_is_no_pickle_is_one_line(tmp_path, content):
    folder = pickle_weights(save_classifier(tmp_path / "nli"))
    (folder / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(ModelError, match="damaged"):
        expect_own_weights(teacher_spec(folder, allow_pickle_weights=True))


@pytest.mark.parametrize(
    "content", [[torch.ones(2)], 5, None, torch.ones(3), {1: torch.ones(2)}, torch.eye(2).to_sparse()]
)
def test_a_pickle_of_something_else_is_one_line(tmp_path, content):
    folder = pickle_weights(save_classifier(tmp_path / "nli"))
    torch.save(content, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="hold more than tensors, or are damaged"):
        expect_own_weights(teacher_spec(folder, allow_pickle_weights=True))


def test_an_index_of_safetensors_cannot_name_a_pickle(tmp_path, trace, refusal):
    folder = save_classifier(tmp_path / "model")
    names = list(load_file(folder / "model.safetensors"))
    pickle_weights(folder)
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "pytorch_model.bin")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "names pytorch_model.bin, which is no safetensors file" in refusal(folder)


def test_a_corpus_or_a_label_store_with_pickled_objects_runs_nothing(tmp_path, trace):
    from ray.data._internal.object_extensions.arrow import ArrowPythonObjectArray

    column = ArrowPythonObjectArray.from_objects([Malice()])
    pq.write_table(pa.table({"text": column}), tmp_path / "corpus.parquet")
    with pytest.raises(CorpusError, match="not text"):
        list(read_split(Split(find_files([str(tmp_path / "corpus.parquet")])[0], 0, -1), "text"))

    store = LabelStore(str(tmp_path / "labels"))
    store.folder.create()
    logits = logits_column(np.zeros((1, 2), np.float32))
    rows = {"text_id": ["0" * 32], "text": column, "occurrences": [1], "entailment": logits, "contradiction": logits}
    pq.write_table(pa.table(rows), tmp_path / "labels" / "part-0.parquet")
    with pytest.raises(RunDirError, match="is not a label part"):
        [table["text"].to_pylist() for table in store.read_part("part-0.parquet")]
    assert not trace.exists()
    pq.read_table(tmp_path / "labels" / "part-0.parquet")["text"].to_pylist()
    assert trace.exists()


# Code of their own


def test_a_models_own_code_is_refused_in_a_line_that_names_the_flag(tmp_path, trace, refusal, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asks at the terminal"))
    teacher = bring_own_code(save_classifier(tmp_path / "nli"))
    student = bring_own_code(save_encoder(tmp_path / "model"))
    for said, option in (
        (refusal(teacher), f"--teacher-name-or-path {teacher}"),
        (refusal(student=student), f"--student-name-or-path {student}"),
    ):
        assert f"{option}: brings Python code of its own" in said
        assert "--trust-remote-code" in said
    assert not trace.exists()


def test_code_is_left_alone_where_transformers_has_its_own(tmp_path, trace):
    folder = save_encoder(tmp_path / "model")
    config = (folder / "config.json").read_text()
    wanted = load_tokenizer(ModelSpec(str(folder)))(TEXTS)["input_ids"]
    bring_own_code(folder)
    (folder / "config.json").write_text(config)
    assert load_tokenizer(ModelSpec(str(folder)))(TEXTS)["input_ids"] == wanted
    assert not trace.exists()
    assert type(load_tokenizer(ModelSpec(str(folder), trust_remote_code=True))).__name__ == "OwnTokenizer"
    assert trace.exists()


def test_a_models_own_code_is_run_by_leave(tmp_path, trace):
    folder = save_classifier(tmp_path / "model")
    wanted = scores(teacher_spec(folder))
    plain = describe_teacher(pinned(teacher_spec(folder), "teacher"))
    bring_own_code(folder)
    spec = pinned(teacher_spec(folder, trust_remote_code=True), "teacher")
    description = describe_teacher(spec)
    assert description["trust_remote_code"] is True
    assert description["teacher_fingerprint"] != plain["teacher_fingerprint"]
    np.testing.assert_array_equal(scores(spec), wanted)
    assert type(Teacher.load(spec).engine.model).__name__ == "OwnForSequenceClassification"
    assert trace.exists()

    (folder / "own.py").write_text((folder / "own.py").read_text() + "\n# changed\n")
    assert describe_teacher(spec)["teacher_fingerprint"] != description["teacher_fingerprint"]


# The hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache on this machine, which is all there is offline."""
    cache = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))  # of other processes
    return cache


def test_a_model_of_the_hub_stays_the_commit_that_it_was_when_the_run_began(tmp_path, hub):
    first, second = save_classifier(tmp_path / "1"), save_classifier(tmp_path / "2", seed=1)
    commits = put_on_hub(hub, "acme/teacher", first, second)
    spec = pinned(teacher_spec("acme/teacher"), "teacher")
    assert spec.revision == commits[0]
    move_main(hub, "acme/teacher", commits[1])
    assert describe_teacher(spec)["teacher_fingerprint"] == f"commit:{commits[0]}"
    np.testing.assert_array_equal(scores(spec), scores(teacher_spec(first)))
    moved = pinned(teacher_spec("acme/teacher"), "teacher")
    assert describe_teacher(moved)["teacher_fingerprint"] == f"commit:{commits[1]}"
    np.testing.assert_array_equal(scores(moved), scores(teacher_spec(second)))
    asked = pinned(teacher_spec("acme/teacher", revision=commits[0]), "teacher")
    np.testing.assert_array_equal(scores(asked), scores(spec))


def test_code_on_the_hub_is_that_of_the_commit(tmp_path, hub, trace):
    folders = [bring_own_code(save_encoder(tmp_path / name)) for name in "12"]
    (folders[1] / "own.py").write_text("raise RuntimeError('another commit')")
    commits = put_on_hub(hub, "acme/student", *folders)
    model = pinned(ModelSpec("acme/student", trust_remote_code=True), "student")
    move_main(hub, "acme/student", commits[1])
    assert type(skeleton(load_config(model, "student"), model)).__name__ == "OwnForSequenceClassification"
    assert load_student(model, CLASSES, multi_label=False)
    assert trace.exists()


def test_faults_of_hub_models_are_one_line(tmp_path, hub, refusal):
    put_on_hub(hub, "acme/pickled", pickle_weights(save_classifier(tmp_path / "pickled")))
    put_on_hub(hub, "acme/code", bring_own_code(save_classifier(tmp_path / "code")))
    put_on_hub(hub, "acme/good", save_classifier(tmp_path / "good"))
    assert "--teacher-name-or-path acme/pickled: its weights are pickled" in refusal("acme/pickled")
    assert "--trust-remote-code" in refusal("acme/code")
    with pytest.raises(ModelError, match=r"^teacher acme/good: .* at revision none-such"):
        pinned(teacher_spec("acme/good", revision="none-such"), "teacher")
    with pytest.raises(ModelError, match="is a folder, which has no revision v1"):
        pinned(teacher_spec(tmp_path / "good", revision="v1"), "teacher")


# Checkpoints


def test_a_checkpoint_that_was_tampered_with_runs_nothing(tmp_path, trace, tiny_student_dir):
    from raydistill.student import DistillationTrainer, EpochStream
    from raydistill.training_arguments import training_arguments

    def trained(resume: Path | None = None) -> Path:
        model, tokenizer = load_student(ModelSpec(str(tiny_student_dir)), CLASSES, multi_label=False)
        inputs = dict(tokenizer(TEXTS, padding=True, return_tensors="pt"))
        batch = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        batch["labels"] = torch.full((len(TEXTS), 2), 0.5)
        trainer = DistillationTrainer(
            model=model,
            args=training_arguments(
                {"num_train_epochs": 2, "save_strategy": "epoch"}, output_dir=str(tmp_path / "t"), use_cpu=True
            ),
            processing_class=tokenizer,
            train_batches=EpochStream(lambda epoch: iter([batch]), 1, first_epoch=1 if resume else 0),
            eval_batches=lambda: iter([batch]),
            texts=len(TEXTS),
            class_names=CLASSES,
            multi_label=False,
        )
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        return tmp_path / "t" / "checkpoint-1"

    good = shutil.copytree(trained(), tmp_path / "good")
    pickles = ["optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"]
    assert {path.name for path in good.iterdir()} >= {*pickles, "model.safetensors"}
    for name in pickles:
        folder = shutil.copytree(good, tmp_path / name)
        torch.save({"malice": Malice()}, folder / name)
        if name == "training_args.bin":  # which nobody reads
            trained(folder)
        else:
            with pytest.raises(Exception, match=r"(?i)weights.only"):
                trained(folder)
        assert not trace.exists(), name

"""A reduced precision is compared with the exact teacher before it is used; what came of it stays with the labels."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
from mounts import needs_mounts
from tiny_models import reduced_precision

from raydistill import DistillConfig, label
from raydistill.audit import Audit
from raydistill.cli import main
from raydistill.progress import Console
from raydistill.resources import Request, make_plan
from raydistill.specs import TeacherSpec
from raydistill.stages.audit import audit_and_note, choose_precision
from raydistill.stages.cluster import free_nodes
from raydistill.stages.label import engine_hint

MakeConfig = Callable[..., DistillConfig]
LabelByCommand = Callable[[DistillConfig], tuple[int, str]]
PRECISION, BACKEND = reduced_precision()
REDUCED = {"teacher_precision": PRECISION, "teacher_backend": BACKEND}


def entailment(folder: Path) -> np.ndarray:
    return np.stack(pd.read_parquet(folder / "labels").sort_values("text_id").entailment)


def scoring(folder: Path) -> dict:
    recorded = json.loads((folder / "labels" / "_labels.json").read_text())["scoring"]
    assert json.loads((folder / "run.json").read_text())["scoring"] == recorded
    return recorded


@pytest.fixture(scope="module")
def undecided_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finds every class about as likely, so that rounding changes the winner."""
    import torch
    from tiny_models import save_classifier
    from transformers import AutoModelForSequenceClassification

    folder = save_classifier(tmp_path_factory.mktemp("undecided"))
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        model.classifier.weight.mul_(1e-3)
        model.classifier.bias.add_(1.0)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory, make_config: MakeConfig) -> Path:
    folder = tmp_path_factory.mktemp("exact") / "out"
    label(make_config(folder))
    return folder


@pytest.fixture
def label_by_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> LabelByCommand:
    """`raydistill label` with what a config says: exit code, and standard error."""

    def run(config: DistillConfig) -> tuple[int, str]:
        file = tmp_path / "config.json"
        file.write_text(json.dumps(config.options()))
        code = main(["label", "--config", str(file)])
        said = capfd.readouterr().err
        assert "Traceback" not in said
        return code, said

    return run


@pytest.mark.parametrize("precision", ["fp32", PRECISION])
def test_a_corpus_without_texts_is_not_the_teachers_fault(
    precision: str, tmp_path: Path, make_config: MakeConfig, label_by_command: LabelByCommand
) -> None:
    corpus = tmp_path / "corpus.parquet"
    pd.DataFrame({"text": ["", " "]}).to_parquet(corpus)
    options = {**REDUCED, "teacher_precision": precision, "data_file": str(corpus)}
    code, said = label_by_command(make_config(tmp_path / "out", **options))
    assert code == 2
    found = "holds no text but blank ones.\n" if precision == "fp32" else "holds blank texts alone wherever the audit"
    assert f"Error: --data-file {corpus}: {found}" in said


def test_an_exact_teacher_needs_no_audit(exact: Path) -> None:
    assert scoring(exact) == {"precision": "fp32", "audit": None}


def test_labels_may_be_gone_on_with_in_the_precision_that_they_have(
    tmp_path: Path, make_config: MakeConfig, label_by_command: LabelByCommand
) -> None:
    code, said = label_by_command(make_config(tmp_path / "out"))
    assert code == 0, said
    corpus = tmp_path / "more.txt"
    for precision in ("fp32", "auto", "fp32"):  # the one that was asked for at first stays good
        with corpus.open("a") as stream:
            stream.write(f"and one more, in {precision}, {stream.tell()}\n")
        options = {"teacher_precision": precision, "data_file": (*make_config(tmp_path / "out").data_file, str(corpus))}
        code, said = label_by_command(make_config(tmp_path / "out", **options))
        assert (code, "1 new text; " in said) == (0, True), said
    code, said = label_by_command(make_config(tmp_path / "out", teacher_precision=PRECISION, teacher_backend=BACKEND))
    assert (code, "--teacher-precision was" in said) == (2, True)


def test_a_precision_that_passes_is_used_and_its_audit_kept(
    tmp_path: Path, make_config: MakeConfig, console: Console, exact: Path, corpus_file: Path
) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_bytes(corpus_file.read_bytes())
    config = make_config(tmp_path / "out", **REDUCED, audit_texts=20, min_agreement=0.5, data_file=str(corpus))
    label(dataclasses.replace(config, dry_run=True), console)
    assert "if that precision passes its audit" in console.stream.getvalue()
    label(config, console)
    found = scoring(tmp_path / "out")
    assert found["precision"] == PRECISION
    assert (found["audit"]["texts"], found["audit"]["passed"]) == (20, True)
    assert found["audit"]["seconds"] > 0
    said = console.stream.getvalue()
    assert re.search(r"quote +.*, took ", said)
    assert re.search(r"audit  [\d,]+ pairs · ", said)
    assert re.search(r"  time +start-up .* s, audit .* s, label .* s, shutdown .* s, total .* s\n", said)
    engine = f"{BACKEND} {PRECISION}"
    assert f"{engine} against fp32 on 20 texts" in said
    assert said.count(f"       {engine} runs the teacher\n") == 1
    told = re.search(rf"teacher  {engine}; [\d,]+ pairs/s per actor, ([\d.]+)% padding; its time: (.*); (.*)\n", said)
    assert told
    assert 0 < float(told[1]) < 50
    shares = re.fullmatch(r"forward ([\d.]+)%, tokenize ([\d.]+)%, wait ([\d.]+)%", told[2])
    assert shares
    assert sum(map(float, shares.groups())) == pytest.approx(100, abs=0.2)
    assert re.fullmatch(r"start-up .* s, reading .* s, writing .* s besides", told[3])
    off = np.abs(entailment(tmp_path / "out") - entailment(exact))
    assert 0 < off.max() < 0.2

    with corpus.open("a") as stream:
        stream.write("a new text that nobody has labelled\n")
    label(config, console)
    assert scoring(tmp_path / "out") == found
    quoted = json.loads((tmp_path / "out" / "run.json").read_text())["quote"]
    assert quoted["actual_seconds"] > 0
    assert len(re.findall(r"quote +.*, took ", console.stream.getvalue())) == 1  # which is of the first time alone
    with corpus.open("a") as stream:
        stream.write("and another one\n")
    label(dataclasses.replace(config, dry_run=True), console)
    with corpus.open("a") as stream:
        stream.write("and one that was not quoted\n")
    label(config, console)
    quoted = json.loads((tmp_path / "out" / "run.json").read_text())["quote"]
    assert (quoted["actual_seconds"], "another corpus" in quoted["not_compared"]) == (None, True)
    assert console.stream.getvalue().count("against fp32") == 1  # the labels of a store are all of one kind


def test_labels_of_a_single_class_are_audited_too(tmp_path: Path, make_config: MakeConfig) -> None:
    classes = tmp_path / "class.txt"
    classes.write_text("sport\n")
    label(make_config(tmp_path / "out", **REDUCED, class_names_file=str(classes), audit_texts=20, min_agreement=0))
    assert scoring(tmp_path / "out")["audit"]["texts"] == 20


def test_labels_of_a_precision_that_would_not_pass_any_more_are_told_and_stop_a_strict_run(
    tmp_path: Path, make_config: MakeConfig, label_by_command: LabelByCommand, undecided_teacher: Path
) -> None:
    config = make_config(tmp_path / "out", teacher_name_or_path=str(undecided_teacher), **REDUCED, min_agreement=0)
    assert label_by_command(config)[0] == 0
    begun = scoring(tmp_path / "out")
    assert begun["precision"] == PRECISION
    code, said = label_by_command(config)
    assert (code, "below --min-agreement" in said) == (0, False)

    code, said = label_by_command(dataclasses.replace(config, min_agreement=0.99))
    assert code == 0, said
    agreed = f"{begun['audit']['agreement']:.4%}"
    found = f"the labels here are of {PRECISION}, which agreed on {agreed}, below --min-agreement 0.99"
    assert said.count(f"       {found}: they stay so, unless by --overwrite-output-dir\n") == 1
    code, said = label_by_command(dataclasses.replace(config, min_agreement=0.99, strict=True))
    assert (code, said.splitlines()[-1].startswith(f"Error: {found}. Lower it, ")) == (2, True)
    assert scoring(tmp_path / "out") == begun


def test_a_precision_that_fails_gives_way_to_the_exact_one(
    tmp_path: Path,
    make_config: MakeConfig,
    label_by_command: LabelByCommand,
    undecided_teacher: Path,
    corpus_counts: Any,
    class_names: list[str],
) -> None:
    from raydistill.teacher import Teacher

    config = make_config(tmp_path / "out", teacher_name_or_path=str(undecided_teacher), **REDUCED)
    label(dataclasses.replace(config, dry_run=True))
    code, said = label_by_command(config)
    assert code == 0, said
    quoted = json.loads((tmp_path / "out" / "run.json").read_text())["quote"]
    assert quoted["actual_seconds"] is None
    assert re.fullmatch(r".* fp32 ran the teacher", quoted["not_compared"])
    found = scoring(tmp_path / "out")
    assert found["precision"] == "fp32"
    assert found["audit"]["agreement"] < 0.99
    assert not found["audit"]["passed"]
    assert found["audit"]["texts"] == corpus_counts.distinct  # fewer than were asked for
    assert "below --min-agreement 0.99: the teacher runs in fp32" in said
    spec = TeacherSpec(str(undecided_teacher), tuple(class_names), "This text is about {}.", backend="torch")
    store = pd.read_parquet(tmp_path / "out" / "labels")
    exact = Teacher.load(spec).score(list(store.text))[0]
    np.testing.assert_allclose(np.stack(store.entailment), exact, atol=1e-6)


@pytest.mark.parametrize(
    ("asked", "speedup", "used", "told"),
    [
        ("int8", 1.0, "int8", "gains nothing here: --teacher-precision fp32 would give exact labels"),
        ("int8", 0.2, "int8", "is slower than fp32 here: --teacher-precision fp32 would give exact labels"),
        ("int8", 1.3, "int8", ""),
        ("auto", 1.0, "fp32", "gains nothing here: the teacher runs in fp32"),
        ("auto", 1.3, "bf16", ""),
    ],
)
def test_a_precision_that_is_no_faster_is_used_where_it_was_asked_for_alone(
    asked: str,
    speedup: float,
    used: str,
    told: str,
    make_config: MakeConfig,
    console: Console,
    tmp_path: Path,
    monkeypatch: Any,
) -> None:
    found = "bf16" if asked == "auto" else asked
    audit = Audit(found, f"torch {found}", 20, 1.0, 0.01, 0.001, speedup)  # of a device that it depends on
    monkeypatch.setattr("raydistill.stages.audit.teacher_task", lambda *_: SimpleNamespace(remote=Mock()))
    monkeypatch.setattr("raydistill.stages.audit.wait_for", lambda *_: [audit])
    spec = TeacherSpec("teacher", ("a", "b"), "{}", precision=asked)
    plan = dataclasses.replace(make_plan(free_nodes(), Request()), teacher_gpus=1.0 if asked == "auto" else 0.0)
    chosen = choose_precision(make_config(tmp_path), spec, lambda: ["a text"], plan, console, pytest.fail)
    assert chosen["precision"] == used
    assert chosen["audit"]["passed"]
    said = console.stream.getvalue()
    assert told in said
    assert bool(told) == (" here: " in said)


def test_strict_stops_before_anything_is_labelled(
    tmp_path: Path,
    make_config: MakeConfig,
    label_by_command: LabelByCommand,
    undecided_teacher: Path,
) -> None:
    config = make_config(tmp_path / "out", teacher_name_or_path=str(undecided_teacher), **REDUCED, strict=True)
    code, said = label_by_command(config)
    assert code == 2
    assert re.match(r"Error: .* below --min-agreement 0\.99.*--teacher-precision fp32", said.splitlines()[-1])
    assert not (tmp_path / "out" / "labels").exists()
    found = json.loads((tmp_path / "out" / "run.json").read_text())["scoring"]
    assert found["precision"] is None
    assert found["audit"]["agreement"] < 0.99
    code, said = label_by_command(dataclasses.replace(config, teacher_precision="fp32", teacher_backend="auto"))
    assert code == 0, said  # as advised, in the same folder
    assert scoring(tmp_path / "out") == {"precision": "fp32", "audit": None}


def test_an_audit_notes_how_far_it_is(tiny_teacher_dir: Path, corpus_file: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("raydistill.stages.audit.NOTE_SECONDS", 0.001)
    noted: list[int] = []
    notes = Mock(write=lambda name, value: noted.append(value))
    spec = TeacherSpec(str(tiny_teacher_dir), ("sport", "money"), "{}", precision="fp32", backend="torch")
    texts = [line for line in corpus_file.read_text().splitlines() if line.strip()] * 20
    audit = audit_and_note(notes, spec, spec, texts, temperature=1.0, multi_label=False)
    assert (audit.texts, audit.max_difference) == (len(texts), 0)
    assert sorted(noted) == noted
    assert len({pairs for pairs in noted if 0 < pairs <= 4 * len(texts)}) > 3


def test_openvino_labels_as_pytorch_does_and_makes_a_damaged_export_anew(
    tmp_path: Path,
    make_config: MakeConfig,
    label_by_command: LabelByCommand,
    exact: Path,
) -> None:
    said = [label_by_command(make_config(tmp_path / "out", teacher_backend="openvino"))]
    damaged = list(Path(os.environ["RAYDISTILL_CACHE"]).glob("teachers/*/model.bin"))
    assert damaged
    for file in damaged:
        file.write_bytes(file.read_bytes()[:100])
    said.append(label_by_command(make_config(tmp_path / "again", teacher_backend="openvino")))
    assert any(file.stat().st_size > 100 for file in damaged)
    assert [(code, line.count("openvino fp32 runs the teacher\n")) for code, line in said] == [(0, 1)] * 2
    for name in ("out", "again"):
        np.testing.assert_allclose(entailment(tmp_path / name), entailment(exact), atol=1e-5)


def test_int8_is_done_by_openvino_however_small_the_work(
    tmp_path: Path, make_config: MakeConfig, console: Console, exact: Path
) -> None:
    label(make_config(tmp_path / "out", teacher_precision="int8", min_agreement=0), console)
    assert scoring(tmp_path / "out")["precision"] == "int8"
    assert "teacher  openvino int8;" in console.stream.getvalue()
    off = np.abs(entailment(tmp_path / "out") - entailment(exact))
    assert 0 < off.max() < 0.2


def test_a_teacher_that_openvino_cannot_run_is_told_and_run_by_pytorch(
    tmp_path: Path, make_config: MakeConfig, label_by_command: LabelByCommand
) -> None:
    from tiny_models import UNCONVERTED, save_classifier

    teacher = {"teacher_name_or_path": str(save_classifier(tmp_path / "teacher", UNCONVERTED))}
    code, said = label_by_command(make_config(tmp_path / "out", teacher_backend="openvino", **teacher))
    assert code == 0, said
    fallback = "torch fp32 runs the teacher (OpenVINO cannot convert XLMForSequenceClassification (Conversion is failed"
    assert said.count(fallback) == 1
    code, said = label_by_command(make_config(tmp_path / "dry", teacher_backend="openvino", dry_run=True, **teacher))
    assert code == 0, said
    assert said.count(fallback) == 1
    asked_for_int8 = make_config(tmp_path / "int8", teacher_precision="int8", **teacher)
    code, said = label_by_command(asked_for_int8)
    assert code == 0, said
    told = r"--teacher-precision int8: OpenVINO cannot convert .*\. The teacher runs in fp32\n"
    assert re.search(told, said)
    assert re.search(r"  time +start-up .* s, audit .* s, label .* s, shutdown .* s, total .* s\n", said)
    code, said = label_by_command(dataclasses.replace(asked_for_int8, output_dir=str(tmp_path / "dry8"), dry_run=True))
    assert code == 0, said
    assert re.search(told, said)
    assert re.search(r"teacher +torch fp32; ", said)
    chosen = scoring(tmp_path / "int8")
    assert (chosen["precision"], chosen["audit"]["passed"]) == ("fp32", False)
    assert chosen["audit"]["fault"].startswith("--teacher-precision int8: OpenVINO cannot convert")
    code, said = label_by_command(dataclasses.replace(asked_for_int8, output_dir=str(tmp_path / "strict"), strict=True))
    assert code == 2
    assert said.splitlines()[-1].startswith("Error: --teacher-precision int8: OpenVINO cannot convert")
    kept = json.loads((tmp_path / "strict" / "run.json").read_text())["scoring"]
    assert (kept["precision"], kept["audit"]["fault"]) == (None, chosen["audit"]["fault"])
    code, said = label_by_command(make_config(tmp_path / "strict", strict=True, **teacher))
    assert code == 0, said  # as advised, in the same folder


# The same through the command line


def test_a_cache_that_cannot_be_written_is_done_without(
    label_by_command: LabelByCommand, make_config: MakeConfig, tmp_path: Path, exact: Path
) -> None:
    cache = Path(os.environ["RAYDISTILL_CACHE"])
    aside = cache.with_name("aside")
    if cache.exists():
        cache.rename(aside)
    cache.write_text("a file where the folder is to be")
    try:
        assert label_by_command(make_config(tmp_path / "out", teacher_backend="openvino"))[0] == 0
    finally:
        cache.unlink()
        if aside.exists():
            aside.rename(cache)
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert list(record["stages"]["label"]["engines"]) == ["openvino fp32"]
    np.testing.assert_allclose(entailment(tmp_path / "out"), entailment(exact), atol=1e-5)


FULL_CACHE = 'mount -t tmpfs -o size=40k none "$RAYDISTILL_CACHE" && exec "$@"'


@pytest.fixture
def label_in_a_process(tiny_teacher_dir: Path, class_names_file: Path, corpus_file: Path) -> Callable[..., Any]:
    """`raydistill label` of a backend, in a process that may be given a command to run within, and an environment."""

    def run(backend: str, out: Path, *flags: str, within: tuple[str, ...] = (), **environment: str) -> Any:
        options = {
            "data-file": corpus_file,
            "class-names-file": class_names_file,
            "output-dir": out,
            "teacher-name-or-path": tiny_teacher_dir,
            "hypothesis-template": "This text is about {}.",
            "teacher-backend": backend,
        }
        given = [f"--{name}={value}" for name, value in options.items()]
        return subprocess.run(
            [*within, sys.executable, "-m", "raydistill", "label", *given, *flags],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


@needs_mounts
def test_a_cache_that_is_full_is_done_without(
    tmp_path: Path, label_in_a_process: Callable[..., Any], exact: Path
) -> None:
    cache, out = tmp_path / "cache", tmp_path / "out"
    cache.mkdir()
    within = ("unshare", "-rm", "sh", "-c", FULL_CACHE, "sh")
    done = label_in_a_process("openvino", out, within=within, RAYDISTILL_CACHE=str(cache))
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "openvino fp32 runs the teacher" in done.stderr
    assert "the exported teacher cannot be kept" in (out / "raydistill.log").read_text()
    np.testing.assert_allclose(entailment(out), entailment(exact), atol=1e-5)


def test_a_teacher_that_cannot_be_compiled_is_told_and_stops_a_strict_run(
    tmp_path: Path, label_in_a_process: Callable[..., Any], exact: Path
) -> None:
    out, without = tmp_path / "out", {"CXX": "/nowhere/c++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor")}
    done = label_in_a_process("torch-compile", out, **without)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("torch fp32 runs the teacher (torch.compile cannot: ") == 1
    np.testing.assert_allclose(entailment(out), entailment(exact), atol=1e-5)
    done = label_in_a_process("torch-compile", tmp_path / "strict", "--strict", **without)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith("Error: --teacher-backend torch-compile: ")
    assert not list((tmp_path / "strict" / "labels").glob("*.parquet"))


def test_a_number_format_that_the_cpu_only_emulates_is_one_line(
    label_by_command: LabelByCommand, make_config: MakeConfig, tmp_path: Path
) -> None:
    from raydistill.engines import openvino_engine

    lacking = [precision for precision in ("fp16", "bf16") if openvino_engine.lacks(precision)]
    if not lacking:
        pytest.skip("this CPU has all")
    code, said = label_by_command(make_config(tmp_path / "out", teacher_precision=lacking[0]))
    assert (code, said.splitlines()[-1]) == (
        2,
        f"Error: --teacher-precision {lacking[0]}: this machine's CPU cannot compute in it. Leave it out.",
    )
    assert not (tmp_path / "out" / "labels").exists()


def test_a_pair_that_is_longer_than_a_batch_may_be_stands_alone(
    label_by_command: LabelByCommand, make_config: MakeConfig, tmp_path: Path, class_names: list[str]
) -> None:
    from tiny_models import make_tokenizer, save_classifier

    from raydistill.engines.budget import CPU_LEAST
    from raydistill.teacher import Teacher

    longest = 2 * CPU_LEAST
    teacher = save_classifier(tmp_path / "long", max_position_embeddings=longest)
    make_tokenizer("bert", model_max_length=longest).save_pretrained(teacher)
    texts = [" ".join(["rain"] * words) for words in (longest, CPU_LEAST, 3, 2)]
    (tmp_path / "corpus.txt").write_text("".join(f"{text}\n" for text in texts))
    code, said = label_by_command(
        make_config(tmp_path / "out", teacher_name_or_path=str(teacher), data_file=str(tmp_path / "corpus.txt"))
    )
    assert code == 0, said
    assert json.loads((tmp_path / "out" / "run.json").read_text())["labelling"]["max_length"] == longest
    spec = TeacherSpec(str(teacher), tuple(class_names), "This text is about {}.", backend="torch")
    store = pd.read_parquet(tmp_path / "out" / "labels").set_index("text")
    np.testing.assert_allclose(np.stack(store.entailment[texts]), Teacher.load(spec).score(texts)[0], atol=1e-5)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"teacher_backend": "openvino"},
            "--teacher-backend openvino: not installed: pip install 'raydistill[openvino]'",
        ),
        ({"teacher_precision": "int8"}, "--teacher-precision int8: not installed: pip install 'raydistill[int8]'"),
    ],
)
def test_what_is_not_installed_is_one_line_that_names_the_extra(
    options: dict,
    line: str,
    label_by_command: LabelByCommand,
    make_config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("raydistill.engines.offers.openvino_installed", lambda precision="fp32": False)
    code, said = label_by_command(make_config(tmp_path / "out", **options))
    assert (code, said.splitlines()[-1]) == (2, f"Error: {line}.")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("missing", "engine", "fallback", "options", "wanted"),
    [
        (True, "torch fp32", "", {}, " (OpenVINO may be faster on this CPU: pip install 'raydistill[openvino]')"),
        (False, "torch fp32", "", {}, ""),
        (True, "openvino fp32", "", {}, ""),  # on the nodes it is there
        (True, "torch fp32", "", {"use_gpu": True}, ""),
        (True, "torch fp32", "", {"backend": "torch"}, ""),
        (True, "torch fp32", "", {"work": 9e9}, ""),  # best for small work
        (False, "torch bf16", "torch.compile cannot: no", {"backend": "torch-compile"}, " (torch.compile cannot: no)"),
        (False, "torch-compile bf16", "", {"backend": "torch-compile", "use_gpu": True}, ""),
    ],
)
def test_another_engine_than_the_one_wanted_is_told(
    missing: bool, engine: str, fallback: str, options: dict, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raydistill.stages.label.openvino_installed", lambda precision="fp32": not missing)
    assert engine_hint(engine, TeacherSpec("teacher", ("a", "b"), "{}", **options), fallback) == wanted


def test_with_strict_a_teacher_that_openvino_cannot_run_is_one_line(
    label_by_command: LabelByCommand, make_config: MakeConfig, tmp_path: Path
) -> None:
    from tiny_models import UNCONVERTED, save_classifier

    teacher = str(save_classifier(tmp_path / "teacher", UNCONVERTED))
    code, said = label_by_command(
        make_config(tmp_path / "out", teacher_name_or_path=teacher, teacher_backend="openvino", strict=True)
    )
    assert code == 2
    assert said.splitlines()[-1].startswith(
        "Error: --teacher-backend openvino: OpenVINO cannot convert XLMForSequenceClassification"
    )

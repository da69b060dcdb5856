"""How teacher actors are laid out on GPUs, with fake ones: Ray hands them out, and a tiny teacher runs on the CPU."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import platform
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch

from raydistill.cli import main
from raydistill.config import DistillConfig
from raydistill.corpus_files import find_files
from raydistill.errors import ModelError
from raydistill.label_store import LabelStore, logits_matrix
from raydistill.progress import Console
from raydistill.resources import Request, make_plan
from raydistill.specs import TeacherSpec, TextCount, Tolerance
from raydistill.stages.audit import choose_precision
from raydistill.stages.cluster import free_nodes
from raydistill.stages.label import label_corpus
from raydistill.stages.private_ray import private_ray
from raydistill.stages.quote import quote_labelling
from raydistill.stages.teacher_actor import TeacherActor

CLASSES = ("sport", "politics")


@pytest.fixture(scope="module", autouse=True)
def two_fake_gpus(monkeypatch_module: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch_module.delenv("CUDA_VISIBLE_DEVICES", raising=False)  # Ray would find fewer than it is to pretend
    # Workers cannot import this file.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with private_ray({"num_cpus": 2, "num_gpus": 2, "log_to_driver": False}):
        yield
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def monkeypatch_module() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


class NotedTeacher:
    """A teacher on the CPU that writes down when it did what, and on which GPU it was to be."""

    def __init__(self, teacher: Any, diary: Path) -> None:
        gpus = ray.get_gpu_ids()
        self.teacher, self.diary = teacher, diary
        self.page = diary / f"{'-'.join(map(str, gpus))}.{time.time_ns()}"
        self.page.touch()

    def note(self, what: str, started: float) -> None:
        with self.page.open("a") as page:
            page.write(json.dumps([what, started, time.time()]) + "\n")

    def tokenize(self, texts: list[str]) -> Any:
        started = time.time()
        tokenized = self.teacher.tokenize(texts)
        self.note("tokenize", started)
        return tokenized

    def score_tokenized(self, tokenized: Any, effort: Any) -> Any:
        started = time.time()
        most = started + 60  # until all have begun: on a busy machine the first ones would do all of the work
        while len(list(self.diary.iterdir())) < int(self.diary.with_suffix(".actors").read_text()):
            assert time.time() < most
            time.sleep(0.1)
        time.sleep(0.3)
        logits = self.teacher.score_tokenized(tokenized, effort)
        self.note("forward", started)
        return logits


class NotedActor(TeacherActor):
    def load(self, spec: TeacherSpec) -> Any:
        assert spec.use_gpu
        diary = Path(spec.fingerprint or "")
        return NotedTeacher(super().load(dataclasses.replace(spec, use_gpu=False, backend="torch")), diary)


@pytest.mark.parametrize(("gpus_per_actor", "actors"), [pytest.param(1.0, 2, marks=pytest.mark.slow), (0.5, 4)])
def test_every_gpu_gets_its_actors_and_tokenising_goes_on_beside_them(
    gpus_per_actor: float, actors: int, tmp_path: Path, tiny_teacher_dir: Path
) -> None:
    texts = [f"one two three {i} four five six seven eight nine" for i in range(4000)]
    corpus, diary = tmp_path / "corpus.txt", tmp_path / "diary"
    corpus.write_text("".join(f"{text}\n" for text in texts))
    diary.mkdir()
    diary.with_suffix(".actors").write_text(str(actors))
    plan = make_plan(free_nodes(), Request(teacher_gpus_per_actor=gpus_per_actor, teacher_cpus_per_actor=0.05))
    assert (plan.teacher_actors_min, plan.teacher_actors_max) == (actors, actors)
    spec = TeacherSpec(
        str(tiny_teacher_dir), CLASSES, "This is {}.", fingerprint=str(diary), parameters=10**11, precision="fp32"
    )
    store = LabelStore(str(tmp_path / "labels"))
    store.folder.create()
    with Console(io.StringIO()).stage("label", "texts") as progress:
        counts = label_corpus(
            find_files([str(corpus)]),
            "text",
            spec,
            store,
            plan,
            progress,
            file_bytes=1 << 20,
            most_rejected=0,
            tolerance=Tolerance(),
            actor=NotedActor,
        )
    assert (counts.texts, counts.labelled) == (4000, 4000)

    pages = list(diary.iterdir())
    used = Counter(page.name.split(".")[0] for page in pages)
    assert set(used) == {"0", "1"}
    assert max(used.values()) <= actors // 2
    beside = 0
    for page in pages:
        noted = [json.loads(line) for line in page.read_text().splitlines()]
        forwards = sorted((start, end) for what, start, end in noted if what == "forward")
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(forwards))
        tokenized = [(start, end) for what, start, end in noted if what == "tokenize"]
        beside += sum(any(a < start and end < b for a, b in forwards) for start, end in tokenized)
    assert beside >= len(pages)

    from raydistill.teacher import Teacher

    entailment, _ = Teacher.load(dataclasses.replace(spec, backend="torch")).score(texts[:50])
    found = {
        text: row
        for name in store.parts()
        for table in store.read_part(name)
        for text, row in zip(table["text"].to_pylist(), logits_matrix(table["entailment"], 2), strict=True)
    }
    np.testing.assert_allclose([found[text] for text in texts[:50]], entailment, atol=1e-5)


@pytest.mark.skipif(torch.cuda.is_available(), reason="wants a GPU that PyTorch cannot use")
def test_a_gpu_that_pytorch_cannot_use_is_one_line_that_names_the_machine(
    tmp_path: Path, tiny_teacher_dir: Path
) -> None:
    corpus, store, console = tmp_path / "corpus.txt", LabelStore(str(tmp_path / "labels")), Console(io.StringIO())
    corpus.write_text("a text\n")
    plan = make_plan(free_nodes(), Request(teacher_actors="1"))
    spec = TeacherSpec(str(tiny_teacher_dir), CLASSES, "This is {}.")
    told = rf"the teacher cannot be tried on {re.escape(platform.node())} \(\w+: [^\n]+\)\. The log has more\.$"
    with pytest.raises(ModelError, match=told):
        choose_precision(DistillConfig(), spec, lambda: ["a text"], plan, console, pytest.fail)
    spec = dataclasses.replace(spec, precision="fp32")
    files, known = find_files([str(corpus)]), store.known_texts([])
    with pytest.raises(ModelError, match=told):
        quote_labelling(files, "text", TextCount(1, True), spec, known, plan, console, tolerance=Tolerance())


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--teacher-precision", "int8"], "--teacher-precision int8 is for CPUs"),
        (["--teacher-backend", "openvino"], "--teacher-backend openvino is for CPUs"),
        pytest.param(
            ["--teacher-precision", "bf16"],
            "--teacher-precision bf16: this machine's GPU cannot compute in it",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="wants a GPU that PyTorch cannot use"),
        ),
    ],
)
def test_what_a_gpu_cannot_do_is_one_line_of_the_command(
    flags: list[str], line: str, tmp_path: Path, good: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    given = [token for pair in good.items() for token in pair]
    assert main(["label", *given, *flags]) == 2
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith(f"Error: {line}")
    assert not (tmp_path / "out" / "labels").exists()

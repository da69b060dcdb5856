"""Real processes are killed; the same command goes on."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pytest
import ray
from processes import (
    AS_ANYBODY,
    begin,
    command,
    environment,
    kill_when,
    meanwhile,
    needs_setpriv,
    run,
    stop_when,
    workers_at,
)
from ray.util import placement_group, placement_group_table, remove_placement_group
from safetensors.torch import load_file

from raydistill import DistillConfig, label, train
from raydistill.corpus_files import find_files
from raydistill.errors import DeviceLostError, FaultError, ModelError, RaydistillError
from raydistill.label_store import LabelStore
from raydistill.progress import Console, Progress
from raydistill.resources import Request, make_plan
from raydistill.specs import TeacherSpec, Tolerance
from raydistill.stages.cluster import free_nodes, in_a_worker
from raydistill.stages.faults import job_actors, our_errors
from raydistill.stages.forks import SWITCH
from raydistill.stages.label import Counts, label_corpus
from raydistill.stages.teacher_actor import TeacherActor, teacher_task
from raydistill.teacher import Teacher


class BrokenActor(TeacherActor):
    """Cannot load, as where the GPU is full."""

    def load(self, spec: TeacherSpec) -> Any:
        raise RuntimeError("CUDA error: out of memory")


class DyingActor(TeacherActor):
    """Is gone as soon as it loads, as by the kernel's hand where the memory is full."""

    def load(self, spec: TeacherSpec) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)


class UnluckyActor(TeacherActor):
    """Loses its GPU, as it believes, with its first block, and its life when the next ones are half and wholly written.

    After that it cannot be loaded for once, though it could before.
    """

    def load(self, spec: TeacherSpec) -> Any:
        events = ("lost", "torn", "died", "refused")
        lost, torn, died, refused = (Path(f"{spec.name_or_path}.{what}") for what in events)
        if died.exists() and not refused.exists():
            refused.touch()
            raise ModelError("the teacher cannot be read.")  # as where a network disk is away for a moment
        teacher = super().load(spec)

        def score_tokenized(tokenized: Any, effort: Any) -> Any:
            if not lost.exists():
                lost.touch()
                raise DeviceLostError("the GPU is lost")
            return Teacher.score_tokenized(teacher, tokenized, effort)

        def write_part(table: pa.Table) -> tuple[str, int]:
            if not torn.exists():
                torn.touch()
                with self.store.folder.draft() as draft:
                    draft.sink.write(b"PAR1 and half of it")
                    draft.sink.flush()
                    os.kill(os.getpid(), signal.SIGKILL)
            written = LabelStore.write_part(self.store, table)
            if not died.exists():
                died.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return written

        object.__setattr__(self.store, "write_part", write_part)
        teacher.score_tokenized = score_tokenized
        return teacher


class MortalActor(TeacherActor):
    """Is gone as soon as its teacher scores a certain text, as by a fault in the model's own machine code."""

    def load(self, spec: TeacherSpec) -> Any:
        teacher, last = super().load(spec), [""]

        def tokenize(texts: list[str]) -> Any:
            last[:] = texts
            return Teacher.tokenize(teacher, texts)

        def score_tokenized(tokenized: Any, effort: Any) -> Any:
            if any(text.startswith("text 7 ") for text in last):
                os.kill(os.getpid(), signal.SIGKILL)
            return Teacher.score_tokenized(teacher, tokenized, effort)

        teacher.tokenize, teacher.score_tokenized = tokenize, score_tokenized
        return teacher


class IdleActor(TeacherActor):
    """Never has a block done."""

    def __call__(self, packed: pa.Table) -> pa.Table:
        time.sleep(3600)
        return packed


@pytest.fixture(scope="module", autouse=True)
def actors_that_travel() -> Iterator[None]:
    """By value: workers cannot import this module."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture
def label_with(tmp_path: Path, tiny_teacher_dir: Path, console: Console) -> Callable[..., tuple[Counts, LabelStore]]:
    """Labels so many texts with an actor of some type."""

    def label_with(actor: type, tolerance: Tolerance, texts: int, most_rejected: int = 0) -> tuple[Counts, LabelStore]:
        corpus, store = tmp_path / "corpus.txt", LabelStore(str(tmp_path / "labels"))
        corpus.write_text("".join(f"text {i} {'again and ' * 40}once\n" for i in range(texts)))
        store.folder.create()
        spec = TeacherSpec(str(tiny_teacher_dir), ("sport", "art", "money"), "This is {}.", backend="torch")
        with console.stage("label", "texts", texts) as progress:
            plan = make_plan(free_nodes(), Request())
            counts = label_corpus(
                find_files([str(corpus)]),
                "text",
                spec,
                store,
                plan,
                progress,
                file_bytes=1 << 28,
                most_rejected=most_rejected,
                tolerance=tolerance,
                actor=actor,
            )
        return counts, store

    return label_with


def test_an_actor_and_tasks_that_are_killed_and_a_lost_gpu_cost_no_label(
    label_with: Callable[..., tuple[Counts, LabelStore]],
    tiny_teacher_dir: Path,
) -> None:
    spared = {"MapWorker", "ReadCorpusSource"}

    def kill() -> bool:
        for title in sorted(spared):
            for process in workers_at(title)[:1]:
                with contextlib.suppress(psutil.NoSuchProcess):  # it may end by itself meanwhile
                    process.kill()
                    spared.remove(title)
        return not spared

    with meanwhile(kill):
        counts, store = label_with(UnluckyActor, Tolerance(block_seconds=0.1, max_failures=8), 3000)
    assert not spared
    assert Path(f"{tiny_teacher_dir}.lost").exists()
    assert Path(f"{tiny_teacher_dir}.torn").exists()
    assert Path(f"{tiny_teacher_dir}.died").exists()
    assert Path(f"{tiny_teacher_dir}.refused").exists()
    assert (counts.texts, counts.labelled) == (3000, 3000)
    texts = [text for name in store.parts() for table in store.read_part(name) for text in table["text"].to_pylist()]
    assert len(texts) == len(set(texts)) == 3000


def test_a_teacher_that_takes_its_process_down_as_it_loads_waits_the_longer(tmp_path: Path) -> None:
    class FragileActor(TeacherActor):
        """Dies twice as it loads; notes down how many deaths it waits for before it tries."""

        def __init__(self, spec: TeacherSpec, store: LabelStore) -> None:
            import raydistill.stages.teacher_actor as module

            module.back_off = lambda deaths: self.waits_for(spec, deaths)
            super().__init__(spec, store)

        def waits_for(self, spec: TeacherSpec, deaths: int) -> None:
            with Path(spec.name_or_path).open("a") as waits:
                waits.write(f"{deaths} ")

        def load(self, spec: TeacherSpec) -> Any:
            if len(Path(spec.name_or_path).read_text().split()) < 3:
                os.kill(os.getpid(), signal.SIGKILL)

        def pid(self) -> int:
            return os.getpid()

    waits = tmp_path / "waits"
    spec = TeacherSpec(str(waits), ("sport", "art"), "{}")
    remote: Any = ray.remote(num_cpus=0.1, max_restarts=-1, max_task_retries=-1)(FragileActor)
    actor = remote.remote(spec, LabelStore(str(tmp_path)))
    os.kill(ray.get(actor.pid.remote(), timeout=180), signal.SIGKILL)  # later than that is no load's fault
    assert ray.get(actor.pid.remote(), timeout=180)
    assert waits.read_text() == "0 1 2 0 "


def test_a_task_whose_process_dies_is_told_as_what_it_was() -> None:
    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    task = teacher_task(die, make_plan(free_nodes(), Request()))
    with (
        pytest.raises(FaultError, match=r"^the process that did it died \(.*same command goes on"),
        our_errors("the process that did it died"),
    ):
        ray.get(task.remote(), timeout=300)


def test_ctrl_c_while_ray_starts_leaves_no_process(
    tmp_path: Path, make_config: Callable[..., DistillConfig], corpus_file: Path
) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text(corpus_file.read_text())
    config = make_config(tmp_path / "out", data_file=str(corpus))
    with subprocess.Popen(
        command(config, "label"), stderr=subprocess.PIPE, text=True, start_new_session=True, env=environment()
    ) as process:
        others: list[psutil.Process] = []

        def agent_is_there() -> bool:
            others[:] = psutil.Process(process.pid).children(recursive=True)
            titles = []
            for other in others:
                with contextlib.suppress(psutil.NoSuchProcess):
                    titles.append(" ".join(other.cmdline()))
            return any("agent" in title.lower() for title in titles if "raylet/raylet" not in title)

        deadline = time.monotonic() + 120
        while not agent_is_there():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        said = process.communicate(timeout=120)[1]
    assert process.returncode == 130
    assert said.splitlines()[-1].startswith("Error: stopped.")
    left = psutil.wait_procs(others, timeout=15)[1]
    assert not left, left
    assert not (tmp_path / "out").exists()


def test_what_takes_a_worker_down_is_done_here_and_what_it_says_comes_through() -> None:
    def where(driver: int, dies: bool) -> int:
        if os.getpid() == driver:
            return driver
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)
        raise ModelError("--student-name-or-path x: is none.")

    assert in_a_worker(where, os.getpid(), True) == os.getpid()
    with pytest.raises(ModelError, match=r"^--student-name-or-path x: is none\.$"):
        in_a_worker(where, os.getpid(), False)


def test_a_text_that_takes_its_teacher_down_with_it_is_set_aside(
    label_with: Callable[..., tuple[Counts, LabelStore]],
) -> None:
    counts, store = label_with(MortalActor, Tolerance(), 30, most_rejected=1)  # a single block
    assert (counts.texts, counts.labelled, counts.rejected) == (29, 29, 1)
    rejected = pd.read_json(store.folder.where("_rejected.jsonl"), lines=True)
    assert [rejected.text[0][:7], rejected.reason[0]] == ["text 7 ", "it takes the teacher's process down"]
    found = pd.concat([table.to_pandas() for part in store.parts() for table in store.read_part(part)])
    assert sorted(found.text.str.split().str[1].astype(int)) == [i for i in range(30) if i != 7]
    assert np.isfinite(np.stack(found.entailment)).all()


@pytest.mark.parametrize(
    ("actor", "tolerance", "wanted"),
    [
        (DyingActor, Tolerance(max_failures=1), r"actors died \d times and nothing got done"),
        pytest.param(
            *(
                BrokenActor,
                Tolerance(),
                r"the teacher cannot be loaded on \S+ \(RuntimeError: CUDA error: out of memory\)",
            ),
            marks=pytest.mark.slow,
        ),
        (IdleActor, Tolerance(stall_seconds=12), "no progress for 12 s"),
    ],
)
def test_what_gets_nowhere_ends_in_one_clear_error(
    actor: type,
    tolerance: Tolerance,
    wanted: str,
    label_with: Callable[..., tuple[Counts, LabelStore]],
    console: Console,
) -> None:
    began = time.monotonic()
    with pytest.raises(RaydistillError, match=wanted):
        label_with(actor, tolerance, 100)
    assert time.monotonic() - began < 60
    assert free_nodes()[0].cpus == ray.cluster_resources()["CPU"]
    if actor is IdleActor:
        assert re.search(r"MapWorker.*, process \d+ on ", console.stream.getvalue())  # type: ignore[attr-defined]


WAYWARD = """
import os, pathlib, signal, time
from transformers import BertForSequenceClassification

class Own(BertForSequenceClassification):
    @classmethod
    def from_pretrained(cls, *arguments, config, **options):
        if options.get("device_map") != "meta":  # as the driver looks at its weights
            if config.wayward == "raises":
                raise RuntimeError("it has a mind of its own")
            if config.wayward == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
        return super().from_pretrained(*arguments, config=config, **options)

    def forward(self, *arguments, **inputs):
        pathlib.Path(self.config.asleep).touch()
        time.sleep(3600)
"""


def wayward(folder: Path, behaviour: str, role: str = "teacher") -> dict[str, Any]:
    """Options for a model with code of its own that is up to no good: "raises" or "dies" as it loads, or "sleeps"."""
    from tiny_models import bring_class, save_classifier, save_encoder

    saved = save_classifier(folder) if role == "teacher" else save_encoder(folder)
    bring_class(saved, WAYWARD, wayward=behaviour, asleep=f"{folder}.asleep")
    return {f"{role}_name_or_path": str(folder), "teacher_backend": "torch", "trust_remote_code": True}


def expect_one_line(config: DistillConfig, command: str, behaviour: str, wanted: str) -> None:
    """That a command with a wayward model ends soon, with the traceback in the log where there was one."""
    began = time.monotonic()
    process = begin(config, command, lambda: True)
    said = process.communicate(timeout=300)[1]
    assert time.monotonic() - began < 200  # a minute, where machines are not slow
    assert process.returncode == 2
    assert re.match(wanted, said.splitlines()[-1])
    assert "Traceback" not in said
    log = Path(config.output_dir or "", "raydistill.log").read_text()
    assert behaviour == "dies" or re.search(r"Traceback(.|\n)*in from_pretrained\n(.|\n)*mind of its own", log)


@pytest.mark.parametrize(
    ("behaviour", "wanted"),
    [
        ("raises", r"Error: the teacher cannot be loaded on \S+ \(RuntimeError: it has a mind of its own\)\."),
        pytest.param(
            *("dies", r"Error: label: actors died \d times and nothing got done\. The log has what they said last; .*"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_teacher_that_never_loads_is_one_line_within_a_minute_and_a_traceback_in_the_log(
    behaviour: str,
    wanted: str,
    tmp_path: Path,
    make_config: Callable[..., DistillConfig],
    corpus_lines: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(SWITCH, "0")  # as where there are GPUs
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(corpus_lines))
    options = wayward(tmp_path / "model", behaviour) | {"max_failures": 0}
    config = make_config(tmp_path / "out", data_file=str(corpus), **options)
    expect_one_line(config, "label", behaviour, wanted)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("behaviour", "wanted"),
    [
        ("raises", r"Error: train workers failed more often .* \(RuntimeError: it has a mind of its own\)\."),
        ("dies", r"Error: train workers failed more often than --max-failures allows .* The log has more\."),
    ],
)
def test_a_student_that_never_loads_is_one_line_within_a_minute_and_a_traceback_in_the_log(
    behaviour: str, wanted: str, tmp_path: Path, make_config: Callable[..., DistillConfig], labels: str
) -> None:
    config = make_config(tmp_path / "out", labels=labels, **wayward(tmp_path / "model", behaviour, "student"))
    expect_one_line(config, "train", behaviour, wanted)


@pytest.mark.slow
def test_a_block_that_outlasts_the_grace_is_dropped(
    tmp_path: Path, make_config: Callable[..., DistillConfig], corpus_lines: list[str]
) -> None:
    corpus, model = tmp_path / "corpus.txt", wayward(tmp_path / "model", "sleeps")
    corpus.write_text("\n".join(corpus_lines))
    config = make_config(tmp_path / "out", data_file=str(corpus), grace=2.0, **model)
    began = []

    def asleep() -> bool:
        if Path(f"{tmp_path}/model.asleep").exists():
            began.append(time.monotonic())
        return bool(began)

    stop_when(asleep, config, "label", signal.SIGINT)
    assert 2 < time.monotonic() - began[0] < 20
    assert not list((tmp_path / "out" / "labels").glob("*.parquet"))


def test_labelling_that_was_killed_goes_on_and_makes_no_label_again(
    tmp_path: Path, make_config: Callable[..., DistillConfig], tiny_teacher_dir: Path, class_names: list[str]
) -> None:
    corpus = tmp_path / "corpus.txt"
    lines = [f"text {i} about {['money', 'art', 'sport'][i % 3]} {'again and ' * 40}once" for i in range(2400)]
    corpus.write_text("".join(f"{line}\n" for line in [*lines, *lines[:100]]))
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / "notes.txt").write_text("of an earlier attempt")
    options = {"data_file": str(corpus), "teacher_max_length": 256, "block_seconds": 0.1, "teacher_backend": "torch"}
    # As a job that is started again gives it, too: what it has begun itself is not overwritten.
    killed = make_config(tmp_path / "killed", **options, overwrite_output_dir=True)
    labels = tmp_path / "killed" / "labels"

    kill_when(lambda: len(list(labels.glob("*.parquet"))) >= 3, killed, "label")

    before = set(labels.glob("*.parquet"))
    known = set(pd.concat(map(pd.read_parquet, before)).text)
    # What is known comes last, so that the block under way at the stop is not of that alone: no file comes of such.
    corpus.write_text("".join(f"{line}\n" for line in sorted([*lines, *lines[:100]], key=known.__contains__)))
    said = stop_when(lambda: len(set(labels.glob("*.parquet")) - before) >= 2, killed, "label", signal.SIGINT)
    assert re.search(r"label  [\d,]+ of 2,500 texts", said)
    assert before <= set(labels.glob("*.parquet"))
    assert len(set(labels.glob("*.parquet")) - before) >= 3  # the block that was under way too
    kept = {path: pd.read_parquet(path) for path in labels.glob("*.parquet")}
    assert 0 < (finished := len(set(pd.concat(kept.values()).text))) < 2400
    # Where a text stands, and in which block, makes no difference.
    corpus.write_text("".join(f"{line}\n" for line in reversed([*lines, *lines[:100]])))
    label(dataclasses.replace(killed, block_seconds=0.25, overwrite_output_dir=False))

    after = pd.concat(map(pd.read_parquet, labels.glob("*.parquet"))).drop_duplicates("text").set_index("text")
    before = pd.concat(kept.values()).drop_duplicates("text").set_index("text")
    assert after.entailment[before.index].map(tuple).equals(before.entailment.map(tuple))
    record = json.loads((tmp_path / "killed" / "run.json").read_text())
    assert record["stages"]["label"]["labelled"] <= 2400 - finished + 100  # duplicates at one time in two blocks
    found = pd.read_parquet(labels).groupby("text").agg({"occurrences": "sum", "entailment": "first"})
    assert found.occurrences.to_dict() == {line: 1 + (i < 100) for i, line in enumerate(lines)}
    spec = TeacherSpec(
        str(tiny_teacher_dir), tuple(class_names), "This text is about {}.", max_length=256, backend="torch"
    )
    some = lines[::24]
    expected = Teacher.load(spec).score(some)[0]
    np.testing.assert_allclose(np.stack(found.entailment[some]), expected, atol=1e-5)


@pytest.mark.slow  # a full disk, in the suite, is told in the same way
@needs_setpriv
def test_a_folder_that_may_no_longer_be_written_is_one_line_and_when_it_may_be_the_run_goes_on(
    tmp_path: Path, make_config: Callable[..., DistillConfig]
) -> None:
    corpus, labels = tmp_path / "corpus.txt", tmp_path / "out" / "labels"
    corpus.write_text("".join(f"text {i} {'again and ' * 40}once\n" for i in range(1500)))
    config = make_config(tmp_path / "out", data_file=str(corpus), block_seconds=0.1)

    process = begin(config, "label", lambda: any(labels.glob("*.parquet")), AS_ANYBODY)
    labels.chmod(0o555)
    said = process.communicate(timeout=180)[1]
    labels.chmod(0o755)
    assert process.returncode == 2, said
    (error,) = [line for line in said.splitlines() if line.startswith("Error: ")]
    assert f"{labels}: cannot be written" in error
    assert "Permission denied" in error
    assert "the same command goes on" in error
    assert "Traceback" not in said

    kept = {path: path.stat().st_mtime_ns for path in labels.glob("*.parquet")}
    run(config, "label")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert len(pd.read_parquet(labels).text.unique()) == 1500
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert 0 < record["stages"]["label"]["known"] < 1500


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory, make_config: Callable[..., DistillConfig]) -> str:
    """Where 400 texts are labelled."""
    folder = tmp_path_factory.mktemp("labelled")
    corpus = folder / "corpus.txt"
    corpus.write_text("".join(f"text {i} about {['money', 'art', 'sport'][i % 3]}\n" for i in range(400)))
    result = label(make_config(folder / "out", data_file=str(corpus)))
    assert result.labels
    return result.labels


def test_training_that_stands_still_leaves_nothing_at_work_in_a_ray_that_goes_on(
    tmp_path: Path, make_config: Callable[..., DistillConfig], labels: str
) -> None:
    taken: list[Any] = []

    class TakenByOthers(Console):
        """As soon as there is a plan, others take what it needs."""

        def say(self, text: str = "") -> None:
            super().say(text)
            if text.startswith("plan"):
                taken.append(placement_group([{"CPU": ray.cluster_resources()["CPU"]}]))
                assert taken[0].wait(10)

    console = TakenByOthers(io.StringIO())
    with pytest.raises(FaultError, match=r"train: no progress for 6\.0 s"):
        train(make_config(tmp_path, labels=labels, stall_timeout=0.1), console)
    assert "TrainController" in console.stream.getvalue()
    assert not [actor for actor in job_actors() if "Controller" in actor["ActorClassName"] and actor["State"] != "DEAD"]
    remove_placement_group(taken[0])
    deadline = time.monotonic() + 30  # Ray removes what was reserved by and by
    while left := [group for group in placement_group_table().values() if group["state"] != "REMOVED"]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


class Follows(Console):
    """Keeps what is said, and how many steps were done at last; then calls something."""

    def __init__(self, call: Callable[[], Any]) -> None:
        super().__init__(io.StringIO())
        self.done, self._call = 0, call

    def stage(self, name: str, unit: str, total: int | None = None) -> Progress:
        progress = super().stage(name, unit, total)
        update = progress.update

        def follow(done: int, *more: Any, **others: Any) -> None:
            self.done = done
            self._call()
            update(done, *more, **others)

        progress.update = follow  # type: ignore[method-assign]
        return progress


@dataclasses.dataclass
class Training:
    """A training of 600 updates with checkpoints: what is disturbed, and the folder of the same one undisturbed."""

    config: DistillConfig
    whole: Path
    # All checkpoints that were seen, in order, and after how many updates each was made.
    checkpoints: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return Path(str(self.config.output_dir))

    def updates(self) -> int:
        """After how many the last checkpoint was made."""
        snapshot = self.folder / "checkpoints" / "checkpoint_manager_snapshot.json"
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            found = json.loads(snapshot.read_text())["checkpoint_results"]
            metrics = {result["checkpoint_dir_name"]: result["metrics"] for result in found}
            made = {name: reported["updates"] for name, reported in metrics.items() if "updates" in reported}
            self.checkpoints.update(made)
            return max(made.values(), default=0)
        return 0

    def finish(self, *acts: Callable[[Follows], bool]) -> str:
        """Go on to the end, under what is done to it meanwhile, in this order; what was said.

        The student is the undisturbed one, to the last bit.
        """
        reached, console = self.updates(), Follows(self.updates)
        with meanwhile(*(partial(act, console) for act in acts)) as done:
            train(self.config, console)
        assert len(done) == len(acts)
        said = console.stream.getvalue()  # type: ignore[attr-defined]
        assert f"train  goes on after {reached} updates" in said
        assert len(self.checkpoints) >= 3
        assert list(self.checkpoints.values()) == sorted(self.checkpoints.values())  # none was made from the beginning
        folders = (self.whole, self.folder)
        records = [json.loads((folder / "run.json").read_text()) for folder in folders]
        assert records[0]["stages"]["train"]["updates"] == records[1]["stages"]["train"]["updates"] == 600
        expected, found = (load_file(folder / "model.safetensors") for folder in folders)
        for name in expected:
            assert np.array_equal(found[name].numpy(), expected[name].numpy()), name
        assert not (self.folder / "checkpoints").exists()
        return said


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, make_config: Callable[..., DistillConfig], labels: str) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    train(make_config(folder, labels=labels, **LONG_TRAINING))
    return folder


LONG_TRAINING = {
    "per_device_train_batch_size": 4,
    "save_steps": 100,
    "num_train_epochs": 6,
    "eval_strategy": "steps",
    "eval_steps": 100,
    "load_best_model_at_end": True,
    "cpus_per_train_worker": 1.0,  # so one thread each time, whatever is free: sums are rounded alike
}


@pytest.fixture
def disturbed(tmp_path: Path, make_config: Callable[..., DistillConfig], labels: str, whole: Path) -> Training:
    return Training(make_config(tmp_path / "disturbed", labels=labels, **LONG_TRAINING), whole)


def test_training_that_is_killed_and_robbed_of_its_worker_comes_to_the_same_student(disturbed: Training) -> None:
    kill_when(lambda: disturbed.updates() > 0, disturbed.config, "train")
    reached = disturbed.updates()
    assert not (disturbed.folder / "config.json").exists()
    assert list((disturbed.folder / "checkpoints" / "rows").glob("*.rows"))  # texts are tokenised once
    assert "it/s]" not in (disturbed.folder / "raydistill.log").read_text()  # no bars of libraries

    def rob(console: Follows) -> bool:
        workers = workers_at("RayTrainWorker") if console.done > reached else []
        for worker in workers:
            worker.kill()
        return bool(workers)

    disturbed.finish(rob)


@pytest.mark.slow  # labelling, in the suite, is stopped in the same way
def test_training_that_is_stopped_makes_a_checkpoint_on_the_way_out(disturbed: Training) -> None:
    console = Follows(disturbed.updates)
    stopped_at = 0

    def stop() -> bool:
        nonlocal stopped_at
        if console.done > 150:
            stopped_at = console.done
            os.kill(os.getpid(), signal.SIGINT)
        return bool(stopped_at)

    with pytest.raises(KeyboardInterrupt), meanwhile(stop):
        train(disturbed.config, console)
    assert "stopping" in console.stream.getvalue()  # type: ignore[attr-defined]
    assert disturbed.updates() >= stopped_at > 0
    disturbed.finish()

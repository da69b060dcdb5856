"""Whole runs, by the Python API, on real Ray with tiny models."""

from __future__ import annotations

import atexit
import contextlib
import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import ray
import ray.data
from processes import stop_when, workers_at
from ray._private.state import state
from ray.core.generated import gcs_pb2
from tiny_models import MAX_LENGTH

import raydistill
from raydistill import DistillConfig, DistillResult, RaydistillError, distill, label, soft_labels, train
from raydistill.cli import main
from raydistill.errors import ConfigError
from raydistill.files import Folder
from raydistill.lease import hold
from raydistill.progress import Console
from raydistill.specs import BYTES_PER_TOKEN, TOKENIZING, TeacherSpec
from raydistill.stages import job, private_ray
from raydistill.stages.checks import Models, labels_identity
from raydistill.stages.cluster import connection
from raydistill.stages.data_context import data_settings
from raydistill.stages.faults import job_actors
from raydistill.stages.summary import advice, summary
from raydistill.verify import verify_run

MakeConfig = Callable[..., DistillConfig]
STUDENT_LENGTH = 8  # tokens, fewer than most texts have
MODELS = {"teacher_name_or_path": "teacher", "student_name_or_path": "./student"}  # beside the run of `finished`


@pytest.fixture(scope="module")
def told() -> Console:
    """What the run of `finished` had to say."""
    return Console(io.StringIO())


@pytest.fixture(scope="module")
def finished_config(
    tmp_path_factory: pytest.TempPathFactory, make_config: MakeConfig, tiny_teacher_dir: Path, tiny_student_dir: Path
) -> Iterator[DistillConfig]:
    """Every folder in it is named from where this process is; workers are elsewhere."""
    folder = tmp_path_factory.mktemp("run")
    shutil.copytree(tiny_teacher_dir, folder / "teacher")
    shutil.copytree(tiny_student_dir, folder / "student")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield make_config(Path("out"), save_strategy="epoch", report_to="tensorboard", **MODELS)


@pytest.fixture(scope="module")
def finished(finished_config: DistillConfig, told: Console) -> DistillResult:
    return distill(finished_config, told)


def test_a_mistyped_option_is_told_as_such_where_there_is_a_run_already(
    finished: DistillResult, make_config: MakeConfig
) -> None:
    mistyped = make_config(Path("out"), save_strategy="epoch", learning_rat=3, **MODELS)
    with pytest.raises(ConfigError, match=r"^No such option: --learning-rat\. Did you mean --learning-rate\?$"):
        distill(mistyped)


@pytest.mark.parametrize(
    ("figures", "told"),
    [
        ({"agreement": 0.49, "loss": 1.0}, True),
        ({"agreement": 0.79, "loss": 1.0}, True),
        ({"agreement": 0.8, "loss": 1.0}, False),
        ({"f1_macro": 0.1, "f1/sport": 0.9}, True),
        ({"f1_macro": 0.8, "f1/sport": 0.1}, False),
        ({}, False),  # nothing was evaluated
    ],
)
def test_a_student_that_has_learnt_too_little_is_told_with_what_to_try(figures: dict[str, float], told: bool) -> None:
    said = advice(figures, 2)
    assert bool(said) is told
    assert not told or ("2 updates" in said and "--num-train-epochs" in said)


def test_ray_does_not_complain_of_how_it_is_used() -> None:
    with warnings.catch_warnings(record=True) as complaints:
        warnings.simplefilter("always")
        with data_settings():
            ray.data.range(1).map_batches(lambda batch: batch, max_retries=1)
        job_actors()
    package = str(Path(raydistill.__file__).parent)
    assert not [complaint for complaint in complaints if complaint.filename.startswith((package, __file__))]


def test_no_process_of_a_private_ray_is_started_twice_for_an_environment_of_its_own(finished: DistillResult) -> None:
    rows = state._connect_and_get_accessor().get_actor_table(None, None)
    actors = [gcs_pb2.ActorTableData.FromString(row) for row in rows]
    own = {actor.class_name: actor.serialized_runtime_env for actor in actors}
    assert own.keys() >= {"TrainController", "RayTrainWorker", "SynchronizationActor", "SplitCoordinator"}
    assert set(own.values()) <= {"", "{}"}


def test_a_private_ray_has_no_agents_that_it_would_wait_for(finished: DistillResult) -> None:
    commands = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # as a worker that has ended meanwhile
            commands.append(process.cmdline())
    assert any(command[0].endswith("raylet") for command in filter(None, commands))
    agents = ("Agent", "agent.py", "agent/main.py")
    assert not [command for command in commands if any(part.endswith(agents) for part in command)]


def test_workers_of_a_private_ray_are_forks_and_draw_random_numbers_of_their_own() -> None:
    @ray.remote
    class Worker:
        def drawn(self) -> tuple[bool, str, float]:
            return "torch" in sys.modules, ray.ObjectRef.from_random().hex(), np.random.random()

    workers = [Worker.options(num_cpus=0).remote() for _ in range(3)]  # type: ignore[attr-defined]
    forked, ids, numbers = zip(*ray.get([worker.drawn.remote() for worker in workers]), strict=True)
    assert all(forked)
    assert len(set(ids)) == len(set(numbers)) == 3


def test_a_fork_that_ends_does_what_was_left_for_the_end_and_throws_nothing_away(tmp_path: Path) -> None:
    told, there = tmp_path / "told", tmp_path / "there"
    there.mkdir()

    class Kept:
        def __del__(self, remove: Callable[[str], None] = os.rmdir, folder: str = str(there)) -> None:
            remove(folder)  # by then modules may be gone

    @ray.remote
    class Worker:
        def leave(self) -> None:
            atexit.register(told.touch)
            sys.kept_to_the_end = Kept()  # type: ignore[attr-defined]
            ray.actor.exit_actor()

        def process(self) -> int:
            return os.getpid()

    worker = Worker.options(num_cpus=0).remote()  # type: ignore[attr-defined]
    process = psutil.Process(ray.get(worker.process.remote()))
    worker.leave.remote()
    process.wait(timeout=60)
    assert told.exists()
    assert there.exists()


STARTS_LATE = """
import threading, time, psutil
from raydistill.stages.cluster import connection

def delay():
    while not (found := [child for child in psutil.Process().children() if child.name() == "raylet"]):
        time.sleep(0.01)
    found[0].suspend()
    time.sleep(35)  # Ray by itself gives up after 30
    found[0].resume()

threading.Thread(target=delay).start()
with connection(None):
    print("there")
"""


ENVIRONMENT = """
import ray
from raydistill.stages.private_ray import private_ray

with private_ray({}):
    print(ray.get_runtime_context().runtime_env)
"""


@pytest.mark.parametrize("under", ["uv", "job"])
def test_workers_of_a_private_ray_have_no_environment_of_their_own(under: str, tmp_path: Path) -> None:
    (tmp_path / "run").write_text('"$PYTHON" -c "$CODE"\nexit $?\n')
    environment = {"PYTHON": sys.executable, "CODE": ENVIRONMENT, "PYTHONPATH": str(Path.cwd())}
    if under == "job":  # of a cluster that is not joined
        environment["RAY_JOB_CONFIG_JSON_ENV_VAR"] = json.dumps({"runtime_env": {"env_vars": {"A": "b"}}})
    # Ray takes for `uv run` whoever is called so.
    done = subprocess.run(
        [under, "run"],
        executable="/bin/sh",
        cwd=tmp_path,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout == "{}\n", done.stderr


def test_the_environment_of_a_private_ray_is_gone_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THEIRS", "1")
    before = dict(os.environ)
    with private_ray._environment({"OURS": "2", "THEIRS": "3"}):
        assert os.environ == before | {"OURS": "2"}
    assert os.environ == before


ENDS = """
import os, signal
from raydistill.stages.cluster import connection

signal.signal(signal.SIGTERM, lambda *_: print("asked to end", flush=True))
with connection(None):
    os.kill(os.getpid(), signal.SIGTERM)
os.kill(os.getpid(), signal.SIGTERM)
print("went on")
"""


def test_a_callers_own_handler_of_sigterm_is_there_within_and_after() -> None:
    done = subprocess.run([sys.executable, "-c", ENDS], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout.splitlines()) == (0, ["asked to end", "asked to end", "went on"]), done.stderr


def test_where_a_process_is_connected_already_another_address_is_told_to_be_left_aside(
    caplog: pytest.LogCaptureFixture,
) -> None:
    here = ray.get_runtime_context().gcs_address
    for address in (None, "local", "auto", here):
        with connection(address):
            assert not caplog.records
    with connection("192.0.2.1:6379"):
        assert ray.is_initialized()
    assert "--address 192.0.2.1:6379 is not joined" in caplog.text


@pytest.mark.slow
def test_a_private_ray_that_starts_late_is_waited_for() -> None:
    done = subprocess.run([sys.executable, "-c", STARTS_LATE], capture_output=True, text=True, timeout=300)
    assert done.stdout == "there\n", done.stderr


def test_events_for_tensorboard_are_kept(finished: DistillResult) -> None:
    (file,) = Path(finished.output_dir, "runs").glob("events.out.tfevents.*")
    events = file.read_bytes()
    assert b"train/train_loss" in events
    assert b"eval/agreement" in events


def test_folders_may_be_named_from_where_one_is(finished: DistillResult) -> None:
    assert finished.output_dir == str(Path("out").absolute())
    assert finished.labels == str(Path("out/labels").absolute())


def store_of(folder: Path | str) -> pd.DataFrame:
    return pd.read_parquet(f"{folder}/labels").sort_values("text_id", ignore_index=True)


def test_counts_are_those_of_the_corpus(finished: DistillResult, corpus_counts) -> None:
    assert finished.counts["texts"] == corpus_counts.texts
    assert finished.counts["distinct"] == corpus_counts.distinct
    assert finished.counts["duplicates"] == corpus_counts.texts - corpus_counts.distinct
    assert finished.counts["blanks"] == corpus_counts.blanks
    assert finished.counts["pairs"] == corpus_counts.texts * 5


def test_the_store_holds_every_text_as_often_as_the_corpus(finished: DistillResult, corpus_lines: list[str]) -> None:
    store = store_of(finished.output_dir)
    held = store.groupby("text").occurrences.sum().to_dict()
    assert held == Counter(line.strip() for line in corpus_lines if line.strip())


def test_logits_are_those_of_the_seed_scripts_loop(
    finished: DistillResult, tiny_teacher_dir: Path, class_names: list[str]
) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(tiny_teacher_dir).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_teacher_dir)
    store = store_of(finished.output_dir)
    pairs = [(text, f"This text is about {name}.") for text in store.text for name in class_names]
    logits = []
    for at in range(0, len(pairs), 32):
        texts, hypotheses = zip(*pairs[at : at + 32], strict=True)
        inputs = tokenizer(list(texts), list(hypotheses), padding=True, truncation="only_first", return_tensors="pt")
        with torch.no_grad():
            logits.append(model(**inputs).logits)
    expected = torch.cat(logits).reshape(len(store), 5, -1).numpy()
    ids = {name.lower(): i for name, i in model.config.label2id.items()}
    np.testing.assert_allclose(np.stack(store.entailment), expected[..., ids["entailment"]], atol=1e-5)
    np.testing.assert_allclose(np.stack(store.contradiction), expected[..., ids["contradiction"]], atol=1e-5)


def test_agreement_is_the_share_of_texts_with_the_same_top_class(finished: DistillResult) -> None:
    from raydistill.student import load_trained_student, predict

    store = store_of(finished.output_dir)
    student = predict(*load_trained_student(finished.output_dir), list(store.text)).argmax(-1)
    same = (student == np.stack(store.entailment).argmax(-1)) * store.occurrences
    assert finished.figures["agreement"] == pytest.approx(same.sum() / store.occurrences.sum())


def test_the_stock_pipeline_loads_the_student_and_names_the_classes(
    finished: DistillResult, class_names: list[str]
) -> None:
    from transformers import pipeline

    answers = pipeline("text-classification", model=finished.output_dir, top_k=None)(["one two", "three"])
    assert [{answer["label"] for answer in row} for row in answers] == [set(class_names)] * 2
    assert [sum(answer["score"] for answer in row) for row in answers] == pytest.approx([1, 1])


def test_the_run_directory_holds_no_pickle_and_no_checkpoint(finished: DistillResult) -> None:
    names = {path.name for path in Path(finished.output_dir).iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "labels", "run.json"} <= names
    assert not [name for name in names if name.endswith(".bin") or name.startswith((".", "checkpoint"))]


def test_run_json_says_how_the_run_went(finished: DistillResult, corpus_counts) -> None:
    record = json.loads(Path(finished.output_dir, "run.json").read_text())
    steps = math.ceil(corpus_counts.texts / 16)
    assert record["stages"]["train"]["updates"] == 2 * steps
    assert record["options"]["training"]["num_train_epochs"] == 2
    assert record["counts"]["texts"] == corpus_counts.texts
    assert record["figures"]["agreement"] == finished.figures["agreement"]
    assert record["plan"]["train_workers"] == 1
    assert {"ray", "torch", "transformers"} <= record["versions"].keys()


def test_run_json_and_the_summary_say_where_trainings_time_went(finished: DistillResult, told: Console) -> None:
    stage = json.loads(Path(finished.output_dir, "run.json").read_text())["stages"]["train"]
    parts = stage["worker_seconds"]
    assert parts.keys() == {"loading", "data", "steps", "between", "evaluation", "checkpoints"}
    assert min(parts.values()) > 0
    assert sum(parts.values()) < stage["seconds"]
    line = next(line for line in told.stream.getvalue().splitlines() if line.startswith("  training"))
    shares = dict(re.findall(r"([a-z-]+) ([0-9.]+)%", line))
    assert float(shares["steps"]) == pytest.approx(100 * parts["steps"] / stage["seconds"], abs=0.06)
    assert sum(map(float, shares.values())) == pytest.approx(100, abs=0.3)
    assert 0 < stage["padding"] < 0.5
    assert f"updates, {stage['padding']:.1%} padding; its time" in line


def test_the_same_command_again_makes_nothing_anew(
    finished: DistillResult, finished_config: DistillConfig, console: Console
) -> None:
    before = {
        p: p.stat().st_mtime_ns for p in Path(finished.output_dir).rglob("*") if p.name != "run.json" and p.is_file()
    }
    again = distill(finished_config, console)
    after = {
        p: p.stat().st_mtime_ns for p in Path(finished.output_dir).rglob("*") if p.name != "run.json" and p.is_file()
    }
    assert after == before
    assert again.figures == finished.figures
    assert console.stream.getvalue().count("done before") == 2


def test_labels_that_another_teacher_has_made_are_others_wherever_it_lies(finished: DistillResult) -> None:
    record = json.loads(Path(finished.labels, "_labels.json").read_text())
    same, other = (record | {"labelling": dict(record["labelling"])} for _ in range(2))
    same["labelling"]["teacher"] = "/elsewhere"
    other["labelling"]["teacher_fingerprint"] = "of others"
    assert labels_identity(same) == labels_identity(record) != labels_identity(other)
    trained_on = json.loads(Path(finished.output_dir, "run.json").read_text())["stages"]["train"]["labels"]
    assert trained_on == labels_identity(record)


def test_other_options_in_the_same_directory_are_refused_and_listed(
    finished: DistillResult, make_config: MakeConfig
) -> None:
    with pytest.raises(RaydistillError, match=r"--temperature was 1.0, now 2.0; --learning-rate was 0.001, now 0.1"):
        distill(make_config(Path("out"), save_strategy="epoch", **MODELS, temperature=2.0, learning_rate=0.1))


@pytest.mark.parametrize("strategy", ["no", "epoch"])
def test_after_a_training_that_diverges_one_with_the_options_that_are_advised_may_follow(
    strategy: str, tmp_path: Path, make_config: MakeConfig
) -> None:
    config = make_config(tmp_path / "out", save_strategy=strategy, learning_rate=1e38)
    with pytest.raises(RaydistillError, match=r"the training has diverged: .* Try a lower --learning-rate"):
        distill(config)
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (record["stages"]["train"]["finished"], record["stages"]["label"]["finished"]) == (False, True)
    result = distill(make_config(tmp_path / "out", save_strategy=strategy))
    assert "label" not in result.seconds
    assert result.figures["loss"] < 5


def test_a_second_run_in_the_same_directory_is_refused(tmp_path: Path, make_config: MakeConfig) -> None:
    (tmp_path / "out").mkdir()
    with (
        hold(Folder(str(tmp_path / "out")), print),
        pytest.raises(RaydistillError, match="out: another run is at work there"),
    ):
        label(make_config(tmp_path / "out"))
    assert not (tmp_path / "out" / "run.json").exists()
    assert not (tmp_path / "out" / "labels").exists()


def test_what_another_run_does_before_this_one_holds_the_directory_is_seen(
    tmp_path: Path, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_plan = job.make_plan

    def another_comes_and_goes(*given: Any, **more: Any) -> Any:
        monkeypatch.undo()
        label(make_config(tmp_path / "out", hypothesis_template="It is {}."))
        return make_plan(*given, **more)

    monkeypatch.setattr(job, "make_plan", another_comes_and_goes)
    with pytest.raises(RaydistillError, match=r"--hypothesis-template was It is \{\}\., now "):
        label(make_config(tmp_path / "out"))


def test_labels_that_another_run_trains_from_are_not_overwritten(
    finished: DistillResult, tmp_path: Path, make_config: MakeConfig
) -> None:
    labels = Path(shutil.copytree(finished.labels, tmp_path / "out" / "labels"))
    shutil.copy(Path(finished.output_dir, "run.json"), tmp_path / "out")
    held = sorted(labels.iterdir())
    with (
        hold(Folder(str(labels)), print, shared=True),
        pytest.raises(RaydistillError, match="labels: another run is at work there"),
    ):
        label(make_config(tmp_path / "out", overwrite_output_dir=True))
    assert sorted(labels.iterdir()) == held


@pytest.mark.slow
def test_a_signal_while_training_starts_stops_it(
    tmp_path: Path, make_config: MakeConfig, finished: DistillResult
) -> None:
    others = {worker.pid for worker in workers_at("RayTrainWorker")}
    config = make_config(tmp_path, labels=finished.labels)
    said = stop_when(
        lambda: any(w.pid not in others for w in workers_at("RayTrainWorker")), config, "train", signal.SIGINT
    )
    assert "train  starting" in said
    assert not (tmp_path / "model.safetensors").exists()
    assert not json.loads((tmp_path / "run.json").read_text())["stages"]["train"]["finished"]


@pytest.mark.slow
def test_training_that_was_stopped_goes_on_with_other_workers_and_makes_as_many_updates(
    tmp_path: Path, make_config: MakeConfig, finished: DistillResult, corpus_counts, console: Console
) -> None:
    options = {"labels": finished.labels, "checkpoint_minutes": 0.02, "save_strategy": "no", "num_train_epochs": 30}

    config = make_config(tmp_path, **options)
    stop_when(lambda: bool(list(tmp_path.glob("checkpoints/checkpoint_*"))), config, "train", signal.SIGINT)
    assert not (tmp_path / "model.safetensors").exists()
    assert list(tmp_path.glob("checkpoints/rows/*.rows"))  # texts are tokenised once

    train(make_config(tmp_path, train_workers=2, **options), console)

    assert "2 train workers now, 1 at the beginning: an update sees 16 texts, as before" in console.stream.getvalue()
    updates = json.loads((tmp_path / "run.json").read_text())["stages"]["train"]["updates"]
    assert updates == 30 * math.ceil(corpus_counts.texts / 16)


@pytest.fixture(scope="module")
def other_student(
    finished: DistillResult, tmp_path_factory: pytest.TempPathFactory, make_config: MakeConfig
) -> tuple[DistillResult, str]:
    """A multi-label student of the same labels, which a run on another commit of the model had begun; what was said.

    The teacher is gone. Training ends in the midst of an epoch.
    """
    folder = Path(shutil.copytree(finished.output_dir, tmp_path_factory.mktemp("other") / "out"))
    shutil.rmtree(folder / "labels")
    options = {
        "teacher_name_or_path": "/gone",
        "data_file": None,
        "multi_label": True,
        "temperature": 2.0,
        "max_steps": 3,
        "student_max_length": STUDENT_LENGTH,
    }
    record = json.loads((folder / "run.json").read_text())
    record["stages"]["train"] |= {"finished": False, "revision": "0" * 40}
    del record["made_with"]["student"]
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "of the other").touch()
    console = Console(io.StringIO())
    result = train(make_config(folder, labels="out/labels", save_strategy="epoch", **options), console)
    return result, console.stream.getvalue()  # type: ignore[attr-defined]


def test_another_student_of_the_same_labels_never_touches_the_teacher(other_student: tuple[DistillResult, str]) -> None:
    assert other_student[0].figures["loss"] > 0
    assert not Path(other_student[0].output_dir, "labels").exists()


def test_training_that_was_begun_on_another_commit_of_the_student_begins_anew(
    other_student: tuple[DistillResult, str],
) -> None:
    result, said = other_student
    assert "has changed on the hub" in said
    assert not Path(result.output_dir, "checkpoints").exists()
    assert json.loads(Path(result.output_dir, "run.json").read_text())["stages"]["train"]["revision"] is None


def test_multi_label_student_learns_each_class_by_itself_and_is_evaluated_on_all_texts(
    finished: DistillResult, other_student: tuple[DistillResult, str]
) -> None:
    from transformers import pipeline

    from raydistill.student import load_trained_student, predict

    store, (result, _) = store_of(finished.output_dir), other_student
    assert json.loads(Path(result.output_dir, "run.json").read_text())["stages"]["train"]["updates"] == 3
    wanted = soft_labels(np.stack(store.entailment), np.stack(store.contradiction), temperature=2.0, multi_label=True)
    model, tokenizer = load_trained_student(result.output_dir)
    assert model.config.problem_type == "multi_label_classification"
    given = predict(model, tokenizer, list(store.text))
    difference = (np.abs(given - wanted).mean(-1) * store.occurrences).sum() / store.occurrences.sum()
    assert result.figures["mean_absolute_difference"] == pytest.approx(difference, abs=1e-5)
    assert len([name for name in result.figures if name.startswith("f1/")]) == 5
    assert tokenizer.model_max_length == STUDENT_LENGTH
    longest = int(store.text.str.len().argmax())
    assert len(tokenizer(store.text[longest])["input_ids"]) > STUDENT_LENGTH
    classify = pipeline("text-classification", model=result.output_dir, top_k=None, truncation=True)
    (answer,) = classify([store.text[longest]])
    scores = {row["label"]: row["score"] for row in answer}
    assert [scores[model.config.id2label[i]] for i in range(5)] == pytest.approx(given[longest].tolist(), abs=1e-5)


def test_a_training_of_a_single_batch_tells_its_padding(
    tmp_path: Path, make_config: MakeConfig, finished: DistillResult
) -> None:
    options = {"per_device_train_batch_size": 1000, "num_train_epochs": 1, "do_eval": False}
    result = train(make_config(tmp_path, labels=finished.labels, **options))
    stage = json.loads(Path(result.output_dir, "run.json").read_text())["stages"]["train"]
    assert (stage["updates"], stage["padding"] > 0) == (1, True)


def test_two_workers_share_the_rows_and_their_batches_of_like_length_are_less_padded(
    tmp_path: Path, make_config: MakeConfig, finished: DistillResult, corpus_counts
) -> None:
    from raydistill.stages.train_batches import shard_batches

    options = {
        "train_workers": 2,
        "warmup_steps": 2,
        "logging_steps": 1,
        "save_strategy": "epoch",
        "save_total_limit": 1,
    }
    result = train(make_config(tmp_path, labels=finished.labels, **options))
    updates = json.loads(Path(result.output_dir, "run.json").read_text())["stages"]["train"]["updates"]
    assert updates == 2 * math.ceil(corpus_counts.texts // 2 / 16)
    (state,) = Path(result.output_dir, "checkpoints").rglob("trainer_state.json")
    rates = [entry["learning_rate"] for entry in json.loads(state.read_text())["log_history"] if "loss" in entry]
    assert rates == pytest.approx([0, 5e-4, 1e-3, 7.5e-4, 5e-4, 2.5e-4])  # warmed up, and down to the end
    assert 0 <= result.figures["agreement"] <= 1
    assert result.figures["agreement"] * corpus_counts.texts == pytest.approx(
        round(result.figures["agreement"] * corpus_counts.texts)  # over all texts: none left out, none twice
    )

    rows = [{"input_ids": [i] * (1 + i % 7)} for i in range(70)]
    shards = {"train": ray.data.from_items(rows)}

    def padded(window: int) -> tuple[list[int], int]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("ray.train.get_dataset_shard", shards.get)
            batches = list(
                shard_batches("train", lambda table: table, 8, window=window, mixed=np.random.default_rng(0))
            )
        ids = [row for batch in batches for row in batch["input_ids"].to_pylist()]
        assert sorted(ids) == sorted(row["input_ids"] for row in rows)
        lengths = [[len(row) for row in batch["input_ids"].to_pylist()] for batch in batches]
        return [len(batch) for batch in lengths], sum(len(batch) * max(batch) for batch in lengths)

    (sizes, waste), (grouped_sizes, grouped_waste) = padded(1), padded(4)
    assert sorted(grouped_sizes) == sorted(sizes) == [6] + [8] * 8
    assert grouped_waste < 0.8 * waste


def test_dry_run_prints_the_plan_and_a_quote_that_the_run_bears_out_whichever_way_flags_are_spelt(
    tmp_path: Path, good: dict, corpus_counts: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    def said_by(command: str, *flags: str) -> str:
        assert main([command, *flags]) == 0
        return capfd.readouterr().err

    good = good | {"--teacher-max-length": "999", "--student-max-length": "999"}
    flags = [token for pair in good.items() for token in pair]
    flags += ["--gpus-per-train-worker", "1", "--train-workers", "64"]  # which is nothing to labelling
    said = said_by("label", *flags, "--dry-run", "--price-per-hour", "7.50")
    texts = corpus_counts.texts
    assert f"{texts} texts × 5 classes = {texts * 5} pairs, in 1 file" in said
    assert "1 node" in said
    assert "teacher actor" in said
    assert f"{1 - corpus_counts.distinct / texts:.1%} duplicates within a block" in said
    assert "at 7.50 an hour" in said
    assert f"--teacher-max-length 999: the teacher reads {MAX_LENGTH} tokens at most" in said
    assert "--student" not in said
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert list(record) == ["quote"]
    assert record["quote"]["pairs"] == corpus_counts.distinct * 5
    assert not (tmp_path / "out" / "labels").exists()

    said = said_by("label", *flags)
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["quote"]["actual_seconds"] == record["stages"]["label"]["seconds"]
    assert re.search(r"quote +.*, took .* s for 0\.0\d+, quoted at 0\.0\d+\n", said)
    quoted = record["quote"]
    for name, seconds in (("cost", "seconds"), ("cost_low", "low"), ("actual_cost", "actual_seconds")):
        assert quoted[name] == pytest.approx(quoted[seconds] * 7.5 / 3600)
    assert quoted["not_compared"] is None

    spelled = [token for flag, value in good.items() for token in ("--" + flag[2:].replace("-", "_"), value)]
    said = said_by("run", *spelled, "--multi_class", "--no_cuda", "--fp16", "--dry_run")
    assert "done before" in said
    assert "quote" not in said
    assert f"--student-max-length 999: the student reads {MAX_LENGTH} tokens at most" in said
    assert "--fp16 is for GPUs" in said


def test_time_that_an_earlier_run_has_spent_is_not_told_as_shares_of_this_one() -> None:
    counts = {"texts": 9, "duplicates": 0, "blanks": 0, "pairs": 18, "rejected": 0}
    result = DistillResult("out", "labels", counts, {}, {"train": 1.1})
    training = {"updates": 282, "padding": 0.1, "worker_seconds": {"loading": 1.0, "steps": 3.5}}
    told = {
        seconds: dict(summary(result, None, training | {"seconds": seconds}, None, student=True, log=None))["training"]
        for seconds in (1.1, 5.0)
    }
    assert told[1.1] == "282 updates, 10.0% padding; its time: nearly all in an earlier run"
    assert told[5.0] == "282 updates, 10.0% padding; its time: start-up 30.0%, steps 70.0%"


def test_of_long_texts_a_block_is_measured_by_what_is_scored_of_them(tmp_path: Path, make_config: MakeConfig) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("a short one\n" + f"{'word' * 500}\n" * 30)
    prepared = job.Job.prepare(make_config(tmp_path / "out", data_file=str(corpus)), ("label",))
    teacher = TeacherSpec("teacher", ("a", "b"), "{}", parameters=7)
    prepared.models = Models(teacher=teacher, labelling={"max_length": 32})
    spec = prepared.label_stage.teacher_spec
    cut = 32 * BYTES_PER_TOKEN + TOKENIZING * 2001
    assert spec.work_bytes(2001) == pytest.approx(cut)
    assert spec.scored_share == pytest.approx((12 * (1 + TOKENIZING) + 30 * cut) / (12 + 30 * 2001))
    assert spec.work == 31 * 2 * 7


SHORT_OF_MEMORY = """
import pathlib, torch
from transformers import BertForSequenceClassification

class Own(BertForSequenceClassification):
    def forward(self, *arguments, **inputs):
        pairs = len(inputs["input_ids"])
        with pathlib.Path(self.config.diary).open("a") as diary:
            diary.write(f"{pairs}\\n")
        if pairs > 16:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(*arguments, **inputs)
"""


def test_a_teacher_that_runs_out_of_memory_goes_on_with_smaller_batches_and_loses_no_text(
    tmp_path: Path, good: dict, corpus_counts: Any, tiny_teacher_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from tiny_models import bring_class

    diary = tmp_path / "diary"
    teacher = bring_class(shutil.copytree(tiny_teacher_dir, tmp_path / "own"), SHORT_OF_MEMORY, diary=str(diary))
    short = good | {"--teacher-name-or-path": str(teacher), "--output-dir": str(tmp_path / "short")}
    for options, more in ((good, []), (short, ["--trust-remote-code"])):
        flags = [token for pair in options.items() for token in pair]
        assert main(["label", *flags, "--teacher-backend", "torch", *more]) == 0, capfd.readouterr().err
    sizes = [int(line) for line in diary.read_text().split()]
    assert max(sizes) > 16  # it did run out
    assert sum(size for size in sizes if size <= 16) >= corpus_counts.distinct * 5
    record = json.loads((tmp_path / "short" / "run.json").read_text())
    assert (record["counts"]["rejected"], record["counts"]["distinct"]) == (0, corpus_counts.distinct)
    found, wanted = (pd.read_parquet(tmp_path / name / "labels").sort_values("text_id") for name in ("short", "out"))
    assert list(found.text_id) == list(wanted.text_id)
    np.testing.assert_allclose(np.stack(found.entailment), np.stack(wanted.entailment), atol=1e-5)


def test_bad_line_in_the_middle_is_told_with_its_number_and_the_store_stays_open(
    tmp_path: Path, make_config: MakeConfig
) -> None:
    corpus = tmp_path / "corpus.jsonl"
    lines = [json.dumps({"text": f"text number {i} {'x' * 2000}"}) for i in range(5000)]
    lines[4000] = '{"text": '
    corpus.write_text("\n".join(lines))
    with pytest.raises(RaydistillError, match=r"corpus.jsonl: .*is not JSON"):
        label(make_config(tmp_path / "out", data_file=str(corpus), teacher_max_length=32))
    with pytest.raises(RaydistillError, match="not complete"):
        train(make_config(tmp_path / "out", data_file=str(corpus), teacher_max_length=32))


class TestResume:
    """Labelling again after labels were lost, or with another corpus. (A real kill: test_fault.py.)"""

    @pytest.fixture(scope="class")
    def labelled(
        self, tmp_path_factory: pytest.TempPathFactory, make_config: MakeConfig
    ) -> tuple[Path, Path, DistillResult]:
        """A corpus with some texts twice, the folder of its labels, and what came of making them."""
        folder = tmp_path_factory.mktemp("labelled")
        corpus = folder / "corpus.txt"
        lines = [f"text {i} about {['money', 'art', 'sport'][i % 3]} {'again and ' * 40}" for i in range(200)]
        corpus.write_text("".join(f"{line}\n" for line in [*lines, *lines[:30]]))
        return corpus, folder / "out", label(make_config(folder / "out", data_file=str(corpus)))

    def test_labels_are_kept_after_a_part_is_lost_and_the_store_ends_up_the_same(
        self, tmp_path: Path, make_config: MakeConfig, labelled: tuple[Path, Path, DistillResult]
    ) -> None:
        corpus, whole, result = labelled
        killed = Path(shutil.copytree(whole, tmp_path / "killed"))
        texts_of = {path: set(pd.read_parquet(path).text) for path in (killed / "labels").glob("*.parquet")}
        assert len(texts_of) > 2
        unique = corpus.read_text().splitlines()[100].strip()  # stands in the corpus once, hence in one part
        (lost,) = [path for path, texts in texts_of.items() if unique in texts]
        kept = texts_of.keys() - {lost}
        missing = texts_of[lost].difference(*(texts_of[path] for path in kept))
        lost.unlink()

        with pytest.raises(RaydistillError, match=r"holds \d+ of its 230 texts"):
            train(make_config(killed, data_file=str(corpus)))
        again = label(make_config(killed, data_file=str(corpus)))

        assert again.counts == result.counts
        expected, found = (
            pd.read_parquet(folder / "labels").groupby("text").agg({"occurrences": "sum", "entailment": "first"})
            for folder in (whole, killed)
        )
        pd.testing.assert_series_equal(found.occurrences, expected.occurrences)
        np.testing.assert_allclose(np.stack(found.entailment), np.stack(expected.entailment), atol=1e-5)
        record = json.loads((killed / "run.json").read_text())
        assert record["stages"]["label"]["labelled"] == len(missing) > 0
        assert kept <= set((killed / "labels").glob("*.parquet"))

    def test_a_changed_corpus_costs_only_its_new_texts(
        self, make_config: MakeConfig, labelled: tuple[Path, Path, DistillResult]
    ) -> None:
        corpus, out, _ = labelled
        lines = corpus.read_text().splitlines()
        corpus.write_text("\n".join([*lines[50:], "a new text", "a new text", lines[60]]) + "\n")

        console = Console(io.StringIO())
        label(make_config(out, data_file=str(corpus)), console)

        said = console.stream.getvalue()  # type: ignore[attr-defined]
        assert "1 new text; 180 were labelled before" in said
        assert "20 texts of the label store no longer in the corpus: kept, not trained on" in said
        record = json.loads((out / "run.json").read_text())
        assert (record["stages"]["label"]["labelled"], record["stages"]["label"]["removed"]) == (1, 20)
        held = store_of(out).groupby("text").occurrences.sum()
        assert held[held > 0].to_dict() == Counter(line.strip() for line in corpus.read_text().splitlines())
        assert (held == 0).sum() == 20  # the first 50 are gone, but 30 of them stood there twice


def poisoned_teacher(tiny_teacher_dir: Path, folder: Path, weights: str, row: int | slice) -> str:
    """The tiny teacher with some of its weights not a number."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(tiny_teacher_dir, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors[weights][row] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


def test_a_teacher_that_can_score_nothing_ends_the_run(
    tmp_path: Path, make_config: MakeConfig, tiny_teacher_dir: Path
) -> None:
    teacher = poisoned_teacher(tiny_teacher_dir, tmp_path / "teacher", "classifier.bias", slice(None))
    config = make_config(tmp_path / "out", teacher_name_or_path=teacher, max_rejected=1.0)
    with pytest.raises(RaydistillError, match="can score none of 60 texts: its logits are not finite"):
        label(config)


def test_a_training_that_diverges_leaves_no_student(tmp_path: Path, make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match=r"diverged.* lower --learning-rate"):
        distill(make_config(tmp_path / "out", learning_rate=1e9))
    assert not (tmp_path / "out" / "config.json").exists()


def test_texts_that_cannot_be_scored_are_set_aside_and_the_others_trained_on(
    tmp_path: Path,
    make_config: MakeConfig,
    tiny_teacher_dir: Path,
    corpus_lines: list[str],
    class_names: list[str],
    console: Console,
) -> None:
    from transformers import AutoTokenizer

    texts = [line.strip() for line in corpus_lines if line.strip()]
    tokenizer = AutoTokenizer.from_pretrained(tiny_teacher_dir)
    tokens = {text: set(tokenizer(text)["input_ids"]) for text in texts}
    found = Counter(token for ids in tokens.values() for token in ids)
    for name in class_names:
        for token in tokenizer(f"This text is about {name}.")["input_ids"]:
            found.pop(token, None)
    token, times = found.most_common()[-1]
    bad = {text for text in texts if token in tokens[text]}
    assert 1 < len(bad) == times < 30
    teacher = poisoned_teacher(
        tiny_teacher_dir, tmp_path / "teacher", "bert.embeddings.word_embeddings.weight", int(token)
    )

    with pytest.raises(RaydistillError, match=r"could not be scored, and --max-rejected allows 1; .*not finite"):
        label(make_config(tmp_path / "out", teacher_name_or_path=teacher))
    result = distill(make_config(tmp_path / "out", teacher_name_or_path=teacher, max_rejected=0.9), console)

    listed = [json.loads(line) for line in (tmp_path / "out" / "labels" / "_rejected.jsonl").read_text().splitlines()]
    assert {line["text"] for line in listed} == bad
    assert sum(line["occurrences"] for line in listed) == sum(text in bad for text in texts)
    assert result.counts["rejected"] == sum(line["occurrences"] for line in listed)
    assert result.counts["texts"] == sum(text not in bad for text in texts)
    assert set(store_of(tmp_path / "out").text) == set(texts) - bad
    assert np.isfinite(np.stack(store_of(tmp_path / "out").entailment)).all()
    assert f"{result.counts['rejected']} texts: labels/_rejected.jsonl" in console.stream.getvalue()
    assert 0 <= result.figures["agreement"] <= 1

    rejected = tmp_path / "out" / "labels" / "_rejected.jsonl"
    content = rejected.read_bytes()
    corpus_line = f"corpus ok {len(texts):,} texts = {result.counts['texts']:,} labelled"
    for damaged, line in (
        (content, f"{corpus_line} \\+ {result.counts['rejected']:,} rejected"),
        (content.replace(b"}", b"", 1), "corpus FAILED _rejected.jsonl: line 1 is damaged"),
        (b"\n".join(content.splitlines()[1:]), "corpus FAILED holds .* rejected"),
        (None, "corpus FAILED _rejected.jsonl is gone"),
    ):
        rejected.unlink()
        if damaged is not None:
            rejected.write_bytes(damaged)
        checks = {check.name: check for check in verify_run(str(tmp_path / "out"), 0)}
        told = f"corpus {'ok' if checks['corpus'].passed else 'FAILED'} {checks['corpus'].found}"
        assert re.match(line, told), told


@pytest.mark.parametrize("fast", [True, False])
def test_verify_scores_with_the_tokenizer_that_the_run_had(
    fast: bool, finished: DistillResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from raydistill import pretrained

    shutil.copytree(finished.output_dir, tmp_path / "out")
    path = tmp_path / "out" / "run.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"options": record["options"] | {"use_fast_tokenizer": fast}}))
    asked = []
    load = pretrained.AutoTokenizer.from_pretrained

    def noted(*given: Any, use_fast: bool, **more: Any) -> Any:
        asked.append(use_fast)
        return load(*given, use_fast=use_fast, **more)

    monkeypatch.setattr(pretrained.AutoTokenizer, "from_pretrained", noted)
    checks = {check.name: check.passed for check in verify_run(str(tmp_path / "out"), 1.0)}
    assert checks["teacher"]
    assert set(asked) == {fast}


def test_a_corpus_of_blank_lines_is_refused(tmp_path: Path, make_config: MakeConfig) -> None:
    (tmp_path / "blank.txt").write_text("\n   \n\t\n")
    with pytest.raises(RaydistillError, match="holds no text but blank ones"):
        label(make_config(tmp_path / "out", data_file=str(tmp_path / "blank.txt")))

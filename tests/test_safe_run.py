"""One run under all that may go wrong: secrets, hostile names, code of models, a branch that moves, open ports."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pandas as pd
import psutil
import pyarrow.fs as pafs
import pytest
from s3_server import s3_server
from tiny_models import (
    TRACE,
    bring_own_code,
    move_main,
    pickle_weights,
    put_on_hub,
    save_classifier,
    save_encoder,
    sentences,
)

from raydistill.cli import main
from raydistill.errors import ModelError
from raydistill.specs import TeacherSpec
from raydistill.student import load_trained_student

KEY, SECRET = "PLANTEDKEY0123456789", "planted/secret+0123456789"
PLANTED = {
    "HF_TOKEN": "hf_PlantedPlantedPlantedPlantedPlanted",
    "AWS_ACCESS_KEY_ID": "PLANTEDKEYOFTHEENVIRONMENT",
    "AWS_SECRET_ACCESS_KEY": "planted+secret/of+the+environment",
    "WANDB_API_KEY": "plantedkeyofwandb",
}
SECRETS = [KEY, SECRET, quote(SECRET, safe=""), *PLANTED.values()]
CLASSES = [
    "=cmd|' /C calc'!A0",
    "<script>alert(1)</script>",
    "../../../escape",
    "| a | *b* [c](d)",
    "\x1b[2J\x1b]0;owned\x07",
    "\u202eexe.gpj",
]
TEXTS = [*sentences()[:30], "=1+1", "\x1b[31mred", "../../../escape too", "<b>bold</b>"]


@dataclasses.dataclass(frozen=True)
class Remains:
    """What a quote and a run have left: a folder, what they said, all that Ray wrote, the addresses of the run.

    `teacher` is the one that it began with, as a folder; `server` what a URI must say to find the corpus's server.
    """

    folder: Path
    said: str
    ray: Path
    trace: str
    addresses: set[str]
    teacher: Path
    server: str


class Watch(threading.Thread):
    """Notes where a process and those it has started listen."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.root, self.addresses, self.over = psutil.Process(pid), set(), threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.5):  # a look at so many processes takes a while
            try:
                family = [self.root, *self.root.children(recursive=True)]
            except psutil.Error:
                return
            for process in family:
                try:
                    for connection in process.net_connections("tcp"):
                        if connection.status == psutil.CONN_LISTEN:
                            self.addresses.add(connection.laddr.ip)
                except psutil.Error:
                    continue  # it has ended meanwhile


@pytest.fixture(scope="module")
def remains(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Remains]:
    tmp_path = tmp_path_factory.mktemp("safe")
    ray = Path(tempfile.mkdtemp(prefix="rd", dir="/tmp"))  # names of sockets must be short
    hub, trace = tmp_path / "hub", tmp_path / "trace"
    teachers = [pickle_weights(bring_own_code(save_classifier(tmp_path / f"t{seed}", seed=seed))) for seed in (0, 1)]
    commits = put_on_hub(hub, "acme/teacher", *teachers)
    student = save_encoder(tmp_path / "student", vocab_size=0xE010)
    put_on_hub(hub, "acme/student", pickle_weights(bring_own_code(student, "OwnSlowTokenizer")))
    (tmp_path / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    environment = {
        "RAY_TMPDIR": str(ray),
        "HF_HUB_CACHE": str(hub),
        "HF_MODULES_CACHE": str(tmp_path / "modules"),
        TRACE: str(trace),
        **PLANTED,
    }
    with s3_server() as server:
        settings = f"endpoint_override={quote(f'http://{server}', safe='')}&region=us-east-1"
        place = f"s3://{KEY}:{quote(SECRET, safe='')}@corpora"
        fs, _ = pafs.FileSystem.from_uri(f"{place}?{settings}&allow_bucket_creation=true")
        fs.create_dir("corpora")
        with fs.open_output_stream("corpora/news.txt") as stream:
            stream.write("".join(f"{text}\n" for text in TEXTS).encode())
        flags = {
            "--data-file": f"{place}/news.txt?{settings}",
            "--class-names-file": tmp_path / "classes.txt",
            "--output-dir": tmp_path / "run" / "out",
            "--teacher-name-or-path": "acme/teacher",
            "--student-name-or-path": "acme/student",
            "--train-workers": 2,
            "--save-strategy": "epoch",
            "--save-total-limit": 1,
        }
        options = [str(token) for flag in flags.items() for token in flag]
        options += ["--trust-remote-code", "--allow-pickle-weights", "--multi-label"]
        command = [sys.executable, "-m", "raydistill"]
        how = {"env": os.environ | environment, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        quoted = subprocess.run([*command, "label", *options, "--dry-run"], timeout=300, **how)
        assert quoted.returncode == 0, quoted.stdout[-2000:]
        said = quoted.stdout + (tmp_path / "run" / "out" / "run.json").read_text()
        process = subprocess.Popen([*command, "run", *options], **how)
        watch = Watch(process.pid)
        watch.start()
        assert process.stdout is not None
        for line in process.stdout:
            said += line
            if line.startswith("plan "):
                move_main(hub, "acme/teacher", commits[1])
        process.wait(timeout=300)
        watch.over.set()
        watch.join()
        assert process.returncode == 0, said[-2000:]
        yield Remains(tmp_path / "run" / "out", said, ray, trace.read_text(), watch.addresses, teachers[0], settings)
    shutil.rmtree(ray, ignore_errors=True)


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that is there once code of a model has run in this process."""
    path = tmp_path / "trace"
    monkeypatch.setenv(TRACE, str(path))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    return path


def contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file, and what is in those that are archives, as PyTorch's are."""
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            yield str(path), content
            if zipfile.is_zipfile(io.BytesIO(content)):
                with zipfile.ZipFile(io.BytesIO(content)) as archive:
                    for name in archive.namelist():
                        yield f"{path}/{name}", archive.read(name)


def test_no_secret_is_in_what_a_run_writes_or_says(remains: Remains) -> None:
    files = dict([*contents(remains.folder), *contents(remains.ray), ("said", remains.said.encode())])
    for name in ("run.json", "_labels.json", "raydistill.log", "training_args.bin"):
        assert any(path.endswith(name) for path in files), name
    found = [(path, secret) for path, content in files.items() for secret in SECRETS if secret.encode() in content]
    assert not found
    options = json.loads((remains.folder / "run.json").read_text())["options"]
    assert options["data_file"][0].startswith("s3://corpora/news.txt?endpoint_override=")
    assert options["trust_remote_code"] is True


def test_errors_say_no_secret(
    remains: Remains, tmp_path: Path, class_names_file: Path, corpus_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    place = f"s3://{KEY}:{quote(SECRET, safe='')}@corpora/none.txt"
    for data_file, *more in (
        [f"{place}?{remains.server}"],
        [f"{place}?access_key={KEY}&secret_key={SECRET}"],
        [f"s3://{KEY}:{SECRET}@corpora/news.txt"],
        [corpus_file, "--hub-token", PLANTED["HF_TOKEN"]],
        [corpus_file, "true", PLANTED["HF_TOKEN"]],
    ):
        arguments = ["--data-file", data_file, "--class-names-file", class_names_file, "--output-dir", tmp_path / "out"]
        assert main(["run", *map(str, [*arguments, *more])]) == 2
        said = capfd.readouterr().err
        assert said.startswith("Error: ")
        assert not [secret for secret in SECRETS if secret in said]
    assert not (tmp_path / "out").exists()


def test_a_private_ray_listens_on_the_loopback_interface_alone(remains: Remains) -> None:
    assert remains.addresses
    assert remains.addresses <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_names_and_texts_do_not_command_the_terminal(remains: Remains) -> None:
    lines = remains.said.split("\n")
    assert all(line.isprintable() for line in lines)
    assert any(line.startswith(r"  f1/\x1b[2J\x1b]0;owned\x07 ") for line in lines)


def test_names_and_texts_are_in_no_name_of_a_file(remains: Remains) -> None:
    assert [path.name for path in remains.folder.parent.iterdir()] == ["out"]
    names = [str(path.relative_to(remains.folder)) for path in remains.folder.rglob("*")]
    assert not [name for name in names for word in ("escape", "calc", "script", "owned", "gpj", "+1") if word in name]


def test_a_branch_that_moves_in_the_middle_of_a_run_does_not_change_its_labels(remains: Remains, trace: Path) -> None:
    from raydistill.teacher import Teacher

    store = pd.read_parquet(remains.folder / "labels")
    spec = TeacherSpec(
        str(remains.teacher),
        tuple(CLASSES),
        "This example is {}.",
        backend="torch",
        trust_remote_code=True,
        allow_pickle_weights=True,
    )
    assert sorted(store.text) == sorted(TEXTS)
    np.testing.assert_allclose(np.stack(store.entailment), Teacher.load(spec).score(list(store.text))[0], atol=1e-5)


def test_code_of_the_models_runs_on_workers_and_goes_with_the_student(remains: Remains) -> None:
    assert len(set(remains.trace.split())) >= 4  # the driver, a teacher actor, a data task, train workers
    labelling = json.loads((remains.folder / "labels" / "_labels.json").read_text())["labelling"]
    assert labelling["trust_remote_code"] is True
    assert labelling["teacher_revision"] == f"{1:040x}"
    assert (remains.folder / "own.py").exists()
    with pytest.raises(ModelError, match="--trust-remote-code"):
        load_trained_student(str(remains.folder))


def test_verify_runs_a_teachers_code_by_leave_alone(
    remains: Remains, trace: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(remains.teacher.parent / "hub"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)  # which the URI in run.json does not hold
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    leave = ["--trust-remote-code", "--allow-pickle-weights"]
    for flags, state in (([], False), (leave[1:], False), (leave, True)):
        assert trace.exists() is False
        main(["verify", str(remains.folder), "--json", *flags])
        checks = {check["name"]: check for check in json.loads(capfd.readouterr().out)}
        assert checks["teacher"]["passed"] is state, checks["teacher"]
        assert checks["corpus"]["passed"] is True, checks["corpus"]
    assert trace.exists()

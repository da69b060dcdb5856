"""Clusters that are there already, of several raylets on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
from mounts import needs_mounts
from processes import environment, workers_at
from ray.cluster_utils import Cluster
from tiny_models import sentences


@pytest.fixture
def start_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """Starts a cluster of nodes with some CPUs each, whose workers cannot import this checkout by themselves."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    # Loaded by every Python that the cluster starts: the installed package is out of reach there.
    (hidden / "sitecustomize.py").write_text(
        "import sys\n"
        "class Hide:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'raydistill' and not any('runtime_resources' in entry for entry in sys.path):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Hide())\n"
    )
    clusters = []
    monkeypatch.setenv("RAY_health_check_period_ms", "500")  # of 3,000: a lost node is found soon

    def start(*cpus: int, **options: Any) -> Cluster:
        monkeypatch.setenv("PYTHONPATH", str(hidden))
        for attempts_left in (2, 1, 0):
            cluster = Cluster()
            clusters.append(cluster)
            try:
                for number in cpus:
                    cluster.add_node(num_cpus=number, include_dashboard=False, **options)
                break
            except Exception as error:
                # A node ends itself where a busy machine has not started its agents within 15 s.
                if not attempts_left or "timed out during startup" not in str(error):
                    raise
        monkeypatch.delenv("PYTHONPATH")
        return cluster

    yield start
    for cluster in clusters:
        cluster.shutdown()


@pytest.fixture
def inputs(
    corpus_file: Path, class_names_file: Path, tiny_teacher_dir: Path, tiny_student_dir: Path
) -> dict[str, Path]:
    """What a run is made of, by flag."""
    return {
        "--data-file": corpus_file,
        "--class-names-file": class_names_file,
        "--teacher-name-or-path": tiny_teacher_dir,
        "--student-name-or-path": tiny_student_dir,
    }


def command(address: str, output_dir: Path, inputs: dict[str, Path], *more: str, stage: str = "run") -> list[str]:
    flags = {**inputs, "--output-dir": output_dir, "--address": address}
    if stage == "label":
        del flags["--student-name-or-path"]
    tokens = [str(token) for pair in flags.items() for token in pair]
    return [sys.executable, "-m", "raydistill", stage, *tokens, *more]


def run(
    address: str, output_dir: Path, inputs: dict[str, Path], *more: str, stage: str = "run"
) -> subprocess.CompletedProcess[str]:
    tokens = command(address, output_dir, inputs, *more, stage=stage)
    return subprocess.run(tokens, capture_output=True, text=True, timeout=600, env=environment())


@contextlib.contextmanager
def begun(tokens: list[str], said: Path) -> Iterator[subprocess.Popen[str]]:
    """A command at work, that writes what it says to a file."""
    with said.open("w") as stream:
        process = subprocess.Popen(tokens, stderr=stream, text=True, env=environment(), start_new_session=True)
    try:
        yield process
    finally:
        process.kill()


def labelling(address: str, folder: Path, inputs: dict[str, Path], texts: list[str]) -> list[str]:
    """A command that labels some texts in small blocks, into `folder`/out."""
    corpus = folder / "corpus.txt"
    corpus.write_text("".join(f"{text}\n" for text in texts))
    small = ("--block-seconds", "0.05")
    return command(address, folder / "out", inputs | {"--data-file": corpus}, *small, stage="label")


# A run that looks for room every two seconds.
LOOKS_OFTEN = "from raydistill.stages import train; train.RESIZE_SECONDS = 2; from raydistill.cli import entry; entry()"


def wait_for(what: Callable[[], bool], process: subprocess.Popen[str], said: Path) -> None:
    deadline = time.monotonic() + 180
    while not what():
        assert process.poll() is None, said.read_text()
        assert time.monotonic() < deadline, said.read_text()
        time.sleep(0.1)


ASKED = """
import sys
from raydistill.errors import ResourceError
from raydistill.files import Folder
from raydistill.stages.cluster import connection, expect_shared
with connection(sys.argv[1]):
    try:
        expect_shared(Folder(sys.argv[2]), Folder(sys.argv[3]))
    except ResourceError as error:
        print(error)
"""


@needs_mounts
def test_a_node_that_does_not_see_the_output_directory_is_named_before_work_begins(
    start_cluster: Callable[..., Cluster], tmp_path: Path, inputs: dict[str, Path]
) -> None:
    cluster = start_cluster(1)
    shared = tmp_path / "shared"
    shared.mkdir()
    blind = subprocess.Popen(
        [
            *("unshare", "-rm", "-p", "-f", "--kill-child", "sh", "-c"),
            f"mount -t tmpfs none {shared} && exec {sys.executable} -m ray.scripts.scripts start "
            f"--address={cluster.address} --num-cpus=1 --block",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert blind.stdout is not None
        assert any("Ray runtime started" in line for line in blind.stdout)
        done = run(cluster.address, shared / "out", inputs)
        (shared / "labels").mkdir()
        (shared / "labels" / "_labels.json").write_text("{}")
        (tmp_path / "seen").mkdir()
        folders = [str(tmp_path / "seen"), str(shared / "labels")]
        asked = subprocess.run(
            [sys.executable, "-c", ASKED, cluster.address, *folders], capture_output=True, text=True, timeout=300
        )
    finally:
        blind.kill()
        blind.wait()
    assert done.returncode == 2, done.stderr
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith(f"Error: --output-dir {shared}/out: node ")
    assert "cannot use it (it does not see it)" in line
    assert not (shared / "out" / "labels").exists()
    assert not (shared / "out" / "run.json").exists()
    assert asked.stdout.startswith(f"--labels {shared}/labels: node "), asked.stderr
    assert "cannot use it (it does not see it)" in asked.stdout
    assert not list((tmp_path / "seen").iterdir())


def test_a_working_directory_that_is_too_large_to_go_along_is_one_line(
    start_cluster: Callable[..., Cluster], tmp_path: Path, inputs: dict[str, Path]
) -> None:
    cluster = start_cluster(1)
    with (tmp_path / "large").open("wb") as large:
        large.truncate(600 << 20)
    # Ray takes for `uv run`, of whose environment it makes one for workers, whoever is called so.
    (tmp_path / "run").write_text(f"{shlex.join(command(cluster.address, tmp_path / 'out', inputs))}\nexit $?\n")
    done = subprocess.run(
        ["uv", "run"],
        executable="/bin/sh",
        cwd=tmp_path,
        env=environment() | {"PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(
        f"Error: --address {cluster.address}: the cluster cannot be given what workers need ("
    )
    assert f"upload working_dir {tmp_path} to the Ray cluster: Package size (600.0" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow  # labelling, in the suite, loses a node too
def test_a_cluster_does_the_work_with_fewer_train_workers_once_a_node_is_lost_and_more_once_one_returns(
    start_cluster: Callable[..., Cluster], tmp_path: Path, inputs: dict[str, Path]
) -> None:
    cluster = start_cluster(1, 1)
    (second,) = cluster.worker_nodes
    out, said, corpus = tmp_path / "out", tmp_path / "said", tmp_path / "corpus.txt"
    corpus.write_text("".join(f"{text} {i}\n" for i in range(10) for text in sentences()))
    flags = ["--train-workers", "1:2", "--per-device-train-batch-size", "8", "--max-steps", "1000000"]
    flags += ["--save-steps", "50"]
    tokens = command(cluster.address, out, inputs | {"--data-file": corpus}, *flags)
    tokens[1:3] = ["-c", LOOKS_OFTEN]

    smaller = "1 train worker now, 2 at the beginning: an update sees 16 texts, as before"

    def workers() -> int:
        return len(workers_at("RayTrainWorker"))

    def checkpoints() -> set[str]:
        return {path.name for path in out.glob("checkpoints/checkpoint_*")}

    with begun(tokens, said) as process:
        wait_for(lambda: workers() == 2 and bool(checkpoints()), process, said)
        record = json.loads((out / "run.json").read_text())
        assert record["counts"]["texts"] == len(corpus.read_text().splitlines())
        asked = {"nodes": 2, "teacher_actors_max": 2, "train_workers": 2}
        assert {name: record["plan"][name] for name in asked} == asked
        cluster.remove_node(second, allow_graceful=False)
        wait_for(lambda: smaller in said.read_text(), process, said)
        assert workers() == 1
        before = checkpoints()
        wait_for(lambda: bool(checkpoints() - before), process, said)

        cluster.add_node(num_cpus=1, include_dashboard=False)
        wait_for(lambda: workers() == 2, process, said)
        before = checkpoints()
        wait_for(lambda: bool(checkpoints() - before), process, said)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=180) == 130
    assert "the same command goes on" in said.read_text().splitlines()[-1]
    assert not [process for node in cluster.list_all_nodes() for process in node.dead_processes()]  # it is left running


def test_labels_are_finished_without_a_node_that_is_lost_for_good(
    start_cluster: Callable[..., Cluster], tmp_path: Path, inputs: dict[str, Path]
) -> None:
    cluster, out, said = start_cluster(1, 1), tmp_path / "out", tmp_path / "said"
    (second,) = cluster.worker_nodes
    texts = [f"{text} {i}" for i in range(40) for text in sentences()]
    with begun(labelling(cluster.address, tmp_path, inputs, texts), said) as process:
        # With receipts of both actors: each has a block under way.
        wait_for(lambda: len(list(out.glob("labels/*.parquet"))) >= 4, process, said)
        assert len(workers_at("MapWorker(MapBatches(TeacherActor")) == 2
        cluster.remove_node(second, allow_graceful=False)
        assert process.wait(timeout=300) == 0, said.read_text()
    record = json.loads((out / "run.json").read_text())
    assert record["plan"]["teacher_actors_max"] == 2
    assert record["counts"]["texts"] == record["stages"]["label"]["labelled"] == len(texts)


@pytest.mark.slow
def test_a_cluster_whose_head_is_killed_is_told_and_another_one_goes_on(
    start_cluster: Callable[..., Cluster], tmp_path: Path, inputs: dict[str, Path]
) -> None:
    cluster, out, said = start_cluster(1, 1), tmp_path / "out", tmp_path / "said"
    texts = [f"{text} {i}" for i in range(400) for text in sentences()]
    with begun(labelling(cluster.address, tmp_path, inputs, texts), said) as process:
        wait_for(lambda: len(list(out.glob("labels/*.parquet"))) >= 4, process, said)
        (head,) = [child for child in psutil.Process().children(recursive=True) if child.name() == "gcs_server"]
        head.kill()
        assert process.wait(timeout=300) != 0
    assert "the head of the cluster has not answered for 20 s" in said.read_text()
    assert "The same command goes on, on this cluster or another" in said.read_text()
    cluster.shutdown()
    finished = sum(pq.ParquetFile(path).metadata.num_rows for path in out.glob("labels/*.parquet"))
    assert 0 < finished < len(texts)

    done = subprocess.run(
        labelling(start_cluster(2).address, tmp_path, inputs, texts),
        capture_output=True,
        text=True,
        timeout=300,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr
    record = json.loads((out / "run.json").read_text())
    assert record["counts"]["texts"] == len(texts)
    assert record["stages"]["label"]["labelled"] == len(texts) - finished


RECIPE = Path(__file__).parents[1] / "cluster" / "README.md"


@pytest.mark.slow
def test_the_recipe_of_the_readme_makes_two_nodes_that_do_the_run(tmp_path: Path, inputs: dict[str, Path]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    (block,) = [text for text in RECIPE.read_text().split("```")[1::2] if "--address=127.0.0.1" in text]
    script = block.removeprefix("bash\n").replace("6379", port)
    given = {"--data-file": "corpus.txt", "--class-names-file": "classes.txt"}
    for flag, name in given.items():
        (tmp_path / name).write_bytes(inputs[flag].read_bytes())
    models = " ".join(f"{flag} {path}" for flag, path in inputs.items() if flag not in given)
    ray = tempfile.mkdtemp(prefix="rd", dir="/tmp")  # names of sockets must be short
    own = {"HOME": str(tmp_path), "RAY_TMPDIR": ray, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    try:
        done = subprocess.run(
            ["bash", "-ec", f"{script.rstrip()} {models}"],
            cwd=tmp_path,
            env=environment() | own,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    finally:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("RAY_TMPDIR") == ray:
                    process.kill()
        shutil.rmtree(ray, ignore_errors=True)
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["plan"]["nodes"] == record["plan"]["teacher_actors_max"] == 2
    assert record["stages"]["train"]["finished"]


@pytest.mark.parametrize("stage", ["label", pytest.param("run", marks=pytest.mark.slow)])
def test_behind_a_ray_client_one_cpu_does_the_work_and_its_errors_come_through(
    stage: str,
    start_cluster: Callable[..., Cluster],
    tmp_path: Path,
    inputs: dict[str, Path],
    corpus_counts: Any,
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    start_cluster(1, ray_client_server_port=port)
    deadline = time.monotonic() + 60  # its server comes last
    while socket.socket().connect_ex(("127.0.0.1", port)) and time.monotonic() < deadline:
        time.sleep(0.1)
    done = run(f"ray://127.0.0.1:{port}", tmp_path / "out", inputs, stage=stage)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert lines[0].startswith(f"corpus {corpus_counts.texts} texts")
    assert any(line.split()[:2] == ["texts", f"{corpus_counts.texts},"] for line in lines)
    stages = json.loads((tmp_path / "out" / "run.json").read_text())["stages"]
    assert [name for name, made in stages.items() if made["finished"]] == ["label", "train"][
        : 2 if stage == "run" else 1
    ]

    template = ("--hypothesis-template", "About {}.")
    refused = run(f"ray://127.0.0.1:{port}", tmp_path / "out", inputs, *template, stage=stage)
    assert refused.returncode == 2
    assert "--hypothesis-template was This example is {}., now About {}." in refused.stderr
    assert "Traceback" not in refused.stderr

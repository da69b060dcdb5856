"""Corpora and whole runs in an object store: a real S3 server in a process of its own."""

from __future__ import annotations

import io
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from processes import kill_when, run
from s3_server import s3_server

from raydistill import DistillConfig, label
from raydistill.corpus_files import find_files
from raydistill.errors import CorpusError, RunDirError
from raydistill.files import Folder
from raydistill.label_store import LabelStore
from raydistill.lease import hold
from raydistill.verify import verify_run

TEXTS = [f"text number {i}" for i in range(40)]


@pytest.fixture(scope="module", autouse=True)
def shared_ray(bucket: str) -> Iterator[None]:
    """Started when the environment names the server."""
    from raydistill.stages.cluster import connection

    with connection(None):
        yield


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The bucket's name: two text files and one with odd characters in its name lie in its folder `news`."""
    with s3_server() as endpoint, pytest.MonkeyPatch.context() as patch:
        environment = {
            "AWS_ENDPOINT_URL": f"http://{endpoint}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        for name, value in environment.items():
            patch.setenv(name, value)
        fs, _ = pafs.FileSystem.from_uri("s3://corpora?allow_bucket_creation=true")
        fs.create_dir("corpora")
        for name, texts in {"a.txt": TEXTS[:10], "b.txt": TEXTS[10:30], "c [1] +.txt": TEXTS[30:]}.items():
            with fs.open_output_stream(f"corpora/news/{name}") as stream:
                stream.write("\n".join(texts).encode())
        yield "corpora"


def test_a_folder_in_a_bucket_is_labelled(
    tmp_path: Path, make_config: Callable[..., DistillConfig], bucket: str
) -> None:
    result = label(make_config(tmp_path / "out", data_file=f"s3://{bucket}/news/"))
    assert sorted(pd.read_parquet(result.labels).text) == sorted(TEXTS)


def test_a_run_in_a_bucket_that_is_killed_again_and_again_ends_as_it_should(
    tmp_path: Path, make_config: Callable[..., DistillConfig], bucket: str
) -> None:
    corpus, folder = tmp_path / "corpus.txt", Folder(f"s3://{bucket}/runs/one")
    texts = [f"text {i} {'again and ' * 20}once" for i in range(600)]
    corpus.write_text("".join(f"{text}\n" for text in [*texts, *texts[:50]]))
    config = make_config(
        folder.path, data_file=str(corpus), block_seconds=0.02, save_steps=10, num_train_epochs=2, label_file_mb=1
    )
    labels, checkpoints = LabelStore(folder.child("labels").path), folder.child("checkpoints")

    kill_when(lambda: len(labels.parts()) >= 3, config, "run")
    before = {name: labels.folder.read(name) for name in labels.parts()}
    assert not (labels.record() or {})["complete"]
    kill_when(lambda: len(checkpoints.folders()) >= 2, config, "run")
    assert not folder.has("config.json")
    finished = json.loads(folder.read("run.json"))["stages"]["label"]
    kept = sum(pq.read_metadata(io.BytesIO(part)).num_rows for part in before.values())
    assert 600 <= finished["labelled"] + kept <= 650  # duplicates at one time in two blocks
    run(config, "run")

    rows = pd.concat(pd.read_parquet(io.BytesIO(labels.folder.read(name))) for name in labels.parts())
    assert rows.groupby("text").occurrences.sum().to_dict() == dict(Counter([*texts, *texts[:50]]))
    assert json.loads(folder.read("run.json"))["stages"]["train"]["updates"] == 2 * math.ceil(650 / 16)
    checks = list(verify_run(folder.path, 1.0))
    assert [(check.name, check.found) for check in checks if not check.passed] == []
    assert {check.name for check in checks} >= {"files", "corpus", "teacher", "student"}


def test_globs_files_and_settings_in_a_uri(bucket: str) -> None:
    def names(entry: str) -> list[str]:
        return [file.path.rpartition("/")[2] for file in find_files([f"s3://{bucket}/{entry}"])]

    assert names("news/*.txt") == ["a.txt", "b.txt", "c%20%5B1%5D%20%2B.txt"]
    assert names("news/[ab].txt") == ["a.txt", "b.txt"]
    assert names("news/b.txt?region=us-east-1") == ["b.txt?region=us-east-1"]
    assert names("news/?region=us-east-1") == [
        f"{name}?region=us-east-1" for name in ("a.txt", "b.txt", "c%20%5B1%5D%20%2B.txt")
    ]


def test_a_folder_in_a_bucket_does_what_one_on_a_disk_does(bucket: str) -> None:
    folder = Folder(f"s3://{bucket}/a folder/?region=us-east-1")
    assert folder.path == f"s3://{bucket}/a folder?region=us-east-1"
    assert (folder.local, folder.is_there(), folder.is_empty(), folder.hindrance()) == (None, False, True, None)
    refused = pytest.raises(RunDirError, match=rf"s3://{bucket}/a folder.*: another run is at work")
    with hold(folder, print), refused, hold(folder, print):
        pass
    child = folder.child("below")
    child.write("x", b"one")
    folder.copy(child, "x")
    folder.write(".hidden.json", b"")
    assert (folder.read("x"), folder.sizes(), folder.hidden("hid", ".json")) == (b"one", {"x": 3}, [".hidden.json"])
    before = folder.modified("x")
    folder.touch("x")
    assert (folder.modified("x") >= before, folder.read("x")) == (True, b"one")
    with pytest.raises(KeyboardInterrupt), folder.writing("y"):
        raise KeyboardInterrupt
    folder.delete("x")
    folder.delete_tree("below")
    for name in ("x", "y", "below"):
        assert not folder.has(name)
    for lost in (lambda: folder.read("x"), lambda: folder.touch("x"), lambda: folder.modified("x")):
        with pytest.raises(FileNotFoundError):
            lost()
    with pytest.raises(RunDirError, match=r"^s3://nobucket/out/x: cannot be written \(AWS Error NO_SUCH_BUCKET"):
        Folder("s3://nobucket/out").write("x", b"")


@pytest.mark.parametrize("entry", ["corpora/none.txt", "corpora/news/*.csv", "nobucket/corpus.txt"])
def test_what_is_not_there_is_an_error_that_names_it(entry: str, bucket: str) -> None:
    with pytest.raises(CorpusError, match=rf"--data-file s3://{entry.replace('*', '.')}: "):
        find_files([f"s3://{entry}"])

"""A corpus in an object store: a real S3 server in a process of its own, read by Ray's tasks."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pyarrow.fs as pafs
import pytest

from raydistill import DistillConfig, label
from raydistill.corpus_files import find_files
from raydistill.errors import CorpusError

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
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stderr=subprocess.DEVNULL
    )
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        deadline = time.monotonic() + 60
        while socket.socket().connect_ex(("127.0.0.1", port)) and time.monotonic() < deadline:
            time.sleep(0.1)
        fs, _ = pafs.FileSystem.from_uri("s3://corpora?allow_bucket_creation=true")
        fs.create_dir("corpora")
        for name, texts in {"a.txt": TEXTS[:10], "b.txt": TEXTS[10:30], "c [1] +.txt": TEXTS[30:]}.items():
            with fs.open_output_stream(f"corpora/news/{name}") as stream:
                stream.write("\n".join(texts).encode())
        yield "corpora"
    server.kill()
    server.wait()


def test_a_folder_in_a_bucket_is_labelled(
    tmp_path: Path, make_config: Callable[..., DistillConfig], bucket: str
) -> None:
    result = label(make_config(tmp_path / "out", data_file=f"s3://{bucket}/news/"))
    assert sorted(pd.read_parquet(result.labels).text) == sorted(TEXTS)


def test_globs_files_and_settings_in_a_uri(bucket: str) -> None:
    def names(entry: str) -> list[str]:
        return [file.path.rpartition("/")[2] for file in find_files([f"s3://{bucket}/{entry}"])]

    assert names("news/*.txt") == ["a.txt", "b.txt", "c%20%5B1%5D%20%2B.txt"]
    assert names("news/[ab].txt") == ["a.txt", "b.txt"]
    assert names("news/b.txt?region=us-east-1") == ["b.txt?region=us-east-1"]
    assert names("news/?region=us-east-1") == [
        f"{name}?region=us-east-1" for name in ("a.txt", "b.txt", "c%20%5B1%5D%20%2B.txt")
    ]


@pytest.mark.parametrize("entry", ["corpora/none.txt", "corpora/news/*.csv", "nobucket/corpus.txt"])
def test_what_is_not_there_is_an_error_that_names_it(entry: str, bucket: str) -> None:
    with pytest.raises(CorpusError, match=rf"--data-file s3://{entry.replace('*', '.')}: "):
        find_files([f"s3://{entry}"])

"""Corpora and folders in an object store: a real S3 server in a process of its own. (A run there: test_chaos.py.)"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow.fs as pafs
import pytest
from s3_server import s3_server

from raydistill.corpus import make_splits
from raydistill.corpus_files import find_files
from raydistill.corpus_samples import estimate_texts
from raydistill.errors import CorpusError, RunDirError
from raydistill.files import Folder
from raydistill.lease import hold
from raydistill.stages.ingest import read_blocks, unpack

TEXTS = [f"text number {i}" for i in range(40)]


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


def test_a_folder_in_a_bucket_is_read(bucket: str) -> None:
    files = find_files([f"s3://{bucket}/news/"])
    assert estimate_texts(files, "text")[:2] == (len(TEXTS), True)
    blocks = [block for split in make_splits(files, 200) for block in read_blocks([split], "text", 100, None)]
    assert len(blocks) > 3
    assert sorted(text for block in blocks for text in unpack(block)[0]["text"].to_pylist()) == sorted(TEXTS)


def test_globs_files_and_settings_in_a_uri(bucket: str) -> None:
    def names(entry: str) -> list[str]:
        return [file.path.rpartition("/")[2] for file in find_files([f"s3://{bucket}/{entry}"])]

    assert names("news/*.txt") == ["a.txt", "b.txt", "c%20%5B1%5D%20%2B.txt"]
    assert names("news/[ab].txt") == ["a.txt", "b.txt"]
    assert names("news/b.txt?region=us-east-1") == ["b.txt?region=us-east-1"]
    assert names("news/?region=us-east-1") == [
        f"{name}?region=us-east-1" for name in ("a.txt", "b.txt", "c%20%5B1%5D%20%2B.txt")
    ]


@pytest.mark.parametrize("entry", ["news/", "news/[abc]*.txt"])
def test_keys_in_a_uri_go_for_every_file_that_it_names(entry: str, bucket: str) -> None:
    place = f"s3://KEY:SEC%2FRET@{bucket}"
    files = find_files([f"{place}/{entry}?region=us-east-1"])
    assert [file.path.startswith(f"{place}/news/") for file in files] == [True] * 3
    assert estimate_texts(files, "text")[:2] == (len(TEXTS), True)


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

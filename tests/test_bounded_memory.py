"""Whatever a corpus file holds or unpacks to, reading it ends in one line, or in its last text, in little memory."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

GIGABYTE = 1 << 30
MOST, LEAST = 512 << 20, 128 << 20  # of memory beside what Python and its libraries take: for long texts, and else

# Everything that reads a corpus, on one file; prints what each raised, how many texts it holds, and the peak of memory.
READ = """
import json, sys
from raydistill.corpus import check_readable, make_splits
from raydistill.corpus_samples import estimate_texts, read_stretches, sample_texts
from raydistill.corpus_files import find_files
from raydistill.corpus_readers import read_split
from raydistill.errors import RaydistillError

def peak():
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmHWM"))

def read_all(files):
    for split in make_splits(files, 64 << 20):
        for part in read_split(split, "text"):
            texts.extend(map(len, part[:1]))
            texts[0] += len(part)

before, said, texts = peak(), {}, [0]
files = find_files([sys.argv[1]])
for name, read in {
    "check": lambda: check_readable(files, "text"),
    "count": lambda: estimate_texts(files, "text"),
    "sample": lambda: sample_texts(files, "text", 100),
    "stretches": lambda: list(read_stretches(files, "text", 10_000)),
    "all": lambda: read_all(files),
}.items():
    try:
        read()
    except RaydistillError as error:
        said[name] = str(error)
print(json.dumps({"said": said, "texts": texts[0], "memory": peak() - before}))
"""


def read(path: Path) -> dict:
    done = subprocess.run([sys.executable, "-c", READ, str(path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def zstd(data: bytes) -> bytes:
    return pa.compress(data, "zstd", asbytes=True)


def sparse(path: Path, *beginning: bytes) -> Path:
    """A file of a gigabyte that begins in some way and goes on in zeros, which take no room on the disk."""
    with path.open("wb") as file:
        file.writelines(beginning)
        file.write(b"x" * 8192)  # a zero among the first bytes would make it a binary file
        file.truncate(GIGABYTE)
    return path


def packed(path: Path, compress: Callable[[bytes], bytes], piece: bytes, size: int = 2 * GIGABYTE) -> Path:
    """A file that unpacks to so many bytes: the same member again and again."""
    path.write_bytes(compress(piece * ((16 << 20) // len(piece))) * (size // (16 << 20)))
    return path


def write(path: Path, *pieces: str) -> Path:
    path.write_text("".join(pieces), encoding="utf-8")
    return path


def parquet(path: Path, texts: list[str], **options: object) -> Path:
    pq.write_table(pa.table({"text": texts}), path, **options)
    return path


BOMBS: dict[str, Callable[[Path], Path]] = {
    "a line of a gigabyte": lambda t: sparse(t / "c.txt"),
    "a line of a gigabyte behind others": lambda t: sparse(t / "c.txt", b"a text\n" * 3),
    "a JSON line of a gigabyte": lambda t: sparse(t / "c.jsonl", b'{"text": "a"}\n{"text": "'),
    "a field without an end": lambda t: sparse(t / "c.csv", b'id,text\n1,a\n2,"'),
    "a row of a gigabyte": lambda t: sparse(t / "c.csv", b"id,text\n1,a\n2,"),
    "column names of a gigabyte": lambda t: sparse(t / "c.tsv", b"id\t"),
    "gzip of two gigabytes in one line": lambda t: packed(t / "c.txt.gz", gzip.compress, b"x"),
    "zstd of two gigabytes in one line": lambda t: packed(t / "c.jsonl.zst", zstd, b"x"),
    "gzip of a field without an end": lambda t: packed(t / "c.csv.gz", gzip.compress, b'"text\n"'),
    "a text of 40 MiB in Parquet": lambda t: parquet(t / "c.parquet", ["x" * (40 << 20)]),
    "one among others in Parquet": lambda t: parquet(
        t / "c.parquet", ["a", "x" * (80 << 20), *["b"] * 1000], compression="zstd"
    ),
    "a text of 20 MiB in Parquet": lambda t: parquet(
        t / "c.parquet", ["a", "x" * (20 << 20), "b"], compression="none", use_dictionary=False
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_would_fill_the_memory_is_one_line(name: str, tmp_path: Path) -> None:
    path = BOMBS[name](tmp_path)
    found = read(path)
    assert found["memory"] < LEAST
    for said in found["said"].values():
        assert said.startswith(f"{path}: ")
        assert "MiB" in said
        assert "\n" not in said
    assert "all" in found["said"]


def dictionary_of(path: Path, text: str, rows: int) -> Path:
    """Parquet whose rows are all the same text, which stands there once."""
    column = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), [text])
    return parquet(path, column, store_schema=False)


LONG = "x" * (1 << 20) + "🙂"  # which makes Python take four bytes for each character
# name -> (the file, how many texts it holds)
LARGE: dict[str, tuple[Callable[[Path], Path], int]] = {
    "a quarter of a gigabyte of lines in gzip": (
        lambda t: packed(t / "c.txt.gz", gzip.compress, b"a text of a kilobyte".ljust(1023) + b"\n", GIGABYTE // 4),
        1 << 18,
    ),
    "rows of a megabyte in zstd": (
        lambda t: packed(t / "c.csv.zst", zstd, b"text\n".ljust((1 << 20) - 1, b"a") + b"\n", GIGABYTE // 8),
        255,
    ),
    "lines as long as can be": (lambda t: write(t / "c.txt", "🙂".ljust(15 << 20) + "\n", "b\n" * 3), 4),
    "JSON lines as long as can be": (lambda t: write(t / "c.jsonl", json.dumps({"text": LONG * 14}) + "\n"), 1),
    "a field as long as can be": (
        lambda t: write(t / "c.csv", 'text\n"🙂\n', ("x" * 1023 + "\n") * (14 << 10), '"\nb\n'),
        2,
    ),
    "a long text in Parquet, a hundred times": (lambda t: dictionary_of(t / "c.parquet", LONG, 100), 100),
}


@pytest.mark.parametrize("name", LARGE)
def test_what_is_large_and_good_is_read_to_its_end(name: str, tmp_path: Path) -> None:
    make, texts = LARGE[name]
    found = read(make(tmp_path))
    assert found["said"] == {}
    assert found["texts"] == texts
    assert found["memory"] < (MOST if "long" in name else LEAST)

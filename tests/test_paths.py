"""What lies within what, and what a glob would find, told by names alone."""

from __future__ import annotations

import pytest

from raydistill.config import DistillConfig
from raydistill.paths import globbed, located, real_paths, those_within


@pytest.mark.parametrize(
    ("path", "folder", "within"),
    [
        ("s3://b/run/x y", "s3://b/run?region=x", True),
        ("s3://b/run/x%20y?region=x", "s3://b/run/x y", True),
        ("s3://b/runner", "s3://b/run", False),
        ("s3://KEY:SEC%2FRET@b/run/x", "s3://b/run", True),
        ("s3://b/run@x/y", "s3://b/run@x", True),
        ("/a/b", "s3://a", False),
        ("file:///a/b", "/a", True),
        ("/a/../c", "/a", False),
        ("file:///a/../c", "/a", False),
    ],
)
def test_what_lies_within_a_folder_is_told_by_names_alone(path, folder, within):
    assert those_within([path], folder) == [path] * within


def test_what_links_lead_to_lies_within(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/run.json").touch()
    (tmp_path / "data").mkdir()
    (tmp_path / "data/up").symlink_to("..")
    (tmp_path / "data/one.json").symlink_to("../out/run.json")
    (tmp_path / "also_out").symlink_to("out")
    inside = [f"{tmp_path}/{name}" for name in ("data/up/out/run.json", "data/one.json", "also_out", "also_out/new")]
    outside = [f"{tmp_path}/{name}" for name in ("data/a.txt", "data/up/data/a.txt", "outer")]
    for out in ("out", "also_out"):
        assert those_within([*inside, *outside], f"{tmp_path}/{out}") == inside
    assert those_within([f"file://{inside[0]}"], f"{tmp_path}/out") == [f"file://{inside[0]}"]


@pytest.mark.parametrize(
    ("pattern", "folder", "name", "found"),
    [
        ("/a/*.txt", "/a", "b.txt", True),
        ("/a/*.txt", "/a/b", "c.txt", False),
        ("/a/*/c.*", "/a/b", "c.txt", True),
        ("/a/**/*.txt", "/a", "b.txt", True),
        ("/a/**/*.txt", "/a/b", "c/d.txt", True),
        ("/a/**/*.txt", "/b", "c.txt", False),
        ("/a/**", "/a/b", "c", True),
        ("/a/**/*.txt", "/a/.b", "c.txt", False),
        ("/a/*/*.txt", "/a/.b", "c.txt", False),
        ("/a/.*/*.txt", "/a/.b", "c.txt", True),
        ("/a/[bc].txt", "/a", "c.txt", True),
        ("/a/[[]b].txt", "/a", "[b].txt", True),
        ("/a/b.txt", "/a", "b.txt", False),  # which is no glob
        ("s3://a/**/*.parquet?region=us-east-1", "s3://a/b?region=us-east-1", "c.parquet", True),
        ("s3://a/**/*.parquet", "/a/b", "c.parquet", False),
    ],
)
def test_what_a_glob_would_find(pattern, folder, name, found):
    assert globbed(pattern, folder, name) is found


def test_one_object_has_one_spelling_and_two_servers_have_two():
    spellings = [
        "s3://bucket/my data/é+1.txt",
        "s3://bucket/my%20data/%C3%A9%2B1.txt",
        "s3://KEY:SECRET@bucket/my data/é+1.txt?region=eu",
    ]
    assert set(real_paths(spellings)) == {"s3://bucket/my%20data/%C3%A9%2B1.txt"}
    others = ["s3://bucket/a%2520b", "s3://bucket/a%20b", *(f"s3://bucket/a?endpoint_override={at}" for at in "xy")]
    assert len({*real_paths(others)}) == 4


def test_a_glob_is_a_path_whatever_it_finds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    globs = ["c/*.txt", "s3://bucket/*.txt", "/data/c?.txt", "{}"]
    assert located(globs) == [f"{tmp_path}/c/*.txt", *globs[1:]]


def test_only_what_names_files_is_taken_for_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("text", "main", "{}", "teacher", "corpus.txt"):
        (tmp_path / name).touch()
    config = DistillConfig(
        data_file=["corpus.txt", "elsewhere.txt"],
        teacher_name_or_path="teacher",
        text_column="text",
        hypothesis_template="{}",
        teacher_revision="main",
    )
    shaping = config.that_change("labels")
    assert shaping["data_file"] == [f"{tmp_path}/corpus.txt", "elsewhere.txt"]
    assert shaping["teacher_name_or_path"] == f"{tmp_path}/teacher"
    assert (shaping["text_column"], shaping["hypothesis_template"], shaping["teacher_revision"]) == (
        "text",
        "{}",
        "main",
    )

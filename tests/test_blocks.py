"""How large a block is: some seconds of work, never too few for the actors nor too many for the driver."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydistill.corpus import gather_splits, line_bytes, make_splits
from raydistill.corpus_files import CorpusFile, Split, find_files
from raydistill.resources import Node, Request, make_plan
from raydistill.specs import TeacherSpec
from raydistill.stages import ingest
from raydistill.stages.ingest import CorpusSource, read_blocks, unpack
from raydistill.stages.label import (
    CORE_FLOPS,
    LARGEST_BLOCK_BYTES,
    MOST_BLOCKS,
    SMALLEST_SHARE_BYTES,
    block_bytes,
)

CPU = make_plan([Node(2)], Request())
GPUS = make_plan([Node(64, 8)] * 8, Request())
SPEC = TeacherSpec("some/teacher", ("a", "b", "c", "d", "e"), "This is {}.", parameters=300_000_000)


def corpus_of(size):
    return [CorpusFile(f"{i}.txt", size // 2, 0, "text", None) for i in range(2)]


def test_a_block_is_some_seconds_of_work():
    size = block_bytes(corpus_of(10**10), SPEC, GPUS, 10)
    assert 1 << 20 < size < 4 << 20  # 10 seconds at some 7,000 pairs a second of 35 tokens
    assert block_bytes(corpus_of(10**10), dataclasses.replace(SPEC, class_names=("a",)), GPUS, 10) == pytest.approx(
        5 * size, abs=5
    )
    assert block_bytes(corpus_of(10**10), dataclasses.replace(SPEC, parameters=600_000_000), GPUS, 10) == size // 2
    assert block_bytes(corpus_of(10**10), SPEC, GPUS, 5) == size // 2
    slow = [block_bytes(corpus_of(10**8), SPEC, CPU, seconds) for seconds in (10, 20)]
    assert slow[1] == pytest.approx(2 * slow[0], abs=2)
    # Of a large teacher on two cores too, at some five pairs a second without AVX-512.
    assert 1500 < slow[0] * 7e10 / CORE_FLOPS < 3000


def test_one_long_text_does_not_make_the_blocks_of_others_longer(tmp_path):
    lines = [f"a sentence of some words, number {i:04}" for i in range(2000)]
    (tmp_path / "c.txt").write_text("\n".join(["x" * 100_000, *lines]))
    splits = [Split(file, 0, -1) for file in find_files([str(tmp_path)])]
    spec = dataclasses.replace(SPEC, scored_bytes=576.0)
    sizes = [
        unpack(block)[0].num_rows
        for block in read_blocks(splits, "text", 4000, None, dataclasses.replace(spec).work_bytes)
    ]
    assert sizes[0] == 1  # which is all tokenised
    assert max(sizes[1:]) <= 4000 / 37 + 50
    assert sum(sizes) == 2001


def test_of_very_many_actors_blocks_are_longer():
    plans = [make_plan([Node(64, 8)] * nodes, Request()) for nodes in (2, 10, 100)]
    few, some, many = (block_bytes(corpus_of(10**11), SPEC, plan, 5) for plan in plans)
    assert few == some  # of 80 GPUs
    assert many == pytest.approx(800 / 20 / 5 * few, abs=8)


@given(st.integers(2, 10**15), st.integers(1, 10**12), st.sampled_from([CPU, GPUS]))
def test_every_actor_gets_several_and_the_driver_not_too_many(size, parameters, plan):
    spec = dataclasses.replace(SPEC, parameters=parameters)
    block = block_bytes(corpus_of(size), spec, plan, 10)
    assert 0 < block <= LARGEST_BLOCK_BYTES
    if size >= 8 * plan.teacher_actors_max * SMALLEST_SHARE_BYTES:
        assert size // block >= 8 * plan.teacher_actors_max - 1
    if size <= MOST_BLOCKS * LARGEST_BLOCK_BYTES:
        assert size / block <= MOST_BLOCKS + 8 * plan.teacher_actors_max + 2


def blocks_of(folder, block_bytes):
    """The texts of each block that a single task reads of all files of a folder."""
    (splits,) = gather_splits(make_splits(find_files([str(folder)]), 1 << 20), 1 << 20)
    return [unpack(block)[0]["text"].to_pylist() for block in read_blocks(splits, "text", block_bytes, None)]


@given(
    st.lists(st.integers(1, 500), min_size=1, max_size=60),
    st.integers(1, 3000),
    st.integers(1, 3000),
    st.integers(0, 50),
    st.sampled_from([0.25, 1.0]),
)
def test_no_text_is_lost_whatever_ends_a_block(lengths, block_bytes, largest_read, scored_bytes, first_share):
    spec = dataclasses.replace(SPEC, scored_bytes=float(scored_bytes))
    lines = [f"{i:03}{'x' * length}" for i, length in enumerate(lengths)]
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(ingest, "LARGEST_READ", largest_read):
        Path(folder, "corpus.txt").write_text("\n".join(lines))
        splits = [Split(file, 0, -1) for file in find_files([folder])]
        packed = read_blocks(splits, "text", block_bytes, None, spec.work_bytes, first_share)
        blocks = [unpack(block)[0] for block in packed]
    assert [text for block in blocks for text in block["text"].to_pylist()] == lines
    assert all(
        sum(len(text) + 1 + ingest.HELD_BYTES for text in block["text"].to_pylist()[:-1]) < 2 * largest_read + 800
        for block in blocks
    )


@given(st.lists(st.lists(st.text("ab五", min_size=1, max_size=60), max_size=20), min_size=1), st.integers(1, 400))
def test_blocks_are_of_about_a_size_whatever_files_their_texts_are_in(files, block_bytes):
    texts = [[f"{text}{i}.{j}" for j, text in enumerate(lines)] for i, lines in enumerate(files)]
    with tempfile.TemporaryDirectory() as folder:
        for i, lines in enumerate(texts):
            Path(folder, f"{i:04}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        everything = [line for lines in texts for line in lines]
        blocks = blocks_of(folder, block_bytes) if everything else []
    assert [text for block in blocks for text in block] == everything
    longest = max((line_bytes(text) for text in everything), default=0)
    sizes = [sum(map(line_bytes, block)) for block in blocks]
    assert all(size < 1.5 * block_bytes + 2 * longest for size in sizes)
    assert all(size >= block_bytes for size in sizes[:-1])
    assert all(size >= block_bytes / 2 for size in sizes[1:])


def test_a_text_that_is_in_several_files_of_a_block_is_one_row(tmp_path):
    for name, content in {"1": "a\n\nb\na\n", "2": "\na\n", "3": "b\nc\n"}.items():
        (tmp_path / f"{name}.txt").write_text(content)
    (splits,) = gather_splits(make_splits(find_files([str(tmp_path)]), 100), 100)
    for most in (100, 11):  # one block; and one that a rest has joined
        (block,) = [unpack(block)[0] for block in read_blocks(splits, "text", most, None)]
        found = dict(zip(block["text"].to_pylist(), block["occurrences"].to_pylist(), strict=True))
        assert found == {"a": 3, "": 2, "b": 2, "c": 1}


def test_the_first_block_of_an_actor_is_a_small_one(tmp_path):
    (tmp_path / "corpus.txt").write_text("".join(f"text {i:04}\n" for i in range(2000)))  # of ten bytes each
    gathered = [[split] for split in make_splits(find_files([str(tmp_path)]), 5000)]
    source = CorpusSource(gathered, "text", 1000, None, early=2)
    sizes = [[unpack(block)[0].num_rows for block in task()] for task in source.get_read_tasks(4)]
    assert sizes == [[25, 100, 100, 100, 100, 75], [25, 100, 100, 100, 100, 75], [100] * 5, [100] * 5]


def test_a_rest_of_less_than_half_a_block_joins_the_last_one(tmp_path):
    (tmp_path / "corpus.txt").write_text("".join(f"text {i:04}\n" for i in range(149)))  # of ten bytes each
    assert [len(block) for block in blocks_of(tmp_path, 600)] == [60, 89]
    assert [len(block) for block in blocks_of(tmp_path, 550)] == [55, 55, 39]


def test_a_block_is_as_many_bytes_in_any_language(tmp_path):
    line = "五" * 10  # three bytes each
    (tmp_path / "corpus.txt").write_text(f"{line}\n" * 100, encoding="utf-8")
    (split,) = make_splits(find_files([str(tmp_path / "corpus.txt")]), 1 << 20)
    blocks = [unpack(block)[0] for block in read_blocks([split], "text", 310, None)]
    assert [block["occurrences"].to_pylist() for block in blocks] == [[10]] * 10

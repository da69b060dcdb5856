"""How large a block is: some seconds of work, never too few for the actors nor too many for the driver."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydistill.corpus import make_splits
from raydistill.corpus_files import CorpusFile, find_files
from raydistill.resources import Node, Request, make_plan
from raydistill.specs import TeacherSpec
from raydistill.stages.ingest import read_blocks, unpack
from raydistill.stages.label import (
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
    assert 1500 < slow[0] < 3000  # of a large teacher on two cores too, at some five pairs a second


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


def test_a_block_is_as_many_bytes_in_any_language(tmp_path):
    line = "五" * 10  # three bytes each
    (tmp_path / "corpus.txt").write_text(f"{line}\n" * 100, encoding="utf-8")
    (split,) = make_splits(find_files([str(tmp_path / "corpus.txt")]), 1 << 20)
    blocks = [unpack(block)[0] for block in read_blocks(split, "text", 310, None)]
    assert [block["occurrences"].to_pylist() for block in blocks] == [[10]] * 10

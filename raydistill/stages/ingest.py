"""The corpus as Ray Data reads it: blocks of distinct texts, with their ids and what the label store knows of them.

Runs in read tasks, so it imports neither torch nor transformers.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.data.block import Block, BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from raydistill.corpus import clean, line_bytes, text_id
from raydistill.corpus_files import Split
from raydistill.corpus_readers import read_splits
from raydistill.known_texts import KnownIds
from raydistill.specs import Effort

NAME = "raydistill.block"
LARGEST_READ = 16 << 20  # bytes that a block takes in memory, however little of them is scored
FIRST_SHARE = 0.25  # of a block: the first that an actor gets, so that it is soon seen to get on
HELD_BYTES = 200  # that a text takes besides its own, with its id


class CorpusSource(Datasource):
    """The corpus as Ray Data reads it: one task for all splits of a gathering, one block for every `block_bytes`.

    Args:
        early: of so many tasks the first block is a small one.
    """

    def __init__(
        self,
        gathered: Sequence[Sequence[Split]],
        text_column: str,
        block_bytes: int,
        known: ray.ObjectRef | None,
        weigh: Callable[[int], float] = float,
        early: int = 0,
    ) -> None:
        super().__init__()
        self._gathered, self._early = gathered, early
        self._read = partial(
            read_blocks, text_column=text_column, block_bytes=block_bytes, known_ref=known, weigh=weigh
        )

    def estimate_inmemory_data_size(self) -> int | None:
        return sum({split.file.path: split.file.size for splits in self._gathered for split in splits}.values())

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [
            ReadTask(partial(self._read, splits, first_share=FIRST_SHARE if at < self._early else 1.0), unknown)
            for at, splits in enumerate(self._gathered)
        ]


def read_blocks(
    splits: Iterable[Split],
    text_column: str,
    block_bytes: int,
    known_ref: ray.ObjectRef | None,
    weigh: Callable[[int], float] = float,
    first_share: float = 1.0,
) -> Iterator[Block]:
    """The distinct texts of some splits, about `block_bytes` at a time (see `distinct_texts`).

    A rest of less than half of that joins the block before it: the fewer texts there are, the fewer are of a length,
    and the longer the teacher takes for each.

    Args:
        weigh: what a text of so many bytes counts for.
        first_share: of a block, the first one.
    """
    known = ray.get(known_ref) if known_ref is not None else None
    started = time.perf_counter()
    lines = itertools.chain.from_iterable(read_splits(splits, text_column))
    for texts in _counted(lines, block_bytes, weigh, first_share):
        yield pack(distinct_texts(texts, known), Effort(read_seconds=time.perf_counter() - started))
        started = time.perf_counter()


def _counted(
    lines: Iterable[str], block_bytes: int, weigh: Callable[[int], float], first_share: float
) -> Iterator[Counter[str]]:
    """How often each text stands in the lines of a block."""
    held: Counter[str] = Counter()  # a block that the rest may have to join
    texts: Counter[str] = Counter()
    wanted, size, read = block_bytes * first_share, 0.0, 0
    for line in lines:
        text = clean(line)
        texts[text] += 1
        read += line_bytes(text) + (HELD_BYTES if texts[text] == 1 else 0)
        size += weigh(line_bytes(text))
        is_whole = size >= wanted or read >= LARGEST_READ
        if held and (is_whole or size >= wanted / 2):
            yield held
            held = Counter()
        if is_whole:
            held, texts, wanted, size, read = texts, Counter(), block_bytes, 0.0, 0
    held.update(texts)
    if held:
        yield held


def distinct_texts(texts: Counter[str], known: KnownIds | None) -> pa.Table:
    """Texts with their ids, occurrences, and index among the known ones (-1 for a new one).

    Known texts travel on without their text, only to be counted; blank ones are one row of text "".
    """
    names = list(texts)
    ids = [text_id(text) for text in names]
    index = known.find(ids) if known is not None else np.full(len(names), -1, dtype=np.int64)
    return pa.table(
        {
            "text_id": pa.array(ids, pa.string()),
            "text": pa.array([text if i < 0 else None for text, i in zip(names, index, strict=True)], pa.string()),
            "occurrences": pa.array(list(texts.values()), pa.int64()),
            "known_index": pa.array(index, pa.int64()),
        }
    )


def pack(block: pa.Table, effort: Effort) -> pa.Table:
    """A block as a single row, which Ray Data passes on as it is: rows it would gather or cut by their bytes.

    It gets a name of its own, by which who tries it again knows it.
    """
    block = block.replace_schema_metadata({NAME: uuid.uuid4().hex})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, block.schema) as writer:
        writer.write_table(block)
    content = sink.getvalue()
    bounds = pa.py_buffer(np.array([0, len(content)], dtype=np.int64))
    block_column = pa.Array.from_buffers(pa.large_binary(), 1, [None, bounds, content])
    return pa.table({"block": block_column, "effort": pa.array([dataclasses.asdict(effort)])})


def block_name(block: pa.Table) -> str:
    """What `pack` has called it."""
    return block.schema.metadata[NAME.encode()].decode()


def unpack(packed: pa.Table) -> tuple[pa.Table, Effort]:
    """The reverse, without a copy."""
    block = pa.ipc.open_stream(packed["block"][0].as_buffer()).read_all()
    return block, Effort(**packed["effort"][0].as_py())

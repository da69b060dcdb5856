"""Receipts: a block is written as a part of the label store, and a row that says so goes on to the driver."""

from __future__ import annotations

import dataclasses
import time

import pyarrow as pa
import pyarrow.compute as pc

from raydistill.label_store import LabelStore
from raydistill.rejected import rejected_line
from raydistill.specs import Effort


def write_block(block: pa.Table, effort: Effort, store: LabelStore) -> pa.Table:
    """Write the rows that were scored as a part of the store.

    Args:
        block: as `TeacherActor.score` returns it.
        effort: what it took so far; writing is added.

    Returns:
        one row that says what the block held.
    """
    started = time.perf_counter()
    scored = block.filter(block["entailment"].is_valid())
    known = block.filter(pc.greater_equal(block["known_index"], 0))
    blanks = block.filter(pc.equal(block["text"], ""))
    rejected = block.filter(block["rejected"].is_valid())
    part, part_bytes = store.write_part(scored) if scored.num_rows else (None, 0)
    effort.write_seconds = time.perf_counter() - started
    receipt = {
        "part": part,
        "part_bytes": part_bytes,
        "texts": _sum(scored["occurrences"]) + _sum(known["occurrences"]),
        "labelled": scored.num_rows,
        "blanks": _sum(blanks["occurrences"]),
        "rejected_texts": _sum(rejected["occurrences"]),
        "rejected": [
            rejected_line(row["text_id"], row["text"], row["occurrences"], row["rejected"])
            for row in rejected.select(["text_id", "text", "occurrences", "rejected"]).to_pylist()
        ],
        "known_index": known["known_index"].to_pylist(),
        "known_occurrences": known["occurrences"].to_pylist(),
        "effort": dataclasses.asdict(effort),
    }
    return pa.table({name: pa.array([value], RECEIPT.get(name)) for name, value in receipt.items()})


# Types that a value alone may not tell: of None, and of an empty list.
RECEIPT = {
    "part": pa.string(),
    "rejected": pa.list_(pa.string()),
    "known_index": pa.list_(pa.int64()),
    "known_occurrences": pa.list_(pa.int64()),
}


def _sum(column: pa.ChunkedArray) -> int:
    return pc.sum(column).as_py() or 0

"""The label store: Parquet parts of texts with their NLI logits, and `_labels.json`, which says how they were made.

A part holds one row for each distinct text of one block; `occurrences` says how often the text stands in the corpus,
so that training counts it as often. Parts are written whole or not at all, and any part that is there is good: a run
that was killed keeps them. What makes a store *complete* is the last step of a pass over the corpus, `complete`, which
sets right the occurrences of texts that earlier passes had labelled.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import uuid
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raydistill.errors import RunDirError, first_line
from raydistill.files import Folder, parse_record

RECORD = "_labels.json"
SCHEMA_VERSION = 1
MERGE_AT = 1 << 20  # ids that wait to be merged, at least: sorting at every part would be quadratic
SCHEMA = pa.schema(
    [
        ("text_id", pa.string()),
        ("text", pa.string()),
        ("occurrences", pa.int64()),
        ("entailment", pa.list_(pa.float32())),
        ("contradiction", pa.list_(pa.float32())),
    ]
)


def logits_column(logits: npt.NDArray[np.float32]) -> pa.ListArray:
    """(N, K) float32 -> a plain Parquet list column of N lists of K, in class order."""
    rows, width = logits.shape
    return pa.ListArray.from_arrays(np.arange(rows + 1, dtype=np.int32) * width, logits.reshape(-1))


def logits_matrix(column: pa.Array | pa.ChunkedArray, num_classes: int) -> npt.NDArray[np.float32]:
    """The reverse of `logits_column`: (N, K) float32."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return np.asarray(array.flatten(), dtype=np.float32).reshape(-1, num_classes)


@dataclasses.dataclass(frozen=True)
class KnownTexts:
    """The texts that a store holds, sorted by id: 24 bytes each, so 240 MB for ten million.

    An id is kept as two 64-bit halves, which are searched in turn.
    """

    first: npt.NDArray[np.uint64]
    second: npt.NDArray[np.uint64]
    occurrences: npt.NDArray[np.int64]

    @classmethod
    def of(cls, text_ids: Sequence[str], occurrences: npt.NDArray[np.int64]) -> KnownTexts:
        """From rows in any order: each text once, with its occurrences added up."""
        return cls._merged(*id_halves(text_ids), occurrences)

    def with_more(self, others: Sequence[KnownTexts]) -> KnownTexts:
        """These and some others."""
        sides = zip(*((known.first, known.second, known.occurrences) for known in [self, *others]), strict=True)
        return self._merged(*(np.concatenate(side) for side in sides))

    @classmethod
    def _merged(
        cls, first: npt.NDArray[np.uint64], second: npt.NDArray[np.uint64], occurrences: npt.NDArray[np.int64]
    ) -> KnownTexts:
        order = np.lexsort((second, first))
        first, second, occurrences = first[order], second[order], occurrences[order]
        new = np.ones(len(first), dtype=bool)
        new[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
        starts = np.flatnonzero(new)
        totals = np.add.reduceat(occurrences, starts) if len(starts) else occurrences
        return cls(first[starts], second[starts], totals)

    def digest(self) -> str:
        """Says whether two stores hold the same texts, each as often."""
        held = self.occurrences > 0
        digest = hashlib.blake2b(digest_size=16)
        for column in (self.first, self.second, self.occurrences):
            digest.update(np.ascontiguousarray(column[held]).tobytes())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.first)

    def find(self, text_ids: Sequence[str]) -> npt.NDArray[np.int64]:
        """(N,) int64: the index of each id here, or -1."""
        if not len(self) or not len(text_ids):
            return np.full(len(text_ids), -1, dtype=np.int64)
        first, second = id_halves(text_ids)
        at = np.minimum(np.searchsorted(self.first, first), len(self) - 1)
        # Ids that share a first half stand side by side; among ten million texts that happens once in a million stores.
        behind = (self.first[at] == first) & (self.second[at] < second)
        while behind.any():
            at[behind] = np.minimum(at[behind] + 1, len(self) - 1)
            behind &= (self.first[at] == first) & (self.second[at] < second) & (at < len(self) - 1)
        return np.where((self.first[at] == first) & (self.second[at] == second), at, -1)


def id_halves(text_ids: Sequence[str]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """The two 64-bit halves of ids of 32 hexadecimal digits."""
    halves = np.frombuffer(bytes.fromhex("".join(text_ids)), dtype=">u8").reshape(-1, 2).astype(np.uint64)
    return halves[:, 0], halves[:, 1]


class LabelStore:
    """A folder of label parts. Picklable: what workers get is the path."""

    def __init__(self, path: str) -> None:
        self.folder = Folder(path)

    @property
    def path(self) -> str:
        """Where the store lies."""
        return self.folder.path

    def record(self) -> dict[str, Any] | None:
        """What `_labels.json` says, or None where there is no store. Raises RunDirError for another version's."""
        try:
            record = parse_record(self.folder.read(RECORD))
        except FileNotFoundError:
            return None
        except ValueError:
            raise RunDirError(f"{self.path}/{RECORD} is damaged. Remove the folder and label again.") from None
        if not isinstance(record.get("labelling"), dict):
            raise RunDirError(f"{self.path}/{RECORD} is damaged. Remove the folder and label again.")
        if record.get("schema_version") != SCHEMA_VERSION:
            raise RunDirError(
                f"{self.path}: was written by another version of raydistill (schema {record.get('schema_version')}, "
                f"here {SCHEMA_VERSION}). Use another --output-dir."
            )
        return record

    def write_record(self, record: dict[str, Any]) -> None:
        """Replace `_labels.json`."""
        content = json.dumps({"schema_version": SCHEMA_VERSION, **record}, indent=2, ensure_ascii=False)
        self.folder.write(RECORD, content.encode())

    def complete_record(self) -> dict[str, Any]:
        """The record of a store that can be trained from. Raises RunDirError for one that is missing or unfinished."""
        record = self.record()
        if record is None:
            raise RunDirError(
                f"{self.path}: holds no label store. Make one with `raydistill label`, or name one with --labels."
            )
        if not record.get("complete"):
            raise RunDirError(f"{self.path}: its labels are not complete. Run `raydistill label` again to finish them.")
        found, texts = self.count_texts(), record["complete"]["texts"]
        if found != texts:
            raise RunDirError(
                f"{self.path}: holds {found:,} of its {texts:,} texts. Run `raydistill label` again to make the others."
            )
        return record

    def parts(self) -> list[str]:
        """The names of the finished parts, sorted."""
        return self.folder.names(".parquet")

    def write_part(self, table: pa.Table) -> str:
        """Write rows of `SCHEMA` as a new part and return its name."""
        buffer = io.BytesIO()
        pq.write_table(table.select(SCHEMA.names).cast(SCHEMA), buffer, compression="zstd")
        name = f"part-{uuid.uuid4().hex}.parquet"
        self.folder.write(name, buffer.getbuffer())
        return name

    def read_part(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """A part, or some columns of it. Raises RunDirError for a file that is not one."""
        try:
            with self.folder.open(name) as source:
                return pq.read_table(source, columns=list(columns) if columns else None)
        except (pa.ArrowInvalid, OSError) as error:
            raise RunDirError(
                f"{self.path}/{name}: is not a label part ({first_line(error)}). Remove it: its texts "
                "are labelled anew."
            ) from None

    def known_texts(self, parts: Iterable[str]) -> KnownTexts:
        """The ids in some parts, each once, with their occurrences added up."""
        known = KnownTexts.of([], np.empty(0, np.int64))
        waiting: list[KnownTexts] = []
        for name in parts:
            table = self.read_part(name, ["text_id", "occurrences"])
            waiting.append(KnownTexts.of(table["text_id"].to_pylist(), table["occurrences"].to_numpy()))
            if sum(map(len, waiting)) > max(len(known), MERGE_AT):
                known, waiting = known.with_more(waiting), []
        return known.with_more(waiting)

    def count_texts(self) -> int:
        """How many texts the parts hold, each as often as it stands in the corpus."""
        return sum(pc.sum(self.read_part(name, ["occurrences"])["occurrences"]).as_py() or 0 for name in self.parts())

    def correct_occurrences(self, parts: Sequence[str], known: KnownTexts, counted: npt.NDArray[np.int64]) -> int:
        """Make the store say what the corpus holds now, for texts that were known before this pass.

        A text that is gone from the corpus gets 0 and is no longer trained on. Parts that need no change are not
        touched; the others are written anew in place, so a kill here is mended by the next pass.

        Args:
            parts: the parts that were there before this pass.
            known: their texts.
            counted: (len(known),) how often this pass met each.

        Returns:
            the number of texts that were set right.
        """
        wrong = known.occurrences != counted
        if not wrong.any():
            return 0
        left, rows_left = counted.copy(), np.zeros(len(known), dtype=np.int64)
        for name in parts:
            np.add.at(rows_left, known.find(self.read_part(name, ["text_id"])["text_id"].to_pylist()), 1)
        for name in parts:
            table = self.read_part(name)
            at = known.find(table["text_id"].to_pylist())
            if not wrong[at].any():
                continue
            occurrences = table["occurrences"].to_numpy().copy()
            for row in np.flatnonzero(wrong[at]):  # a text that stands in several parts is shared out among them
                text = at[row]
                occurrences[row] = -(-left[text] // rows_left[text])
                left[text], rows_left[text] = left[text] - occurrences[row], rows_left[text] - 1
            index = SCHEMA.get_field_index("occurrences")
            table = table.set_column(index, SCHEMA.field(index), pa.array(occurrences, pa.int64()))
            buffer = io.BytesIO()
            pq.write_table(table, buffer, compression="zstd")
            self.folder.write(name, buffer.getbuffer())
        return int(wrong.sum())

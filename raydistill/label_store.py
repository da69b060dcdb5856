"""The label store: Parquet parts of texts with their NLI logits, and `_labels.json`, which says how they were made.

A part holds one row for each distinct text of one block; `occurrences` says how often the text stands in the corpus,
so that training counts it as often. Parts are written whole or not at all, are never changed, and have their checksum
in their name: a part that is there is good unless the disk has torn it, which its checksum tells, and a run that was
killed keeps them. Where parts take the place of others, a plan says so first. A pass over the corpus ends with
`occurrences.py`, which sets right how often texts of earlier passes occur; then its record says `complete`.
"""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raydistill.errors import DamagedError, RunDirError, first_line
from raydistill.files import Folder, digest_of, parse_record
from raydistill.known_texts import Census, KnownTexts, take_census
from raydistill.label_record import tells_completion, tells_labelling
from raydistill.refusals import refusals

RECORD, PLAN = "_labels.json", "_replace-"
SOURCES = b"raydistill.replaces"  # in the metadata of a part
PART_NAME = re.compile(r"part-(?P<digest>[0-9a-f]{32})-[0-9a-f]{16}\.parquet")
SCHEMA_VERSION = 2
UNREADABLE = (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError, UnicodeDecodeError, OSError)
LISTERS = 16  # parts opened at once: on an object store each takes a round trip
GROUPS_FETCHED, ROWS_READ = 16, 1 << 15  # at once, of narrow columns
ROW_GROUP_BYTES = 4 << 20  # in a merged part, at least: what a reader has to hold at a time
LEAST_ROW_BYTES = 32  # an id alone takes half of it, however it is compressed
SCHEMA = pa.schema(
    [
        ("text_id", pa.string()),
        ("text", pa.string()),
        ("occurrences", pa.int64()),
        ("entailment", pa.list_(pa.float32())),
        ("contradiction", pa.list_(pa.float32())),
    ]
)


class RowGroup(NamedTuple):
    """A piece of the store: the part, which of its row groups, and the bytes of that one in memory."""

    part: str
    at: int
    size: int


def logits_column(logits: npt.NDArray[np.float32]) -> pa.ListArray:
    """(N, K) float32 -> a plain Parquet list column of N lists of K, in class order."""
    rows, width = logits.shape
    return pa.ListArray.from_arrays(np.arange(rows + 1, dtype=np.int32) * width, logits.reshape(-1))


def logits_matrix(column: pa.Array | pa.ChunkedArray, num_classes: int) -> npt.NDArray[np.float32]:
    """The reverse of `logits_column`: (N, K) float32. Raises ValueError where a row has not K of them."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if not pc.all(pc.equal(pc.fill_null(pc.list_value_length(array), -1), num_classes), min_count=0).as_py():
        raise ValueError(f"a row of logits is not of {num_classes} classes")
    return np.asarray(array.flatten(), dtype=np.float32).reshape(-1, num_classes)


class LabelStore:
    """A folder of label parts. Picklable: what workers get is the path."""

    def __init__(self, path: str) -> None:
        self.folder = Folder(path)

    @property
    def path(self) -> str:
        """Where the store lies."""
        return self.folder.path

    def record(self) -> dict[str, Any] | None:
        """What `_labels.json` says, or None where there is no store.

        Raises DamagedError for what is no record, and RunDirError for another version's.
        """
        try:
            record = parse_record(self.folder.read(RECORD))
        except FileNotFoundError:
            return None
        except ValueError:
            record = {}
        if record.get("schema_version", SCHEMA_VERSION) != SCHEMA_VERSION:
            raise RunDirError(
                f"{self.path}: was written by another version of raydistill (schema {record.get('schema_version')}, "
                f"here {SCHEMA_VERSION}). Use another --output-dir."
            )
        if not (tells_labelling(record) and tells_completion(record)):
            raise DamagedError(
                f"{self.folder.where(RECORD)} is damaged. Run `raydistill label` again, which mends it from "
                "run.json; without that, remove the folder."
            )
        return record

    def write_record(self, record: dict[str, Any]) -> None:
        """Replace `_labels.json`."""
        content = json.dumps({"schema_version": SCHEMA_VERSION, **record}, indent=2, ensure_ascii=False)
        self.folder.write(RECORD, content.encode())

    def complete_record(self) -> dict[str, Any]:
        """The record of a store that is finished. Raises RunDirError for one that is missing or unfinished."""
        record = self.record()
        if record is None:
            below = self.folder.child("labels")  # as of a run's directory
            instead = "Make one with `raydistill label`, or name one with --labels."
            if below.has(RECORD):
                instead = f"There is one in {below.path}: name that."
            raise RunDirError(f"{self.path}: holds no label store. {instead}")
        if not record.get("complete"):
            raise RunDirError(f"{self.path}: its labels are not complete. Run `raydistill label` again to finish them.")
        return record

    def expect_all_texts(self) -> None:
        """Raise RunDirError where a finished store's parts do not hold as many texts as its record says."""
        self.expect_own_parts()
        found, texts = self.count_texts(), self.complete_record()["complete"]["texts"]
        if found > texts:
            raise RunDirError(
                f"{self.path}: holds {found:,} texts, and only {texts:,} are recorded: there are label files that are "
                "not its own, such as copies. Remove them, or run `raydistill label` again, which sets that right."
            )
        if found != texts:
            raise RunDirError(
                f"{self.path}: holds {found:,} of its {texts:,} texts. Run `raydistill label` again to make the others."
            )

    def parts(self) -> list[str]:
        """The names of the finished parts, sorted."""
        return self.folder.names(".parquet")

    def own_parts(self) -> list[str]:
        """Those of them that this store has written, by their names."""
        return [name for name in self.parts() if PART_NAME.fullmatch(name)]

    def expect_own_parts(self) -> None:
        """Raise RunDirError where a Parquet file lies that this store did not write: it would count as labels."""
        foreign = [name for name in self.parts() if not PART_NAME.fullmatch(name)]
        if foreign:
            raise RunDirError(f"{self.path}: {foreign[0]} is not one of its label files. Move it elsewhere.")

    def write_part(self, table: pa.Table) -> tuple[str, int]:
        """Write rows of `SCHEMA` as a new part; return its name and its bytes."""
        return self._write_rows([table.select(SCHEMA.names).cast(SCHEMA)])

    def read_part(self, name: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """A part, or some columns of it, a row group at a time. Raises RunDirError for what is no part."""
        with self._opened(name) as part:
            for at in range(part.num_row_groups):
                # Threads gain nothing with groups of some megabytes, and each keeps memory of its own.
                yield part.read_row_group(at, columns=list(columns) if columns else None, use_threads=False)

    def row_groups(self) -> list[RowGroup]:
        """All of the store in pieces that can be read in any order, sorted by part."""
        with ThreadPoolExecutor(LISTERS) as pool:
            return [group for groups in pool.map(self._row_groups, self.parts()) for group in groups]

    def _row_groups(self, name: str) -> list[RowGroup]:
        with self._opened(name) as part:
            sizes = [part.metadata.row_group(at).total_byte_size for at in range(part.num_row_groups)]
        return [RowGroup(name, at, size) for at, size in enumerate(sizes)]

    def read_row_groups(self, groups: Iterable[RowGroup], columns: Sequence[str]) -> Iterator[pa.Table]:
        """Some columns of row groups, one after another. Raises RunDirError as `read_part` does."""
        for group in groups:
            with self._opened(group.part) as part:
                yield part.read_row_group(group.at, columns=list(columns), use_threads=False)

    @contextlib.contextmanager
    def _opened(self, name: str) -> Iterator[pq.ParquetFile]:
        try:
            with self.folder.open(name) as source:
                ahead = not self.folder.local  # each row group is a round trip
                part = pq.ParquetFile(source, page_checksum_verification=True, pre_buffer=ahead)
                held = part.schema_arrow
                # Types are looked at too: a column of Ray's pickled objects would run code as its values are read.
                if not all(
                    name in held.names and held.field(name).type == SCHEMA.field(name).type for name in SCHEMA.names
                ):
                    raise pa.ArrowInvalid("its columns are others")
                yield part
        except UNREADABLE as error:
            raise self._fault(name, error) from None

    def _fault(self, name: str, error: Exception) -> RunDirError:
        """What is wrong with a part that cannot be read: itself, or, if its content is as written, something else."""
        where, named = self.folder.where(name), PART_NAME.fullmatch(name)
        try:
            digest = self.folder.digest(name)
        except FileNotFoundError:
            return RunDirError(f"{where}: is gone. Run `raydistill label` again to make its labels anew.")
        except RunDirError as fault:
            return fault
        if named and named["digest"] != digest:
            return DamagedError(f"{where}: is damaged. Run `raydistill label` again to make its labels anew.")
        if named and isinstance(error, OSError):
            return RunDirError(
                f"{where}: cannot be read ({first_line(error)}). Mend that, and the same command goes on."
            )
        return RunDirError(f"{where}: is not a label part ({first_line(error)}). Move it elsewhere.")

    def merge_parts(self, names: Sequence[str]) -> tuple[str, int]:
        """Write one part that is to replace several; return its name and its bytes.

        Whoever hears of the new one, and has not given it up, removes the others with `end_replacement`.
        """
        return self._write_rows(_gathered(group for name in names for group in self.read_part(name)), names)

    def end_replacement(self, name: str, sources: Iterable[str]) -> None:
        """Delete the parts that this one replaces. Safe to repeat, by any process."""
        if not self.folder.has(name):
            return  # given up, or merged with others since then
        for source in sources:
            self.folder.delete(source)
        self.folder.delete(f"{PLAN}{name}.json")

    def mend_part(self, name: str, mended: Callable[[pa.Table], pa.Table]) -> None:
        """Replace a part by a copy of it, to each of whose row groups a function was applied."""
        made, _ = self._write_rows(map(mended, self.read_part(name)), [name])
        self.end_replacement(made, [name])

    def finish_replacements(self) -> list[tuple[str, list[str]]]:
        """End or undo the replacements that a kill has interrupted. Call it while nobody else changes the store.

        Returns:
            those that took effect: the new part, and its sources.
        """
        parts, ended = set(self.parts()), []
        for plan in self.folder.names(".json"):
            made = plan.removeprefix(PLAN).removesuffix(".json")
            if plan.startswith(PLAN) and PART_NAME.fullmatch(made):
                if made in parts and self.is_whole(made):
                    sources = self._sources(made)
                    self.end_replacement(made, [name for name in sources if name in parts])
                    ended.append((made, sources))
                else:  # torn by a power cut, or not there (yet: its task may be cut off, but alive)
                    self.folder.delete(plan)
                    self.folder.delete(made)
        return ended

    def _sources(self, name: str) -> list[str]:
        with self._opened(name) as part:
            return json.loads((part.metadata.metadata or {}).get(SOURCES, b"[]"))

    def _write_rows(self, tables: Iterable[pa.Table], sources: Sequence[str] = ()) -> tuple[str, int]:
        """Write a part, which is to replace others if any are named.

        Its metadata names what it replaces, and a plan (an empty file) is written before it, so `finish_replacements`
        can complete the swap after a kill. Until then rows may stand twice, and none is ever lost. To abandon a swap,
        delete the plan and then the part; the writer looks for the plan once the part has its name.
        """
        with self.folder.draft() as draft:
            with pq.ParquetWriter(draft.sink, SCHEMA, compression="zstd", write_page_checksum=True) as writer:
                for table in tables:
                    writer.write_table(table)
                if sources:
                    writer.add_key_value_metadata({SOURCES: json.dumps(list(sources))})
            size = draft.sink.tell()
            # Blocks that are alike, as where a file is named twice, make parts that are.
            name = f"part-{digest_of(draft.sink)}-{uuid.uuid4().hex[:16]}.parquet"
            plan = f"{PLAN}{name}.json"
            if sources:
                self.folder.write(plan, b"{}")
            draft.publish(name)
        if sources and plan not in self.folder.names(".json"):  # given up meanwhile, as of a task that was lost
            self.folder.delete(name)
            raise RuntimeError(f"{self.folder.where(name)} was given up while it was written")
        return name, size

    def is_whole(self, name: str) -> bool:
        """Whether a part's content is what its name says. Raises FileNotFoundError."""
        named = PART_NAME.fullmatch(name)
        return named is not None and self.folder.digest(name) == named["digest"]

    def damaged_parts(self) -> list[str]:
        """The parts whose content is not what their names say, as after a power cut. Reads all of the store.

        Raises RunDirError for what cannot be read.
        """

        def is_damaged(name: str) -> bool:
            try:
                return not self.is_whole(name)
            except FileNotFoundError:  # a shared file system may still list what is gone
                return False

        names = self.own_parts()
        with ThreadPoolExecutor(LISTERS) as pool:
            return [name for name, damaged in zip(names, pool.map(is_damaged, names), strict=True) if damaged]

    def known_texts(self, parts: Sequence[str]) -> KnownTexts:
        """The ids in some parts, each once, with their occurrences added up. Raises RunDirError."""
        sizes, wanted = self.folder.sizes(".parquet"), set(parts)
        about = sum(size for name, size in sizes.items() if name in wanted) // LEAST_ROW_BYTES
        with self.room_for_ids() as folder:
            return KnownTexts.gathered(self._ids(parts), about, folder)

    def census(self, about: int) -> Census:
        """Count what the store holds of the corpus, of `about` so many ids. Raises RunDirError."""
        with self.room_for_ids() as folder:
            return take_census(self._ids(self.parts()), about, folder)

    @contextlib.contextmanager
    def room_for_ids(self) -> Iterator[str | None]:
        """A folder to lay out ids in, None where temporary files go; what its disk refuses within is a RunDirError."""
        folder = self.folder.local if self.folder.local and self.folder.is_there() else None
        with refusals(folder or tempfile.gettempdir(), "cannot hold the ids of the texts"):
            yield folder

    def count_texts(self) -> int:
        """How many texts the parts hold, each as often as it occurs in the corpus. Raises RunDirError."""
        return sum(pc.sum(batch["occurrences"]).as_py() for batch in self._columns(self.parts(), ["occurrences"]))

    def _ids(self, parts: Iterable[str]) -> Iterator[tuple[pa.Array, npt.NDArray[np.int64]]]:
        for batch in self._columns(parts, ["text_id", "occurrences"]):
            yield batch["text_id"], batch["occurrences"].to_numpy()

    def _columns(self, parts: Iterable[str], columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Some narrow columns of parts, in batches; those of some row groups are fetched together."""
        for name in parts:
            with self._opened(name) as part:
                for at in range(0, part.num_row_groups, GROUPS_FETCHED):
                    groups = range(at, min(at + GROUPS_FETCHED, part.num_row_groups))
                    yield from part.iter_batches(ROWS_READ, groups, list(columns), use_threads=False)


def _gathered(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of `ROW_GROUP_BYTES` or more."""
    waiting: list[pa.Table] = []
    size = 0
    for table in tables:
        waiting.append(table)
        size += table.nbytes
        if size >= ROW_GROUP_BYTES:
            yield pa.concat_tables(waiting)
            waiting, size = [], 0
    if waiting:
        yield pa.concat_tables(waiting)

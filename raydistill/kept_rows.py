"""Rows for the student, made once: the first epoch keeps what it has made of the labels, later ones read it.

Reading what was kept takes some hundredth of the time of making it, nearly all of which is tokenising. No torch, no
transformers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import logging
import shutil
from collections.abc import Iterator
from pathlib import PurePath

import pyarrow as pa
import pyarrow.parquet as pq

from raydistill.errors import RunDirError
from raydistill.files import Folder, digest_of
from raydistill.label_store import LabelStore, RowGroup
from raydistill.student_rows import SCHEMA, StudentRows, as_often

COLUMNS = ("text", "occurrences", "entailment", "contradiction")
SUFFIX, DIGEST_BYTES = ".rows", 16  # a Parquet file with its checksum behind it
LEAST_FREE = 0.1  # of a disk: what is kept is a convenience, and checkpoints need room
logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class KeptRows:
    """A function from row groups of a label store to rows for the student, that travels to data tasks.

    Args:
        folder: an existing one, where the rows of each row group are kept; None for none.
        name: of the rows in there, which others are kept beside.
    """

    store: LabelStore
    rows: StudentRows
    folder: Folder | None = None
    name: str = ""

    @classmethod
    def in_folder(cls, folder: Folder, store: LabelStore, rows: StudentRows) -> KeptRows:
        """In a folder, which is made; what writers that were killed have left there is removed."""
        folder.create()
        folder.sweep()
        return cls(store, rows, folder, hashlib.blake2b(repr(rows).encode(), digest_size=8).hexdigest())

    def __call__(self, groups: pa.Table) -> Iterator[pa.Table]:
        """The rows of one or more row groups, mixed, each text as often as it occurs.

        They are the same to the byte whether they were kept or are made: so Ray Data cuts them into the same blocks.

        Args:
            groups: the fields of `RowGroup`, and in each row the same `draw`, the numbers that seed their order.

        Raises RunDirError as `LabelStore` does.
        """
        named = groups.drop_columns(["draw"]).to_pylist()
        rows = pa.concat_tables(self._rows_of(RowGroup(**group)) for group in named)
        yield from as_often(rows, groups["draw"][0].as_py())

    def _rows_of(self, group: RowGroup) -> pa.Table:
        if self.folder is None:
            return self._made(group)
        # Names of parts are never used again, and their content never changes.
        name = f"{self.name}-{PurePath(group.part).stem}-{group.at}{SUFFIX}"
        try:
            return _read(self.folder, name)
        except FileNotFoundError:
            pass
        except (RunDirError, pa.ArrowException):
            logger.warning("%s: cannot be read, so its texts are tokenised again", self.folder.where(name))
        table = self._made(group)
        with contextlib.suppress(RunDirError):  # as where the disk is full: then it is made again in each epoch
            if _has_room(self.folder):
                content = io.BytesIO()
                pq.write_table(table, content, compression="zstd")
                self.folder.write(name, content.getvalue() + bytes.fromhex(digest_of(content)))
        return table

    def _made(self, group: RowGroup) -> pa.Table:
        return pa.concat_tables(map(self.rows, self.store.read_row_groups([group], COLUMNS)))


def _read(folder: Folder, name: str) -> pa.Table:
    """What was kept. Raises FileNotFoundError, and RunDirError or ArrowException for what is damaged."""
    kept = memoryview(folder.read(name))
    content = io.BytesIO(kept[:-DIGEST_BYTES])
    if digest_of(content) != kept[-DIGEST_BYTES:].hex():  # a footer has no checksum of Parquet's
        raise pa.ArrowInvalid("its content is another")
    rows = pq.ParquetFile(content).read(use_threads=False)
    if rows.schema != SCHEMA:
        raise pa.ArrowInvalid("its columns are others")
    return rows


def _has_room(folder: Folder) -> bool:
    if folder.local is None:
        return True
    try:
        disk = shutil.disk_usage(folder.local)
    except OSError:
        return False
    return disk.free > LEAST_FREE * disk.total

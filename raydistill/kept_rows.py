"""Rows for the student, made once: the first epoch keeps what it has made of the labels, later ones read it.

Reading what was kept takes some hundredth of the time of making it, nearly all of which is tokenising. No torch, no
transformers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import shutil
from collections.abc import Iterable, Iterator
from pathlib import PurePath

import pyarrow as pa
import pyarrow.parquet as pq

from raydistill.errors import RunDirError
from raydistill.files import Folder
from raydistill.label_store import LabelStore, RowGroup
from raydistill.student_rows import StudentRows, as_often

COLUMNS = ("text", "occurrences", "entailment", "contradiction")
LEAST_FREE = 0.1  # of a disk: what is kept is a convenience, and checkpoints need room
logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class KeptRows:
    """A function from row groups of a label store to rows for the student, that travels to data tasks.

    Args:
        folder: an existing one, where the rows of each row group are kept; None for none.
    """

    store: LabelStore
    rows: StudentRows
    folder: Folder | None = None

    def __call__(self, groups: Iterable[RowGroup]) -> Iterator[pa.Table]:
        """The rows of some row groups, each text as often as it occurs. Raises RunDirError as `LabelStore` does."""
        prefix = hashlib.blake2b(repr(self.rows).encode(), digest_size=8).hexdigest()
        for group in groups:
            # Part names are never used again, and their content never changes.
            yield from as_often(self._rows_of(group, f"{prefix}-{PurePath(group.part).stem}-{group.at}.parquet"))

    def _rows_of(self, group: RowGroup, name: str) -> pa.Table:
        if self.folder is None:
            return self._made(group)
        try:
            with self.folder.open(name) as source:
                return pq.ParquetFile(source, page_checksum_verification=True).read()
        except FileNotFoundError:
            pass
        except (OSError, pa.ArrowInvalid):
            logger.warning("%s: cannot be read, so its texts are tokenised again", self.folder.where(name))
        table = self._made(group)
        with contextlib.suppress(RunDirError):  # as where the disk is full: then it is made again in each epoch
            if _has_room(self.folder):
                with self.folder.writing(name) as sink:
                    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
        return table

    def _made(self, group: RowGroup) -> pa.Table:
        return pa.concat_tables(map(self.rows, self.store.read_row_groups([group], COLUMNS)))


def _has_room(folder: Folder) -> bool:
    if folder.local is None:
        return True
    try:
        disk = shutil.disk_usage(folder.local)
    except OSError:
        return False
    return disk.free > LEAST_FREE * disk.total

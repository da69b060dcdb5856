"""Texts that the teacher could not score: set aside in `_rejected.jsonl`, until there are too many."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from raydistill.errors import ModelError
from raydistill.files import Folder

REJECTED = "_rejected.jsonl"  # with the underscore, readers of the folder as Parquet pass it over
SHOWN = 200  # characters of a text that are kept


def rejected_line(text_id: str, text: str, occurrences: int, reason: str) -> str:
    """A line of `_rejected.jsonl`."""
    return json.dumps({"text_id": text_id, "occurrences": occurrences, "reason": reason, "text": text[:SHOWN]})


def most_rejected(share: float, texts: int) -> int:
    """How many of so many texts may be rejected: a share of them, rounded up."""
    return math.ceil(share * texts)


@dataclasses.dataclass
class RejectedTexts:
    """The file while it is written. Made by `set_aside`."""

    sink: BinaryIO
    most: int
    where: str
    count: int = 0

    def add(self, lines: Sequence[str], texts: int) -> None:
        """Set some aside, which stand for so many texts. Raises ModelError where they become too many."""
        self.sink.writelines(f"{line}\n".encode() for line in lines)
        self.count += texts
        if self.count > self.most:
            last: dict[str, Any] = json.loads(lines[-1])
            raise ModelError(
                f"{self.count:,} texts could not be scored, and --max-rejected allows {self.most:,}; the last one, "
                f"with id {last['text_id']}: {last['reason']}. They are listed in {self.where}. Mend them or the "
                "teacher, or raise --max-rejected."
            )


@contextlib.contextmanager
def set_aside(folder: Folder, most: int) -> Iterator[RejectedTexts]:
    """A place for rejected texts: a file that is there when the block ends, also by an error, if there were any.

    Args:
        folder: the label store's.
        most: how many there may be, each as often as it stands in the corpus.
    """
    with contextlib.ExitStack() as after, folder.writing(REJECTED) as sink:
        rejected = RejectedTexts(sink, most, folder.where(REJECTED))
        try:
            yield rejected
        except Exception as error:
            after.callback(_raise, error)  # once the file is there
        if not rejected.count:
            after.callback(folder.delete, REJECTED)


def _raise(error: Exception) -> None:
    raise error

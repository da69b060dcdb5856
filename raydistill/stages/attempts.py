"""Texts that take their teacher's whole process down: no process lives to tell, so each is noted before it is tried."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from hashlib import blake2b

from raydistill.errors import FaultError
from raydistill.stages.notes import Notes, notes_can_be_taken

# Deaths at a block before its texts are tried one by one, which takes long: one or two may well be the machine's.
CAREFUL_AFTER = 2
SUSPECT = "suspect/"
logger = logging.getLogger(__name__)


class Attempt:
    """One of scoring a block; others before it may have ended with the process.

    A text that was tried alone when its process died is fatal. Outside Ray nobody tries again, and nothing is noted.

    Args:
        notes: those on one pass over a corpus.
        text_ids: of the texts to be scored.
        most_deaths: how many of which nothing is known may come before this attempt.

    Attributes:
        deaths: how many have.
        fatal: ids of texts that must not be tried.
        careful: whether the others are to be tried one by one.

    Raises:
        FaultError: there were more deaths.
    """

    def __init__(self, notes: Notes, text_ids: Sequence[str], most_deaths: int) -> None:
        self._notes, self._noted = notes, bool(text_ids) and notes_can_be_taken()
        self._name = f"block/{blake2b(''.join(text_ids).encode(), digest_size=16).hexdigest()}"
        self._before = int(notes.read(self._name, 0)) if self._noted else 0
        self.fatal = suspects(notes).intersection(text_ids) if self._before else set()
        self.deaths = self._before - len(self.fatal)
        if self.fatal:
            logger.warning("texts have taken their teacher's process down, with ids %s", ", ".join(sorted(self.fatal)))
        if self.deaths > most_deaths:
            raise FaultError(
                f"a block of {len(text_ids):,} texts took its teacher's process down {self.deaths} times, and "
                f"--max-failures allows {most_deaths}. What is finished is kept: the same command goes on from there. "
                "The log has what the processes said last."
            )
        self.careful = self.deaths >= max(1, min(CAREFUL_AFTER, most_deaths))

    def begin(self) -> None:
        """Note that the block is tried."""
        if self._noted:
            self._notes.write(self._name, self._before + 1)

    def suspect(self, text_id: str) -> None:
        """Note that a text is tried alone."""
        self._notes.write(f"{SUSPECT}{text_id}")

    def acquit(self, text_id: str) -> None:
        """Note that nothing has happened."""
        self._notes.remove(f"{SUSPECT}{text_id}")

    def end(self) -> None:
        """Note that the block is done."""
        if self._noted:
            self._notes.remove(self._name)


def suspects(notes: Notes) -> set[str]:
    """The ids of texts that have taken a process down, and of those that are being tried alone just now."""
    return set(notes.names(SUSPECT))

"""Texts that take their teacher's whole process down: no process lives to tell, so each is noted before it is tried."""

from __future__ import annotations

import logging

from raydistill.errors import FaultError
from raydistill.stages.notes import Notes

# Deaths at a block before its texts are tried one by one, which takes long: one or two may well be the machine's.
CAREFUL_AFTER = 2
FATAL, SUSPECT = "fatal/", "suspect/"
logger = logging.getLogger(__name__)


class Attempt:
    """One of scoring a block; others before it may have ended with the process.

    A text that was tried alone when its process died is tried alone once more, for the machine may have been at fault.
    If it dies again, the text is fatal: neither here nor in any other block is it tried again.

    Args:
        notes: those on one pass over a corpus.
        block: the block's own name.
        most_deaths: how many unexplained deaths there may be before this attempt (a text's first one is not counted),
            and how many fatal texts. Below three, texts are never tried one by one.

    Attributes:
        deaths: how many unexplained ones there have been.
        fatal: ids of texts that must not be tried.
        careful: whether the others are to be tried one by one.

    Raises:
        FaultError: there were more deaths than that.
    """

    def __init__(self, notes: Notes, block: str, most_deaths: int) -> None:
        self._notes, self._name = notes, f"block/{block}"
        begun, self._condemned, trying, self._suspect = notes.read(self._name, (0, 0, None, None))
        if trying and trying == self._suspect:
            notes.write(f"{FATAL}{trying}")
            logger.warning("the text with id %s has taken its teacher's process down, twice", trying)
            self._condemned += 1
        elif trying:
            notes.write(f"{SUSPECT}{trying}")
        self._suspect = trying or self._suspect
        self.deaths: int = begun - 2 * self._condemned
        self.fatal = set(notes.names(FATAL))
        suspected = bool(trying) and trying not in self.fatal
        if max(self.deaths - suspected, self._condemned) > most_deaths:
            raise FaultError(
                f"a block of texts took its teacher's process down {begun} times, beyond what "
                f"--max-failures {most_deaths} allows. What is finished is kept: the same command goes on from there. "
                "The log has what the processes said last."
            )
        self.careful = self.deaths >= CAREFUL_AFTER and most_deaths > CAREFUL_AFTER

    def begin(self, trying: str | None = None) -> None:
        """Note that the block is tried from here on, or one of its texts alone."""
        begun = self.deaths + 2 * self._condemned + 1
        self._notes.write(self._name, (begun, self._condemned, trying, self._suspect))

    def end(self) -> None:
        """Note nothing any more."""
        self._notes.remove(self._name)


def progress_made(notes: Notes) -> int:
    """Texts that were suspected, and texts that were found to be fatal, in all."""
    return len(notes.names(SUSPECT)) + len(notes.names(FATAL))

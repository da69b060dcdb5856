"""Texts that take their teacher's whole process down: no process lives to tell, so each is noted before it is tried.

The notes are in the cluster's own key-value store, where whoever tries the block again finds them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from hashlib import blake2b

from ray.experimental.internal_kv import (  # no process has to be started for it, as for an actor that keeps notes
    _internal_kv_del,
    _internal_kv_get,
    _internal_kv_initialized,
    _internal_kv_list,
    _internal_kv_put,
)

from raydistill.errors import FaultError

NAMESPACE = "raydistill"
# Deaths with a block before its texts are tried one by one, which takes long: one or two may well be the machine's.
CAREFUL_AFTER = 2
logger = logging.getLogger(__name__)


class Attempt:
    """One of scoring a block; others before it may have ended with the process.

    A text that was tried alone when its process died is fatal. Outside Ray nobody tries again, and nothing is noted.

    Args:
        run: what the attempts at one corpus have in common.
        text_ids: of the texts to be scored.
        most_deaths: how many of which nothing is known may come before this attempt.

    Attributes:
        deaths: how many have.
        careful: whether texts are to be tried one by one.

    Raises:
        FaultError: there were more.
    """

    def __init__(self, run: str, text_ids: Sequence[str], most_deaths: int) -> None:
        self._run, self._noted = run, bool(text_ids) and _internal_kv_initialized()
        self._key = f"{run}/block/{blake2b(''.join(text_ids).encode(), digest_size=16).hexdigest()}"
        self.deaths, at = 0, None
        if self._noted and (note := _internal_kv_get(self._key, namespace=NAMESPACE)):
            self.deaths, at = json.loads(note)
        if at:
            self.deaths -= 1
            _internal_kv_put(f"{run}/fatal/{at}", b"", namespace=NAMESPACE)
            logger.warning("the text with id %s has taken its teacher's process down", at)
        if self.deaths > most_deaths:
            raise FaultError(
                f"a block of {len(text_ids):,} texts took its teacher's process down {self.deaths} times, and "
                f"--max-failures allows {most_deaths}. What is finished is kept: the same command goes on from there. "
                "The log has what the processes said last."
            )
        self.careful = self.deaths >= max(1, min(CAREFUL_AFTER, most_deaths))

    def begin(self, text_id: str | None = None) -> None:
        """Note that the block is tried from here on, or one of its texts alone."""
        if self._noted:
            _internal_kv_put(self._key, json.dumps([self.deaths + 1, text_id]), namespace=NAMESPACE)

    def end(self) -> None:
        """Note nothing any more."""
        if self._noted:
            _internal_kv_del(self._key, namespace=NAMESPACE)

    def fatal_ids(self) -> set[str]:
        """Texts that must not be tried."""
        return fatal_texts(self._run) if self._noted else set()


def fatal_texts(run: str) -> set[str]:
    """The ids of those that were found."""
    return {key.decode().rpartition("/")[2] for key in _internal_kv_list(f"{run}/fatal/", namespace=NAMESPACE)}

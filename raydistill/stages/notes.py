"""Notes in the cluster's own key-value store: what processes tell each other, and what outlives each of them.

No process has to be started for it, as for an actor, and none can be lost. Where the store does not answer for once, or
there is no cluster, nothing is noted, and nothing found: no work is to fail for it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import ray.exceptions
from ray.experimental.internal_kv import (
    _internal_kv_del,
    _internal_kv_get,
    _internal_kv_initialized,
    _internal_kv_list,
    _internal_kv_put,
)

NAMESPACE = "raydistill"
logger = logging.getLogger(__name__)


def _answer(call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    if not _internal_kv_initialized():
        return None
    try:
        return call(*arguments, namespace=NAMESPACE, **options)
    except ray.exceptions.RayError:
        logger.warning("the cluster's store does not answer", exc_info=True)
        return None


@dataclasses.dataclass(frozen=True)
class Notes:
    """Those on one subject, whose name nothing else has: a name, and a value that JSON can hold, each."""

    subject: str

    def write(self, name: str, value: Any = None) -> None:
        """Take a note, in the place of the one before."""
        _answer(_internal_kv_put, self._key(name), json.dumps(value))

    def read(self, name: str, default: Any = None) -> Any:
        """What a note says, or a default where there is none."""
        found = _answer(_internal_kv_get, self._key(name))
        return json.loads(found) if found else default

    def remove(self, name: str) -> None:
        """Throw a note away, if there is one."""
        _answer(_internal_kv_del, self._key(name))

    def names(self, beginning: str) -> list[str]:
        """What follows this beginning in the names of the notes that have it."""
        key = self._key(beginning)
        return [name.decode().removeprefix(key) for name in _answer(_internal_kv_list, key) or ()]

    def _key(self, name: str) -> str:
        return f"{self.subject}/{name}"


@contextlib.contextmanager
def notes_on(subject: str) -> Iterator[Notes]:
    """A subject's notes, which are thrown away in the end."""
    notes = Notes(subject)
    try:
        yield notes
    finally:
        with contextlib.suppress(Exception):  # the cluster may be gone
            _answer(_internal_kv_del, f"{subject}/", del_by_prefix=True)

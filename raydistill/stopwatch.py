"""Where the seconds of a piece of work go."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
_END = object()


class Stopwatch:
    """Counts every moment to exactly one part of the work: the one that it was turned to last."""

    def __init__(self, part: str) -> None:
        self._part, self._since = part, time.perf_counter()
        self._seconds: dict[str, float] = defaultdict(float)

    def turn(self, part: str) -> None:
        """From now on count to this part."""
        now = time.perf_counter()
        self._seconds[self._part] += now - self._since
        self._part, self._since = part, now

    @contextlib.contextmanager
    def within(self, part: str) -> Iterator[None]:
        """Count to this part for a while, then to the one before."""
        before = self._part
        self.turn(part)
        try:
            yield
        finally:
            self.turn(before)

    def over(self, items: Iterable[Item], part: str) -> Iterator[Item]:
        """The same items; the time that getting each takes counts to this part."""
        iterator = iter(items)
        while True:
            with self.within(part):
                item = next(iterator, _END)
            if item is _END:
                return
            yield item  # type: ignore[misc]

    def read(self) -> dict[str, float]:
        """Seconds of each part so far, to the millisecond."""
        self.turn(self._part)
        return {part: round(seconds, 3) for part, seconds in self._seconds.items()}

"""Which texts a label store holds, by id: to be found again, and to be counted."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

BUCKET_IDS = 4_000_000  # counted at a time: 64 MB
Ids = npt.NDArray[np.uint64]


@dataclasses.dataclass(frozen=True)
class KnownTexts:
    """The texts that a store holds, sorted by id: 24 bytes each, and some 90 while they are gathered.

    An id is kept as two 64-bit halves, which are searched in turn.
    """

    first: Ids
    second: Ids
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
    def _merged(cls, first: Ids, second: Ids, occurrences: npt.NDArray[np.int64]) -> KnownTexts:
        order = np.lexsort((second, first))
        first, second, occurrences = first[order], second[order], occurrences[order]
        new = np.ones(len(first), dtype=bool)
        new[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
        starts = np.flatnonzero(new)
        totals = np.add.reduceat(occurrences, starts) if len(starts) else occurrences
        return cls(first[starts], second[starts], totals)

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


def id_halves(text_ids: Sequence[str]) -> tuple[Ids, Ids]:
    """The two 64-bit halves of ids of 32 hexadecimal digits."""
    halves = np.frombuffer(bytes.fromhex("".join(text_ids)), dtype=">u8").reshape(-1, 2).astype(np.uint64)
    return halves[:, 0], halves[:, 1]


@dataclasses.dataclass(frozen=True)
class Census:
    """What a store holds of the corpus: texts, each as often as it stands there; distinct ones; and a digest.

    Two stores that hold the same texts, each as often, in whatever parts and order, have the same digest.
    """

    texts: int
    distinct: int
    digest: str

    def __add__(self, other: Census) -> Census:
        """Of both together, where they share no text."""
        sums = [np.frombuffer(bytes.fromhex(census.digest), dtype=">u8").astype(np.uint64) for census in (self, other)]
        return Census(self.texts + other.texts, self.distinct + other.distinct, _hex(sums[0] + sums[1]))


def take_census(
    rows: Iterable[tuple[Sequence[str], npt.NDArray[np.int64]]], about: int, folder: str | None = None
) -> Census:
    """Count texts in memory that does not grow with them: ids are dealt out to files, each sorted by itself.

    Args:
        rows: ids and occurrences, some at a time.
        about: how many ids to expect.
        folder: on whose disk to lay out 16 bytes for each; by default where temporary files go.
    """
    texts, sums = 0, np.zeros(2, dtype=np.uint64)
    with contextlib.ExitStack() as stack:
        buckets = [stack.enter_context(tempfile.TemporaryFile(dir=folder)) for _ in range(about // BUCKET_IDS + 1)]
        for text_ids, occurrences in rows:
            halves = np.stack(id_halves(text_ids), axis=1)[occurrences > 0]
            occurrences = occurrences[occurrences > 0]
            texts += int(occurrences.sum())
            # Ids are hashes already; multiplied by themselves, so that those of two texts do not simply add up.
            sums += (halves * (halves[:, ::-1] | np.uint64(1)) * occurrences.astype(np.uint64)[:, None]).sum(axis=0)
            of = halves[:, 0] % np.uint64(len(buckets))
            for i, bucket in enumerate(buckets):
                bucket.write(halves[of == i].tobytes())
        distinct = 0
        for bucket in buckets:
            bucket.seek(0)
            ids = np.frombuffer(bytearray(bucket.read()), dtype="V16").view("S16")
            ids.sort()
            distinct += int((ids[1:] != ids[:-1]).sum()) + (len(ids) > 0)
    return Census(texts, distinct, _hex(sums))


def _hex(sums: npt.NDArray[np.uint64]) -> str:
    return sums.astype(">u8").tobytes().hex()

"""Which texts a label store holds, by id: to be found again, and to be counted.

Ids are dealt out to files on disk by their leading bits and sorted a file at a time, so that the memory which this
takes does not grow with their number.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

BUCKET_IDS = 200_000  # sorted at a time, about: some 10 MB
MOST_BITS = 7  # that ids are dealt out by at a time: so many files, 2 to the power of it, are open
ID_DIGITS = 32
Ids = npt.NDArray[np.uint64]
Rows = Iterable[tuple[Sequence[str] | pa.Array | pa.ChunkedArray, npt.NDArray[np.int64]]]

_ROW = np.dtype([("first", np.uint64), ("second", np.uint64), ("occurrences", np.int64)])
_NIBBLES = np.full(256, 255, dtype=np.uint8)
_NIBBLES[np.frombuffer(b"0123456789abcdef", dtype=np.uint8)] = np.arange(16)


@dataclasses.dataclass(frozen=True)
class KnownIds:
    """N ids, sorted, each once: 16 bytes for each.

    Attributes:
        first, second: (N,) uint64: the two halves of the ids, which are searched in turn.
    """

    first: Ids
    second: Ids

    def __len__(self) -> int:
        return len(self.first)

    def find(self, text_ids: Sequence[str] | pa.Array | pa.ChunkedArray) -> npt.NDArray[np.int64]:
        """(len(text_ids),) int64: the index of each id here, or -1. Raises ValueError for what is no id."""
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


@dataclasses.dataclass(frozen=True)
class KnownTexts(KnownIds):
    """N texts, sorted by id, each once: 24 bytes for each.

    Attributes:
        occurrences: (N,) int64.
    """

    occurrences: npt.NDArray[np.int64]

    @classmethod
    def gathered(cls, rows: Rows, about: int, folder: str | None = None) -> KnownTexts:
        """From rows in any order: each text once, with its occurrences added up. What comes of it lies on disk as well.

        Arguments as for `sorted_shares`.
        """
        return cls.on_disk(sorted_shares(rows, about, folder), folder)

    @classmethod
    def on_disk(cls, shares: Iterable[KnownTexts], folder: str | None = None) -> KnownTexts:
        """Shares that follow each other in order, as one whose arrays lie in files and may be written to."""
        with contextlib.ExitStack() as stack:
            columns = [stack.enter_context(tempfile.TemporaryFile(dir=folder)) for _ in _ROW.names or ()]
            for share in shares:
                for column, name in zip(columns, _ROW.names or (), strict=True):
                    column.write(getattr(share, name).tobytes())
            return cls(*(_mapped(column, _ROW[i]) for i, column in enumerate(columns)))

    @classmethod
    def _merged(cls, first: Ids, second: Ids, occurrences: npt.NDArray[np.int64]) -> KnownTexts:
        order = np.lexsort((second, first))
        first, second, occurrences = first[order], second[order], occurrences[order]
        new = np.ones(len(first), dtype=bool)
        new[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
        starts = np.flatnonzero(new)
        totals = np.add.reduceat(occurrences, starts) if len(starts) else occurrences
        return cls(first[starts], second[starts], totals)

    def ids(self) -> KnownIds:
        """The same without occurrences."""
        return KnownIds(self.first, self.second)

    def recounted(self, counted: npt.NDArray[np.int64]) -> Iterator[KnownTexts]:
        """Those whose occurrences are others by a new count, (N,) int64, with the new ones; some at a time."""
        for at in range(0, len(self), BUCKET_IDS):
            some = slice(at, at + BUCKET_IDS)
            other = self.occurrences[some] != counted[some]
            yield KnownTexts(self.first[some][other], self.second[some][other], counted[some][other])


def zeros_on_disk(number: int, folder: str | None = None) -> npt.NDArray[np.int64]:
    """(number,) int64 in a file, all zero: memory that the system can take back."""
    with tempfile.TemporaryFile(dir=folder) as file:
        for at in range(0, number, BUCKET_IDS):  # written, as a full disk could not refuse what is only mapped
            file.write(np.zeros(min(BUCKET_IDS, number - at), dtype=np.int64).tobytes())
        return _mapped(file, np.dtype(np.int64))


def id_halves(text_ids: Sequence[str] | pa.Array | pa.ChunkedArray) -> tuple[Ids, Ids]:
    """The two 64-bit halves of ids of 32 hexadecimal digits. Raises ValueError for what is none."""
    if not len(text_ids):
        return np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.uint64)
    if isinstance(text_ids, pa.ChunkedArray):
        text_ids = text_ids.combine_chunks()
    if isinstance(text_ids, pa.Array):
        _, ends, content = text_ids.buffers()
        at = np.frombuffer(ends, dtype=np.int32)[text_ids.offset : text_ids.offset + len(text_ids) + 1]
        digits = np.frombuffer(content, dtype=np.uint8)[at[0] : at[-1]]
    else:
        digits = np.frombuffer("".join(text_ids).encode(), dtype=np.uint8)
    nibbles = _NIBBLES[digits]
    if len(nibbles) != ID_DIGITS * len(text_ids) or (nibbles > 15).any():
        raise ValueError("a text id is not of 32 hexadecimal digits")
    halves = (nibbles[0::2] << 4 | nibbles[1::2]).view(">u8").reshape(-1, 2).astype(np.uint64)
    return halves[:, 0], halves[:, 1]


def sorted_shares(rows: Rows, about: int, folder: str | None = None) -> Iterator[KnownTexts]:
    """The texts of rows in any order, each once with its occurrences added up, sorted, some at a time.

    Args:
        rows: ids and occurrences, some at a time.
        about: how many ids to expect.
        folder: on whose disk to lay out 24 bytes for each; by default where temporary files go.
    """
    packed = (_packed(*id_halves(text_ids), occurrences) for text_ids, occurrences in rows)
    return _sorted_shares(packed, about, folder, 0)


def _packed(first: Ids, second: Ids, occurrences: npt.NDArray[np.int64]) -> npt.NDArray:
    packed = np.empty(len(occurrences), dtype=_ROW)
    packed["first"], packed["second"], packed["occurrences"] = first, second, occurrences
    return packed


def _sorted_shares(rows: Iterable[npt.NDArray], about: int, folder: str | None, same: int) -> Iterator[KnownTexts]:
    """The same of packed rows whose ids begin with `same` bits that are the same; too large a bucket is dealt again."""
    bits = min(max((about // BUCKET_IDS).bit_length(), 1), MOST_BITS)
    with contextlib.ExitStack() as stack:
        buckets = [stack.enter_context(tempfile.TemporaryFile(dir=folder)) for _ in range(1 << bits)]
        for some in rows:
            of = some["first"] << np.uint64(same) >> np.uint64(64 - bits)
            for i, bucket in enumerate(buckets):
                bucket.write(some[of == i].tobytes())
        for bucket in buckets:
            number = bucket.tell() // _ROW.itemsize
            bucket.seek(0)
            if number > 2 * BUCKET_IDS and same + bits + MOST_BITS <= 64:
                yield from _sorted_shares(_read(bucket), number, folder, same + bits)
            else:
                share = np.frombuffer(bucket.read(), dtype=_ROW)
                yield KnownTexts._merged(share["first"], share["second"], share["occurrences"])


def _read(bucket: BinaryIO) -> Iterator[npt.NDArray]:
    """What a bucket holds, some at a time, copies of a text made one: they would never part, however often dealt."""
    while content := bucket.read(_ROW.itemsize << 16):
        some = np.frombuffer(content, dtype=_ROW)
        share = KnownTexts._merged(some["first"], some["second"], some["occurrences"])
        yield _packed(share.first, share.second, share.occurrences)


def _mapped(file: BinaryIO, kind: np.dtype) -> npt.NDArray:
    """A file's content as an array: what is looked at is read from disk, and what is changed is written to it."""
    file.flush()
    return np.asarray(np.memmap(file, dtype=kind, mode="r+")) if file.tell() else np.empty(0, dtype=kind)


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


def take_census(rows: Rows, about: int, folder: str | None = None) -> Census:
    """Count texts in memory that does not grow with them; arguments as for `sorted_shares`."""
    census = Census(0, 0, _hex(np.zeros(2, dtype=np.uint64)))
    for share in sorted_shares(rows, about, folder):
        halves, times = np.stack([share.first, share.second], axis=1), share.occurrences.astype(np.uint64)
        # Ids are hashes already; multiplied by themselves, so that those of two texts do not simply add up.
        sums = (halves * (halves[:, ::-1] | np.uint64(1)) * times[:, None]).sum(axis=0)
        census += Census(int(share.occurrences.sum()), int((share.occurrences > 0).sum()), _hex(sums))
    return census


def _hex(sums: npt.NDArray[np.uint64]) -> str:
    return sums.astype(">u8").tobytes().hex()

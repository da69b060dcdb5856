"""What labelling a corpus will take, from a sample of it and a probe of the teacher. Arithmetic alone."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from raydistill.specs import TextCount

Numbers = npt.NDArray[np.int64]
PERCENTILES = (*range(0, 100, 10), 99, 100)
# What no sample tells: other work on the machine, a clock that falls when all cores are busy, and, where the texts were
# not counted, that estimate.
UNKNOWN, UNCOUNTED = 0.08, 0.05
START_OFF = 0.3  # of the start, which is seen once
# Where only one place of a corpus was seen, as of a compressed file, and where a probe has one chunk.
UNEVEN, UNSTEADY = 0.3, 0.05
SURE = 2.0  # standard errors on either side


@dataclasses.dataclass(frozen=True)
class Stretch:
    """Some texts that stand together in the corpus, as in a block, or in some small ones.

    Attributes:
        place: a number for where it was read: of two of the same, one says little that the other does not.
        texts: how many, blank ones left out, each as often as it stands there.
        blanks: blank ones.
        distinct: different ones.
        new: of these, those that the label store does not hold, which alone are scored.
    """

    place: int
    texts: int
    blanks: int
    distinct: int
    new: int


@dataclasses.dataclass(frozen=True)
class Work:
    """What the new texts of a sample are to the teacher; a value for each stretch where nothing else is said.

    Attributes:
        text_tokens: (M,) tokens of each text, nothing cut.
        truncated: how many texts are cut for at least one class.
        tokens: of all pairs, without padding.
        padded_tokens: with the padding that batches within a stretch have.
    """

    text_tokens: Numbers
    truncated: Numbers
    tokens: Numbers
    padded_tokens: Numbers


@dataclasses.dataclass(frozen=True)
class Probe:
    """What one teacher has scored of the sample, in chunks drawn at random.

    Attributes:
        engine, fallback: what ran it, and why that is not the one that was to be.
        texts, rejected: how many it was given, and how many of them it could not score.
        padded_tokens, seconds: of each chunk.
        start_seconds: from asking for it until it could score.
    """

    engine: str
    fallback: str
    texts: int
    rejected: int
    padded_tokens: tuple[int, ...]
    seconds: tuple[float, ...]
    start_seconds: float


@dataclasses.dataclass(frozen=True)
class Quote:
    """What the label stage will take. Shares are of 1, times in seconds.

    Attributes:
        texts, exact: in the corpus, and whether they were counted or estimated.
        duplicates: the share of texts that have stood in the same stretch of the corpus before.
        known: the share of distinct texts that are labelled already.
        pairs, tokens: to be scored, padding not counted.
        padding, truncated: the share of padding in what is scored, and of texts that are cut.
        rejected: the share of texts that the teacher could not score.
        text_tokens: a histogram of tenths of the texts, the last one cut at 99 %: tokens of a text by `PERCENTILES`.
        engine, pairs_per_second: what runs the teacher, and how fast in one actor.
        actors: how many.
        seconds, low, high: the estimate, and the interval it lies in with 19 chances in 20.
    """

    texts: int
    exact: bool
    duplicates: float
    known: float
    pairs: int
    tokens: int
    padding: float
    truncated: float
    rejected: float
    text_tokens: dict[str, int]
    engine: str
    pairs_per_second: float
    actors: int
    seconds: float
    low: float
    high: float

    def costs(self, price_per_hour: float) -> tuple[float, float, float]:
        """What the estimate comes to, and its interval, at the price of an hour of all machines."""
        amount, low, high = (cost(seconds, price_per_hour) for seconds in (self.seconds, self.low, self.high))
        return amount, low, high


def cost(seconds: float, price_per_hour: float) -> float:
    """What so many seconds come to."""
    return seconds / 3600 * price_per_hour


def make_quote(
    texts: TextCount,
    num_classes: int,
    stretches: Sequence[Stretch],
    work: Work,
    probes: Sequence[Probe],
    *,
    actors: int,
    block_size: float,
) -> Quote:
    """Work is extrapolated from the sample by texts, and divided by the rate of the probes.

    Args:
        texts: how many the corpus holds.
        stretches: the sample, with one new text or more.
        probes: of teachers that ran at the same time, on as many of the planned actors as were tried.
        actors: how many are planned.
        block_size: of a block, in samples: at the end all actors but the last wait for half of one on average.
    """
    sampled = np.array([stretch.texts for stretch in stretches], dtype=np.float64)
    distinct, new = (sum(getattr(stretch, name) for stretch in stretches) for name in ("distinct", "new"))
    number, exact, known_blanks = texts
    if not exact:  # blank ones were counted too, and are in the sample
        blanks = sum(stretch.blanks for stretch in stretches)
        number = round((number + known_blanks) * sampled.sum() / (sampled.sum() + blanks))
    scale = number / sampled.sum()
    rate, rate_error = _rate(probes)
    busy = work.padded_tokens.sum() * scale / (rate * actors)
    start = float(np.median([probe.start_seconds for probe in probes]))
    tail = block_size * work.padded_tokens.sum() / rate / 2 * (actors - 1) / actors
    unread = max(0.0, 1 - 1 / scale)  # of a corpus that was read whole, the sample says all
    _, place = np.unique([stretch.place for stretch in stretches], return_inverse=True)
    of_place = np.bincount(place, sampled)
    one_sided = of_place[np.bincount(place) > 1] / sampled.sum()  # of files that were seen at their beginning alone
    uneven = max(
        _ratio_error(np.bincount(place, work.padded_tokens), of_place, alone=UNEVEN), UNEVEN * math.hypot(*one_sided)
    )
    errors = [rate_error, uneven * unread**0.5, UNKNOWN]
    off = SURE * math.hypot(*errors, 0.0 if exact else UNCOUNTED)
    seconds = start + busy + tail
    padding = 1 - work.tokens.sum() / work.padded_tokens.sum()
    return Quote(
        texts=number,
        exact=exact,
        duplicates=float(1 - distinct / sampled.sum()),
        known=float(1 - new / distinct),
        pairs=round(new * scale) * num_classes,
        tokens=round(work.tokens.sum() * scale),
        padding=float(padding),
        truncated=float(work.truncated.sum() / new),
        rejected=sum(probe.rejected for probe in probes) / sum(probe.texts for probe in probes),
        text_tokens={str(at): int(np.percentile(work.text_tokens, at)) for at in PERCENTILES},
        engine=probes[0].engine,
        pairs_per_second=float(rate * new * num_classes / work.padded_tokens.sum()),
        actors=actors,
        seconds=float(seconds),
        low=float(start * (1 - START_OFF) + busy * (1 - min(off, 0.9))),
        high=float(start * (1 + START_OFF) + busy * (1 + off) + 2 * tail),
    )


def _rate(probes: Sequence[Probe]) -> tuple[float, float]:
    """(padded tokens a second of one teacher, relative standard error)."""
    tokens = np.concatenate([probe.padded_tokens for probe in probes]).astype(np.float64)
    seconds = np.concatenate([probe.seconds for probe in probes])
    return float(tokens.sum() / seconds.sum()), _ratio_error(seconds, tokens, alone=UNSTEADY)


def _ratio_error(above: npt.NDArray[np.generic], below: npt.NDArray[np.generic], *, alone: float) -> float:
    """The relative standard error of sum(above) / sum(below) over independent items (Cochran 1977, ch. 6).

    Args:
        alone: what to take of a single item, which tells nothing of it.
    """
    n = len(above)
    if n < 2:
        return alone
    ratio = above.sum() / below.sum()
    return float(np.sqrt(((above - ratio * below) ** 2).sum() * n / (n - 1)) / above.sum())

"""A quote is extrapolated from a sample of the corpus and a probe of the teacher."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydistill.quote import Probe, Stretch, Work, make_quote
from raydistill.specs import TextCount
from raydistill.stages.summary import describe_quote

PROBE = Probe("torch fp32", "", 100, 0, (1000, 1000), (0.5, 0.5), start_seconds=3.0)


def work_of(*texts_by_stretch, classes=2, padding=1.25):
    """Texts of so many tokens, in pairs that take 5 more."""
    tokens = np.array([sum(length + 5 for length in lengths) * classes for lengths in texts_by_stretch])
    flat = np.array([length for lengths in texts_by_stretch for length in lengths])
    truncated = np.array([sum(length > 100 for length in lengths) for lengths in texts_by_stretch])
    return Work(flat, truncated, tokens, (tokens * padding).astype(np.int64))


def all_new(*counts):
    return [Stretch(place, count, 0, count, count) for place, count in enumerate(counts)]


def test_a_sample_of_the_whole_corpus_is_counted_not_guessed():
    work = work_of([10, 20, 30], [15, 25, 200])
    quote = make_quote(TextCount(6, True), 2, all_new(3, 3), work, [PROBE], actors=1, block_size=1.0)
    assert (quote.texts, quote.pairs, quote.tokens) == (6, 12, 2 * (300 + 30))
    assert quote.padding == pytest.approx(0.2, abs=2e-3)
    assert quote.truncated == pytest.approx(1 / 6)
    assert [quote.text_tokens[at] for at in ("0", "20", "50", "100")] == [10, 15, 22, 200]
    assert list(quote.text_tokens.values()) == sorted(quote.text_tokens.values())
    # 1,000 padded tokens in half a second, and 3 seconds to start.
    assert quote.seconds == pytest.approx(3.0 + 660 * 1.25 / 2000, abs=1e-3)
    assert quote.low < quote.seconds < quote.high


def test_texts_that_need_not_be_scored_are_not_paid_for():
    stretches = [Stretch(place=0, texts=10, blanks=5, distinct=8, new=4)]
    quote = make_quote(TextCount(1000, True), 2, stretches, work_of([10] * 4), [PROBE], actors=1, block_size=0.0)
    assert quote.duplicates == pytest.approx(0.2)
    assert quote.known == pytest.approx(0.5)
    assert quote.pairs == 1000 * 4 // 10 * 2
    assert quote.tokens == 400 * 2 * 15


def test_of_lines_that_were_not_counted_the_blank_ones_are_no_texts():
    stretches = [Stretch(place=0, texts=8, blanks=2, distinct=8, new=8)]
    work = work_of([10] * 8)
    quote = make_quote(TextCount(1000, False), 2, stretches, work, [PROBE], actors=1, block_size=0.0)
    assert (quote.texts, quote.exact) == (800, False)
    some_known = make_quote(TextCount(850, False, 150), 2, stretches, work, [PROBE], actors=1, block_size=0.0)
    assert some_known == quote
    counted = make_quote(TextCount(800, True), 2, stretches, work, [PROBE], actors=1, block_size=0.0)
    assert quote.seconds == counted.seconds
    assert quote.high - quote.low > counted.high - counted.low


@given(st.lists(st.integers(1, 300), min_size=2, max_size=20), st.integers(1, 64), st.floats(0.0, 2.0))
def test_more_actors_take_less_time_and_the_interval_holds_the_estimate(lengths, actors, block_size):
    work, stretches = work_of(lengths, lengths[::-1]), all_new(len(lengths), len(lengths))
    texts = TextCount(10_000 * len(lengths), True)
    one = make_quote(texts, 2, stretches, work, [PROBE], actors=1, block_size=block_size)
    many = make_quote(texts, 2, stretches, work, [PROBE] * min(actors, 8), actors=actors, block_size=block_size)
    tail = block_size * work.padded_tokens.sum() / 2000
    assert many.seconds - 3.0 <= (one.seconds - 3.0) / actors + tail + 1e-6
    assert many.seconds - 3.0 >= (one.seconds - 3.0) / actors - 1e-6
    for quote in (one, many):
        assert 0 < quote.low < quote.seconds < quote.high


def test_an_uneven_corpus_and_an_unsteady_teacher_widen_the_interval():
    def width(work, probe):
        quote = make_quote(TextCount(10_000, True), 2, all_new(3, 3, 3), work, [probe], actors=1, block_size=0.0)
        return (quote.high - quote.low) / quote.seconds

    even, uneven = work_of([20] * 3, [20] * 3, [20] * 3), work_of([5] * 3, [20] * 3, [35] * 3)
    steady = width(even, PROBE)
    assert width(uneven, PROBE) > 1.5 * steady
    assert width(even, dataclasses.replace(PROBE, seconds=(0.3, 0.7))) > 1.5 * steady


def test_where_one_stretch_is_all_that_was_seen_the_interval_says_so():
    work, alone = work_of([10, 20]), all_new(2)
    of_many = make_quote(TextCount(10_000, True), 2, alone, work, [PROBE], actors=1, block_size=0.0)
    of_all = make_quote(TextCount(2, True), 2, alone, work, [PROBE], actors=1, block_size=0.0)
    busy = of_many.seconds - 3.0
    assert of_many.high - of_many.seconds > 0.5 * busy
    assert of_all.high - of_all.seconds < 0.4 * of_all.seconds


def test_stretches_of_one_place_say_no_more_of_the_others_than_one_does():
    def width(*places):
        stretches = [
            dataclasses.replace(stretch, place=at) for stretch, at in zip(all_new(2, 2, 2), places, strict=True)
        ]
        work = work_of(*[[10, 20]] * 3)
        quote = make_quote(TextCount(10_000, True), 2, stretches, work, [PROBE], actors=1, block_size=0.0)
        return (quote.high - quote.low) / quote.seconds

    assert width(5, 5, 5) > 2 * width(0, 1, 7)
    assert 1.5 * width(0, 1, 7) < width(0, 0, 7) < width(5, 5, 5)


def test_texts_that_the_probes_could_not_score_are_told():
    probes = [PROBE, dataclasses.replace(PROBE, texts=300, rejected=20)]
    quote = make_quote(TextCount(1000, True), 2, all_new(2), work_of([10, 20]), probes, actors=2, block_size=0.0)
    assert quote.rejected == pytest.approx(0.05)
    told = dict(describe_quote(quote, 36.0))
    assert told["rejected"] == "5.0% of the texts that were tried could not be scored"
    assert f"{quote.seconds / 100:,.2f} (" in told["cost"]
    assert "rejected" not in dict(describe_quote(dataclasses.replace(quote, rejected=0.0), None))

"""Pairs of text and hypothesis: the encoder's arrays are the tokenizer's own."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tiny_models import FAMILIES, long_texts, make_tokenizer, sentences
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import CanineTokenizer
from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

from raydistill.errors import ModelError
from raydistill.pairs import BATCH_SHARE, PairEncoder, budget_batches
from raydistill.token_rows import first_tokens

HYPOTHESES = ["This text is about sport.", "This text is about some words of politics and money.", "art"]
TEXTS = [
    "the striker scored twice.",
    "a",
    "",
    " ",
    "  two  blanks\tand a tab ",
    "Zoë paid 3 € for naïve café crème — 東京タワー 🙂🙂 ﬁn",
    "\u00ad\u200b",
    "unknownwordsofmanyletters" * 3,
    " ".join(sentences()[:9]),
    "the striker, " * 70,
    "This text is about sport.",
    "[SEP] </s> <mask> [MASK] as words",
]


def expected(tokenizer, texts, hypotheses, max_length):
    """What the tokenizer itself makes of the pairs."""
    encoded = tokenizer(texts, hypotheses, truncation="only_first", max_length=max_length, padding=True)
    return {name: np.array(rows) for name, rows in encoded.items()}


def assert_encodes_as_the_tokenizer(tokenizer, max_length, *, texts=TEXTS, hypotheses=HYPOTHESES, fits=True):
    encoder = PairEncoder(tokenizer, hypotheses, max_length)
    assert encoder._fits_pattern is fits
    tokenized = encoder.tokenize(texts)
    text_index, class_index = (axis.reshape(-1) for axis in np.indices((len(texts), len(hypotheses))))
    # In one batch of all pairs, and in small ones whose longest pair differs.
    for batch in (
        np.arange(len(text_index)),
        *np.array_split(np.random.default_rng(0).permutation(len(text_index)), 9),
    ):
        found = encoder.encode(tokenized, text_index[batch], class_index[batch])
        wanted = expected(
            tokenizer, [texts[i] for i in text_index[batch]], [hypotheses[j] for j in class_index[batch]], max_length
        )
        assert set(found) == set(wanted)
        for name in wanted:
            np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)
            assert found[name].dtype == np.int64
    single = tokenizer(
        [texts[i] for i in text_index],
        [hypotheses[j] for j in class_index],
        truncation="only_first",
        max_length=max_length,
    )
    lengths = encoder.lengths(tokenized.lengths).reshape(-1)
    np.testing.assert_array_equal(lengths, [len(ids) for ids in single["input_ids"]])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("padding_side", ["right", "left"])
@pytest.mark.parametrize("truncation_side", ["right", "left"])
@pytest.mark.parametrize("max_length", [40, 64, 512])
def test_pairs_equal_the_tokenizers_own(family, padding_side, truncation_side, max_length):
    tokenizer = make_tokenizer(family, padding_side=padding_side, truncation_side=truncation_side)
    hypotheses = HYPOTHESES if max_length > 40 else [HYPOTHESES[0], HYPOTHESES[2]]
    assert_encodes_as_the_tokenizer(tokenizer, max_length, hypotheses=hypotheses)


@pytest.mark.parametrize("family", FAMILIES)
def test_any_text_is_encoded_as_the_tokenizer_would(family):
    tokenizer = make_tokenizer(family)
    encoder = PairEncoder(tokenizer, HYPOTHESES, 64)

    @example(["[CLS] a [SEP]", "</s></s>"])
    @given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=80), min_size=1, max_size=6))
    def check(texts):
        index = np.arange(len(texts))
        found = encoder.encode(encoder.tokenize(texts), index, index % 3)
        wanted = expected(tokenizer, texts, [HYPOTHESES[i % 3] for i in index], 64)
        assert {name: rows.tolist() for name, rows in found.items()} == {k: v.tolist() for k, v in wanted.items()}

    check()


@pytest.mark.parametrize("truncation_side", ["right", "left"])
def test_truncation_takes_from_the_text_and_never_from_the_hypothesis(truncation_side):
    tokenizer = make_tokenizer("bert", truncation_side=truncation_side)
    text = "the striker scored twice a minister lost many shares"
    encoder = PairEncoder(tokenizer, ["about money"], 8)
    ids = encoder.encode(encoder.tokenize([text]), np.array([0]), np.array([0]))["input_ids"][0]
    kept = "the striker scored" if truncation_side == "right" else "lost many shares"
    assert tokenizer.decode(ids) == f"[CLS] {kept} [SEP] about money [SEP]"


def test_a_text_is_tokenised_no_further_than_the_shortest_hypothesis_leaves_room():
    tokenizer = make_tokenizer("bert")
    encoder = PairEncoder(tokenizer, ["art", "about some words"], 12)
    (length,) = encoder.tokenize(["money " * 1000]).lengths
    assert length == 12 - len(["[CLS]", "[SEP]", "art", "[SEP]"])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("truncation_side", ["right", "left"])
def test_of_a_long_text_the_tokens_are_the_tokenizers_own(family, truncation_side):
    tokenizer = make_tokenizer(family, truncation_side=truncation_side)
    assert_encodes_as_the_tokenizer(tokenizer, 64, texts=[*long_texts(), *TEXTS[:3]])


def reads_across_blanks():
    """A tokenizer as of Llama 3 and Qwen, whose tokens may hold punctuation, line ends and blanks together."""
    tokenizer = Tokenizer(models.BPE())
    pattern = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    texts = ["a b\n\nc.\n d ,\n  e_\n\n   f", *sentences()]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=900, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts * 50, trainer)
    return tokenizer


def test_where_a_token_may_hold_blanks_a_long_text_is_cut_behind_a_word():
    tokenizer = reads_across_blanks()

    def rows_of(texts):
        return [tokenizer.encode(text).ids[:32] for text in texts]

    rng = np.random.default_rng(0)
    pieces = np.array(["a", "b", "c.", "e_", ",", "\n", "\n\n", " ", "  ", " d", "\n ", "_", "striker"])
    texts = ["".join(rng.choice(pieces, 900)) for _ in range(600)]
    read = []
    assert first_tokens(lambda some: (read.extend(some), rows_of(some))[1], texts, 32) == rows_of(texts)
    assert sum(map(len, read)) < 0.7 * sum(map(len, texts))


def test_of_a_long_text_no_more_is_tokenised_than_is_kept(monkeypatch):
    encoder, read = PairEncoder(make_tokenizer("bert"), HYPOTHESES, 64), []
    rows_of = encoder._all_token_rows

    def counted(texts):
        read.extend(map(len, texts))
        return rows_of(texts)

    monkeypatch.setattr(encoder, "_all_token_rows", counted)
    cut, few_tokens, no_blank = "the striker " * 10_000, ("a" + " " * 300) * 10, "xyz9?" * 1000
    lengths = encoder.tokenize([cut, few_tokens, no_blank]).lengths
    assert lengths.tolist() == [len(encoder._ids(text)[: encoder.room.max()]) for text in (cut, few_tokens, no_blank)]
    assert max(read[:2]) < 2 * 64 * 6  # the beginnings, of which one turns out to have too few tokens
    assert read[2:] == [len(no_blank), len(few_tokens)]


def test_texts_tokenised_some_at_a_time_are_encoded_as_the_tokenizer_would(monkeypatch):
    monkeypatch.setattr("raydistill.token_rows.CHUNK_TEXTS", 2)
    assert_encodes_as_the_tokenizer(make_tokenizer("roberta"), 64)


def test_a_text_that_the_tokenizer_refuses_is_counted_as_none(monkeypatch):
    encoder = PairEncoder(make_tokenizer("bert"), HYPOTHESES, 64)
    plain, tokenizer = encoder.count_tokens(["one two", "three"]), encoder.tokenizer

    def refusing(texts, **options):
        if "refused" in texts:
            raise TypeError("no such text")
        return tokenizer(texts, **options)

    monkeypatch.setattr(encoder, "tokenizer", refusing)
    np.testing.assert_array_equal(encoder.count_tokens(["one two", "refused", "three"]), [plain[0], 0, plain[1]])


def test_no_texts_are_tokenised_to_nothing():
    encoder = PairEncoder(make_tokenizer("bert"), HYPOTHESES, 64)
    assert encoder.lengths(encoder.tokenize([]).lengths).shape == (0, 3)


@pytest.mark.parametrize("padding_side", ["right", "left"])
@pytest.mark.parametrize("truncation_side", ["right", "left"])
def test_a_tokenizer_that_puts_the_hypothesis_first_is_called_for_each_pair(padding_side, truncation_side):
    tokenizer = make_tokenizer("bert", padding_side=padding_side, truncation_side=truncation_side)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $B:0 [SEP]:0 $A:1 [SEP]:1",
        special_tokens=[("[CLS]", tokenizer.cls_token_id), ("[SEP]", tokenizer.sep_token_id)],
    )
    assert_encodes_as_the_tokenizer(tokenizer, 40, fits=False)
    # The text is cut even where the hypothesis is the longer one of the two.
    assert_encodes_as_the_tokenizer(tokenizer, 20, texts=sentences()[:3], fits=False)


def test_types_of_all_special_tokens_are_the_tokenizers_own():
    tokenizer = make_tokenizer("bert")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[MASK]:3 [CLS]:2 $A:1 [SEP]:4 [MASK]:5 $B:6 [SEP]:7 [CLS]:8",
        special_tokens=[
            (f"[{name}]", getattr(tokenizer, f"{name.lower()}_token_id")) for name in ("CLS", "SEP", "MASK")
        ],
    )
    assert_encodes_as_the_tokenizer(tokenizer, 40)


@pytest.mark.parametrize("padding_side", ["right", "left"])
@pytest.mark.parametrize("truncation_side", ["right", "left"])
def test_slow_tokenizers_are_encoded_as_exactly(tmp_path, padding_side, truncation_side):
    vocab = make_tokenizer("bert").get_vocab()
    (tmp_path / "vocab.txt").write_text("\n".join(sorted(vocab, key=vocab.get)), encoding="utf-8")
    sides = {"padding_side": padding_side, "truncation_side": truncation_side}
    assert_encodes_as_the_tokenizer(BertTokenizerLegacy(str(tmp_path / "vocab.txt"), **sides), 40)
    assert_encodes_as_the_tokenizer(CanineTokenizer(**sides), 100)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_hypothesis_that_leaves_no_room_is_an_error_that_names_it(family):
    tokenizer = make_tokenizer(family)
    long = "This text is about " + "some words of politics " * 12
    with pytest.raises(ModelError, match="some words of politics") as error:
        PairEncoder(tokenizer, ["art", long, "sport"], 40)
    assert "takes" in str(error.value)
    assert "40 tokens" in str(error.value)
    assert "'art'" not in str(error.value)


def test_a_hypothesis_may_leave_room_for_a_single_token():
    tokenizer = make_tokenizer("bert")
    hypothesis = "about some words"  # with its special tokens, 6
    assert_encodes_as_the_tokenizer(tokenizer, 7, hypotheses=[hypothesis])
    with pytest.raises(ModelError, match="about some words"):
        PairEncoder(tokenizer, [hypothesis], 6)


LENGTHS = st.lists(st.integers(1, 300), max_size=80).map(lambda lengths: np.array(lengths, dtype=np.int64))


@given(LENGTHS, st.integers(1, 1000))
def test_batches_hold_each_pair_once(lengths, budget):
    found = [int(index) for batch in budget_batches(lengths, budget) for index in batch]
    assert sorted(found) == list(range(len(lengths)))


@given(LENGTHS, st.integers(1, 1000))
def test_batches_keep_the_budget_unless_a_pair_stands_alone(lengths, budget):
    for batch in budget_batches(lengths, budget):
        assert len(batch) == 1 or len(batch) * lengths[batch].max() <= budget


@given(LENGTHS, st.integers(1, 1000))
def test_batches_go_from_the_longest_pair_to_the_shortest(lengths, budget):
    order = [int(lengths[i]) for batch in budget_batches(lengths, budget) for i in batch]
    assert order == sorted(order, reverse=True)


@given(LENGTHS, st.integers(1, 1000))
def test_a_batch_ends_where_it_is_full_or_what_follows_would_be_padded_for_more_than_a_batch_costs(lengths, budget):
    batches = list(budget_batches(lengths, budget))
    for batch, following in itertools.pairwise(batches):
        longest = lengths[batch].max()
        room = budget // longest - len(batch)
        assert room <= 0 or room * (longest - lengths[following].max()) > budget / BATCH_SHARE
    for batch in batches:
        of_batch = -np.sort(-lengths[batch])
        for cut in range(1, len(batch)):
            assert (len(batch) - cut) * (of_batch[0] - of_batch[cut]) <= budget / BATCH_SHARE


@pytest.mark.parametrize(("texts", "padding", "batches"), [(8, 0.09, 6), (64, 0.03, 20), (256, 0.015, 45)])
def test_few_texts_are_padded_little_and_many_make_large_batches(texts, padding, batches):
    # If each were full: 2 batches with 34 %, 8 with 7 %, and 29 with 2 %.
    lengths = np.random.default_rng(0).integers(15, 60, texts)[:, None] + np.array([5, 6, 6, 7, 9])
    found = [lengths.reshape(-1)[batch] for batch in budget_batches(lengths.reshape(-1), 2048)]
    assert 1 - lengths.sum() / sum(len(batch) * batch.max() for batch in found) < padding
    assert len(found) < batches


@given(LENGTHS, st.integers(1, 1000))
def test_where_no_padding_is_computed_every_batch_is_full(lengths, budget):
    batches = list(budget_batches(lengths, budget, padded=False))
    assert sorted(int(index) for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches[:-1]:
        assert (len(batch) + 1) * lengths[batch].max() > budget


def test_one_thread_may_tokenise_while_another_encodes():
    # Padding and truncation are settings of the tokenizer itself, which both threads share.
    encoder = PairEncoder(make_tokenizer("bert"), HYPOTHESES, 64)
    encoder._fits_pattern = False  # so that encoding calls the tokenizer as well
    wanted = encoder.tokenize(TEXTS).tokens
    rows = np.arange(len(TEXTS))
    pairs = encoder.encode(encoder.tokenize(TEXTS), rows, rows % 3)["input_ids"]
    ended = threading.Event()

    def encode():
        while not ended.is_set():
            np.testing.assert_array_equal(encoder.encode(encoder.tokenize(TEXTS), rows, rows % 3)["input_ids"], pairs)

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(encode)
        for _ in range(300):
            np.testing.assert_array_equal(encoder.tokenize(TEXTS).tokens, wanted)
        ended.set()
        other.result()

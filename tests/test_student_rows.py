"""What the student is trained on: token ids as the tokenizer's own, soft labels, and padding."""

from __future__ import annotations

import functools
import pickle
import subprocess
import sys
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import FAMILIES, long_texts, make_tokenizer, sentences
from transformers import CanineConfig, CanineTokenizer

from raydistill import student_rows
from raydistill.distillation import soft_labels
from raydistill.label_store import logits_column
from raydistill.pretrained import load_tokenizer
from raydistill.specs import ModelSpec
from raydistill.stages.replaced import replaced
from raydistill.student_rows import StudentRows, as_often, pad_rows

CLASSES = 3
TEXTS = [*sentences()[:5], "a", "", "Zoë 東京 🙂 unknownword", " ".join(sentences()[:30]), "[SEP] </s> <mask>"]


def logits(rows):
    return np.random.default_rng(0).normal(size=(2, rows, CLASSES)).astype(np.float32) * 3


def part(texts, occurrences=None):
    entailment, contradiction = logits(len(texts))
    return pa.table(
        {
            "text": pa.array(texts, pa.string()),
            "occurrences": pa.array(occurrences or [1] * len(texts), pa.int64()),
            "entailment": logits_column(entailment),
            "contradiction": logits_column(contradiction),
        }
    )


def rows_of(tokenizer, max_length=20, temperature=1.0, multi_label=False):
    return StudentRows.of(
        tokenizer,
        ModelSpec(tokenizer.name_or_path),
        max_length=max_length,
        num_classes=CLASSES,
        temperature=temperature,
        multi_label=multi_label,
    )


def made(rows, table):
    """What they make of a part: token ids and soft labels."""
    return rows(table).drop_columns(["occurrences"])


@pytest.fixture(scope="module")
def slow_tokenizer(tmp_path_factory):
    """A tokenizer of characters, written in Python, that lies in a folder; it takes a second to make."""

    @functools.cache
    def make(**options):
        folder = tmp_path_factory.mktemp("slow")
        CanineTokenizer(**options).save_pretrained(folder)
        CanineConfig().save_pretrained(folder)
        return load_tokenizer(ModelSpec(str(folder)))

    return make


# Token ids


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("truncation_side", ["right", "left"])
@pytest.mark.parametrize("max_length", [4, 20, 64])
def test_token_ids_are_the_tokenizers_own(family, truncation_side, max_length):
    tokenizer = make_tokenizer(family, truncation_side=truncation_side)
    found = made(rows_of(tokenizer, max_length), part(TEXTS))["input_ids"].to_pylist()
    assert found == tokenizer(TEXTS, truncation=True, max_length=max_length)["input_ids"]


@pytest.mark.parametrize("truncation_side", ["right", "left"])
def test_token_ids_of_a_slow_tokenizer_are_its_own(truncation_side, slow_tokenizer):
    tokenizer = slow_tokenizer(truncation_side=truncation_side)
    rows = rows_of(tokenizer)
    assert rows.tokenizer == ModelSpec(tokenizer.name_or_path)
    found = made(rows, part(TEXTS))["input_ids"].to_pylist()
    assert found == tokenizer(TEXTS, truncation=True, max_length=20)["input_ids"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("truncation_side", ["right", "left"])
def test_of_a_long_text_the_token_ids_are_the_tokenizers_own(family, truncation_side):
    tokenizer = make_tokenizer(family, truncation_side=truncation_side)
    texts = [*long_texts(), "a short one"]
    found = made(rows_of(tokenizer), part(texts))["input_ids"].to_pylist()
    assert found == tokenizer(texts, truncation=True, max_length=20)["input_ids"]


def test_a_fast_tokenizer_travels_as_json_and_a_slow_one_by_name(slow_tokenizer):
    for tokenizer in (make_tokenizer("bert"), slow_tokenizer()):
        rows = rows_of(tokenizer)
        again = pickle.loads(pickle.dumps(rows))
        assert made(again, part(TEXTS)).equals(made(rows, part(TEXTS)))
    assert isinstance(rows_of(make_tokenizer("bert")).tokenizer, str)


def test_padding_and_truncation_that_a_tokenizers_file_asks_for_are_not_done():
    tokenizer = make_tokenizer("bert")
    wanted = tokenizer(TEXTS, truncation=True, max_length=20)["input_ids"]
    tokenizer.backend_tokenizer.enable_padding(length=64)
    tokenizer.backend_tokenizer.enable_truncation(3)
    assert made(rows_of(tokenizer), part(TEXTS))["input_ids"].to_pylist() == wanted


def test_rows_of_different_lengths_and_tokenizers_do_not_disturb_one_another():
    bert, roberta = make_tokenizer("bert"), make_tokenizer("roberta")
    makers = [(bert, 8), (roberta, 8), (bert, 16), (bert, 8)]
    each = [rows_of(tokenizer, max_length) for tokenizer, max_length in makers]
    for (tokenizer, max_length), rows in zip(makers, each, strict=True):
        found = made(rows, part(TEXTS))["input_ids"].to_pylist()
        assert found == tokenizer(TEXTS, truncation=True, max_length=max_length)["input_ids"]


def test_texts_tokenised_some_at_a_time_are_the_same(monkeypatch):
    rows = rows_of(make_tokenizer("bert"))
    whole = made(rows, part(TEXTS))
    monkeypatch.setattr("raydistill.token_rows.CHUNK_TEXTS", 3)
    assert made(rows, part(TEXTS)).equals(whole)


# Labels and occurrences


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_labels_are_the_soft_labels_of_the_logits(multi_label, temperature):
    rows = rows_of(make_tokenizer("bert"), temperature=temperature, multi_label=multi_label)
    found = made(rows, part(TEXTS))
    wanted = soft_labels(*logits(len(TEXTS)), temperature=temperature, multi_label=multi_label)
    assert found["labels"].to_pylist() == wanted.tolist()
    assert found.schema == pa.schema([("input_ids", pa.list_(pa.int32())), ("labels", pa.list_(pa.float32()))])


@given(st.lists(st.integers(0, 4), min_size=1, max_size=8), st.integers(1, 9))
def test_a_text_stands_as_often_as_in_the_corpus(occurrences, mixed_rows):
    with replaced(student_rows, MIXED_ROWS=mixed_rows):
        expect_as_often(occurrences)


def expect_as_often(occurrences):
    texts = sentences()[: len(occurrences)]
    tokenizer = make_tokenizer("bert")
    once = made(rows_of(tokenizer), part(texts)).to_pylist()
    found = pa.concat_tables(as_often(rows_of(tokenizer)(part(texts, occurrences)), [0])).to_pylist()
    wanted = [row for row, times in zip(once, occurrences, strict=True) for _ in range(times)]
    assert sorted(found, key=str) == sorted(wanted, key=str)


def test_copies_of_a_text_come_some_at_a_time_and_mixed_with_others(monkeypatch):
    monkeypatch.setattr("raydistill.student_rows.SLICE_ROWS", 100)
    slices = list(as_often(rows_of(make_tokenizer("bert"))(part(sentences()[:2], [500, 500])), [0]))
    assert [table.num_rows for table in slices] == [100] * 10
    first = [
        sum(row == slices[0]["input_ids"][0].as_py() for row in table["input_ids"].to_pylist()) for table in slices
    ]
    assert all(20 < number < 80 for number in first)


def test_copies_without_number_take_no_memory_without_bound():
    table = rows_of(make_tokenizer("bert"))(part(sentences()[:2], [3 << 30, 1]))
    tracemalloc.start()
    try:
        first = next(iter(as_often(table, [0])))
        assert first.num_rows == student_rows.SLICE_ROWS
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_rare_texts_beside_very_frequent_ones_come_all_along(monkeypatch):
    monkeypatch.setattr("raydistill.student_rows.MIXED_ROWS", 100)
    monkeypatch.setattr("raydistill.student_rows.SLICE_ROWS", 100)
    texts = sentences()[:61]
    slices = list(as_often(rows_of(make_tokenizer("bert"))(part(texts, [3000, *[1] * 60])), [0]))
    often = slices[0]["input_ids"].to_pylist()
    frequent = max(often, key=often.count)
    rare = [sum(row != frequent for row in table["input_ids"].to_pylist()) for table in slices]
    assert sum(rare) == 60
    assert 15 <= sum(rare[: len(rare) // 2]) <= 45


def test_no_texts_are_no_rows(slow_tokenizer):
    for tokenizer in (make_tokenizer("bert"), slow_tokenizer()):
        found = made(rows_of(tokenizer), part([]))
        assert found.num_rows == 0
        assert found.column_names == ["input_ids", "labels"]


def test_a_slice_of_a_part_gives_those_rows():
    rows = rows_of(make_tokenizer("bert"))
    whole, tail = made(rows, part(TEXTS)), made(rows, part(TEXTS).slice(5))
    assert tail.to_pylist() == whole.to_pylist()[5:]


# Padding


def table(ids):
    labels = np.random.default_rng(1).random((len(ids), CLASSES)).astype(np.float32)
    return pa.table({"input_ids": pa.array(ids, pa.list_(pa.int32())), "labels": logits_column(labels)}), labels


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_padded_rows_equal_the_tokenizers_padding(side, family):
    tokenizer = make_tokenizer(family, padding_side=side)
    rows = made(rows_of(tokenizer), part(TEXTS))
    found = pad_rows(rows, tokenizer.pad_token_id, CLASSES, left=side == "left")
    wanted = tokenizer(TEXTS, truncation=True, max_length=20, padding=True)
    assert found["input_ids"].tolist() == wanted["input_ids"]
    assert found["attention_mask"].tolist() == wanted["attention_mask"]


@given(st.lists(st.lists(st.integers(0, 99), max_size=6), min_size=1, max_size=6), st.booleans())
def test_padding_goes_to_one_side_and_is_masked(ids, left):
    rows, labels = table(ids)
    found = pad_rows(rows, 7, CLASSES, left=left)
    width = max(1, *map(len, ids))
    for row, mask, wanted in zip(found["input_ids"].tolist(), found["attention_mask"].tolist(), ids, strict=True):
        padding = width - len(wanted)
        assert row == ([7] * padding + wanted if left else wanted + [7] * padding)
        assert mask == ([0] * padding + [1] * len(wanted) if left else [1] * len(wanted) + [0] * padding)
    np.testing.assert_array_equal(found["labels"], labels)


def test_padded_rows_are_arrays_that_torch_takes():
    torch = pytest.importorskip("torch")
    rows, _ = table([[1, 2], [3]])
    arrays = pad_rows(rows, 0, CLASSES)
    assert all(array.flags.writeable for array in arrays.values())  # or torch warns
    found = {name: torch.from_numpy(array) for name, array in arrays.items()}
    assert (found["input_ids"].dtype, found["attention_mask"].dtype) == (torch.int64, torch.int64)
    assert found["labels"].dtype == torch.float32


def test_slices_and_chunks_are_padded_as_they_stand():
    rows, labels = table([[1, 2, 3], [4], [5, 6], [], [7, 8, 9, 10]])
    found = pad_rows(rows.slice(1, 3), 0, CLASSES)
    assert found["input_ids"].tolist() == [[4, 0], [5, 6], [0, 0]]
    np.testing.assert_array_equal(found["labels"], labels[1:4])
    chunked = pa.concat_tables([rows.slice(3), rows.slice(0, 2)])
    assert pad_rows(chunked, 0, CLASSES)["input_ids"].tolist() == [
        [0, 0, 0, 0],
        [7, 8, 9, 10],
        [1, 2, 3, 0],
        [4, 0, 0, 0],
    ]


def test_data_tasks_need_neither_torch_nor_transformers():
    code = (
        "import sys, raydistill.kept_rows; print(sorted({'torch', 'transformers', 'ray', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

"""The label store: what is written is read again, whole parts only, and occurrences follow the corpus."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import uuid
from collections import Counter
from pathlib import Path
from unittest import mock

import duckdb
import numpy as np
import pandas as pd
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from records import LABELLING, complete

from raydistill import known_texts
from raydistill.corpus import text_id
from raydistill.errors import DamagedError, RunDirError
from raydistill.files import Folder
from raydistill.known_texts import KnownTexts, id_halves, take_census
from raydistill.label_store import SCHEMA, LabelStore, logits_column, logits_matrix
from raydistill.occurrences import correct_occurrences

same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)


def part(occurrences, *, classes=3, seed=0):
    """A part's table from {text: occurrences}."""
    logits = np.random.default_rng(seed).normal(size=(2, len(occurrences), classes)).astype(np.float32)
    return pa.table(
        {
            "text_id": [text_id(text) for text in occurrences],
            "text": list(occurrences),
            "occurrences": list(occurrences.values()),
            "entailment": logits_column(logits[0]),
            "contradiction": logits_column(logits[1]),
        },
        schema=SCHEMA,
    )


@pytest.fixture
def store(tmp_path):
    store = LabelStore(str(tmp_path / "labels"))
    store.folder.create()
    return store


def fresh(store):
    """A new folder of its own for every example of a property."""
    inner = LabelStore(f"{store.path}/{uuid.uuid4().hex}")
    inner.folder.create()
    return inner


def read(store, name, columns=None):
    """A whole part."""
    return pa.concat_tables(store.read_part(name, columns))


def contents(store):
    """How often every text stands in a store, by its id, from all parts."""
    found = Counter()
    for name in store.parts():
        rows = read(store, name)
        for key, times in zip(rows["text_id"].to_pylist(), rows["occurrences"].to_pylist(), strict=True):
            found[key] += times
    return dict(found)


def ids(occurrences):
    return {text_id(text): times for text, times in occurrences.items()}


# Parts


def test_a_part_is_read_as_it_was_written(store):
    table = part({"a": 1, "Zoë": 2, "東京 🙂": 3})
    name, _ = store.write_part(table)
    assert store.parts() == [name]
    assert read(store, name).equals(table)
    assert read(store, name, ["text_id", "occurrences"]).equals(table.select(["text_id", "occurrences"]))


def test_columns_that_are_not_the_stores_are_left_out(store):
    table = part({"a": 1, "b": 2})
    store.write_part(table.append_column("effort", pa.array([1, 2])).select([*reversed(table.column_names), "effort"]))
    assert read(store, store.parts()[0]).equals(table)


@given(st.integers(0, 6), st.integers(1, 5))
def test_logits_are_the_same_matrix_again(rows, classes):
    logits = np.random.default_rng(rows).normal(size=(rows, classes)).astype(np.float32)
    column = logits_column(logits)
    assert column.to_pylist() == logits.tolist()
    np.testing.assert_array_equal(logits_matrix(column, classes), logits)
    np.testing.assert_array_equal(logits_matrix(pa.chunked_array([column, column]), classes), np.tile(logits, (2, 1)))


@pytest.mark.parametrize(("start", "length"), [(0, 2), (2, 3), (4, 1), (2, 0)])
def test_a_slice_of_a_column_is_that_slice_of_the_matrix(start, length):
    logits = np.arange(15, dtype=np.float32).reshape(5, 3)
    found = logits_matrix(logits_column(logits).slice(start, length), 3)
    np.testing.assert_array_equal(found, logits[start : start + length])


@pytest.mark.parametrize("rows", [[[1.0] * 5] * 4, [[1.0], [1.0] * 3], [[1.0] * 2, None]])
def test_rows_that_have_not_a_logit_for_each_class_are_refused(rows):
    with pytest.raises(ValueError, match="a row of logits is not of 2 classes"):
        logits_matrix(pa.array(rows, pa.list_(pa.float32())), 2)


def test_logits_keep_every_bit(store):
    table = part({f"text {i}": 1 for i in range(100)}, classes=7)
    store.write_part(table)
    found = logits_matrix(read(store, store.parts()[0])["entailment"], 7)
    assert found.tobytes() == logits_matrix(table["entailment"], 7).tobytes()


def test_parts_are_of_plain_types_that_pandas_reads_as_one_folder(store):
    store.write_part(part({"a": 1, "b": 2}))
    store.write_part(part({"c": 3}))
    store.write_record({"labelling": LABELLING})
    frame = pd.read_parquet(store.path).sort_values("text", ignore_index=True)
    assert frame.columns.tolist() == ["text_id", "text", "occurrences", "entailment", "contradiction"]
    assert frame["text"].tolist() == ["a", "b", "c"]
    assert frame["occurrences"].tolist() == [1, 2, 3]
    assert frame["text_id"].tolist() == [text_id(text) for text in "abc"]
    assert all(len(row) == 3 and row.dtype == np.float32 for row in frame["entailment"])


def test_duckdb_reads_the_parts(store):
    store.write_part(part({"a": 1, "b": 2}))
    store.write_part(part({"c": 3}))
    query = f"select text, occurrences, len(entailment) from '{store.path}/*.parquet' order by text"
    assert duckdb.sql(query).fetchall() == [("a", 1, 3), ("b", 2, 3), ("c", 3, 3)]


def test_polars_reads_the_parts(store):
    store.write_part(part({"a": 1, "b": 2}))
    store.write_part(part({"c": 3}))
    store.write_record({"labelling": LABELLING})
    frame = polars.read_parquet(f"{store.path}/*.parquet").sort("text")
    assert frame["text"].to_list() == ["a", "b", "c"]
    assert frame["occurrences"].to_list() == [1, 2, 3]
    assert frame["entailment"].list.len().to_list() == [3, 3, 3]


def test_the_metadata_names_no_library_but_arrow(store):
    store.write_part(part({"a": 1}))
    (name,) = store.parts()
    assert {str(field.type) for field in pq.read_schema(f"{store.path}/{name}")} == {
        "string",
        "int64",
        "list<element: float>",
    }


def test_a_part_that_a_kill_left_half_written_is_not_there(store, tmp_path):
    whole, _ = store.write_part(part({"a": 1}))
    content = (tmp_path / "labels" / whole).read_bytes()
    (tmp_path / "labels" / ".0123.tmp").write_bytes(content[: len(content) // 2])
    (tmp_path / "labels" / ".part-0123.parquet").write_bytes(content[: len(content) // 2])
    assert store.parts() == [whole]
    assert pd.read_parquet(store.path)["text"].tolist() == ["a"]


def test_a_write_that_dies_before_its_end_leaves_no_part(store, monkeypatch):
    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("raydistill.files.os.replace", die)
    with pytest.raises(KeyboardInterrupt):
        store.write_part(part({"a": 1}))
    assert store.parts() == []


def test_a_write_that_fails_leaves_no_part(store):
    with pytest.raises(TypeError):
        store.folder.write("part-1.parquet", "text, which no stream takes")
    assert store.parts() == []


def test_a_torn_part_is_an_error_that_names_it(store, tmp_path):
    name, _ = store.write_part(part({f"text {i}": 1 for i in range(50)}))
    path = tmp_path / "labels" / name
    path.write_bytes(path.read_bytes()[:-20])
    assert store.damaged_parts() == [name]
    with pytest.raises(DamagedError, match="is damaged") as error:
        read(store, name)
    assert str(error.value).startswith(f"{store.path}/{name}: ")
    with pytest.raises(DamagedError, match="is damaged"):
        store.known_texts(store.parts())


def test_whatever_bit_of_its_end_is_another_a_part_is_read_or_refused(store, tmp_path):
    name, _ = store.write_part(part({f"text {i}": 1 for i in range(50)}))
    path = tmp_path / "labels" / name
    content, refused = path.read_bytes(), 0
    for at in np.random.default_rng(0).integers(8 * (len(content) - 1500), 8 * len(content), size=300):
        torn = bytearray(content)
        torn[at // 8] ^= 1 << (at % 8)
        path.write_bytes(torn)
        assert store.damaged_parts() == [name]
        try:
            read(store, name)
        except DamagedError:
            refused += 1
    assert refused > 100


def test_a_part_that_is_gone_is_an_error_that_names_it(store):
    with pytest.raises(RunDirError, match=r"part-x\.parquet: is gone"):
        read(store, "part-x.parquet")


def test_a_store_travels_as_its_path(store):
    store.write_part(part({"a": 1}))
    other = pickle.loads(pickle.dumps(store))
    assert other.path == store.path
    assert other.parts() == store.parts()
    assert len(pickle.dumps(store)) < 500


def test_a_store_that_is_not_there_has_no_parts_and_no_record(tmp_path):
    store = LabelStore(str(tmp_path / "nowhere"))
    assert store.parts() == []
    assert store.record() is None


# The record


def test_the_record_is_read_as_it_was_written(store):
    labelling = LABELLING | {"class_names": ["Kültür"]}
    store.write_record({"labelling": labelling, "complete": None})
    assert store.record() == {"schema_version": 2, "labelling": labelling, "complete": None}
    assert "Kültür" in store.folder.read("_labels.json").decode()


@pytest.mark.parametrize("version", [b"1", b'"2"'])
def test_a_store_of_another_version_is_an_error(version, store):
    store.folder.write("_labels.json", b'{"labelling": {}, "schema_version": ' + version + b"}")
    with pytest.raises(RunDirError, match="another version of raydistill"):
        store.record()


RECORD = {"schema_version": 2, "labelling": LABELLING, "scoring": {"precision": "fp32"}, "complete": complete(3)}


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"\xff\xfe", b"\x80abc", b"null", b"[]", b"{}", b'{"schema_version": 2}'),
        b'{"schema_version": 2, "labelling": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        json.dumps(RECORD | {"labelling": {}}).encode(),
        json.dumps(RECORD | {"labelling": LABELLING | {"class_names": "a, b"}}).encode(),
        *(
            json.dumps(RECORD | {"labelling": LABELLING | {"class_names": names}}).encode()
            for names in (
                [1, ["x"], None],
                [],
                ["a", "a", "b"],
                ["a", "b"],
            )  # the last ones: not as many as the pairs say
        ),
        *(
            json.dumps(RECORD | {"scoring": scoring}).encode()
            for scoring in ("fp32", None, {}, {"x": 1}, {"precision": "bf16", "audit": None}, {"precision": ["bf16"]})
        ),
        json.dumps(RECORD | {"complete": True}).encode(),
        *(json.dumps(RECORD | {"complete": complete(3) | {name: None}}).encode() for name in complete(3)),
    ],
)
def test_a_damaged_record_is_an_error(content, store):
    store.write_record(RECORD)
    assert store.record() == RECORD
    store.folder.write("_labels.json", content)
    with pytest.raises(DamagedError, match="damaged"):
        store.record()


def test_only_a_complete_store_can_be_trained_from(store):
    with pytest.raises(RunDirError, match="holds no label store"):
        store.complete_record()
    store.write_record({"labelling": LABELLING, "complete": None})
    with pytest.raises(RunDirError, match="not complete"):
        store.complete_record()
    store.write_record(RECORD)
    name, _ = store.write_part(part({"a": 2, "b": 1}))
    assert store.complete_record()["complete"] == complete(3)
    store.expect_all_texts()
    other = store.folder.where("a copy.parquet")
    shutil.copy(store.folder.where(name), other)
    with pytest.raises(RunDirError, match=r"a copy\.parquet is not one of its label files\. Move it elsewhere"):
        store.expect_all_texts()
    os.unlink(other)
    store.folder.delete(name)
    with pytest.raises(RunDirError, match="holds 0 of its 3 texts"):
        store.expect_all_texts()


# Known texts

TEXTS = st.sampled_from([f"text {i}" for i in range(12)])
PARTS = st.lists(st.dictionaries(TEXTS, st.integers(0, 4), min_size=1, max_size=6), max_size=4)


@same_folder
@given(PARTS, st.lists(TEXTS, max_size=20))
def test_known_texts_are_those_of_all_parts_with_their_occurrences_added_up(store, parts, asked):
    inner = fresh(store)
    wanted = Counter()
    for occurrences in parts:
        inner.write_part(part(occurrences))
        wanted.update({text_id(text): 0 for text in occurrences})
        for text, times in occurrences.items():
            wanted[text_id(text)] += times
    known = inner.known_texts(inner.parts())
    assert len(known) == len(wanted)
    found = known.find([text_id(text) for text in asked])
    for text, at in zip(asked, found, strict=True):
        assert (at >= 0) == (text_id(text) in wanted)
        assert at < 0 or known.occurrences[at] == wanted[text_id(text)]
    places = known.find(list(wanted))
    assert sorted(places) == list(range(len(wanted)))


def test_nothing_is_known_in_no_parts(store):
    known = store.known_texts([])
    assert len(known) == 0
    assert known.find([text_id("a")]).tolist() == [-1]
    assert known.find([]).tolist() == []


def test_nothing_asked_is_nothing_found(store):
    store.write_part(part({"a": 1}))
    assert store.known_texts(store.parts()).find([]).tolist() == []


def test_a_part_without_rows_does_no_harm(store):
    store.write_part(part({"a": 2}).slice(0, 0))
    store.write_part(part({"a": 2}))
    known = store.known_texts(store.parts())
    assert known.occurrences[known.find([text_id("a")])].tolist() == [2]


def test_id_halves_are_the_two_halves_of_the_id():
    first, second = id_halves(["0000000000000001" + "ffffffffffffffff", "8000000000000000" + "0000000000000000"])
    assert first.tolist() == [1, 1 << 63]
    assert second.tolist() == [(1 << 64) - 1, 0]


@given(st.lists(st.text("0123456789abcdef", min_size=32, max_size=32), max_size=20), st.integers(0, 5))
def test_id_halves_of_a_column_are_those_of_its_ids(keys, start):
    column = pa.chunked_array([pa.array(keys, pa.string()).slice(start), pa.array(keys, pa.string())])
    expected = [int(key, 16) for key in [*keys[start:], *keys]]
    for ids in (column, column.to_pylist()):
        first, second = id_halves(ids)
        assert [(int(a) << 64) + int(b) for a, b in zip(first, second, strict=True)] == expected


@pytest.mark.parametrize("wrong", ["0" * 31, "0" * 31 + "g", "é" + "0" * 30])
def test_what_is_no_id_is_refused(wrong):
    for ids in ([wrong], pa.array([wrong])):
        with pytest.raises(ValueError, match="32 hexadecimal digits"):
            id_halves(ids)


@settings(max_examples=20)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3)), max_size=60), st.integers(0, 9), st.sampled_from([1, 99])
)
def test_texts_are_gathered_by_id_each_once_however_they_come(rows, shares, bucket_ids):
    keys = [text_id(str(number)) for number, _ in rows]
    times = np.array([count for _, count in rows], dtype=np.int64)
    halves = [(keys[at : at + 7], times[at : at + 7]) for at in range(0, len(keys), 7)]
    with mock.patch.object(known_texts, "BUCKET_IDS", bucket_ids):
        gathered, wanted = KnownTexts.gathered(halves, shares * bucket_ids), Counter()
    for key, occurrences in zip(keys, times.tolist(), strict=True):
        wanted[key] += occurrences
    ids = [f"{first:016x}{second:016x}" for first, second in zip(gathered.first, gathered.second, strict=True)]
    assert list(zip(ids, gathered.occurrences.tolist(), strict=True)) == sorted(wanted.items())


def test_an_id_that_shares_its_first_half_with_another_is_not_taken_for_it(store):
    table = part({"a": 5})
    store.write_part(table)
    known = store.known_texts(store.parts())
    other = text_id("a")[:16] + "0" * 16
    assert known.find([other, text_id("a")]).tolist() == [-1, 0]


def test_ids_that_share_their_first_half_are_two_texts(store):
    shared = ["0" * 16 + "1" * 16, "0" * 16 + "2" * 16]
    store.write_part(part({"a": 1, "b": 2}).set_column(0, SCHEMA.field("text_id"), pa.array(shared)))
    known = store.known_texts(store.parts())
    assert known.occurrences.tolist() == [1, 2]
    assert known.find(shared)[0] == 0


# Occurrences


def correct(store, corpus):
    """A pass over a corpus {text: occurrences}: the known texts are counted, the new ones written as a part."""
    earlier = store.parts()
    known = store.known_texts(earlier)
    counted = known_texts.zeros_on_disk(len(known))
    new = {}
    for text, times in corpus.items():
        (at,) = known.find([text_id(text)])
        if at < 0:
            new[text] = times
        else:
            counted[at] += times
    if new:
        store.write_part(part(new))
    return correct_occurrences(store, earlier, known, counted)


def test_a_text_that_stands_more_often_counts_more_often(store):
    store.write_part(part({"a": 1, "b": 2}))
    assert correct(store, {"a": 4, "b": 2}) == 1
    assert contents(store) == ids({"a": 4, "b": 2})


def test_a_text_that_is_gone_counts_no_more_but_keeps_its_logits(store):
    table = part({"a": 1, "b": 2})
    store.write_part(table)
    assert correct(store, {"b": 2}) == 1
    assert contents(store) == ids({"a": 0, "b": 2})
    assert read(store, store.parts()[0]).drop_columns("occurrences").equals(table.drop_columns("occurrences"))


def test_a_text_that_comes_back_counts_again(store):
    store.write_part(part({"a": 0, "b": 2}))
    correct(store, {"a": 3, "b": 2})
    assert contents(store) == ids({"a": 3, "b": 2})


def test_a_text_of_several_parts_counts_once_in_all(store):
    store.write_part(part({"a": 1, "b": 1}))
    store.write_part(part({"a": 2, "c": 1}))
    correct(store, {"a": 5, "b": 1, "c": 1})
    assert contents(store) == ids({"a": 5, "b": 1, "c": 1})


def test_a_store_that_is_right_is_not_touched(store, tmp_path):
    names = [store.write_part(part(rows))[0] for rows in ({"a": 1, "b": 1}, {"a": 2})]
    before = {name: (tmp_path / "labels" / name).stat().st_mtime_ns for name in names}
    assert correct(store, {"a": 3, "b": 1}) == 0
    assert {name: (tmp_path / "labels" / name).stat().st_mtime_ns for name in names} == before


def test_parts_that_are_right_are_not_touched(store, tmp_path):
    right, wrong = (store.write_part(part(rows))[0] for rows in ({"a": 1}, {"b": 1}))
    stamp = (tmp_path / "labels" / right).stat().st_mtime_ns
    correct(store, {"a": 1, "b": 2})
    assert right in store.parts()
    assert wrong not in store.parts()
    assert (tmp_path / "labels" / right).stat().st_mtime_ns == stamp
    assert store.folder.names() == store.parts()


@same_folder
@given(PARTS, st.dictionaries(TEXTS, st.integers(1, 5)), st.sampled_from([1, 3, 99]))
def test_after_a_pass_the_store_says_what_the_corpus_holds(store, parts, corpus, bucket_ids):
    inner = fresh(store)
    for occurrences in parts:
        inner.write_part(part(occurrences))
    with mock.patch.object(known_texts, "BUCKET_IDS", bucket_ids):
        correct(inner, corpus)
    held = {text_id(text) for occurrences in parts for text in occurrences}
    assert contents(inner) == {**dict.fromkeys(held, 0), **ids(corpus)}


def test_texts_whose_ids_share_their_first_half_are_counted_right(store):
    # By design the second of them may be labelled again; it must not disturb the others nor count twice.
    corpus = {"a": 1, "b": 2, "z": 3}
    shared = ["0" * 16 + "1" * 16, "0" * 16 + "2" * 16, "f" * 32]
    rows = part(corpus).set_column(0, SCHEMA.field("text_id"), pa.array(shared))
    store.write_part(rows)
    earlier = store.parts()
    known = store.known_texts(earlier)
    places = known.find(shared)
    counted = np.zeros(len(known), dtype=np.int64)
    new = []
    for key, times, at in zip(shared, [1, 2, 7], places, strict=True):  # the corpus has "z" more often now
        if at < 0:
            new.append((key, times))
        else:
            counted[at] += times
    for key, times in new:
        store.write_part(part({"b": times}).set_column(0, SCHEMA.field("text_id"), pa.array([key])))
    correct_occurrences(store, earlier, known, counted)
    assert contents(store) == dict(zip(shared, [1, 2, 7], strict=True))


def test_a_part_is_known_by_its_checksum(store, tmp_path):
    twice = [store.write_part(part({"a": 1}))[0] for _ in range(2)]
    assert store.parts() == sorted(twice)
    assert len(set(twice)) == 2
    assert all(map(store.is_whole, twice))
    path = tmp_path / "labels" / twice[0]
    content = bytearray(path.read_bytes())
    content[20] ^= 1
    path.write_bytes(content)
    assert [store.is_whole(name) for name in twice] == [False, True]
    path.rename(path.with_name("other.parquet"))
    assert not store.is_whole("other.parquet")


# Merged parts


@same_folder
@given(st.lists(st.dictionaries(TEXTS, st.integers(0, 4), min_size=1, max_size=6), min_size=1, max_size=4))
def test_merged_parts_hold_what_their_sources_held(store, parts):
    inner = fresh(store)
    names = [inner.write_part(part(occurrences, seed=i))[0] for i, occurrences in enumerate(parts)]
    rows, other = pa.concat_tables(read(inner, name) for name in names), inner.write_part(part({"other": 1}))[0]
    merged, size = inner.merge_parts(names)
    assert set(inner.parts()) == {merged, other, *names}
    inner.end_replacement(merged, names)
    assert inner.parts() == sorted([merged, other])
    assert read(inner, merged).equals(rows)
    assert inner.folder.sizes() == {merged: size, other: inner.folder.sizes()[other]}


def test_a_merged_part_is_read_in_pieces(store, monkeypatch):
    monkeypatch.setattr("raydistill.label_store.ROW_GROUP_BYTES", 4000)
    names = [store.write_part(part({f"text {i} {j}": 1 for j in range(10)}))[0] for i in range(20)]
    rows = pa.concat_tables(read(store, name) for name in names)
    merged, _ = store.merge_parts(names)
    store.end_replacement(merged, names)
    pieces = list(store.read_part(merged))
    assert 2 < len(pieces) < 20
    assert pa.concat_tables(pieces).equals(rows)
    groups = store.row_groups()
    assert [(group.part, group.at) for group in groups] == [(merged, at) for at in range(len(pieces))]
    assert pa.concat_tables(store.read_row_groups(groups[::-1], SCHEMA.names)).equals(pa.concat_tables(pieces[::-1]))


@pytest.mark.parametrize("killed_at", ["writing", "removing", "forgetting"])
def test_a_merge_that_was_killed_is_ended_or_undone(killed_at, store, monkeypatch):
    corpus = {f"text {i}": i + 1 for i in range(6)}
    names = [store.write_part(part({text: times}))[0] for text, times in corpus.items()]

    def die(*_):
        raise KeyboardInterrupt

    deletes = []
    delete = Folder.delete

    def die_in_the_midst(folder, name):
        deletes.append(name)
        if len(deletes) > {"removing": 2, "forgetting": 6}.get(killed_at, 99):
            die()
        delete(folder, name)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "delete", die_in_the_midst)
        if killed_at == "writing":
            patch.setattr("raydistill.label_store.pq.ParquetWriter.write_table", die)
        with pytest.raises(KeyboardInterrupt):
            store.end_replacement(store.merge_parts(names)[0], names)
    store.folder.sweep()
    ended = store.finish_replacements()
    assert contents(store) == ids(corpus)
    assert store.folder.names() == store.parts()
    assert ended == ([] if killed_at == "writing" else [(store.parts()[0], names)])
    assert store.finish_replacements() == []


# The census


@same_folder
@given(PARTS, st.randoms())
def test_a_census_counts_texts_whatever_parts_they_lie_in(store, parts, random):
    inner, other = fresh(store), fresh(store)
    for occurrences in parts:
        inner.write_part(part(occurrences))
    rows = [(text, 1) for occurrences in parts for text, times in occurrences.items() for _ in range(times)]
    random.shuffle(rows)
    for text, times in rows:
        other.write_part(part({text: times}))
    census = inner.census(about=10)
    assert census.texts == len(rows)
    assert census.distinct == len(dict(rows))
    assert other.census(about=10) == census
    if rows:
        other.write_part(part({rows[0][0]: 1}))
        assert other.census(about=10).digest != census.digest


@pytest.mark.parametrize("bucket_ids", [1, 20, 700])
def test_a_census_of_many_ids_is_taken_bucket_by_bucket(bucket_ids, monkeypatch):
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 256, (3000, 16), dtype=np.uint8)
    ids = [row.tobytes().hex() for row in np.concatenate([ids, ids[:1000]])] + ["0" * 32] * 100
    ones = np.ones(len(ids), dtype=np.int64)
    one = take_census([(ids, ones)], about=4000)
    monkeypatch.setattr(known_texts, "BUCKET_IDS", bucket_ids)
    pieces = [(ids[at : at + 500], ones[at : at + 500]) for at in range(0, len(ids), 500)]
    sizes = [len(share) for share in known_texts.sorted_shares(pieces, about=4000)]
    assert max(sizes) <= max(2 * bucket_ids, 2)  # also where 128 files at a time are too few
    assert take_census(pieces, about=4000) == one
    assert (one.texts, one.distinct) == (4100, 3001)


def test_a_text_without_number_is_counted_with_few_files(monkeypatch):
    opened = []

    def counted(**options):
        opened.append(options)
        return io.BytesIO()

    monkeypatch.setattr(known_texts, "BUCKET_IDS", 200)
    monkeypatch.setattr(known_texts.tempfile, "TemporaryFile", counted)
    ids, ones = ["7" * 32] * 5000, np.ones(5000, dtype=np.int64)
    census = take_census([(ids, ones)] * 40, about=400)
    assert (census.texts, census.distinct) == (200_000, 1)
    assert len(opened) <= 256


# The folder


def test_names_are_the_finished_files_in_order(tmp_path):
    folder = Folder(str(tmp_path))
    (tmp_path / "below").mkdir()
    for name in ("b.parquet", "a.parquet", "c.json", ".d.parquet"):
        folder.write(name, b"x")
    assert folder.names(".parquet") == ["a.parquet", "b.parquet"]
    assert folder.names() == ["a.parquet", "b.parquet", "c.json"]


def test_a_file_is_read_replaced_and_deleted(tmp_path):
    folder = Folder(str(tmp_path / "a" / "b"))
    folder.create()
    folder.write("x", b"one")
    folder.write("x", memoryview(b"two"))
    assert folder.read("x") == b"two"
    folder.delete("x")
    with pytest.raises(FileNotFoundError):
        folder.read("x")


def test_a_folder_may_be_named_by_a_uri(tmp_path):
    Folder(f"file://{tmp_path}").write("x", b"one")
    assert (tmp_path / "x").read_bytes() == b"one"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


# Replacements


@pytest.mark.parametrize("torn", [False, True])
def test_a_replacement_that_a_kill_interrupted_is_ended_or_undone_if_the_disk_has_torn_it(store, torn):
    names = [store.write_part(part({f"text {i}": 1, f"more {i}": 2}))[0] for i in range(3)]
    made, _ = store.merge_parts(names)  # and killed before it is ended
    assert len(store.parts()) == 4
    if torn:
        path = Path(store.path, made)
        path.write_bytes(path.read_bytes()[:-50])
    ended = store.finish_replacements()
    assert ended == ([] if torn else [(made, names)])
    assert store.parts() == (sorted(names) if torn else [made])
    assert store.damaged_parts() == []
    assert store.count_texts() == 9
    assert store.folder.names(".json") == []


def test_what_no_replacement_of_ours_is_named_like_is_left_alone(store):
    store.folder.write("_replace-notes.txt.json", b"")
    store.folder.write("notes.txt", b"mine")
    assert store.finish_replacements() == []
    assert set(store.folder.names()) == {"_replace-notes.txt.json", "notes.txt"}


def test_a_part_of_which_any_stretch_is_blotted_is_never_read_as_if_it_were_good(store):
    texts = {f"text {i} {hash(str(i))}": 1 for i in range(2000)}
    name, _ = store.write_part(part(texts))
    good = read(store, name)
    path = Path(store.path, name)
    content = path.read_bytes()
    for at in range(0, len(content), 997):
        path.write_bytes(content[:at] + bytes(200) + content[at + 200 :])
        if path.read_bytes() == content:
            continue
        try:
            found = read(store, name)
        except DamagedError:
            continue
        assert found == good, at  # what was blotted is no data


def test_a_part_that_is_whole_but_cannot_be_read_just_now_is_not_called_foreign(store, monkeypatch):
    name, _ = store.write_part(part({"a text": 1}))

    def refuse(*_):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(Folder, "open", refuse)
    with pytest.raises(RunDirError, match=r"cannot be read \(Too many open files\)\. .*the same command goes on"):
        read(store, name)

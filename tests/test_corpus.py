"""The corpus: every format gives its texts, every cut gives the same ones, every fault is one line that says where."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import itertools
import json
import os
import re
import threading
from functools import partial

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from raydistill import corpus_lines, corpus_readers, corpus_samples
from raydistill.class_names import read_class_names
from raydistill.corpus import TRIPS, check_readable, clean, gather_splits, make_splits, text_id
from raydistill.corpus_files import CorpusFile, Split, find_files
from raydistill.corpus_readers import read_split, read_splits
from raydistill.corpus_samples import estimate_texts, read_stretches, sample_texts
from raydistill.errors import CorpusError

TEXTS = ["the striker scored", "Zoë paid 3 €", "", "  东京  ", 'a "quoted", text', "NA", "null", "🙂\u2028one line\x85"]
same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def texts_of(paths, *, split_bytes=None, column="text"):
    """All texts of some paths, whole or by splits."""
    paths = [str(path) for path in (paths if isinstance(paths, list) else [paths])]
    files = find_files(paths)
    splits = [Split(file, 0, -1) for file in files] if split_bytes is None else make_splits(files, split_bytes)
    return [text for split in splits for texts in read_split(split, column) for text in texts]


def error_of(path, *, column="text", split_bytes=None):
    with pytest.raises(CorpusError) as error:
        texts_of(path, column=column, split_bytes=split_bytes)
    assert "\n" not in str(error.value)
    return str(error.value)


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# Plain text


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["", "BOM"])
@pytest.mark.parametrize("last", [True, False], ids=["ended", "open"])
@pytest.mark.parametrize("split_bytes", [None, 1, 7, 1000])
def test_lines_are_texts_whatever_ends_them(end, mark, last, split_bytes, tmp_path):
    path = write(tmp_path / "corpus.txt", mark + end.join(TEXTS) + end * last)
    assert texts_of(path, split_bytes=split_bytes) == TEXTS


def test_blank_lines_are_given_as_they_stand(tmp_path):
    assert texts_of(write(tmp_path / "c.txt", "a\n\n  \n\t\nb\n\n")) == ["a", "", "  ", "\t", "b", ""]


def test_a_byte_order_mark_is_dropped_at_the_beginning_only(tmp_path):
    assert texts_of(write(tmp_path / "c.txt", "\ufeffa\n\ufeffb\n")) == ["a", "\ufeffb"]


def test_any_name_that_says_nothing_is_plain_text(tmp_path):
    for name in ("corpus", "corpus.text", "corpus.md", "corpus.2024"):
        assert texts_of(write(tmp_path / name, '{"text": "a"}\n')) == ['{"text": "a"}']


LINES = st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12), max_size=12)
ENDS = st.sampled_from(["\n", "\r\n", "\r"])


def python_lines(path):
    """What Python's text mode makes of a file."""
    with path.open(encoding="utf-8-sig") as stream:
        return [line.removesuffix("\n") for line in stream]


@same_folder
@given(LINES, st.data(), st.integers(4, 40))
def test_lines_are_those_of_pythons_text_mode_however_a_file_is_read(tmp_path, lines, data, read_bytes):
    path = tmp_path / "corpus.txt"
    path.write_bytes("".join(line + data.draw(ENDS) for line in ["a", *lines]).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus_lines, "READ_BYTES", read_bytes)
        assert texts_of(path) == python_lines(path)


@same_folder
@given(LINES, st.data(), st.integers(1, 60), st.sampled_from([4, 9, 4 << 20]))
def test_splits_of_any_size_give_the_same_texts_as_one(tmp_path, lines, data, split_bytes, read_bytes):
    path = tmp_path / "corpus.txt"
    path.write_bytes("".join(line + data.draw(ENDS) for line in ["a", *lines]).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus_lines, "READ_BYTES", read_bytes)
        assert texts_of(path, split_bytes=split_bytes) == python_lines(path)


@same_folder
@given(st.binary(min_size=1, max_size=80).map(lambda data: data.replace(b"\0", b"")), st.integers(1, 30))
def test_bytes_of_any_kind_are_read_or_refused_the_same_in_splits_and_in_one(tmp_path, data, split_bytes):
    path = write(tmp_path / "corpus.txt", b"a\n" + data)
    try:
        wanted = (b"a\n" + data).decode()
    except UnicodeDecodeError:
        error_of(path)
        error_of(path, split_bytes=split_bytes)
        return
    assert texts_of(path, split_bytes=split_bytes) == texts_of(path)
    assert "\n".join(texts_of(path)) == re.sub("\r\n?", "\n", wanted).removesuffix("\n")


def test_splits_of_a_file_follow_on_one_another_and_are_about_as_large_as_asked(tmp_path):
    path = write(tmp_path / "corpus.txt", "a text of 21 bytes ..\n" * 1000)
    splits = make_splits(find_files([str(path)]), 4000)
    assert [split.start for split in splits] == [0, *[split.stop for split in splits[:-1]]]
    assert splits[-1].stop == path.stat().st_size
    assert len(splits) == 6
    assert all(split.stop - split.start <= 4000 + 22 for split in splits)


def test_a_line_that_begins_where_a_split_should_is_where_it_is_cut(tmp_path):
    path = write(tmp_path / "corpus.txt", "ten bytes\n" * 6)
    found = [(split.start, split.stop) for split in make_splits(find_files([str(path)]), 20)]
    assert found == [(0, 20), (20, 40), (40, 60)]


@example(sizes=[1] * 3 * TRIPS, most=10 * TRIPS, compression="gzip")
@example(sizes=[1] * 3 * 16 * TRIPS, most=100 * TRIPS, compression=None)
@given(
    st.lists(st.integers(1, 3000), min_size=1, max_size=600), st.integers(300, 100_000), st.sampled_from([None, "gzip"])
)
def test_small_splits_are_gathered_in_their_order(sizes, most, compression):
    most_files = TRIPS if compression else 16 * TRIPS  # those that can be opened ahead are a sixteenth of a trip
    files = [CorpusFile(f"{i}.txt", size, 0, "text", compression) for i, size in enumerate(sizes)]
    splits = [Split(file, at, min(at + most, file.size)) for file in files for at in range(0, file.size, most)]
    gathered = gather_splits(splits, most)
    assert [split for group in gathered for split in group] == splits
    of = {file.path: file.size / len(range(0, file.size, most)) for file in files}
    totals = [sum(of[split.file.path] for split in group) for group in gathered]
    assert all(
        len(group) <= most_files and (total < most + 1e-6 or len(group) == 1)
        for group, total in zip(gathered, totals, strict=True)
    )
    for group, total, after in zip(gathered, totals, gathered[1:], strict=False):  # one more would have been too many
        assert len(group) == most_files or total + of[after[0].file.path] > most - 1e-6


def test_small_files_are_opened_at_the_same_time_and_read_in_their_order(tmp_path, monkeypatch):
    for i in range(64):
        (tmp_path / f"{i:02}.txt").write_text(f"text {i}\n")
    together = threading.Barrier(4)
    open_text = corpus_lines.open_text

    def opened(split):
        if split.file.path.endswith(("00.txt", "01.txt", "02.txt", "03.txt")):
            together.wait(timeout=30)  # until all four are being opened
        return open_text(split)

    monkeypatch.setattr(corpus_lines, "open_text", opened)
    splits = make_splits(find_files([str(tmp_path)]), 1000)
    assert [text for texts in read_splits(splits, "text") for text in texts] == [f"text {i}" for i in range(64)]


def test_texts_before_a_file_that_cannot_be_read_are_given_first(tmp_path):
    for i in range(64):
        (tmp_path / f"{i:02}.txt").write_bytes(b"text \xff\n" if i == 40 else b"text\n")
    texts = read_splits(make_splits(find_files([str(tmp_path)]), 1000), "text")
    assert [next(texts) for _ in range(40)] == [["text"]] * 40
    with pytest.raises(CorpusError, match=r"40\.txt: line 1 is not UTF-8"):
        next(texts)


# Compression


def by_arrow(codec, data):
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, codec) as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


COMPRESS = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": partial(by_arrow, "zstd"),
    ".lz4": partial(by_arrow, "lz4"),
}


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("split_bytes", [None, 5])
def test_a_compressed_file_gives_the_texts_of_the_plain_one(suffix, split_bytes, tmp_path):
    text = write(tmp_path / f"a.txt{suffix}", COMPRESS[suffix]("\ufeffa\r\nb\n".encode()))
    rows = write(tmp_path / f"b.JSONL{suffix}", COMPRESS[suffix](b'{"text": "c"}\n'))
    table = write(tmp_path / f"c.csv{suffix}", COMPRESS[suffix](b"text\nd\n"))
    assert texts_of([text, rows, table], split_bytes=split_bytes) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_file_of_several_compressed_pieces_is_read_to_its_end(suffix, tmp_path):
    compress = COMPRESS[suffix]
    path = write(tmp_path / f"c.txt{suffix}", compress(b"a\nb\n") + compress(b"c\nd\n"))
    assert texts_of(path) == ["a", "b", "c", "d"]


def test_an_empty_piece_that_cannot_be_unpacked_is_an_error_that_names_the_file(tmp_path):
    lines = "".join(f"{text_id(str(i))}\n" for i in range(60_000)).encode()
    content = bz2.compress(lines) + bz2.compress(b"") + bz2.compress(b"c\n")
    path = write(tmp_path / "c.txt.bz2", content)
    assert estimate_texts(find_files([str(path)]), "text", sample_bytes=len(content) // 2)[0] > 0
    assert error_of(path).startswith(f"{path}: cannot be read")


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_large_compressed_file_is_read_to_its_end(suffix, tmp_path):
    lines = [f"{i} {text_id(str(i))}" for i in range(60_000)]
    path = write(tmp_path / f"c.txt{suffix}", COMPRESS[suffix]("".join(f"{line}\n" for line in lines).encode()))
    assert texts_of(path) == lines


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_compressed_file_that_breaks_off_is_an_error_that_names_it(suffix, tmp_path):
    # Lines that do not compress away, so that much is cut off.
    whole = COMPRESS[suffix]("".join(f"{text_id(str(i))}\n" for i in range(5000)).encode())
    path = write(tmp_path / f"c.txt{suffix}", whole[: len(whole) // 2])
    assert error_of(path).startswith(f"{path}: ")


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_file_that_is_not_compressed_as_its_name_says_is_an_error_that_names_it(suffix, tmp_path):
    path = write(tmp_path / f"c.txt{suffix}", "plain text\n" * 100)
    assert error_of(path).startswith(f"{path}: cannot be read")


# CSV and TSV


@pytest.mark.parametrize("read_bytes", [64, 4 << 20])
@pytest.mark.parametrize(("suffix", "delimiter"), [(".csv", ","), (".tsv", "\t")])
def test_a_table_gives_the_texts_that_pythons_csv_wrote(suffix, delimiter, read_bytes, tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_lines, "READ_BYTES", read_bytes)
    texts = [*TEXTS, "two\nlines", 'a\n\n"b"', "tab\there", "1", "1.50", "true", "2024-01-01"]
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=delimiter)
    writer.writerows([("id", "text", "label"), *((i, text, "x") for i, text in enumerate(texts))])
    path = write(tmp_path / f"corpus{suffix}", buffer.getvalue())
    assert texts_of(path) == texts_of(path, split_bytes=3) == texts


def test_line_ends_within_a_text_may_lie_anywhere_in_a_large_table(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_lines, "READ_BYTES", 100)
    texts = ["two\n" + "x" * (i % 7) + "\n\nlines" for i in range(200)]
    path = write(tmp_path / "c.csv", "text\n" + "".join(f'"{text}"\n' for text in texts))
    assert texts_of(path) == texts


def test_a_table_may_begin_with_a_byte_order_mark(tmp_path):
    assert texts_of(write(tmp_path / "c.csv", "\ufefftext,label\na,1\n")) == ["a"]


def test_any_column_may_be_the_text(tmp_path):
    path = write(tmp_path / "c.csv", "text,a body\n1,yes\n2,no\n")
    assert texts_of(path, column="a body") == ["yes", "no"]
    assert texts_of(path) == ["1", "2"]


def test_a_table_without_rows_has_no_texts(tmp_path):
    assert texts_of(write(tmp_path / "c.csv", "text,label\n")) == []


def test_a_column_that_a_table_lacks_is_an_error_that_lists_the_others(tmp_path):
    path = write(tmp_path / "c.csv", "id,body,label\n1,a,x\n")
    assert error_of(path) == f"{path}: has no column 'text'; it has id, body, label. Choose one with --text-column."


def test_many_columns_are_listed_in_part(tmp_path):
    path = write(tmp_path / "c.csv", ",".join(f"c{i}" for i in range(30)) + "\n" + ",".join("x" * 30) + "\n")
    assert "c18, c19, …." in error_of(path)
    assert "c20" not in error_of(path)


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ("text,label\na,1\n\nb,2,3\n", "line 4 begins a row of 3 columns instead of 2."),
        ('text,label\n"a\na",1\nb\n', "line 4 begins a row of 1 column instead of 2."),
        ('text\na\n"b\nc\n', "line 3 begins a row that is not csv (unexpected end of data)."),
        ('text\na\n"b"c\n', "line 3 begins a row that is not csv (',' expected after '\"')."),
        ("text,id,text\na,1,b\n", "has several columns 'text'. Keep one."),
    ],
)
def test_a_broken_table_is_an_error_that_names_the_line(content, wanted, tmp_path):
    path = write(tmp_path / "c.csv", content)
    assert error_of(path) == f"{path}: {wanted}"


@pytest.mark.parametrize("text", ['5" disk', "x" * (1 << 20), "two\r\nlines", "a, b", "\v", "\x1c\u2028\x85"])
def test_a_field_may_hold_what_it_will(text, tmp_path):
    path = tmp_path / "c.csv"
    field = text if text.startswith("5") else f'"{text}"'
    path.write_bytes(f"id,text\r\n1,{field}\r\n\r\n2,b\r\n".encode())
    assert texts_of(path) == [text, "b"]


def test_blank_lines_of_a_table_are_no_rows_however_many_there_are(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_readers, "LONGEST_LINE", 100)
    assert texts_of(write(tmp_path / "c.csv", "\n\n\ntext\n" + "\n" * 1000 + "a\n" + "\n" * 1000)) == ["a"]


# JSON lines


@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".json"])
@pytest.mark.parametrize("split_bytes", [None, 1, 50])
@pytest.mark.parametrize("ascii_", [True, False])
def test_json_lines_give_their_texts(suffix, split_bytes, ascii_, tmp_path):
    lines = [json.dumps({"id": i, "text": text}, ensure_ascii=ascii_) for i, text in enumerate([*TEXTS, "two\nlines"])]
    path = write(tmp_path / f"corpus{suffix}", "\n".join(lines) + "\n")
    assert texts_of(path, split_bytes=split_bytes) == [*TEXTS, "two\nlines"]


def test_blank_lines_between_json_lines_are_passed_over_and_null_is_no_text(tmp_path):
    path = write(tmp_path / "c.jsonl", '\ufeff{"text": "a"}\r\n\r\n  \n{"text": null}\n{"text": ""}\n')
    assert texts_of(path) == ["a", "", ""]


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ('{"text": "a"', "line 4 is not JSON"),
        ("plain text", "line 4 is not JSON"),
        ('["a"]', "line 4 is not a JSON object"),
        ('"a"', "line 4 is not a JSON object"),
        ('{"body": "a", "id": 1}', "line 4 has no 'text'; it has body, id. Choose one with --text-column"),
        ('{"text": 3}', "line 4 has a 'text' that is not text"),
        ('{"text": ["a"]}', "line 4 has a 'text' that is not text"),
    ],
)
def test_a_broken_json_line_is_an_error_with_its_number(line, wanted, tmp_path, monkeypatch):
    path = write(tmp_path / "c.jsonl", '{"text": "a"}\n\n{"text": "b"}\n' + line + "\n")
    assert error_of(path).startswith(f"{path}: {wanted}")
    monkeypatch.setattr(corpus_lines, "READ_BYTES", 10)
    assert error_of(path).startswith(f"{path}: {wanted}")


def test_a_broken_json_line_in_a_later_split_is_shown_itself(tmp_path):
    path = write(tmp_path / "c.jsonl", '{"text": "a"}\n' * 3 + "broken\n")
    assert "the line 'broken' is not JSON" in error_of(path, split_bytes=10)


# Parquet


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.dictionary(pa.int32(), pa.string()),
        pa.dictionary(pa.int8(), pa.large_string()),
    ],
    ids=str,
)
@pytest.mark.parametrize("split_bytes", [None, 1, 400, 1 << 20])
def test_parquet_gives_its_texts_and_a_null_is_no_text(kind, split_bytes, tmp_path):
    texts = [*TEXTS, None, "last"]
    table = pa.table({"id": range(len(texts)), "text": pa.array(texts).cast(kind)})
    pq.write_table(table, tmp_path / "c.parquet", row_group_size=3)
    assert texts_of(tmp_path / "c.parquet", split_bytes=split_bytes) == [*TEXTS, "", "last"]


def test_parquet_from_pandas_gives_its_texts(tmp_path):
    pd.DataFrame({"text": TEXTS, "n": 1}).to_parquet(tmp_path / "c.parquet")
    assert texts_of(tmp_path / "c.parquet") == TEXTS


def test_parquet_is_split_by_row_groups(tmp_path):
    table = pa.table({"text": [f"text {i}" for i in range(100)]})
    pq.write_table(table, tmp_path / "c.parquet", row_group_size=10)
    files = find_files([str(tmp_path / "c.parquet")])
    assert [(s.start, s.stop) for s in make_splits(files, 1)] == [(i, i + 1) for i in range(10)]
    assert [(s.start, s.stop) for s in make_splits(files, 1 << 30)] == [(0, 10)]
    halves = make_splits(files, files[0].size // 2)
    assert [(s.start, s.stop) for s in halves] == [(0, 5), (5, 10)]


def test_parquet_without_rows_has_no_texts(tmp_path):
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "c.parquet")
    assert texts_of(tmp_path / "c.parquet") == texts_of(tmp_path / "c.parquet", split_bytes=1) == []


def test_a_parquet_column_with_a_dot_in_its_name_may_be_the_text(tmp_path):
    pq.write_table(pa.table({"a.b": ["x"], "a": ["y"]}), tmp_path / "c.parquet")
    assert texts_of(tmp_path / "c.parquet", column="a.b") == ["x"]
    assert texts_of(tmp_path / "c.parquet", column="a") == ["y"]


def test_a_parquet_column_with_a_dot_in_its_name_is_not_a_part_of_another(tmp_path):
    pq.write_table(pa.table({"a": [{"b": "no"}] * 2, "a.b": ["one", "two"]}), tmp_path / "c.parquet")
    assert texts_of(tmp_path / "c.parquet", column="a.b") == ["one", "two"]


def test_a_file_counts_once_however_many_ways_lead_to_it(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_text("one\n")
    for loop in "pqr":  # ways of these without number
        (tmp_path / "data" / loop).symlink_to(".")
    (tmp_path / "latest").symlink_to("data")
    (tmp_path / "b.txt").write_text("two\n")
    ways = [tmp_path / "b.txt", tmp_path, tmp_path / "data" / "a.txt", (tmp_path / "data" / "a.txt").as_uri()]
    assert texts_of(ways) == ["two", "one"]


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    scandir = os.scandir

    def denied(path):
        if str(path).endswith("data"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)  # root may list any
    assert f"--data-file {tmp_path}: cannot be read" in error_of(tmp_path)


def test_a_column_that_parquet_lacks_is_an_error_that_lists_the_others(tmp_path):
    pq.write_table(pa.table({"id": [1], "body": ["a"]}), tmp_path / "c.parquet")
    wanted = "has no column 'text'; it has id, body. Choose one with --text-column."
    assert error_of(tmp_path / "c.parquet") == f"{tmp_path / 'c.parquet'}: {wanted}"


@pytest.mark.parametrize(
    "column",
    [pa.array([1]), pa.array([["a"]]), pa.array([b"a"]), pa.array([1]).dictionary_encode()],
    ids=lambda c: str(c.type),
)
def test_a_parquet_column_that_is_not_text_is_an_error_that_says_what_it_is(column, tmp_path):
    pq.write_table(pa.table({"text": column}), tmp_path / "c.parquet")
    message = error_of(tmp_path / "c.parquet")
    assert "column 'text' holds " in message
    assert "not text. Choose one with --text-column." in message


@pytest.mark.parametrize("content", [b"text\n", b"PAR1 and no more"])
@pytest.mark.parametrize("split_bytes", [None, 10])
def test_a_file_that_is_not_parquet_is_an_error_that_names_it(content, split_bytes, tmp_path):
    path = write(tmp_path / "c.parquet", content)
    assert error_of(path, split_bytes=split_bytes).startswith(f"{path}: is not a Parquet file")


def test_torn_parquet_is_an_error_that_names_it(tmp_path):
    pq.write_table(pa.table({"text": [text_id(str(i)) for i in range(500)]}), tmp_path / "c.parquet")
    whole = (tmp_path / "c.parquet").read_bytes()
    path = write(tmp_path / "c.parquet", whole[:100] + b"\xff" * 2000 + whole[2100:])
    assert error_of(path).startswith(f"{path}: ")


# Files


def test_a_directory_is_all_files_in_it_and_below_in_order_of_their_names(tmp_path):
    (tmp_path / "b").mkdir()
    write(tmp_path / "c.txt", "3\n")
    write(tmp_path / "b" / "a.jsonl", '{"text": "2"}\n')
    write(tmp_path / "a.csv", "text\n1\n")
    assert texts_of(tmp_path) == ["1", "2", "3"]


def test_what_writers_leave_beside_the_data_is_passed_over_in_a_directory(tmp_path):
    write(tmp_path / "part-0.txt", "a\n")
    write(tmp_path / "_SUCCESS", "done\n")
    write(tmp_path / ".part-0.txt.crc", b"\0\1\2")
    write(tmp_path / "._part-0.txt", "mac\n")
    assert texts_of(tmp_path) == ["a"]


def test_a_hidden_directory_is_passed_over(tmp_path):
    write(tmp_path / "part-0.txt", "a\n")
    for name in (".ipynb_checkpoints", "_temporary"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "part-0.txt", "stale\n")
    assert texts_of(tmp_path) == ["a"]


@pytest.mark.parametrize("name", ["_corpus.txt", ".corpus.txt"])
def test_a_file_that_is_named_itself_is_read_whatever_its_name_begins_with(name, tmp_path):
    assert texts_of(write(tmp_path / name, "a\n")) == ["a"]


def test_a_glob_is_the_files_that_fit_in_order_of_their_names(tmp_path):
    (tmp_path / "below").mkdir()
    for name in ("b.txt", "a.txt", "c.md", "below/d.txt"):
        write(tmp_path / name, f"{name}\n")
    assert texts_of(f"{tmp_path}/*.txt") == ["a.txt", "b.txt"]
    assert texts_of(f"{tmp_path}/[bc].*") == ["b.txt", "c.md"]
    assert texts_of(f"{tmp_path}/**/*.txt") == ["a.txt", "b.txt", "below/d.txt"]


def test_a_name_with_brackets_may_be_a_file(tmp_path):
    assert texts_of(write(tmp_path / "corpus[1].txt", "a\n")) == ["a"]


def test_several_entries_are_read_in_the_order_given(tmp_path):
    one, two = write(tmp_path / "b.txt", "1\n"), write(tmp_path / "a.txt", "2\n")
    assert texts_of([one, two]) == ["1", "2"]


def test_uris_name_the_same_files(tmp_path):
    write(tmp_path / "a.txt", "1\n")
    write(tmp_path / "b.txt", "2\n")
    assert texts_of(f"file://{tmp_path}/a.txt", split_bytes=1) == ["1"]
    assert texts_of(f"file://{tmp_path}") == ["1", "2"]
    assert texts_of(f"file://{tmp_path}/*.txt") == ["1", "2"]


def test_a_path_may_be_relative_or_begin_with_the_home(tmp_path, monkeypatch):
    write(tmp_path / "a.txt", "1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert texts_of("a.txt") == texts_of("./a.txt") == texts_of("~/a.txt") == texts_of("*.txt") == ["1"]


@pytest.mark.parametrize("name", ["none.txt", "*.csv", "none/**", "empty"])
def test_a_path_that_names_no_file_is_an_error_that_names_it(name, tmp_path):
    (tmp_path / "empty").mkdir()
    write(tmp_path / "a.txt", "1\n")
    entry = f"{tmp_path}/{name}"
    with pytest.raises(CorpusError) as error:
        find_files([str(tmp_path / "a.txt"), entry])
    assert str(error.value).startswith(f"--data-file {entry}: no such file")


@pytest.mark.parametrize("uri", ["nowhere://bucket/corpus.txt", "file://"])
def test_a_uri_of_no_known_kind_is_an_error_that_names_it(uri):
    with pytest.raises(CorpusError) as error:
        find_files([uri])
    assert str(error.value).startswith(f"--data-file {uri}: ")
    assert "\n" not in str(error.value)


def test_an_empty_file_is_an_error_unless_another_holds_something(tmp_path):
    empty, full = write(tmp_path / "a.txt", ""), write(tmp_path / "b.txt", "1\n")
    with pytest.raises(CorpusError, match=f"--data-file {empty}: is empty"):
        find_files([str(empty)])
    assert texts_of([empty, full]) == texts_of([empty, full], split_bytes=1) == ["1"]


def test_an_empty_table_beside_a_full_one_is_passed_over(tmp_path):
    write(tmp_path / "a.csv", "")
    write(tmp_path / "b.csv", "text\n1\n")
    assert texts_of(tmp_path, split_bytes=10) == ["1"]


# Looking before the work begins


def test_one_file_of_each_kind_is_looked_at(tmp_path):
    write(tmp_path / "a.txt", "fine\n")
    write(tmp_path / "b.csv", "body\nx\n")
    with pytest.raises(CorpusError, match="has no column 'text'"):
        check_readable(find_files([str(tmp_path)]), "text")


def test_a_corpus_that_can_be_read_passes(tmp_path):
    write(tmp_path / "a.txt", "fine\n")
    write(tmp_path / "empty.csv", "")
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "c.parquet")
    check_readable(find_files([str(tmp_path)]), "body")
    with pytest.raises(CorpusError):
        check_readable(find_files([str(tmp_path)]), "text")


# How many


def test_a_small_corpus_is_counted(tmp_path):
    write(tmp_path / "a.txt", "1\n\n3")
    write(tmp_path / "b.csv", 'text,x\n"4\n4",x\n5,x\n')
    write(tmp_path / "c.jsonl.gz", gzip.compress(b'{"text": "6"}\n\n{"text": null}\n'))
    pq.write_table(pa.table({"text": ["8", None, "10"]}), tmp_path / "d.parquet")
    assert estimate_texts(find_files([str(tmp_path)]), "text") == (7, False, 3)  # Parquet by its footer


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".csv"])
def test_a_large_corpus_is_estimated_within_a_fifth(suffix, tmp_path):
    texts = [f"text number {i} of some length" for i in range(20_000)]
    lines = {
        ".txt": texts,
        ".jsonl": [json.dumps({"id": i, "source": "x" * 200, "text": text}) for i, text in enumerate(texts)],
        ".csv": ["text,other", *(f"{text},{'x' * 200}" for text in texts)],
    }[suffix]
    write(tmp_path / f"a{suffix}", "".join(f"{line}\n" for line in lines))
    found, exact, _ = estimate_texts(find_files([str(tmp_path)]), "text", sample_bytes=50_000)
    assert exact is False
    assert 16_000 <= found <= 24_000


def test_a_large_corpus_of_long_characters_is_estimated_within_a_fifth(tmp_path):
    write(tmp_path / "a.txt", "東京タワーは高い\n" * 20_000)
    found, exact, _ = estimate_texts(find_files([str(tmp_path)]), "text", sample_bytes=50_000)
    assert exact is False
    assert 16_000 <= found <= 24_000


def test_a_compressed_file_is_estimated_by_what_its_beginning_unpacks_to(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_samples, "MOST_UNPACKED", 1 << 20)
    lines = "".join(f"text number {i} of some length, {text_id(str(i))}\n" for i in range(50_000))
    write(tmp_path / "a.txt.gz", gzip.compress(lines.encode()))
    found, exact, _ = estimate_texts(find_files([str(tmp_path)]), "text", sample_bytes=100_000)
    assert exact is False
    assert 40_000 <= found <= 60_000


def test_parquet_is_counted_however_large_it_is(tmp_path):
    pq.write_table(pa.table({"text": ["a"] * 12_345}), tmp_path / "a.parquet")
    assert estimate_texts(find_files([str(tmp_path)]), "text", sample_bytes=1)[:2] == (12_345, False)


def test_what_is_known_to_be_blank_is_told_apart(tmp_path):
    pq.write_table(pa.table({"text": ["a", None, ""] * 50}), tmp_path / "a.parquet")
    assert estimate_texts(find_files([str(tmp_path)]), "text") == (100, False, 50)
    write(tmp_path / "b.txt", "b\n\n")
    assert estimate_texts(find_files([str(tmp_path)]), "text") == (101, False, 51)
    write(tmp_path / "b.txt", "b\n\n" * 50_000)
    found, exact, nulls = estimate_texts(find_files([str(tmp_path)]), "text", sample_bytes=50_000)
    assert 90_000 < found < 110_000  # with the blank ones
    assert (exact, nulls) == (False, 50)


@pytest.mark.parametrize("length", [15, 17])
def test_a_line_is_too_long_wherever_it_begins_and_however_a_file_is_cut(length, tmp_path):
    for begin in (0, 1, 3_500_000, 4 << 20, 11 << 20):
        path = write(tmp_path / "c.txt", b"short\n" * (begin // 6) + b"x" * (length << 20) + b"\n" + b"short\n" * 10)
        for split_bytes in (None, 7 << 20):
            if length < 16:
                assert len(texts_of(path, split_bytes=split_bytes)) == begin // 6 + 11
            else:
                assert "has a line of more than 16 MiB" in error_of(path, split_bytes=split_bytes)


# Cleaning and naming

ANY_TEXT = st.text(st.characters(codec=None), max_size=30)
SURROGATES = st.text(st.sampled_from("a \ud83d\ude42\udfff\ud800é\t"), max_size=8)


@given(st.one_of(ANY_TEXT, SURROGATES))
def test_a_clean_text_can_be_written_as_utf_8_and_has_no_blanks_around_it(text):
    found = clean(text)
    assert found.encode("utf-8").decode("utf-8") == found
    assert found == found.strip()


@given(st.one_of(ANY_TEXT, SURROGATES))
def test_cleaning_joins_pairs_of_surrogates_and_replaces_lone_ones(text):
    def join(match):
        high, low = map(ord, match.group())
        return chr(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00))

    joined = re.sub("[\ud800-\udbff][\udc00-\udfff]", join, text.strip())
    assert clean(text) == re.sub("[\ud800-\udfff]", "\ufffd", joined)


@given(st.one_of(ANY_TEXT, SURROGATES))
def test_a_clean_text_is_left_as_it_is(text):
    assert clean(clean(text)) == clean(text)


def test_a_missing_text_is_blank():
    assert clean(None) == clean("") == clean(" \t\u3000") == ""


@given(st.one_of(ANY_TEXT, SURROGATES))
def test_a_text_id_is_32_hexadecimal_digits(text):
    assert re.fullmatch("[0-9a-f]{32}", text_id(clean(text)))


@given(ANY_TEXT, ANY_TEXT)
def test_text_ids_are_equal_for_equal_texts_only(one, other):
    one, other = clean(one), clean(other)
    assert (text_id(one) == text_id(other)) == (one == other)


def test_text_ids_never_change():
    # Label stores on disk are keyed by them: b2sum -l 128 gives the same.
    assert text_id("") == "cae66941d9efbd404e4d88758ea67670"
    assert text_id("abc") == "cf4ab791c62b8d2b2109c90275287816"


# Class names


def test_class_names_are_the_lines_stripped_in_order(tmp_path):
    path = write(tmp_path / "names.txt", "\ufeff sport \r\n\r\nworld politics\n\t\nKunst & Kültür")
    assert read_class_names(str(path)) == ["sport", "world politics", "Kunst & Kültür"]


def test_class_names_may_be_given_by_a_uri(tmp_path):
    assert read_class_names(f"file://{write(tmp_path / 'names.txt', 'sport')}") == ["sport"]
    with pytest.raises(CorpusError, match=r"none\.txt: cannot be read"):
        read_class_names(f"file://{tmp_path}/none.txt")


def test_class_names_may_end_in_carriage_returns_alone(tmp_path):
    assert read_class_names(str(write(tmp_path / "names.txt", "sport\rart\r"))) == ["sport", "art"]


def test_a_class_name_may_hold_all_that_ends_no_line(tmp_path):
    names = ["a\u2028b", "a\x85b", "a\vb\fc", "{0} {}", "\"a\", 'b'", "<b>&amp;</b>", "\u202eא", "a\0b", "👩‍👧"]
    assert read_class_names(str(write(tmp_path / "names.txt", "\r\n".join(names)))) == names


def test_a_file_far_too_large_for_class_names_is_not_read_whole():
    with pytest.raises(CorpusError, match=r"^--class-names-file /dev/zero: is larger than 4 MiB\. Is it the corpus\?"):
        read_class_names("/dev/zero")


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"", "holds no class name"),
        (b"\n  \n", "holds no class name"),
        (b"art\nsport\n art \n", "'art' is listed more than once"),
        ("Kültür".encode("latin-1"), "is not UTF-8 text"),
        ("sport".encode("utf-16"), "is not UTF-8 text"),
        ("sport\nart\n".encode("utf-16-le"), "is not UTF-8 text, but may be UTF-16"),
    ],
)
def test_faulty_class_names_are_an_error_that_names_the_file(content, wanted, tmp_path):
    path = write(tmp_path / "names.txt", content)
    with pytest.raises(CorpusError) as error:
        read_class_names(str(path))
    assert str(error.value).startswith(f"--class-names-file {path}: {wanted}")


@pytest.mark.parametrize("name", ["none.txt", "."])
def test_class_names_that_cannot_be_read_are_an_error_that_names_the_file(name, tmp_path):
    with pytest.raises(CorpusError, match=r"^--class-names-file .*: cannot be read"):
        read_class_names(str(tmp_path / name))


@pytest.mark.parametrize("path", [None, ""])
def test_no_class_names_file_is_an_error(path):
    with pytest.raises(CorpusError, match="--class-names-file is missing"):
        read_class_names(path)


# Samples


def test_a_sample_is_spread_over_the_corpus_and_always_the_same(tmp_path):
    (tmp_path / "a.txt").write_text("".join(f"text {i} of the first file\n" for i in range(20_000)))
    (tmp_path / "b.txt").write_text("".join(f"text {i} of the second file\n" for i in range(20_000)))
    files = find_files([str(tmp_path)])
    sample = sample_texts(files, "text", 160)
    assert len(sample) == len(set(sample)) == 160
    numbers = [int(text.split()[1]) + 20_000 * ("second" in text) for text in sample]
    assert np.histogram(numbers, bins=8, range=(0, 40_000))[0].min() >= 10  # a place may lie just beside a border
    assert sample_texts(files, "text", 160) == sample


@pytest.mark.parametrize("count", [1, 5, 100])
def test_a_sample_holds_no_blank_and_no_text_twice_and_no_more_than_there_are(tmp_path, count):
    (tmp_path / "c.txt").write_text("one\n\n  two \none\n\t\nthree\ntwo\n")
    (tmp_path / "d.txt").write_text("four\none\n")
    sample = sample_texts(find_files([str(tmp_path)]), "text", count)
    assert len(sample) == min(count, 4)
    assert len(set(sample) & {"one", "two", "three", "four"}) == len(sample)


@pytest.mark.parametrize("texts_of_a_file", [1, 3])
def test_a_sample_is_as_large_where_each_file_has_few_texts(texts_of_a_file, tmp_path):
    for i in range(600 // texts_of_a_file):
        lines = (f"text {i * texts_of_a_file + j}\n" for j in range(texts_of_a_file))
        (tmp_path / f"{i:03}.txt").write_text("".join(lines))
    sample = sample_texts(find_files([str(tmp_path)]), "text", 256)
    assert len(set(sample)) == 256
    numbers = [int(text.split()[1]) for text in sample]
    assert np.histogram(numbers, bins=6, range=(0, 600))[0].min() >= 30


def test_a_stretch_goes_on_in_the_next_file(tmp_path):
    for i in range(400):
        (tmp_path / f"{i:03}.txt").write_text(f"text {i:03}\n")
    stretches = [only for (only,) in read_stretches(find_files([str(tmp_path)]), "text", 90)]
    assert [len(stretch) for stretch in stretches] == [10] * 16
    for stretch in stretches:
        first = int(stretch[0].split()[1])
        assert stretch == [f"text {first + i:03}" for i in range(10)]


@pytest.mark.parametrize("blank", ["", "\n"])
def test_many_small_files_are_estimated_from_a_thousand_of_them_blank_texts_included(blank, tmp_path):
    for i in range(1200):
        (tmp_path / f"{i:04}.txt").write_text(f"a text\n{blank}" * 3)
    assert estimate_texts(find_files([str(tmp_path)]), "text")[:2] == (7200 if blank else 3600, False)


@pytest.mark.parametrize("packed", [False, True])
def test_lines_that_end_in_cr_are_estimated_as_others_are(packed, tmp_path):
    content = "".join(f"a text of some words, {i:06}\r" for i in range(20_000)).encode()
    (tmp_path / ("c.txt.gz" if packed else "c.txt")).write_bytes(gzip.compress(content) if packed else content)
    found, exact, _ = estimate_texts(find_files([str(tmp_path)]), "text", sample_bytes=50_000)
    assert exact is False
    assert 18_000 <= found <= 22_000


def test_a_small_file_that_has_grown_meanwhile_is_not_held_whole(tmp_path, monkeypatch):
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text("a text\n")
    splits = [Split(file, 0, -1) for file in find_files([str(tmp_path)])]
    lines = [f"line {i}" for i in range(10_000)]
    (tmp_path / "b.txt").write_text("".join(f"{line}\n" for line in lines))
    held = []

    def counted(split, column):
        for texts in read_split(split, column):
            held.append(len(texts))
            yield texts

    monkeypatch.setattr(corpus_lines, "READ_BYTES", 1000)
    monkeypatch.setattr(corpus_readers, "read_split", counted)
    reading = corpus_readers.read_splits(splits, "text")
    assert next(reading) == ["a text"]
    again = next(reading)
    assert len(held) == 2
    assert [*again, *(line for texts in reading for line in texts)] == lines


@pytest.mark.parametrize("row_end", ["\n", "\r\n", "\r"])
def test_a_cr_within_a_field_of_csv_is_no_row_in_an_estimate(row_end, tmp_path):
    inner = "\n" if row_end == "\r" else "\r"
    rows = (f'{i},"a text{inner}of some{inner}words, {i:06}"{row_end}' for i in range(20_000))
    write(tmp_path / "c.csv", f"id,text{row_end}" + "".join(rows))
    assert 18_000 <= estimate_texts(find_files([str(tmp_path)]), "text", sample_bytes=50_000)[0] <= 22_000


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("format_", ["csv", "jsonl"])
def test_line_ends_within_fields_and_blank_lines_are_no_rows_in_an_estimate(format_, packed, tmp_path):
    if format_ == "csv":
        inner = "\n".join(f'a ""line"" of some words, {i}' for i in range(8))
        content = "id,text\n" + "".join(f'{i},"{inner}\n\n{i:06}"\n' for i in range(5000))
    else:
        content = "".join(f'{{"text": "a \\"text\\" of some words, {i:06}"}}\n\n' for i in range(5000))
    write(tmp_path / f"c.{format_}{'.gz' if packed else ''}", gzip.compress(content.encode()) if packed else content)
    found, exact, _ = estimate_texts(find_files([str(tmp_path)]), "text", sample_bytes=20_000)
    assert exact is False
    assert 4000 <= found <= 6000


LONG_ROWS = {
    "csv": 'id,text\n0,"'
    + "a line of a document\n" * 1000
    + '"\n'
    + "".join(f"{i},a text {i:06}\n" for i in range(60_000)),
    "tsv": "id\ttext\n" + "".join(f'{i}\the is {i % 7}" tall, {i:06}\n' for i in range(60_000)),
    "jsonl": '{"text": "'
    + "long " * 20_000
    + '"}\n'
    + "".join(f'{{"text": "a text {i:06}"}}\n' for i in range(60_000)),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("format_", LONG_ROWS)
def test_one_row_unlike_the_others_does_not_mislead_an_estimate(format_, packed, tmp_path):
    content = LONG_ROWS[format_].encode()
    write(tmp_path / f"c.{format_}{'.gz' if packed else ''}", gzip.compress(content) if packed else content)
    found, exact, _ = estimate_texts(find_files([str(tmp_path)]), "text", sample_bytes=100_000 if packed else 600_000)
    assert exact is False
    assert 42_000 <= found <= 72_000


def test_files_without_rows_do_not_make_others_look_empty(tmp_path):
    for i in range(1030):
        write(tmp_path / f"a{i:04}.csv", "text")
    for i in range(300):
        write(tmp_path / f"b{i:04}.csv", f"text\nfoo {i}")
    found, exact, _ = estimate_texts(find_files([str(tmp_path)]), "text")
    assert (found >= 1, exact) == (True, False)


def test_small_files_are_not_rounded_one_by_one(tmp_path):
    for i in range(1024):
        write(tmp_path / f"a{i:04}.txt", "a text of some length\n")
    for i in range(2000):
        write(tmp_path / f"b{i:04}.txt", "a text\n")
    assert estimate_texts(find_files([str(tmp_path)]), "text")[0] >= 1600


def test_files_that_hold_blank_texts_do_not_speak_for_the_others(tmp_path):
    write(tmp_path / "a.csv", "text,x\n" + f",{'x' * 90}\n" * 400)
    write(tmp_path / "b.csv", "text,x\n" + f"a text,{'x' * 84}\n" * 400)
    found, exact, _ = estimate_texts(find_files([str(tmp_path)]), "text", sample_bytes=50_000)
    assert exact is False
    assert 700 <= found <= 900


def test_a_large_file_among_many_small_ones_has_its_share_of_a_sample(tmp_path):
    for i in range(1000):
        (tmp_path / f"{i:04}.txt").write_text(f"a short text {i:04}\n")
    (tmp_path / "0500x.txt").write_text("".join(f"one of the large file {i:04}\n" for i in range(2500)))
    files = find_files([str(tmp_path)])
    sample = sample_texts(files, "text", 160)
    assert len(sample) == 160
    of_large = [int(text.split()[-1]) for text in sample if "large" in text]
    assert 110 <= len(of_large) <= 140  # three quarters of all bytes
    assert np.histogram(of_large, bins=4, range=(0, 2500))[0].min() >= 20
    stretches = list(itertools.chain(*read_stretches(files, "text", 100)))
    assert 11 <= sum("large" in stretch[0] for stretch in stretches) <= 14


def test_a_sample_goes_on_behind_a_file_that_is_larger_than_others(tmp_path):
    for i in range(100):
        (tmp_path / f"{i:04}.txt").write_text(f"text {i}\n")
    (tmp_path / "0003.txt").write_text("text 3\n" * 5)
    assert len(sample_texts(find_files([str(tmp_path)]), "text", 95)) == 95


def test_a_sample_does_not_read_the_whole_of_a_corpus_whose_texts_are_the_same(tmp_path, monkeypatch):
    (tmp_path / "c.txt").write_text("the same text\n" * 100_000)
    files = find_files([str(tmp_path)])
    read = []

    def counted(split, column):
        for texts in read_split(split, column):
            read.extend(texts)
            yield texts

    monkeypatch.setattr(corpus_samples, "PLACE_BYTES", 1000)
    monkeypatch.setattr(corpus_lines, "READ_BYTES", 1000)
    monkeypatch.setattr(corpus_readers, "read_split", counted)
    assert sample_texts(files, "text", 20) == ["the same text"]
    assert 0 < len(read) < 10_000


def test_parquet_without_row_groups_is_passed_by(tmp_path):
    for i in range(20):
        with pq.ParquetWriter(tmp_path / f"{i:02}.parquet", pa.schema([("text", pa.string())])):
            pass
    files = find_files([str(tmp_path)])
    assert sample_texts(files, "text", 5) == []
    assert not any(read_stretches(files, "text", 100))
    pq.write_table(pa.table({"text": ["one", "two"]}), tmp_path / "01.parquet")
    files = find_files([str(tmp_path)])
    assert sorted(sample_texts(files, "text", 5)) == ["one", "two"]


def test_a_sample_is_filled_from_where_there_are_more(tmp_path):
    (tmp_path / "a.txt").write_text("same\n" * 5000)
    (tmp_path / "b.txt").write_text("".join(f"text {i}\n" for i in range(5000)))
    assert len(sample_texts(find_files([str(tmp_path)]), "text", 500)) == 500


def test_a_sample_is_not_of_the_beginnings_of_files_alone(tmp_path):
    for i in range(37):
        (tmp_path / f"{i:02}.txt").write_text("".join(f"file {i:02} line {line:04}\n" for line in range(1000)))
    files = find_files([str(tmp_path)])
    lines = [int(text.split()[-1]) for text in sample_texts(files, "text", 320)]
    assert np.histogram(lines, bins=2, range=(0, 1000))[0].min() >= 100
    starts = [int(stretch[0].split()[-1]) for (stretch,) in read_stretches(files, "text", 200)]
    assert min(starts) < 250 < 650 < max(starts)


@pytest.mark.parametrize("end", ["\r", "\r\n", "\n"])
def test_a_file_is_sampled_and_cut_whatever_ends_its_lines(end, tmp_path):
    (tmp_path / "a.txt").write_text("".join(f"of a {i:06}\n" for i in range(5000)))
    write(tmp_path / "c.txt", "".join(f"of c {i:06}{end}" for i in range(15_000)))
    files = find_files([str(tmp_path)])
    of_c = [int(text.split()[-1]) for text in sample_texts(files, "text", 160) if "of c" in text]
    assert 105 <= len(of_c) <= 135
    assert np.histogram(of_c, bins=3, range=(0, 15_000))[0].min() >= 20
    splits = [split for split in make_splits(files, 10_000) if split.file.path.endswith("c.txt")]
    assert len(splits) >= 15
    numbers = [text.split()[-1] for texts in read_splits(splits, "text") for text in texts]
    assert numbers == [f"{i:06}" for i in range(15_000)]


@pytest.mark.parametrize("read", [lambda files: sample_texts(files, "text", 20), lambda files: make_splits(files, 100)])
def test_a_file_that_has_gone_meanwhile_is_named(read, tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.txt").write_text("a text\n" * 100)
    files = find_files([str(tmp_path)])
    (tmp_path / "1.txt").unlink()
    with pytest.raises(CorpusError, match=r"1\.txt: cannot be read"):
        read(files)


def test_a_hidden_file_may_have_any_name(tmp_path):
    (tmp_path / "a.txt").write_text("one\n")
    (tmp_path / ".\udcff.swp").touch()
    assert texts_of(tmp_path) == ["one"]


@pytest.mark.parametrize("ending", ["csv", "txt.gz"])
def test_a_file_that_is_read_from_its_beginning_has_its_share_of_a_sample_at_one_place(ending, tmp_path):
    (tmp_path / "a.txt").write_text("".join(f"plain {i:06}\n" for i in range(2500)))
    lines = "".join(f"other {i:06}\n" for i in range(7500))
    content = f"text\n{lines}".encode()
    if ending == "txt.gz":  # what is not packed tighter counts for four times as much as its bytes
        content = gzip.compress(lines[: len(lines) // 4].encode(), compresslevel=0)
    (tmp_path / f"b.{ending}").write_bytes(content)
    files = find_files([str(tmp_path)])
    sample = sample_texts(files, "text", 160)
    assert len(sample) == 160
    assert 110 <= sum("other" in text for text in sample) <= 130
    *plain, other = read_stretches(files, "text", 130)
    assert [len(stretches) for stretches in plain] == [1] * 4
    assert [stretch[-1].split()[1] for stretch in other] == [f"{10 * i + 9:06}" for i in range(12)]

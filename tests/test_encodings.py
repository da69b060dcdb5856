"""Encodings: what a codec can write is read back whole, however a file is cut; what is in another one is told."""

from __future__ import annotations

import encodings
import gzip
import json
import pkgutil
import sys

import pytest

from raydistill import corpus_lines
from raydistill.config import DistillConfig
from raydistill.corpus import make_splits
from raydistill.corpus_files import CorpusFile, Split, find_files
from raydistill.corpus_readers import read_split
from raydistill.corpus_samples import estimate_texts, sample_texts
from raydistill.errors import ConfigError, CorpusError


def knows(encoding):
    try:
        DistillConfig(data_file="c", class_names_file="k", output_dir="o", encoding=encoding).check([])
    except ConfigError:
        return False
    return True


KNOWN = sorted({name for _, name, _ in pkgutil.iter_modules(encodings.__path__) if knows(name)})
FORMATS = {
    "c.txt": lambda texts: "".join(f"{text}\n" for text in texts),
    "c.jsonl": lambda texts: "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts),
    "c.csv": lambda texts: "id,text\n" + "".join(f'{i},"{text}"\n' for i, text in enumerate(texts)),
}
SAMPLES = {
    "latin-1": ["naïve", "plain", "señor ¿qué?", "ÿ"],
    "cp1252": ["“quoted”", "5 €", "plain"],
    "utf-16": ["naïve", "東京\u0a0d\u0d0a", "🙂 wide", "plain"],
    "utf-16-be": ["naïve", "東京"],
    "utf-32": ["naïve", "🙂 wide"],
    "utf-8-sig": ["naïve", "東京"],
    "utf-7": ["naïve", "東京+-"],
    "gb18030": ["东京", "plain", "🙂"],
    "shift_jis": ["東京タワー", "ソ"],
    "iso2022_jp": ["東京タワー", "plain"],
    "iso2022_kr": ["서울", "plain", "부산"],
    "hz": ["东京", "plain ~"],
    "cp037": ["naïve", "plain"],
}


def texts_of(path, encoding, split_bytes=None):
    files = find_files([str(path)], encoding)
    splits = [Split(file, 0, -1) for file in files] if split_bytes is None else make_splits(files, split_bytes)
    return [text for split in splits for texts in read_split(split, "text") for text in texts]


def error_of(path, encoding="utf-8", split_bytes=None):
    with pytest.raises(CorpusError) as error:
        texts_of(path, encoding, split_bytes)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
    return str(error.value).removeprefix(f"{path}: ")


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("encoding", SAMPLES)
@pytest.mark.parametrize("read_bytes", [5, 4 << 20])
def test_texts_of_any_encoding_are_read_whole_and_by_splits(name, encoding, read_bytes, tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_lines, "READ_BYTES", read_bytes)
    texts = SAMPLES[encoding] * 5
    path = tmp_path / name
    path.write_bytes(FORMATS[name](texts).encode(encoding))
    for split_bytes in (None, 1, 30):
        assert texts_of(path, encoding, split_bytes) == texts
    files = find_files([str(path)], encoding)
    assert estimate_texts(files, "text")[:2] == (len(texts), True)
    assert set(sample_texts(files, "text", 100)) == set(SAMPLES[encoding])
    packed = tmp_path / f"{name}.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert texts_of(packed, encoding) == texts


def test_where_line_ends_show_any_line_can_be_decoded_by_itself():
    letters = [chr(i) for i in (*range(0x20, 0x3400), *range(0x4E00, 0x5400), *range(0xAC00, 0xB000))]
    for encoding in KNOWN:
        if not CorpusFile("c.txt", 1, 0, "text", None, encoding).shows_line_ends:
            continue

        def writable(letter, encoding=encoding):
            try:
                return letter.encode(encoding).decode(encoding) == letter
            except UnicodeError:
                return False

        text = "".join(filter(writable, letters))
        lines = [line for at in range(0, len(text), 7) if len((line := text[at : at + 7]).splitlines()) == 1]
        assert len(lines) > 10
        pieces = "\n".join(lines).encode(encoding).split(b"\n")
        assert [piece.decode(encoding) for piece in pieces] == lines, encoding


def test_most_encodings_are_read_in_splits_and_those_of_wide_characters_are_not():
    shown = {name for name in KNOWN if CorpusFile("c.txt", 1, 0, "text", None, name).shows_line_ends}
    assert {"utf_8", "latin_1", "cp1252", "gb18030", "shift_jis", "euc_kr", "iso2022_jp"} <= shown
    assert not {"utf_16", "utf_16_le", "utf_32", "iso2022_kr", "hz", "cp037", "utf_8_sig"} & shown
    assert not CorpusFile("c.txt.gz", 1, 0, "text", "gzip", "utf-8").shows_line_ends


@pytest.mark.parametrize("name", ["", "utf-9", "base64", "rot13", "idna", "undefined", "a" * 1000, "utf\0", "é"])
def test_what_is_no_encoding_of_text_is_refused_in_one_line(name):
    with pytest.raises(ConfigError, match=r"^--encoding ") as error:
        DistillConfig(encoding=name).check([])
    assert len(str(error.value)) < 250


def test_a_large_file_of_wide_characters_is_estimated_within_a_fifth(tmp_path):
    path = tmp_path / "c.txt"
    path.write_bytes("東京\u0a0a\u0d0aタワーは高い\n".encode("utf-16-le") * 20_000)
    found, exact, _ = estimate_texts(find_files([str(path)], "utf-16-le"), "text", sample_bytes=50_000)
    assert exact is False
    assert 16_000 <= found <= 24_000


# Of another encoding than was said


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_wide_characters_are_told_with_the_option_to_use(encoding, name, tmp_path):
    path = tmp_path / name
    path.write_bytes(FORMATS[name](["some text", "naïve"]).encode(encoding))
    assert error_of(path).endswith(f"Read it with --encoding {encoding}.")
    assert texts_of(path, encoding) == ["some text", "naïve"]
    assert "binary" in error_of(path, "latin-1")


@pytest.mark.parametrize("read_bytes", [8, 4 << 20])
@pytest.mark.parametrize(("text", "encoding"), [("naïve", "latin-1"), ("“naive”", "cp1252")])
def test_what_is_not_utf_8_is_told_with_the_number_of_the_line(text, encoding, read_bytes, tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_lines, "READ_BYTES", read_bytes)
    path = tmp_path / "c.txt"
    path.write_bytes(f"one\r\n\r\nthree is ascii\n{text}\n".encode(encoding))
    assert error_of(path) == f"line 4 is not UTF-8; it may be {encoding}. Name the encoding with --encoding."
    assert texts_of(path, encoding)[3] == text


def test_what_is_not_utf_8_in_a_later_split_is_shown_itself(tmp_path):
    path = tmp_path / "c.txt"
    path.write_bytes(("one\n" * 20 + "naïve\n").encode("latin-1"))
    assert error_of(path, split_bytes=30).startswith(r"b'na\xefve' is not UTF-8; it may be latin-1")


def test_a_table_that_is_not_utf_8_is_told_with_the_number_of_the_line(tmp_path):
    path = tmp_path / "c.csv"
    path.write_bytes("text\none\nnaïve\n".encode("latin-1"))
    assert error_of(path) == "line 3 is not UTF-8; it may be latin-1. Name the encoding with --encoding."


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x81", "cp1252"),
        ("naïve".encode(), "ascii"),
        (b"n\x00a", "utf-16-le"),
        (b"plain text without a mark", "utf-16"),
        (b"\xff\xff\xff\xff", "utf-32-le"),
        (b"na\xe3", "shift_jis"),
    ],
)
def test_what_an_encoding_does_not_know_is_told(name, content, said, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    message = error_of(path, said)
    assert message.startswith(f"is not {said} (")
    assert message.endswith("Name the encoding with --encoding.")


def test_a_binary_file_is_an_error_that_says_how_formats_are_told(tmp_path):
    path = tmp_path / "c.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR")
    assert error_of(path).startswith("is a binary file, not text.")


def test_codecs_are_pythons_own():
    assert len(KNOWN) > 90, sys.version

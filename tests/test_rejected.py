"""Texts that cannot be scored are set aside, up to a limit."""

from __future__ import annotations

import json

import pytest

from raydistill.errors import ModelError
from raydistill.files import Folder
from raydistill.rejected import most_rejected, rejected_line, set_aside


@pytest.fixture
def folder(tmp_path):
    return Folder(str(tmp_path))


@pytest.mark.parametrize(
    ("share", "texts", "most"), [(0.001, 10_000, 10), (0.001, 70, 1), (0.0, 70, 0), (1.0, 7, 7), (0.5, 0, 0)]
)
def test_a_share_of_the_corpus_may_be_rejected(share, texts, most):
    assert most_rejected(share, texts) == most


def test_what_is_set_aside_is_there_at_the_end(folder, tmp_path):
    with set_aside(folder, 2) as rejected:
        rejected.add([rejected_line("a" * 32, "Zoë\n" + "x" * 1000, 3, "too odd")], 2)
        rejected.add([], 0)
    (line,) = (tmp_path / "_rejected.jsonl").read_text().splitlines()
    found = json.loads(line)
    assert (found["text_id"], found["occurrences"], found["reason"]) == ("a" * 32, 3, "too odd")
    assert found["text"] == "Zoë\n" + "x" * 196


def test_without_any_there_is_no_file(folder, tmp_path):
    with set_aside(folder, 2):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_file_of_an_earlier_pass_is_replaced(folder, tmp_path):
    for number in range(2):
        with set_aside(folder, 2) as rejected:
            rejected.add([rejected_line(str(number), "", 1, "")], 1)
    assert [json.loads(line)["text_id"] for line in (tmp_path / "_rejected.jsonl").read_text().splitlines()] == ["1"]
    with set_aside(folder, 2):
        pass
    assert list(tmp_path.iterdir()) == []


def test_too_many_are_an_error_and_the_list_of_them_is_there(folder, tmp_path):
    too_many = r"3 texts could not be scored, and --max-rejected allows 2; .* id c: why"
    with pytest.raises(ModelError, match=too_many), set_aside(folder, 2) as rejected:
        rejected.add([rejected_line(name, "", 1, "why") for name in "abc"], 3)
    assert len((tmp_path / "_rejected.jsonl").read_text().splitlines()) == 3

"""The student's rows are made once; what was kept of them is as good as made anew, or is made anew."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ray import cloudpickle
from test_student_rows import part, rows_of
from tiny_models import make_tokenizer, sentences

from raydistill.files import Folder
from raydistill.kept_rows import KeptRows, _read
from raydistill.label_store import LabelStore
from raydistill.stages.training_data import LabelSource, _named
from raydistill.student_rows import StudentRows


@pytest.fixture
def kept(tmp_path: Path) -> KeptRows:
    """Of a store of two parts; nothing is kept yet."""
    store, folder = LabelStore(str(tmp_path / "labels")), Folder(str(tmp_path / "rows"))
    for texts in (sentences()[:20], sentences()[20:30]):
        labelled = part(texts, [1, 2] * (len(texts) // 2))
        store.folder.create()
        store.write_part(labelled.append_column("text_id", pa.array([f"{hash(text):x}" for text in texts])))
    return KeptRows.in_folder(folder, store, rows_of(make_tokenizer("bert")))


def tables(kept: KeptRows) -> list[pa.Table]:
    """What it makes of all of the store, in one task."""
    (groups,) = _named(kept.store.row_groups(), [0])
    return list(kept(groups))


def made(kept: KeptRows) -> pa.Table:
    return pa.concat_tables(tables(kept))


def files(kept: KeptRows) -> list[Path]:
    assert kept.folder is not None
    return sorted(Path(kept.folder.path).iterdir())


@pytest.fixture
def tokenised(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts have been, each time."""
    found: list[int] = []
    encode = StudentRows._encode

    def counted(rows: StudentRows, texts: list[str]) -> list[list[int]]:
        found.append(len(texts))
        return encode(rows, texts)

    monkeypatch.setattr(StudentRows, "_encode", counted)
    return found


def test_a_text_is_tokenised_once_and_its_rows_stay_the_same(kept: KeptRows, tokenised: list[int]) -> None:
    plain = made(dataclasses.replace(kept, folder=None))
    assert sorted(tokenised) == [10, 20]
    first, second = made(kept), made(kept)
    assert sorted(tokenised) == [10, 10, 20, 20]
    assert first.equals(plain)
    assert second.equals(plain)
    assert plain.num_rows == 45


def test_what_was_kept_is_cut_into_blocks_as_what_is_made_by_its_bytes(kept: KeptRows) -> None:
    each = [tables(dataclasses.replace(kept, folder=None)), tables(kept), tables(kept)]
    sizes = [[table.nbytes for table in found] for found in each]
    assert sizes[0] == sizes[1] == sizes[2]


def test_a_task_is_sent_names_and_no_tokenizer(kept: KeptRows) -> None:
    source = LabelSource(kept.store, seed=0, first_epoch=0)
    (task,) = source.get_read_tasks(1)
    assert isinstance(kept.rows.tokenizer, str)
    beginning = kept.rows.tokenizer[:100].encode()
    assert beginning in cloudpickle.dumps(kept)
    assert beginning not in cloudpickle.dumps(task)
    (groups,) = task()
    assert pa.concat_tables(kept(groups)).num_rows == 45


def test_without_a_folder_nothing_is_kept(kept: KeptRows, tokenised: list[int]) -> None:
    bare = dataclasses.replace(kept, folder=None)
    assert made(bare).equals(made(bare))
    assert len(tokenised) == 4
    assert files(kept) == []


@pytest.mark.parametrize("damage", ["cut", "empty", "other bytes", "other columns", "gone"])
def test_what_is_damaged_is_made_anew(damage: str, kept: KeptRows, tokenised: list[int]) -> None:
    wanted = made(kept)
    (file, _), content = files(kept), files(kept)[0].read_bytes()
    if damage == "gone":
        file.unlink()
    elif damage == "other columns":
        pq.write_table(pa.table({"input_ids": [1]}), file)
    elif damage == "other bytes":
        file.write_bytes(content[:40] + bytes(byte ^ 255 for byte in content[40:80]) + content[80:])
    else:
        file.write_bytes(content[: len(content) // 2 if damage == "cut" else 0])
    assert made(kept).equals(wanted)
    assert len(tokenised) == 3
    assert made(kept).equals(wanted)
    assert len(tokenised) == 3
    assert files(kept)[0].read_bytes() == content


def test_no_bit_of_what_is_kept_may_be_another(kept: KeptRows) -> None:
    made(kept)
    file, name = files(kept)[0], files(kept)[0].name
    content = file.read_bytes()
    for at in np.random.default_rng(0).integers(len(content) * 8, size=200):
        torn = bytearray(content)
        torn[at // 8] ^= 1 << (at % 8)
        file.write_bytes(torn)
        with pytest.raises(pa.ArrowInvalid, match="its content is another"):
            _read(kept.folder, name)


@pytest.mark.parametrize("change", [{"max_length": 8}, {"temperature": 2.0}, {"multi_label": True}])
def test_other_rows_are_not_taken_for_these(change: dict, kept: KeptRows) -> None:
    made(kept)
    assert kept.folder is not None
    other = KeptRows.in_folder(kept.folder, kept.store, dataclasses.replace(kept.rows, **change))
    found = made(other)
    assert found.equals(made(dataclasses.replace(other, folder=None)))
    assert not found.equals(made(kept))


@pytest.mark.parametrize("hindrance", ["full", "gone"])
def test_a_folder_that_takes_nothing_costs_time_alone(
    hindrance: str, kept: KeptRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = made(dataclasses.replace(kept, folder=None))
    if hindrance == "full":
        usage = shutil.disk_usage("/")._replace(total=1000, free=99)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    else:
        assert kept.folder is not None
        shutil.rmtree(kept.folder.path)
    for _ in range(2):
        assert made(kept).equals(wanted)
    assert hindrance == "gone" or files(kept) == []

"""How the rows of a label store reach train workers: each has a mixed share, in an order drawn anew each epoch."""

from __future__ import annotations

import dataclasses
import os
import signal
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray

from raydistill.corpus import text_id
from raydistill.kept_rows import KeptRows
from raydistill.label_store import SCHEMA, LabelStore, logits_column
from raydistill.pretrained import load_tokenizer
from raydistill.specs import ModelSpec
from raydistill.stages.train_task import TRAIN_SHARD
from raydistill.stages.training_data import EvenOrWhole, label_rows
from raydistill.student_rows import StudentRows

TEXTS = 400


@pytest.fixture
def rows(tmp_path: Path, tiny_student_dir: Path) -> KeptRows:
    """Of a store of one small file; the soft label of a text is its number, as a share of all."""
    texts, share = [f"text {i}" for i in range(TEXTS)], (np.arange(TEXTS, dtype=np.float32) + 0.5) / TEXTS
    entailment = logits_column(np.log(np.stack([share, 1 - share], axis=1)))
    contradiction = logits_column(np.zeros((TEXTS, 2), dtype=np.float32))
    store = LabelStore(str(tmp_path / "labels"))
    store.folder.create()
    columns = [list(map(text_id, texts)), texts, np.ones(TEXTS, dtype=np.int64), entailment, contradiction]
    store.write_part(pa.table(columns, SCHEMA))
    model = ModelSpec(str(tiny_student_dir))
    made = StudentRows.of(
        load_tokenizer(model), model, max_length=16, num_classes=2, temperature=1.0, multi_label=False
    )
    return KeptRows(store, made)


def epochs(rows: KeptRows, seed: int | None, workers: int, passes: int) -> list[list[list[int]]]:
    """For each pass the numbers of the texts that each worker gets, in order."""
    dataset = label_rows(rows, max_failures=0, seed=seed)
    shares: Sequence[dict[str, Any]] = EvenOrWhole().configure({TRAIN_SHARD: dataset}, workers, None, None)

    def numbers(share: dict[str, Any]) -> list[int]:
        batches = share[TRAIN_SHARD].iter_batches(batch_format="pyarrow")
        found = pa.concat_tables(batches)["labels"].to_pylist()
        return [round(label[0] * TEXTS - 0.5) for label in found]

    with ThreadPoolExecutor(workers) as pool:
        return [list(pool.map(numbers, shares)) for _ in range(passes)]


def test_each_worker_has_its_share_from_all_over_a_small_store(rows: KeptRows) -> None:
    (shares,) = epochs(rows, seed=0, workers=2, passes=1)
    assert sorted(shares[0] + shares[1]) == list(range(TEXTS))
    for share in shares:
        assert len(share) == TEXTS // 2
        assert 80 < sum(number < TEXTS // 2 for number in share) < 120


def test_the_order_is_another_in_each_epoch_and_with_each_seed_and_the_same_again(rows: KeptRows) -> None:
    first, second = epochs(rows, seed=0, workers=1, passes=2)
    assert first != second
    assert sorted(first[0]) == sorted(second[0]) == list(range(TEXTS))
    assert epochs(rows, seed=0, workers=1, passes=2) == [first, second]
    assert epochs(rows, seed=1, workers=1, passes=1) != [first]
    once, again = epochs(rows, seed=None, workers=1, passes=2)  # as an evaluation goes over them
    assert once == again


@dataclasses.dataclass(frozen=True)
class DyingRows(KeptRows):
    """A data task that makes rows for the student is killed, so many times; of each a file in a folder tells."""

    deaths: str = ""
    most: int = 0

    def __call__(self, groups: pa.Table) -> Iterator[pa.Table]:
        if len(os.listdir(self.deaths)) < self.most:
            tempfile.mkstemp(dir=self.deaths)
            os.kill(os.getpid(), signal.SIGKILL)
        yield from KeptRows.__call__(self, groups)


@pytest.mark.parametrize(("most", "survived"), [(2, True), (9, False)])
def test_data_tasks_that_are_killed_are_tried_again_as_often_as_allowed(
    most: int, survived: bool, tmp_path: Path, rows: KeptRows
) -> None:
    deaths = tmp_path / "deaths"
    deaths.mkdir()
    dataset = label_rows(DyingRows(rows.store, rows.rows, deaths=str(deaths), most=most), max_failures=2)
    if survived:
        assert dataset.count() == TEXTS
    else:
        with pytest.raises(ray.exceptions.RayError):
            dataset.count()
    assert len(os.listdir(deaths)) == (2 if survived else 3)

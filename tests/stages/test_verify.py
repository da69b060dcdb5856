"""`raydistill verify`: a good run passes every check, and each kind of damage fails the check that is for it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydistill import DistillConfig, distill
from raydistill.cli import main

CHECKS = ["record", "files", "rows", "counts", "corpus", "teacher", "student"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, make_config: Callable[..., DistillConfig]) -> Path:
    folder = tmp_path_factory.mktemp("verify") / "out"
    distill(make_config(folder, num_train_epochs=1))
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "out"))


@pytest.fixture
def verified(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, dict[str, dict[str, Any]]]]:
    """`raydistill verify --json`: the exit code, and the checks by name."""

    def verify(folder: Path, sample: str = "0") -> tuple[int, dict[str, dict[str, Any]]]:
        capfd.readouterr()
        code = main(["verify", str(folder), "--json", "--sample", sample])
        checks = {check["name"]: check for check in json.loads(capfd.readouterr().out)}
        return code, checks

    return verify


def rewritten(folder: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change the first part that has rows."""
    path = sorted((folder / "labels").glob("*.parquet"))[0]
    pq.write_table(change(pq.read_table(path)), path)


def failed(checks: dict[str, dict[str, Any]]) -> list[str]:
    return [name for name, check in checks.items() if check["passed"] is False]


def test_a_good_run_passes_every_check(finished: Path, capfd: pytest.CaptureFixture[str], corpus_counts: Any) -> None:
    assert main(["verify", str(finished)]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["ok", name] for name in CHECKS]
    texts, blanks = corpus_counts.texts, corpus_counts.blanks
    assert f"{texts} texts = {texts} labelled + 0 rejected, and {blanks} blank ones dropped" in lines[4]
    assert "32 texts scored again by" in lines[5]


def test_a_sample_of_none_and_of_all(finished: Path, verified: Callable[..., Any], corpus_counts: Any) -> None:
    code, checks = verified(finished)
    assert (code, list(checks), checks["teacher"]["passed"]) == (0, CHECKS, None)
    _, checks = verified(finished, "1")
    assert f"{corpus_counts.distinct} texts scored again" in checks["teacher"]["found"]


def test_one_flipped_bit_is_found(copied: Path, verified: Callable[..., Any]) -> None:
    path = max((copied / "labels").glob("*.parquet"), key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[-9] ^= 1  # the metadata's last byte
    path.write_bytes(content)
    code, checks = verified(copied)
    assert code == 1
    assert "files" in failed(checks)
    assert path.name in checks["files"]["found"]


def test_a_lost_part_is_found(copied: Path, verified: Callable[..., Any]) -> None:
    max((copied / "labels").glob("*.parquet"), key=lambda path: path.stat().st_size).unlink()
    code, checks = verified(copied)
    assert code == 1
    assert "of its" in checks["record"]["found"]


def test_a_text_that_counts_otherwise_is_found(copied: Path, verified: Callable[..., Any]) -> None:
    def swap(table: pa.Table) -> pa.Table:
        counted = table["occurrences"].to_numpy().copy()
        counted[0], counted[1] = counted[0] + 1, counted[1] - 1
        return table.set_column(2, "occurrences", pa.array(counted))

    rewritten(copied, swap)
    code, checks = verified(copied)
    assert code == 1
    assert {"files", "counts"} <= set(failed(checks))


def test_another_text_under_an_id_is_found(copied: Path, verified: Callable[..., Any]) -> None:
    rewritten(copied, lambda table: table.set_column(1, "text", pa.array(["other", *table["text"].to_pylist()[1:]])))
    code, checks = verified(copied)
    assert code == 1
    assert "an id is not that of its text" in checks["rows"]["found"]


@pytest.mark.parametrize(("value", "check"), [(float("nan"), "rows"), (3.0, "teacher")])
def test_logits_that_are_not_the_teachers_are_found(
    value: float, check: str, copied: Path, verified: Callable[..., Any]
) -> None:
    def spoil(table: pa.Table) -> pa.Table:
        logits = np.stack(table["entailment"].to_pylist()).astype(np.float32) + np.float32(value)
        return table.set_column(3, "entailment", pa.array(list(logits), pa.list_(pa.float32())))

    rewritten(copied, spoil)
    code, checks = verified(copied, "1")
    assert code == 1
    assert check in failed(checks)


def test_another_corpus_is_not_compared(copied: Path, verified: Callable[..., Any], tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("another one\n")
    record = json.loads((copied / "run.json").read_text())
    record["made_with"]["labels"]["data_file"] = [str(corpus)]
    (copied / "run.json").write_text(json.dumps(record))
    code, checks = verified(copied)
    assert (code, checks["corpus"]["passed"]) == (0, None)
    assert "has changed since" in checks["corpus"]["found"]


def test_a_cut_student_is_found(copied: Path, verified: Callable[..., Any]) -> None:
    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    code, checks = verified(copied)
    assert (code, failed(checks)) == (1, ["student"])
    assert "model.safetensors is gone or damaged" in checks["student"]["found"]


def test_a_foreign_file_among_the_parts_is_found(copied: Path, verified: Callable[..., Any]) -> None:
    pq.write_table(pa.table({"text": ["not a label part"]}), copied / "labels" / "other.parquet")
    code, checks = verified(copied)
    assert code == 1
    assert "other.parquet: is not a label part" in checks["record"]["found"]
    assert "other.parquet" in checks["files"]["found"]
    assert checks["rows"]["passed"] is None
    (copied / "labels" / "other.parquet").unlink()
    path = next((copied / "labels").glob("*.parquet"))
    shutil.copy(path, path.with_name(path.name.replace("part-", "part-", 1)[:-13] + "00000000.parquet"))
    code, checks = verified(copied)
    assert code == 1
    assert "files that are not its own" in checks["record"]["found"]


def test_nothing_done_is_not_passed(copied: Path, verified: Callable[..., Any]) -> None:
    record = json.loads((copied / "run.json").read_text())
    (copied / "run.json").write_text(json.dumps(record | {"stages": {}}))
    code, checks = verified(copied)
    assert (code, failed(checks)) == (1, ["student"])
    assert "is not finished" in checks["student"]["found"]
    (copied / "run.json").write_text("{}")
    code, checks = verified(copied)
    assert (code, failed(checks)) == (1, ["corpus"])
    shutil.rmtree(copied / "labels")
    code, checks = verified(copied)
    assert (code, failed(checks)) == (1, ["run"])
    record["made_with"].pop("student")
    (copied / "run.json").write_text(json.dumps(record))
    code, checks = verified(copied)
    assert (code, failed(checks)) == (1, ["record", "files"])


def test_what_is_no_run_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tmp_path)]) == 2
    assert capfd.readouterr().err.startswith(f"Error: {tmp_path}: holds no run.json")
    assert main(["verify", str(tmp_path), "--sample", "2"]) == 2
    assert "--sample 2 must be a share" in capfd.readouterr().err

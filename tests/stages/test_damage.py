"""A run that is damaged: `raydistill verify` says what is, and the same command mends what a power cut may tear."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from raydistill import DistillConfig, distill
from raydistill.cli import main
from raydistill.errors import DamagedError, RunDirError
from raydistill.label_store import PLAN, LabelStore
from raydistill.progress import Console
from raydistill.verify import verify_run

CHECKS = ["record", "files", "rows", "counts", "corpus", "teacher", "student", "checkpoints"]
TEXTS, TWICE, BLANKS = 400, 20, 5
Rerun = Callable[[Path], str]


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """A corpus of several label parts, and a training that keeps checkpoints, on one thread."""
    corpus = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    texts = [f"text {i} {'again and ' * 40}once\n" for i in range(TEXTS)]
    corpus.write_text("".join([*texts, *texts[:TWICE], *["\n"] * BLANKS]))
    return {
        "data_file": str(corpus),
        "block_seconds": 0.2,
        "cpus_per_train_worker": 1.0,
        "num_train_epochs": 1,
        "save_steps": 10,
        "save_total_limit": 2,
    }


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, make_config: Callable[..., DistillConfig], options: dict
) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    distill(make_config(out, **options), Console(io.StringIO()))
    assert not (out / "checkpoints" / "rows").exists()  # no more than was asked to be kept
    return out


@pytest.fixture
def copied(tmp_path: Path, undisturbed: Path) -> Path:
    """A copy of the run, to be damaged."""
    return shutil.copytree(undisturbed, tmp_path / "out")


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
    """Change the largest part."""
    path = max((folder / "labels").glob("*.parquet"), key=lambda path: path.stat().st_size)
    pq.write_table(change(pq.read_table(path)), path)


def failed(checks: dict[str, dict[str, Any]]) -> list[str]:
    return [name for name, check in checks.items() if check["passed"] is False]


def test_a_good_run_passes_every_check(undisturbed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(undisturbed)]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["ok", name] for name in CHECKS]
    texts = TEXTS + TWICE
    assert f"{texts} texts = {texts} labelled + 0 rejected, and {BLANKS} blank ones dropped" in lines[4]
    assert "32 texts scored again by torch fp32" in lines[5]  # so few that no export would pay


def test_a_sample_of_none_and_of_all(undisturbed: Path, verified: Callable[..., Any]) -> None:
    code, checks = verified(undisturbed)
    assert (code, list(checks), checks["teacher"]["passed"]) == (0, CHECKS, None)
    _, checks = verified(undisturbed, "1")
    assert f"{TEXTS} texts scored again" in checks["teacher"]["found"]


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
    code, checks = verified(copied, "0.2")
    assert code == 1
    assert check in failed(checks)


def test_a_text_that_is_none_is_found(copied: Path, verified: Callable[..., Any]) -> None:
    rewritten(copied, lambda table: table.set_column(1, "text", pa.array([None, *table["text"].to_pylist()[1:]])))
    code, checks = verified(copied)
    assert (code, "rows" in failed(checks)) == (1, True)


def test_another_corpus_is_not_compared(copied: Path, verified: Callable[..., Any], tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("another one\n")
    record = json.loads((copied / "run.json").read_text())
    record["made_with"]["labels"]["data_file"] = [str(corpus)]
    (copied / "run.json").write_text(json.dumps(record))
    code, checks = verified(copied)
    assert (code, checks["corpus"]["passed"]) == (0, None)
    assert "has changed since" in checks["corpus"]["found"]


@pytest.mark.parametrize(
    "changed", [{"data_file": {"a": 1}}, {"data_file": []}, {"text_column": None}, {"encoding": 5}]
)
def test_a_record_that_names_no_corpus_says_so(
    changed: dict[str, Any], copied: Path, verified: Callable[..., Any]
) -> None:
    record = json.loads((copied / "run.json").read_text())
    record["made_with"]["labels"] |= changed
    (copied / "run.json").write_text(json.dumps(record))
    code, checks = verified(copied)
    assert (code, failed(checks)) == (1, ["corpus"])
    assert checks["corpus"]["found"] == "run.json does not say which one it was"


def test_a_cut_student_is_found(copied: Path, verified: Callable[..., Any]) -> None:
    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    code, checks = verified(copied)
    assert (code, failed(checks)) == (1, ["student"])
    assert "model.safetensors is gone or damaged" in checks["student"]["found"]


def test_a_config_that_its_owner_has_changed_is_told(copied: Path, verified: Callable[..., Any]) -> None:
    code, checks = verified(copied)
    assert (code, "changed since" in checks["student"]["found"]) == (0, False)
    config = copied / "config.json"
    held = json.loads(config.read_text())
    held["id2label"] = dict(zip(held["id2label"], reversed(held["id2label"].values()), strict=True))
    config.write_text(json.dumps(held))
    code, checks = verified(copied)
    assert (code, failed(checks)) == (0, [])
    assert checks["student"]["found"].endswith("; config.json: changed since")


def test_a_foreign_file_among_the_parts_is_found(copied: Path, verified: Callable[..., Any]) -> None:
    pq.write_table(pa.table({"text": ["not a label part"]}), copied / "labels" / "other.parquet")
    code, checks = verified(copied)
    assert code == 1
    assert "other.parquet is not one of its label files" in checks["record"]["found"]
    assert "other.parquet" in checks["files"]["found"]
    assert checks["rows"]["passed"] is None
    (copied / "labels" / "other.parquet").unlink()
    path = next((copied / "labels").glob("*.parquet"))
    shutil.copy(path, path.with_name(f"{path.stem[:-8]}00000000.parquet"))
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


# What the same command mends


def truncate(path: Path) -> None:
    """Half of it is gone."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def blot(path: Path) -> None:
    """Its middle is zeros: the size is what it was."""
    content = bytearray(path.read_bytes())
    third = len(content) // 3
    content[third : 2 * third] = bytes(third)
    path.write_bytes(content)


def empty(path: Path) -> None:
    """Nothing has reached the disk but its name."""
    path.write_bytes(b"")


@pytest.fixture
def rerun(make_config: Callable[..., DistillConfig], options: dict, undisturbed: Path) -> Rerun:
    """Runs the same command again, expects all to be as in the undisturbed run, and tells what was said."""

    def rerun(out: Path) -> str:
        console = Console(io.StringIO())
        distill(make_config(out, **options), console)
        assert [(check.name, check.found) for check in verify_run(str(out), 1.0) if not check.passed] == []
        expected, found = (
            pd.read_parquet(folder / "labels").groupby("text").agg({"occurrences": "sum", "entailment": "first"})
            for folder in (undisturbed, out)
        )
        assert found.occurrences.equals(expected.occurrences)
        np.testing.assert_allclose(np.stack(found.entailment), np.stack(expected.entailment), atol=1e-5)
        weights, expected_weights = (load_file(folder / "model.safetensors") for folder in (out, undisturbed))
        for name, tensor in expected_weights.items():
            assert np.allclose(weights[name].numpy(), tensor.numpy(), atol=1e-4), name
        return console.stream.getvalue()  # type: ignore[attr-defined]

    return rerun


def test_labels_and_their_record(copied: Path, rerun: Rerun) -> None:
    labels = copied / "labels"
    parts = sorted(labels.glob("*.parquet"))
    assert len(parts) > 5
    for part, tear in zip(parts, (truncate, blot, empty), strict=False):
        tear(part)
    empty(labels / f"{PLAN}{parts[3].name}.json")
    empty(labels / "_labels.json")
    store = LabelStore(str(labels))
    assert store.damaged_parts() == [part.name for part in parts[:3]]
    with pytest.raises(DamagedError, match=r"_labels\.json is damaged"):
        store.complete_record()
    said = rerun(copied)
    for part in parts[:3]:
        assert f"{part} is damaged: its labels are made anew" in said
    assert not set(labels.glob("*.json")) - {labels / "_labels.json"}
    assert "train  done before" in said


def test_without_their_record_labels_are_still_those_of_their_classes(
    copied: Path, make_config: Callable[..., DistillConfig], options: dict, tmp_path: Path
) -> None:
    (copied / "labels" / "_labels.json").unlink()
    classes = tmp_path / "others.txt"
    classes.write_text("one\ntwo\nthree\nfour\nfive\n")
    record = json.loads((copied / "run.json").read_text())
    record["options"]["class_names_file"] = record["made_with"]["labels"]["class_names_file"] = str(classes)
    (copied / "run.json").write_text(json.dumps(record))
    with pytest.raises(RunDirError, match="class_names was"):
        distill(make_config(copied, **options, class_names_file=str(classes)), Console(io.StringIO()))


def test_the_record_of_the_run(copied: Path, rerun: Rerun) -> None:
    empty(copied / "run.json")
    said = rerun(copied)
    assert "run.json is damaged: it is written anew" in said
    assert "label  done before" in said
    assert json.loads((copied / "run.json").read_text())["stages"]["label"]["finished"]
    assert "train  done before" not in said


def test_a_kept_checkpoint_that_is_damaged_fails_its_check(copied: Path, verified: Callable[..., Any]) -> None:
    folder = sorted((copied / "checkpoints").glob("checkpoint_*/"))[0]
    blot(next(folder.rglob("*.safetensors")))
    code, checks = verified(copied)
    assert (code, checks["checkpoints"]["passed"]) == (1, False)
    assert checks["checkpoints"]["found"].endswith(f"are not whole: {folder.name}")


def test_checkpoints_and_the_list_of_them(copied: Path, rerun: Rerun) -> None:
    empty(copied / "config.json")
    empty(copied / "checkpoints" / "checkpoint_manager_snapshot.json")
    checkpoints = sorted((copied / "checkpoints").glob("checkpoint_*/"))
    of_trainer = [folder for folder in checkpoints if (folder / "trainer").is_dir()]
    assert len(of_trainer) == 2
    assert len(checkpoints) > 2
    for folder, tear in zip(reversed(checkpoints), (truncate, blot, empty), strict=False):
        if folder != of_trainer[0]:
            tear(next(folder.rglob("*.safetensors")))
    said = rerun(copied)
    assert f"{copied}/config.json is damaged or gone: the student is made anew" in said
    removed = [folder for folder in checkpoints if f"{folder} is not whole: removed" in said]
    assert removed == checkpoints[1:]
    assert "train  goes on after 20 updates" in said

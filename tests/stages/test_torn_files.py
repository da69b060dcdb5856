"""What a power cut may tear is found by its checksum and made again: the same command mends the run."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file

from raydistill import DistillConfig, distill
from raydistill.errors import DamagedError, RunDirError
from raydistill.label_store import PLAN, LabelStore
from raydistill.progress import Console
from raydistill.verify import verify_run

Rerun = Callable[[Path], str]


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


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """A corpus of several label parts, and a training that keeps checkpoints, on one thread."""
    corpus = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    corpus.write_text("".join(f"text {i} {'again and ' * 40}once\n" for i in range(400)))
    return {
        "data_file": str(corpus),
        "block_seconds": 0.01,
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
    return out


@pytest.fixture
def torn(tmp_path: Path, undisturbed: Path) -> Path:
    """A copy of the run, to be torn."""
    return shutil.copytree(undisturbed, tmp_path / "out")


@pytest.fixture
def rerun(make_config: Callable[..., DistillConfig], options: dict, undisturbed: Path) -> Rerun:
    """Runs the same command again, expects all to be as in the undisturbed run, and tells what was said."""

    def rerun(out: Path) -> str:
        console = Console(io.StringIO())
        distill(make_config(out, **options), console)
        assert [(check.name, check.found) for check in verify_run(str(out), 1.0) if not check.passed] == []
        expected, found = (
            pd.read_parquet(folder / "labels").set_index("text").sort_index() for folder in (undisturbed, out)
        )
        assert found.index.is_unique
        assert found.index.equals(expected.index)
        np.testing.assert_allclose(np.stack(found.entailment), np.stack(expected.entailment), atol=1e-5)
        weights, expected_weights = (load_file(folder / "model.safetensors") for folder in (out, undisturbed))
        for name, tensor in expected_weights.items():
            assert np.allclose(weights[name].numpy(), tensor.numpy(), atol=1e-4), name
        return console.stream.getvalue()  # type: ignore[attr-defined]

    return rerun


def test_labels_and_their_record(torn: Path, rerun: Rerun) -> None:
    labels = torn / "labels"
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
    said = rerun(torn)
    for part in parts[:3]:
        assert f"{part} is damaged: its labels are made anew" in said
    assert not set(labels.glob("*.json")) - {labels / "_labels.json"}
    assert "train  done before" in said


def test_without_their_record_labels_are_still_those_of_their_classes(
    torn: Path, make_config: Callable[..., DistillConfig], options: dict, tmp_path: Path
) -> None:
    (torn / "labels" / "_labels.json").unlink()
    classes = tmp_path / "others.txt"
    classes.write_text("one\ntwo\nthree\nfour\nfive\n")
    record = json.loads((torn / "run.json").read_text())
    record["options"]["class_names_file"] = record["made_with"]["labels"]["class_names_file"] = str(classes)
    (torn / "run.json").write_text(json.dumps(record))
    with pytest.raises(RunDirError, match="class_names was"):
        distill(make_config(torn, **options, class_names_file=str(classes)), Console(io.StringIO()))


def test_the_record_of_the_run(torn: Path, rerun: Rerun) -> None:
    empty(torn / "run.json")
    said = rerun(torn)
    assert "run.json is damaged: it is written anew" in said
    assert "label  done before" in said
    assert "train  done before" not in said


def test_checkpoints_and_the_list_of_them(torn: Path, rerun: Rerun) -> None:
    empty(torn / "config.json")
    empty(torn / "checkpoints" / "checkpoint_manager_snapshot.json")
    checkpoints = sorted((torn / "checkpoints").glob("checkpoint_*/"))
    of_trainer = [folder for folder in checkpoints if (folder / "trainer").is_dir()]
    assert len(of_trainer) == 2
    assert len(checkpoints) > 2
    for folder, tear in zip(reversed(checkpoints), (truncate, blot, empty), strict=False):
        if folder != of_trainer[0]:
            tear(next(folder.rglob("*.safetensors")))
    said = rerun(torn)
    assert f"{torn}/config.json is damaged or gone: the student is made anew" in said
    removed = [folder for folder in checkpoints if f"{folder} is not whole: removed" in said]
    assert removed == checkpoints[1:]
    assert "train  goes on after 20 updates" in said

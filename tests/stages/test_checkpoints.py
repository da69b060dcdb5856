"""Which checkpoint a training goes on from after a power cut; no Ray is started, but its own reader reads the list."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
from transformers import TrainerControl, TrainerState

from raydistill.files import Folder
from raydistill.seals import SEAL, seal
from raydistill.stages.checkpoints import last_report, mend_checkpoints, remove_unlisted, with_best
from raydistill.stages.train_callbacks import KeepPace


@pytest.fixture(scope="module", autouse=True)
def shared_ray() -> None:
    """None."""


def kept(storage: Path, name: str, reported: dict[str, int]) -> Path:
    """A sealed checkpoint in the storage."""
    folder = storage / "checkpoints" / f"checkpoint_{name}"
    (folder / "trainer").mkdir(parents=True)
    (folder / "trainer" / "model.safetensors").write_text(f"weights of {name}")
    (folder / "result.json").write_text("{}")
    seal(folder, reported)
    return folder


def names(storage: Path) -> list[str]:
    """Those that Ray Train would find, oldest first; its latest is the last."""
    snapshot = json.loads((storage / "checkpoints" / "checkpoint_manager_snapshot.json").read_text())
    found = [result["checkpoint_dir_name"] for result in snapshot["checkpoint_results"]]
    assert snapshot["latest_checkpoint_result"]["checkpoint_dir_name"] == found[-1]
    assert {path.name for path in (storage / "checkpoints").glob("checkpoint_*/")} == set(found)
    return [name.removeprefix("checkpoint_") for name in found]


def mended(storage: Path) -> str:
    said: list[str] = []
    mend_checkpoints(Folder(str(storage)), said.append)
    return "\n".join(said)


def test_what_is_whole_stays_in_the_order_of_its_updates_whatever_the_clocks_said(tmp_path: Path) -> None:
    kept(tmp_path, "9 o'clock", {"epoch": 0, "updates": 20})
    kept(tmp_path, "7 o'clock", {"epoch": 0})  # the student that is finished
    kept(tmp_path, "8 o'clock", {"epoch": 1, "updates": 100})
    assert mended(tmp_path) == mended(tmp_path) == ""
    assert names(tmp_path) == ["9 o'clock", "8 o'clock", "7 o'clock"]
    shutil.rmtree(tmp_path / "checkpoints" / "checkpoint_7 o'clock")
    assert mended(tmp_path) == ""
    assert last_report(Folder(str(tmp_path))) == {"epoch": 1, "updates": 100}


def test_one_that_is_sealed_again_is_whole(tmp_path: Path) -> None:
    seal(kept(tmp_path, "1", {"epoch": 0}), {"epoch": 0})
    assert mended(tmp_path) == ""
    assert names(tmp_path) == ["1"]


@pytest.mark.parametrize("of", [SEAL, "trainer/model.safetensors", "result.json"])
@pytest.mark.parametrize("content", [None, "", "weights of X"])
def test_the_newest_that_is_not_whole_is_removed(of: str, content: str | None, tmp_path: Path) -> None:
    kept(tmp_path, "1", {"epoch": 0, "updates": 10})
    torn = kept(tmp_path, "2", {"epoch": 0, "updates": 20}) / of
    if content is None:
        torn.unlink()
    else:
        torn.write_text(content)
    assert mended(tmp_path) == f"       {tmp_path}/checkpoints/checkpoint_2 is not whole: removed"
    assert names(tmp_path) == ["1"]


def test_an_older_one_is_removed_if_a_file_is_gone_or_short(tmp_path: Path) -> None:
    (kept(tmp_path, "1", {"updates": 10}) / "result.json").unlink()
    (kept(tmp_path, "2", {"updates": 20}) / "trainer" / "model.safetensors").write_text("w")
    kept(tmp_path, "3", {"updates": 30})
    assert mended(tmp_path).count("is not whole") == 2
    assert names(tmp_path) == ["3"]


def test_what_lost_workers_have_uploaded_and_nobody_has_listed_is_removed(tmp_path: Path) -> None:
    remove_unlisted(Folder(str(tmp_path)))
    for updates in (1, 2):
        kept(tmp_path, str(updates), {"epoch": 0, "updates": updates})
    assert mended(tmp_path) == ""
    kept(tmp_path, "3", {"epoch": 0, "updates": 3})
    remove_unlisted(Folder(str(tmp_path)))
    assert names(tmp_path) == ["1", "2"]


def test_where_none_is_whole_training_begins_anew(tmp_path: Path) -> None:
    mended(tmp_path)
    (kept(tmp_path, "1", {"updates": 10}) / SEAL).unlink()
    mended(tmp_path)
    assert not (tmp_path / "checkpoints").exists()


def test_going_on_leaves_the_checkpoint_as_it_was_and_brings_the_best_one_along(tmp_path: Path) -> None:
    for best, found in ((True, "best"), (False, "trainer")):
        checkpoint = kept(tmp_path, f"with {found}", {"updates": 10})
        state = {"best_model_checkpoint": "/gone/checkpoint-5", "epoch": 1.0}
        (checkpoint / "trainer" / "trainer_state.json").write_text(json.dumps(state))
        if best:
            (checkpoint / "best").mkdir()
            (checkpoint / "best" / "model.safetensors").write_text("the best")
        seal(checkpoint, {"updates": 10})
        work = tmp_path / f"work {found}"
        resumed = with_best(checkpoint, work)
        assert (resumed / "model.safetensors").read_text() == f"weights of with {found}"
        told = Path(json.loads((resumed / "trainer_state.json").read_text())["best_model_checkpoint"])
        assert told == work / "resumed" / found
        assert (told / "model.safetensors").is_file()
        assert mended(tmp_path) == ""
    plain = kept(tmp_path, "plain", {"updates": 10})
    (plain / "trainer" / "trainer_state.json").write_text("{}")
    assert with_best(plain, tmp_path / "unused") == plain / "trainer"


def test_one_is_kept_every_so_many_seconds_but_not_at_the_last_update() -> None:
    pace = KeepPace(1.0, lambda: False, alone=True)
    state = TrainerState(global_step=0, max_steps=100)

    def saves() -> bool:
        control = TrainerControl()
        state.global_step += 1
        pace.on_step_end(None, state, control)
        if control.should_save:
            pace.on_save(None, state, control)
        assert not control.should_training_stop
        return control.should_save

    assert not saves()
    time.sleep(1.1)
    assert [saves(), saves()] == [True, False]
    time.sleep(1.1)
    state.global_step = state.max_steps - 1
    assert not saves()  # Trainer keeps that one itself

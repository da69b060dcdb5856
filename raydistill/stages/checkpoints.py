"""Checkpoints to go on from: sealed with their checksums when they are made, looked at before they are used.

Ray Train neither has them on disk before it lists them, nor replaces its list at one stroke: after a power cut, or a
kill at the wrong moment, either may be torn. So the list is made anew from the checkpoints that are whole.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ray.train import Checkpoint, Result
from ray.train.v2._internal.constants import CHECKPOINT_MANAGER_SNAPSHOT_FILENAME
from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import _CheckpointManagerState, _TrainingResultState

from raydistill.errors import RunDirError
from raydistill.files import Folder, parse_record
from raydistill.run_dir import BEST, CHECKPOINTS, RESULT, TRAINER
from raydistill.seals import PREFIX, is_whole, read_seal


def last_report(storage: Folder) -> dict[str, Any]:
    """What was reported with the newest checkpoint: `epoch` and `updates`; nothing where there is none."""
    try:
        return Result.from_path(f"{storage.root}/{CHECKPOINTS}", storage.filesystem).metrics or {}
    except RuntimeError:
        return {}


def mend_checkpoints(storage: Folder, say: Callable[[str], None]) -> None:
    """Have Ray Train go on from the newest checkpoint that is whole; others that are not are removed, and said to be.

    For when no training is at work there.
    """
    folder = storage.child(CHECKPOINTS)
    whole: dict[str, dict[str, Any]] = {}
    found = {name: read_seal(folder.child(name)) for name in folder.folders() if name.startswith(PREFIX)}
    for name in sorted(found, key=lambda name: _age(name, found[name]), reverse=True):
        # Of older ones the sizes will do: each is looked at when it is its turn.
        if found[name] and is_whole(folder.child(name), found[name]["files"], every_byte=not whole):
            whole[name] = found[name]["reported"]
        else:
            say(f"       {folder.where(name)} is not whole: removed")
            folder.delete_tree(name)
    if not whole:
        storage.delete_tree(CHECKPOINTS)
        return
    results = [_TrainingResultState(checkpoint_dir_name=name, metrics=whole[name]) for name in reversed(whole)]
    state = _CheckpointManagerState(
        checkpoint_results=results,
        checkpoint_report_indices=list(range(len(results))),
        latest_checkpoint_result=results[-1],
        pending_training_results=[],
        pending_validation_specs=[],
        current_report_index=len(results),
        validated_checkpoint_dir_names=[],
        timed_out_validation_checkpoint_dir_names=[],
        failed_validation_checkpoint_dir_names=[],
    )
    folder.write(CHECKPOINT_MANAGER_SNAPSHOT_FILENAME, state.json().encode())


def remove_unlisted(storage: Folder) -> None:
    """Remove what workers that were lost have uploaded and Ray Train has not listed: nothing else would in this run.

    For when no worker reports, and none that reported is left.
    """
    folder = storage.child(CHECKPOINTS)
    try:
        snapshot = parse_record(folder.read(CHECKPOINT_MANAGER_SNAPSHOT_FILENAME))
    except (FileNotFoundError, ValueError):
        return
    results = [*snapshot["checkpoint_results"], *snapshot["pending_training_results"]]
    listed = {result["checkpoint_dir_name"] for result in [*results, snapshot["latest_checkpoint_result"]] if result}
    for name in folder.folders():
        if name.startswith(PREFIX) and name not in listed:
            with contextlib.suppress(RunDirError):  # someone who was cut off may be writing there still
                folder.delete_tree(name)


@contextlib.contextmanager
def downloaded(checkpoint: Checkpoint | None) -> Iterator[Path | None]:
    """The folder that a worker's checkpoint lies in on this node meanwhile; None where there is none."""
    if checkpoint is None:
        yield None
        return
    with checkpoint.as_directory() as folder:
        yield Path(folder)


def read_result(checkpoint: Path) -> dict[str, Any]:
    """What came of training: `updates`, and once the student is evaluated `figures` and `seconds`."""
    return json.loads((checkpoint / RESULT).read_text())


def epoch_of(checkpoint: Path | None) -> int:
    """The epoch that a Trainer's checkpoint stands in."""
    if checkpoint is None:
        return 0
    return int(json.loads((checkpoint / TRAINER / "trainer_state.json").read_text())["epoch"])


def with_best(checkpoint: Path, folder: Path) -> Path:
    """Trainer's checkpoint; where it speaks of a best one, a copy in `folder` that says where that lies now.

    The best one comes along: Ray Train may remove the checkpoint that it lies in.
    """
    trainer, best = checkpoint / TRAINER, checkpoint / BEST
    state = json.loads((trainer / "trainer_state.json").read_text())
    if not state.get("best_model_checkpoint"):
        return trainer
    copied = shutil.copytree(trainer, folder / "resumed" / TRAINER, copy_function=link)
    if best.is_dir():
        shutil.copytree(best, folder / "resumed" / BEST, copy_function=link)
    state["best_model_checkpoint"] = str(folder / "resumed" / (BEST if best.is_dir() else TRAINER))
    (copied / "trainer_state.json").unlink()  # which may be a link
    (copied / "trainer_state.json").write_text(json.dumps(state))
    return copied


def link(source: str, target: str) -> None:
    """Link a file, or copy it to another file system."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _age(name: str, sealed: dict[str, Any]) -> tuple[float, str]:
    """By updates, the student that is finished last; names are times of day of whichever node made them."""
    return sealed["reported"].get("updates", math.inf) if sealed else -1, name

"""Checkpoints to go on from: sealed with their checksums when they are made, looked at before they are used.

Ray Train neither has them on disk before it lists them, nor replaces its list at one stroke: after a power cut, or a
kill at the wrong moment, either may be torn. So the list is made anew from the checkpoints that are whole.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ray.train import Result
from ray.train.v2._internal.constants import CHECKPOINT_MANAGER_SNAPSHOT_FILENAME
from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import _CheckpointManagerState, _TrainingResultState

from raydistill.errors import RunDirError
from raydistill.files import Folder, digest_of, parse_record
from raydistill.run_dir import CHECKPOINTS

SEAL = "sealed.json"  # in a checkpoint: what was reported with it, and the checksums of its files
PREFIX = "checkpoint_"


def seal(checkpoint: Path, reported: Mapping[str, Any]) -> None:
    """Write down what a checkpoint holds, and what is reported with it: the last thing before it is handed over."""
    files = {}
    for path in sorted(checkpoint.rglob("*")):
        if path.is_file() and path != checkpoint / SEAL:
            with path.open("rb") as content:
                files[path.relative_to(checkpoint).as_posix()] = [path.stat().st_size, digest_of(content)]
    (checkpoint / SEAL).write_text(json.dumps({"reported": dict(reported), "files": files}))


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
    found = {name: _sealed(folder.child(name)) for name in folder.folders() if name.startswith(PREFIX)}
    for name in sorted(found, key=lambda name: _age(name, found[name]), reverse=True):
        # Of older ones the sizes will do: each is looked at when it is its turn.
        if found[name] and _is_whole(folder.child(name), found[name]["files"], every_byte=not whole):
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


def look_at_checkpoints(storage: Folder) -> dict[str, bool]:
    """Whether each checkpoint is what it was when it was sealed, by name; every byte is read."""
    folder = storage.child(CHECKPOINTS)
    sealed = {name: _sealed(folder.child(name)) for name in folder.folders() if name.startswith(PREFIX)}
    return {
        name: bool(seal) and _is_whole(folder.child(name), seal["files"], every_byte=True)
        for name, seal in sealed.items()
    }


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


def _sealed(checkpoint: Folder) -> dict[str, Any]:
    """What the seal says; nothing where there is none that can be read."""
    try:
        sealed = parse_record(checkpoint.read(SEAL))
    except (FileNotFoundError, ValueError):
        return {}
    return sealed if isinstance(sealed.get("files"), dict) and isinstance(sealed.get("reported"), dict) else {}


def _age(name: str, sealed: dict[str, Any]) -> tuple[float, str]:
    """By updates, the student that is finished last; names are times of day of whichever node made them."""
    return sealed["reported"].get("updates", math.inf) if sealed else -1, name


def _is_whole(checkpoint: Folder, files: Mapping[str, Any], *, every_byte: bool) -> bool:
    try:
        for name, (size, digest) in files.items():
            above, _, base = name.rpartition("/")
            if (checkpoint.child(above) if above else checkpoint).sizes().get(base) != size:
                return False
            if every_byte and checkpoint.digest(name) != digest:
                return False
    except FileNotFoundError:
        return False
    return True

"""The student stage of a run: done before, gone on with or begun anew, and what `run.json` says of it."""

from __future__ import annotations

import contextlib
import time
from typing import Any

from raydistill.config import TRAIN
from raydistill.errors import DivergedError, RunDirError, counted
from raydistill.files import Folder
from raydistill.label_store import LabelStore
from raydistill.progress import Console
from raydistill.resources import Plan
from raydistill.run_dir import CHECKPOINTS, ROWS, RunDir
from raydistill.specs import StudentSpec, Tolerance
from raydistill.stages.checkpoints import last_report, mend_checkpoints
from raydistill.stages.checks import Training, labels_identity, store_counts
from raydistill.stages.train import train_student

REMOVALS = 3


def run_train_stage(
    training: Training, store: LabelStore, run_dir: RunDir, plan: Plan, tolerance: Tolerance, console: Console
) -> float | None:
    """Train the student from a complete label store into the run's directory, unless it is there already.

    Returns:
        seconds; None where there was nothing to do.

    Raises:
        RaydistillError.
        KeyboardInterrupt: a signal asked for the end.
    """
    record = store.complete_record()
    labels, identity, folder = record["complete"], labels_identity(record), run_dir.folder
    run_dir.update(counts=store_counts(labels))
    spec, workers, seconds = training.student, plan.train_workers, None
    training.expect_enough(labels["texts"], workers)
    earlier = run_dir.record.get("stages", {}).get(TRAIN, {})
    if _is_done(earlier, identity, run_dir, console):
        console.say(f"train  done before: {folder.path}")
    else:
        workers = _workers_to_go_on_with(earlier, identity, spec, run_dir, console) or workers
        begun = {"labels": identity, "workers": workers, "revision": spec.revision, "finished": False}
        run_dir.update(stages={TRAIN: begun})
        try:
            with console.stage(TRAIN, "steps") as progress:
                student = train_student(
                    training, store, labels["texts"], plan, folder, progress, begun_with=workers, tolerance=tolerance
                )
        except DivergedError:
            folder.delete_tree(CHECKPOINTS)  # from which it would diverge again; so other options may be tried
            raise
        run_dir.publish(student.model)
        seconds = round(progress.seconds, 3)
        finished = {
            "finished": True,
            "updates": student.updates,
            "padding": round(student.padding, 4),
            "seconds": seconds,
            "worker_seconds": student.seconds,
        }
        run_dir.update(figures=student.figures, stages={TRAIN: begun | finished})
    if training.checkpoints:
        _remove(folder.child(CHECKPOINTS), ROWS)
    else:
        _remove(folder, CHECKPOINTS)
    return seconds


def _remove(folder: Folder, name: str) -> None:
    """Remove a folder in it; a data task that is ending may still have put something there meanwhile."""
    for _ in range(REMOVALS):
        with contextlib.suppress(RunDirError):
            folder.delete_tree(name)
            if not folder.has(name):
                return
        time.sleep(1)
    folder.delete_tree(name)


def _is_done(earlier: dict[str, Any], labels: str, run_dir: RunDir, console: Console) -> bool:
    """Whether the student is there, whole, and was trained on these labels."""
    if not earlier.get("finished") or earlier.get("labels") != labels:
        return False
    if damaged := run_dir.damaged():
        console.say(f"train  {run_dir.folder.where(damaged)} is damaged or gone: the student is made anew")
        return False
    return True


def _workers_to_go_on_with(
    earlier: dict[str, Any], labels: str, spec: StudentSpec, run_dir: RunDir, console: Console
) -> int | None:
    """Leave the checkpoints that there are only if they are of this training.

    Returns:
        how many workers it was begun with, on which its updates and schedule depend; None where it begins anew.
    """
    folder = run_dir.folder
    if earlier.get("labels") != labels:
        if earlier.get("finished"):
            console.say("train  begins anew: the labels have changed")
        folder.delete_tree(CHECKPOINTS)  # they were trained on other labels
    elif earlier.get("revision", spec.revision) != spec.revision and folder.has(CHECKPOINTS):
        console.say(f"train  begins anew: {spec.name_or_path} has changed on the hub")
        folder.delete_tree(CHECKPOINTS)
    else:
        mend_checkpoints(folder, console.say)
        if folder.has(CHECKPOINTS):
            if updates := last_report(folder).get("updates"):
                console.say(f"train  goes on after {counted(updates, 'update')}")
            return earlier["workers"]
    return None

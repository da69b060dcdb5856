"""The run directory: who may use it, what `run.json` says of it, and how the student gets into it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from raydistill.config import LABELS_PRODUCT, DistillConfig, flag
from raydistill.errors import RunDirError
from raydistill.files import Folder, is_uri, parse_record

RECORD, LOG, LABELS, CHECKPOINTS = "run.json", "raydistill.log", "labels", "checkpoints"
# What a checkpoint holds: Trainer's own one, and its best one if that is another; or the student and what came of it.
TRAINER, BEST, MODEL, RESULT = "trainer", "best", "model", "result.json"


class RunDir:
    """An output directory that this run may use. Made by `claim`."""

    def __init__(self, path: Path, record: dict[str, Any]) -> None:
        self.path, self.record = path, record

    @classmethod
    def claim(cls, config: DistillConfig, products: Sequence[str]) -> RunDir:
        """Take the output directory for a run that makes some products ("labels", "student"), or raise RunDirError.

        It may be new, empty, or hold an earlier run whose options for these products are the same: that one goes on.
        Nothing is written yet; see `begin`.
        """
        assert config.output_dir is not None
        if is_uri(config.output_dir):
            raise RunDirError(
                f"--output-dir {config.output_dir}: must be a folder; object stores serve as --data-file only."
            )
        path = Path(config.output_dir).expanduser().absolute()
        try:
            parent = next(folder for folder in [path, *path.parents] if folder.exists())
        except OSError as error:
            raise RunDirError(f"--output-dir {path}: cannot be a folder ({error.strerror}).") from None
        if (path.exists() and not path.is_dir()) or (path.is_symlink() and not path.exists()):
            raise RunDirError(f"--output-dir {path}: is a file or a broken link. Give a folder.")
        if not os.access(parent, os.W_OK | os.X_OK) or not _can_write(parent):
            raise RunDirError(f"--output-dir {path}: cannot be written to. Give a folder that you may write to.")
        if not path.is_dir() or all(item.name.startswith(".") for item in path.iterdir()):
            return cls(path, {})
        if config.overwrite_output_dir:
            return cls(path, {})
        try:
            record = parse_record((path / RECORD).read_bytes())
        except FileNotFoundError:
            raise RunDirError(
                f"--output-dir {path}: is not empty and holds no earlier run. Give another folder, or use this one "
                "as it is with --overwrite-output-dir."
            ) from None
        except (ValueError, OSError):
            raise RunDirError(
                f"--output-dir {path}: its {RECORD} is damaged. Start anew with --overwrite-output-dir."
            ) from None
        if (path / LABELS).exists() and not (path / LABELS).is_dir():
            raise RunDirError(f"--output-dir {path}: its {LABELS} is a file. Start anew with --overwrite-output-dir.")
        differences = [line for product in products for line in _differences(config, product, record)]
        if differences:
            labels_fit = LABELS_PRODUCT in products and not _differences(config, LABELS_PRODUCT, record)
            cheaper = (
                f" (`raydistill train --labels {path / LABELS}` makes another student from the same labels)"
                if labels_fit
                else ""
            )
            raise RunDirError(
                f"--output-dir {path}: holds a run with other options ({'; '.join(differences)}). Give another folder"
                f"{cheaper}, use the same options to continue, or start anew with --overwrite-output-dir."
            )
        return cls(path, record)

    def begin(self, config: DistillConfig, products: Sequence[str], **facts: Any) -> None:
        """Say what this run is; where asked for, remove an earlier one first (its labels only if made anew)."""
        if config.overwrite_output_dir:
            self._remove_earlier_run(keep_labels=LABELS_PRODUCT not in products)
        made_with = self.record.get("made_with", {}) | {product: config.that_change(product) for product in products}
        self.update(options=config.options(), made_with=made_with, **facts)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Make the folder and keep other runs out of it. Raises RunDirError where one is at work."""
        self.path.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(Folder(str(self.path)).held())
            except BlockingIOError:
                raise RunDirError(
                    f"--output-dir {self.path}: another run is at work in it. Wait for its end, or give another folder."
                ) from None
            yield

    def _remove_earlier_run(self, *, keep_labels: bool) -> None:
        """Remove what a run of ours has left, and nothing else."""
        try:
            earlier = parse_record((self.path / RECORD).read_bytes())
        except (FileNotFoundError, ValueError):
            earlier = {}
        self.record = {"quote": earlier["quote"]} if "quote" in earlier else {}
        for name in (CHECKPOINTS, *([] if keep_labels else [LABELS])):
            shutil.rmtree(self.path / name, ignore_errors=True)
        for name in (RECORD, LOG, *earlier.get("published", [])):
            (self.path / name).unlink(missing_ok=True)

    def update(self, **facts: Any) -> None:
        """Add facts to `run.json`; tables are merged, all else replaced."""
        for name, value in facts.items():
            old = self.record.get(name)
            self.record[name] = old | value if isinstance(old, dict) and isinstance(value, dict) else value
        self._write(self.record)

    def keep_quote(self, quote: dict[str, Any]) -> None:
        """Put a quote into `run.json`, beside what an earlier run says there; a run that comes after it keeps it.

        Nothing is done to a file that is no run's.
        """
        try:
            record = parse_record((self.path / RECORD).read_bytes())
        except FileNotFoundError:
            record = {"quote": {}}
        except ValueError:
            record = {}
        if record.keys() & {"quote", "made_with"}:
            self._write(record | {"quote": quote})

    def _write(self, record: dict[str, Any]) -> None:
        aside = self.path / f".{RECORD}.tmp"
        aside.write_text(json.dumps(record, indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
        aside.replace(self.path / RECORD)

    @property
    def labels_path(self) -> str:
        """Where the label store lies."""
        return str(self.path / LABELS)

    @property
    def log_path(self) -> Path:
        """Where Ray's and Transformers' chatter goes."""
        return self.path / LOG

    def publish(self, model_folder: Path) -> None:
        """Copy a saved model and its tokenizer in, so that a kill leaves no half model.

        Every file is written aside and renamed; config.json, without which nothing loads, goes first and comes last.
        """
        (self.path / "config.json").unlink(missing_ok=True)
        files = sorted(model_folder.iterdir(), key=lambda file: file.name == "config.json")
        self.update(published=[file.name for file in files])
        for file in files:
            aside = self.path / f".{file.name}.tmp"
            shutil.copyfile(file, aside)
            aside.replace(self.path / file.name)


def _can_write(folder: Path) -> bool:
    """Whether a file can be made there: access bits say nothing of read-only mounts, or to root."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _differences(config: DistillConfig, product: str, record: dict[str, Any]) -> list[str]:
    made_with = record.get("made_with")
    then = made_with.get(product) if isinstance(made_with, dict) else None
    if not isinstance(then, dict):
        return []
    now = config.that_change(product)
    lines = []
    for name in now:
        if name == "training":
            names = sorted(now[name].keys() | then.get(name, {}).keys())
            pairs = [(key, then.get(name, {}).get(key), now[name].get(key)) for key in names]
        else:
            pairs = [(name, then.get(name), now[name])]
        lines += [f"{flag(key)} was {_shown(old)}, now {_shown(new)}" for key, old, new in pairs if not _same(old, new)]
    return lines


def _same(old: Any, new: Any) -> bool:
    """Whether two spellings, such as "3e-5" and 3e-05 or "true" and True, are one value."""
    if str(old) == str(new) or {str(old).lower(), str(new).lower()} in ({"true"}, {"false"}):
        return True
    try:
        return float(old) == float(new)
    except (TypeError, ValueError):
        return False


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "not given" if value is None else str(value)

"""The run directory: who may use it, what `run.json` says of it, and how the student gets into it."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raydistill.config import LABELS_PRODUCT, DistillConfig, flag
from raydistill.errors import RunDirError
from raydistill.files import empty_folder, is_uri, parse_record

RECORD, LOG, LABELS, CHECKPOINTS = "run.json", "raydistill.log", "labels", "checkpoints"
MODEL, TRAINER = "model", "trainer"  # what a checkpoint holds: the finished student, or Trainer's own checkpoint


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
        if path.exists() and not path.is_dir():
            raise RunDirError(f"--output-dir {path}: is a file. Give a folder.")
        parent = next(folder for folder in [path, *path.parents] if folder.exists())
        if not os.access(parent, os.W_OK | os.X_OK) or not _can_write(parent):
            raise RunDirError(f"--output-dir {path}: cannot be written to. Give a folder that you may write to.")
        if config.overwrite_output_dir or not path.is_dir() or not any(path.iterdir()):
            return cls(path, {})
        try:
            record = parse_record((path / RECORD).read_bytes())
        except FileNotFoundError:
            raise RunDirError(
                f"--output-dir {path}: is not empty and holds no earlier run. Give another folder, or empty this one "
                "with --overwrite-output-dir."
            ) from None
        except ValueError:
            raise RunDirError(
                f"--output-dir {path}: its {RECORD} is damaged. Start anew with --overwrite-output-dir."
            ) from None
        differences = [line for product in products for line in _differences(config, product, record)]
        if differences:
            raise RunDirError(
                f"--output-dir {path}: holds a run with other options ({'; '.join(differences)}). Give another folder, "
                "use the same options to continue, or start anew with --overwrite-output-dir."
            )
        return cls(path, record)

    def begin(self, config: DistillConfig, products: Sequence[str], **facts: Any) -> None:
        """Make the folder, emptied where asked for (of labels only if they are made anew), and say what this run is."""
        if config.overwrite_output_dir and self.path.is_dir():
            empty_folder(self.path, keep=() if LABELS_PRODUCT in products else (LABELS,))
        self.path.mkdir(parents=True, exist_ok=True)
        made_with = self.record.get("made_with", {}) | {product: config.that_change(product) for product in products}
        self.update(options=config.options(), made_with=made_with, **facts)

    def update(self, **facts: Any) -> None:
        """Add facts to `run.json`; tables are merged, all else replaced."""
        for name, value in facts.items():
            old = self.record.get(name)
            self.record[name] = old | value if isinstance(old, dict) and isinstance(value, dict) else value
        aside = self.path / f".{RECORD}.tmp"
        aside.write_text(json.dumps(self.record, indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
        aside.replace(self.path / RECORD)

    @property
    def labels_path(self) -> str:
        """Where the label store lies."""
        return str(self.path / LABELS)

    @property
    def log_path(self) -> Path:
        """Where Ray's and Transformers' chatter goes."""
        return self.path / LOG

    def finished(self, stage: str) -> bool:
        """Whether a stage ("label", "train") has ended well here."""
        return bool(self.record.get("stages", {}).get(stage, {}).get("finished"))

    def publish(self, model_folder: Path) -> None:
        """Copy a saved model and its tokenizer in, so that a kill leaves no half model.

        Every file is written aside and renamed; config.json, without which nothing loads, goes first and comes last.
        """
        (self.path / "config.json").unlink(missing_ok=True)
        files = sorted(model_folder.iterdir(), key=lambda file: file.name == "config.json")
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
    then = record.get("made_with", {}).get(product)
    if then is None:
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
    if str(old).lower() == str(new).lower():
        return True
    try:
        return float(old) == float(new)
    except (TypeError, ValueError):
        return False


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "not given" if value is None else str(value)

"""Checkpoints are sealed when they are made: with the checksums of their files, and what was reported with them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raydistill.files import Folder, digest_of, parse_record

SEAL = "sealed.json"  # in a checkpoint
PREFIX = "checkpoint_"  # of its name, which Ray Train gives it


def seal(checkpoint: Path, reported: Mapping[str, Any]) -> None:
    """Write down what a checkpoint holds, and what is reported with it: the last thing before it is handed over."""
    files = {}
    for path in sorted(checkpoint.rglob("*")):
        if path.is_file() and path != checkpoint / SEAL:
            with path.open("rb") as content:
                files[path.relative_to(checkpoint).as_posix()] = [path.stat().st_size, digest_of(content)]
    (checkpoint / SEAL).write_text(json.dumps({"reported": dict(reported), "files": files}))


def read_seal(checkpoint: Folder) -> dict[str, Any]:
    """What the seal says; nothing where there is none that can be read."""
    try:
        sealed = parse_record(checkpoint.read(SEAL))
    except (FileNotFoundError, ValueError):
        return {}
    return sealed if isinstance(sealed.get("files"), dict) and isinstance(sealed.get("reported"), dict) else {}


def is_whole(checkpoint: Folder, files: Mapping[str, Any], *, every_byte: bool) -> bool:
    """Whether the files that a seal lists are there, of their sizes, and with their checksums if every byte is read."""
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


def look_at_checkpoints(folder: Folder) -> dict[str, bool]:
    """Whether each checkpoint in a folder is what it was when it was sealed, by name; every byte is read."""
    sealed = {name: read_seal(folder.child(name)) for name in folder.folders() if name.startswith(PREFIX)}
    return {
        name: bool(seal) and is_whole(folder.child(name), seal["files"], every_byte=True)
        for name, seal in sealed.items()
    }

"""A disk that fills up in the midst of the work, and is given more space: on a small file system of its own."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from mounts import needs_mounts

MOUNT = 'mount -t tmpfs none "$1" && cd "$1" && shift && exec "$@"'

# All in one Ray: starting it takes longer than what is done here.
SCRIPT = """
import os, subprocess, sys
from pathlib import Path
from raydistill.cli import main
from raydistill.stages.cluster import connection

small, config, told = map(Path, sys.argv[1:4])
command, *sizes = sys.argv[4:]
with connection(None):
    for attempt, size in enumerate(sizes):
        subprocess.run(["mount", "-o", f"remount,size={size}", small], check=True)
        os.dup2(os.open(told / f"{attempt}.txt", os.O_WRONLY | os.O_CREAT), 2)
        (told / f"{attempt}.code").write_text(str(main([command, "--config", str(config)])))
        (told / f"{attempt}.parts").write_text("\\n".join(map(str, (small / "out" / "labels").glob("*.parquet"))))
    os.dup2(os.open(told / "verify.txt", os.O_WRONLY | os.O_CREAT), 1)
    sys.exit(main(["verify", str(small / "out"), "--sample", "0"]))
"""


@needs_mounts
@pytest.mark.parametrize(
    ("command", "sizes"),
    [
        ("label", ["200k", "64m"]),
        pytest.param("run", ["200k", "1m", "64m"], marks=pytest.mark.slow),  # the second is full of checkpoints
    ],
)
def test_a_full_disk_is_one_line_and_with_more_space_the_run_goes_on(
    command: str,
    sizes: list[str],
    tmp_path: Path,
    tiny_teacher_dir: Path,
    tiny_student_dir: Path,
    class_names_file: Path,
) -> None:
    corpus, small, config = tmp_path / "corpus.txt", tmp_path / "small", tmp_path / "config.json"
    rng = random.Random(0)
    corpus.write_text("".join(f"text {i} {rng.randbytes(200).hex()}\n" for i in range(1200)))
    options = {
        "data_file": str(corpus),
        "class_names_file": str(class_names_file),
        "output_dir": str(small / "out"),
        "teacher_name_or_path": str(tiny_teacher_dir),
        "student_name_or_path": str(tiny_student_dir),
        "teacher_max_length": 64,
        "student_max_length": 32,
        "block_seconds": 0.08,
        "save_steps": 5,
        "save_total_limit": 8,  # so that they fill it
    }
    config.write_text(json.dumps(options))
    small.mkdir()
    mounted = ["unshare", "-rm", "sh", "-c", MOUNT, "sh", small]
    script = [sys.executable, "-c", SCRIPT, small, config, tmp_path, command, *sizes]
    done = subprocess.run([*mounted, *script], timeout=600)
    assert done.returncode == 0, [path.read_text() for path in tmp_path.glob("*.txt") if path != corpus]

    said, codes, parts = (
        [(tmp_path / f"{attempt}.{what}").read_text() for attempt in range(len(sizes))]
        for what in ("txt", "code", "parts")
    )
    assert [int(code) for code in codes] == [2] * (len(sizes) - 1) + [0], said
    for text in said[:-1]:
        (error,) = [line for line in text.splitlines() if line.startswith("Error: ")]
        assert "no space left on device" in error.lower()
        assert "the same command goes on" in error
        assert "Traceback" not in text
    assert f"{small}/out/labels: cannot be written" in said[0]
    assert "label  1,200 texts" in said[1]
    assert "label  done before: 1,200 texts" in "".join(said[2:]) or command == "label"
    assert 0 < len(parts[0].split()) < len(parts[1].split()) == len(parts[-1].split())
    assert "FAILED" not in (tmp_path / "verify.txt").read_text()


@needs_mounts
def test_a_full_temporary_folder_of_ray_is_one_line_before_anything_is_written(tmp_path: Path, good: dict) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=4m none "$1" && shift && exec "$@"', "sh", small]
    run = [sys.executable, "-m", "raydistill", "label", *(token for pair in good.items() for token in pair)]
    environment = os.environ | {"RAY_TMPDIR": str(small)}
    done = subprocess.run([*mounted, *run], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stderr
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert f"{small}: is full (4 MB free)" in error
    assert not Path(good["--output-dir"]).exists()


COUNTING = """
import sys
import numpy as np
from raydistill.errors import RunDirError
from raydistill.known_texts import KnownTexts, zeros_on_disk
from raydistill.label_store import LabelStore

store = LabelStore(sys.argv[1])
ids = np.arange(20_000, dtype=np.uint64)
known = KnownTexts(ids, ids, np.ones(20_000, dtype=np.int64))
for lay_out in (lambda to: zeros_on_disk(20_000, to), lambda to: KnownTexts.on_disk([known], to)):
    try:
        with store.room_for_ids() as folder:
            lay_out(folder)
    except RunDirError as error:
        print(error)
"""


@needs_mounts
def test_ids_that_the_disk_has_no_room_for_are_one_line(tmp_path: Path) -> None:
    # What is only mapped, and not written, would take the process down.
    mounted = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=100k none "$1" && shift && exec "$@"', "sh"]
    done = subprocess.run(
        [*mounted, tmp_path, sys.executable, "-c", COUNTING, tmp_path], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    line = f"{tmp_path}: cannot hold the ids of the texts (No space left on device). Free some space there, and "
    assert [said.startswith(line) for said in done.stdout.splitlines()] == [True, True]

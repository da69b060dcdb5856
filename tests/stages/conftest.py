"""One private Ray for the tests of the stages, and runs to look at."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raydistill import DistillConfig
from raydistill.progress import Console


@pytest.fixture(scope="package", autouse=True)
def shared_ray() -> Iterator[None]:
    """Started once a process: `connection` uses what is there."""
    from raydistill.stages.cluster import connection

    with connection(None):
        yield


@pytest.fixture
def console() -> Console:
    """A console that keeps what is said in `console.stream`."""
    return Console(io.StringIO())


@pytest.fixture(scope="session")
def make_config(
    tiny_teacher_dir: Path, tiny_student_dir: Path, class_names_file: Path, corpus_file: Path
) -> Callable[..., DistillConfig]:
    """A config of tiny models and the shared corpus; keywords replace or add options."""

    def make(output_dir: Path, **options: Any) -> DistillConfig:
        given = {
            "data_file": str(corpus_file),
            "class_names_file": str(class_names_file),
            "output_dir": str(output_dir),
            "teacher_name_or_path": str(tiny_teacher_dir),
            "student_name_or_path": str(tiny_student_dir),
            "hypothesis_template": "This text is about {}.",
            "learning_rate": 1e-3,
            "num_train_epochs": 2,
            "per_device_train_batch_size": 16,
        }
        return DistillConfig(**(given | options))

    return make

"""What the tests share: an environment without hub and GPU, and tiny models and files made once a run."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models on a busy machine: with two threads ten times slower
os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # else Ray starts by itself, or joins one that another test has started
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import hypothesis
import pytest

# Tests stop runs as Ctrl-C does; a job in a script's background is started with that ignored, and so are its children.
signal.signal(signal.SIGINT, signal.default_int_handler)

hypothesis.settings.register_profile("raydistill", deadline=None, database=None, print_blob=True)
hypothesis.settings.load_profile("raydistill")

CLASS_NAMES = ["sport", "politics", "money", "art", "technology"]


@dataclass(frozen=True)
class CorpusCounts:
    """What stands in `corpus_file`: lines in all, texts that are not blank, distinct ones among them, blank lines."""

    lines: int
    texts: int
    distinct: int
    blanks: int


@pytest.fixture(scope="session")
def tiny_teacher_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT NLI classifier with random weights: contradiction, neutral, entailment."""
    from tiny_models import save_classifier

    return save_classifier(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="session")
def tiny_student_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT encoder without a head."""
    from tiny_models import save_encoder

    return save_encoder(tmp_path_factory.mktemp("student"))


@pytest.fixture(scope="session")
def class_names() -> list[str]:
    return list(CLASS_NAMES)


@pytest.fixture(scope="session")
def class_names_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("classes") / "class_names.txt"
    path.write_text("".join(f"{name}\n" for name in CLASS_NAMES), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def corpus_lines() -> list[str]:
    """The lines of `corpus_file`: 60 distinct texts, 8 of them twice and 1 thrice, and 5 blank lines."""
    from tiny_models import sentences

    texts = sentences()[:60]
    lines = [*texts[:20], "", *texts[:8], "   ", *texts[20:40], "", *texts[40:], "\t", texts[59], texts[59], ""]
    return lines


@pytest.fixture(scope="session")
def corpus_file(tmp_path_factory: pytest.TempPathFactory, corpus_lines: list[str]) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text("".join(f"{line}\n" for line in corpus_lines), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def corpus_counts(corpus_lines: list[str]) -> CorpusCounts:
    """Counted from the lines, without the package."""
    texts = [line.strip() for line in corpus_lines if line.strip()]
    return CorpusCounts(len(corpus_lines), len(texts), len(set(texts)), len(corpus_lines) - len(texts))


@pytest.fixture(scope="module")
def own_ray() -> Iterator[None]:
    """A private Ray, for what asks it for something in this process."""
    from raydistill.stages.cluster import connection

    with connection(None):
        yield


@pytest.fixture
def good(
    tmp_path: Path, corpus_file: Path, class_names_file: Path, tiny_teacher_dir: Path, tiny_student_dir: Path
) -> dict:
    """Flags of a run that would work; its output directory does not exist yet."""
    return {
        "--data-file": str(corpus_file),
        "--class-names-file": str(class_names_file),
        "--output-dir": str(tmp_path / "out"),
        "--teacher-name-or-path": str(tiny_teacher_dir),
        "--student-name-or-path": str(tiny_student_dir),
    }


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Exports of tiny teachers stay out of the user's cache; Ray's workers inherit it."""
    os.environ["RAYDISTILL_CACHE"] = str(tmp_path_factory.mktemp("cache"))


def pytest_testnodedown(node: Any, error: object) -> None:
    """Say how a pytest process ended that should not have: by which signal (negative), or with which exit status."""
    if error:
        print(f"\n{node.gateway.id} ended with {node.gateway._io.popen.wait(timeout=10)}")

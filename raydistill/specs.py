"""What travels to workers: how to load the teacher and the student, and what the work took. Plain data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class TeacherSpec:
    """All that a worker needs to load the teacher. Ids left at None are read off the model's config.

    `fingerprint` is what `pretrained.fingerprint` says of its weights: the name of its export in each node's cache.
    `strict`: a backend that was asked for and cannot run the teacher is an error.
    """

    name_or_path: str
    class_names: tuple[str, ...]
    hypothesis_template: str
    batch_size: int = 32
    max_length: int | None = None
    precision: str = "auto"
    backend: str = "auto"
    fingerprint: str | None = None
    strict: bool = False
    entailment_id: int | None = None
    contradiction_id: int | None = None
    use_fast_tokenizer: bool = True
    use_gpu: bool = False
    threads: int | None = None


@dataclasses.dataclass(frozen=True)
class StudentSpec:
    """All that a worker needs to train the student."""

    name_or_path: str
    class_names: tuple[str, ...]
    multi_label: bool
    temperature: float
    max_length: int | None
    use_fast_tokenizer: bool
    shuffle_buffer: int
    training: Mapping[str, Any]


@dataclasses.dataclass
class Effort:
    """What scoring took, and which engine did it; tokens with padding, seconds of tokenising and of forward passes."""

    pairs: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    tokenize_seconds: float = 0.0
    forward_seconds: float = 0.0
    engine: str = ""

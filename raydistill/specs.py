"""What travels to workers: how to load the teacher and the student, and what the work took. Plain data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

BYTES_PER_TOKEN = 4.5  # of English, about
TOKENIZING = 0.05  # of the work that a byte is


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """Which model, and what it is trusted with.

    `revision`: branch, tag or commit, of a model from the hub.
    `trust_remote_code`: Python code that lies beside the model is run.
    `allow_pickle_weights`: where it has no safetensors, tensors are taken from a pickled file.
    """

    name_or_path: str
    _: dataclasses.KW_ONLY
    revision: str | None = None
    trust_remote_code: bool = False
    allow_pickle_weights: bool = False
    use_fast_tokenizer: bool = True


@dataclasses.dataclass(frozen=True)
class TeacherSpec(ModelSpec):
    """All that a worker needs to load the teacher. Ids left at None are read off the model's config.

    `class_names`, `hypothesis_template`: K of them, and what makes a hypothesis of each.
    `batch_size`: bounds the tokens of a forward pass, as --teacher-batch-size says.
    `max_length`: of a pair in tokens; None: the model's own limit.
    `precision`, `backend`: as the options of these names; `stages.audit` and `engines.load` decide what "auto" is.
    `use_gpu`, `threads`: where it runs, and PyTorch's threads there; None: as many as PyTorch takes by itself.
    `fingerprint` is what `pretrained.fingerprint` says of its weights: the name of its export in each node's cache;
    `parameters` are the weights beside the embeddings, to judge its cost by.
    `work`: what it is loaded for, pairs times parameters: little does not pay for a better engine.
    `scored_bytes`: of a text, about: what is beyond is cut. `scored_share`: of the bytes of all texts, about.
    `strict`: a backend that was asked for and cannot run the teacher is an error.
    """

    class_names: tuple[str, ...]
    hypothesis_template: str
    batch_size: int = 32
    max_length: int | None = None
    precision: str = "auto"
    backend: str = "auto"
    fingerprint: str | None = None
    parameters: int = 0
    work: float = math.inf
    scored_bytes: float = math.inf
    scored_share: float = 1.0
    strict: bool = False
    entailment_id: int | None = None
    contradiction_id: int | None = None
    use_gpu: bool = False
    threads: int | None = None

    def work_bytes(self, text_bytes: int) -> float:
        """What a text counts for in a block: its bytes as far as they are scored, and a little for all, to tokenise."""
        return min(text_bytes, self.scored_bytes) + TOKENIZING * text_bytes


@dataclasses.dataclass(frozen=True)
class StudentSpec(ModelSpec):
    """All that a worker needs to train the student.

    `multi_label`, `temperature`: as for `distillation.soft_labels`.
    `max_length`: of a text in tokens; None: the model's own limit.
    `shuffle_buffer`: texts that each worker holds to shuffle them.
    `training`: `TrainingArguments` fields by name, as they were given.
    `logging_dir`: where TensorBoard's events go, if there are to be any.
    """

    class_names: tuple[str, ...]
    multi_label: bool
    temperature: float
    max_length: int | None
    shuffle_buffer: int
    training: Mapping[str, Any]
    logging_dir: str | None = None


class TextCount(NamedTuple):
    """How many texts a corpus has.

    `texts`: where that is not exact, blank ones may be among them.
    `exact`: whether they were counted.
    `blanks`: others that are known to be blank.
    """

    texts: int
    exact: bool
    blanks: int = 0


# Texts that all fail, one after the other, and none that did not: then it is not theirs.
SYSTEMATIC = 16


@dataclasses.dataclass(frozen=True)
class Tolerance:
    """What a stage bears before it ends.

    block_seconds: of labelling, what the loss of an actor costs.
    checkpoint_seconds: of training, what the loss of a worker costs.
    max_failures: how often what died is started again while the stage gets no further.
    stall_seconds: how long it may stand still.
    grace_seconds: what a stop leaves to what is under way.
    """

    block_seconds: float = 5.0
    checkpoint_seconds: float = 600.0
    max_failures: int = 3
    stall_seconds: float = 1800.0
    grace_seconds: float = 20.0


@dataclasses.dataclass
class Effort:
    """What labelling took, of one block or of many: tokens without and with padding, and where the time went.

    A teacher actor tokenises, runs forward passes and waits for texts; others read and write at the same time. Which
    actor it was, and when by `time.time` it was done, is known of one block alone. `fallback` is that of the engine.
    """

    pairs: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    read_seconds: float = 0.0
    wait_seconds: float = 0.0
    tokenize_seconds: float = 0.0
    forward_seconds: float = 0.0
    write_seconds: float = 0.0
    engine: str = ""
    fallback: str = ""
    actor: str = ""
    scored_at: float = 0.0

    @property
    def busy_seconds(self) -> float:
        """What scoring took, one thing after the other."""
        return self.tokenize_seconds + self.forward_seconds

    def __add__(self, other: Effort) -> Effort:
        """Both together; the engine is the last one that is known."""
        latest = other if other.engine else self
        sums = {
            field.name: getattr(self, field.name) + getattr(other, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("engine", "fallback", "actor", "scored_at")
        }
        return Effort(**sums, engine=latest.engine, fallback=latest.fallback)

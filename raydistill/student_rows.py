"""What the student is trained on: rows of the label store become token ids and soft labels. No torch, no transformers.

The work is done in data tasks, which start at once because a fast tokenizer needs only the `tokenizers` library.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer

from raydistill.distillation import soft_labels
from raydistill.errors import ConfigError
from raydistill.label_store import logits_column, logits_matrix
from raydistill.specs import ModelSpec
from raydistill.token_rows import chunks, first_tokens

SCHEMA = pa.schema(
    [("input_ids", pa.list_(pa.int32())), ("labels", pa.list_(pa.float32())), ("occurrences", pa.int64())]
)
SLICE_ROWS = 8192
MIXED_ROWS = 1 << 20  # at a time: one text may occur a hundred million times
_tokenizers: dict[int, Any] = {}  # by the hash of what they are made from, once a process


@dataclasses.dataclass(frozen=True)
class StudentRows:
    """A function from a label part to rows for the student, that travels to data tasks.

    Args:
        tokenizer: a fast tokenizer as JSON, or the model whose slow one is to be loaded.
        max_length: longest text in tokens, special ones included.
        truncation_side: which end of a long text is cut.
        num_classes: K.
        temperature, multi_label: as for `soft_labels`.
    """

    tokenizer: str | ModelSpec
    max_length: int
    truncation_side: str
    num_classes: int
    temperature: float
    multi_label: bool

    @classmethod
    def of(
        cls,
        tokenizer: Any,
        model: ModelSpec,
        *,
        max_length: int,
        num_classes: int,
        temperature: float,
        multi_label: bool,
    ) -> StudentRows:
        """From the transformers tokenizer of a model.

        Raises ConfigError where its special tokens leave no room for any text.
        """
        special = tokenizer.num_special_tokens_to_add()
        if max_length <= special:
            raise ConfigError(f"--student-max-length {max_length} must be above {special}, the special tokens.")
        portable = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else model
        return cls(portable, max_length, tokenizer.truncation_side, num_classes, temperature, multi_label)

    def __call__(self, part: pa.Table) -> pa.Table:
        """For each row (text, occurrences, entailment, contradiction) one of `SCHEMA`: token ids and soft labels."""
        labels = soft_labels(
            logits_matrix(part["entailment"], self.num_classes),
            logits_matrix(part["contradiction"], self.num_classes),
            temperature=self.temperature,
            multi_label=self.multi_label,
        )
        columns = [self._token_ids(part["text"].to_pylist()), logits_column(labels), part["occurrences"]]
        return pa.table(columns, SCHEMA)

    def _token_ids(self, texts: list[str]) -> pa.Array:
        kind = pa.list_(pa.int32())
        ids = [pa.array(self._rows_of(chunk), kind) for chunk in chunks(texts)]
        return pa.concat_arrays(ids) if ids else pa.array([], kind)

    def _rows_of(self, texts: list[str]) -> list[list[int]]:
        return (
            self._encode(texts)
            if self.truncation_side == "left"
            else first_tokens(self._encode, texts, self.max_length)
        )

    def _encode(self, texts: list[str]) -> list[list[int]]:
        if isinstance(self.tokenizer, str):
            return [encoding.ids for encoding in self._fast(self.tokenizer).encode_batch_fast(texts)]
        return self._slow(self.tokenizer)(texts, truncation=True, max_length=self.max_length)["input_ids"]

    def _fast(self, json: str) -> Tokenizer:
        key = hash((json, self.max_length, self.truncation_side))
        if key not in _tokenizers:
            tokenizer = Tokenizer.from_str(json)
            tokenizer.no_padding()
            tokenizer.enable_truncation(self.max_length, direction=self.truncation_side)
            _tokenizers[key] = tokenizer
        return _tokenizers[key]

    def _slow(self, model: ModelSpec) -> Any:
        from raydistill.pretrained import load_tokenizer  # with torch and transformers

        key = hash((model.name_or_path, model.revision))
        if key not in _tokenizers:
            _tokenizers[key] = load_tokenizer(model)
        return _tokenizers[key]


def as_often(rows: pa.Table, seed: Sequence[int]) -> Iterator[pa.Table]:
    """Rows as often as they are said to occur: (input_ids, labels), as they train a student, some thousand at a time.

    They are mixed as the seed tells, so that neither copies of a text stand in a row nor texts of a part of the corpus.
    """
    occurrences, rows = rows["occurrences"].to_numpy(), rows.drop_columns(["occurrences"])
    generator, rounds = np.random.default_rng(seed), max(1, -(-int(occurrences.sum()) // MIXED_ROWS))
    phase = generator.integers(rounds, size=len(occurrences)) if rounds > 1 else 0
    for number in range(rounds):  # of each text a like share, or its few at any time
        share = (occurrences * (number + 1) + phase) // rounds - (occurrences * number + phase) // rounds
        order = generator.permutation(np.repeat(np.arange(len(share)), share))
        for at in range(0, max(len(order), 1), SLICE_ROWS):
            yield rows.take(order[at : at + SLICE_ROWS])


def pad_rows(rows: pa.Table, pad_id: int, num_classes: int, *, left: bool = False) -> dict[str, np.ndarray[Any, Any]]:
    """A batch of rows as arrays, padded to its longest.

    Returns:
        input_ids and attention_mask, (B, longest) int64, and labels, (B, K) float32.
    """
    ids = rows["input_ids"].combine_chunks()
    lengths = np.diff(ids.offsets.to_numpy())
    column = np.arange(lengths.max(initial=1))[None, :]
    if left:
        column = column[:, ::-1]
    mask = column < lengths[:, None]
    padded = np.full(mask.shape, pad_id, dtype=np.int64)
    padded[mask] = ids.flatten().to_numpy()
    labels = logits_matrix(rows["labels"], num_classes).copy()  # out of Arrow's read-only memory
    return {"input_ids": padded, "attention_mask": mask.astype(np.int64), "labels": labels}

"""Pairs of text and hypothesis as token arrays, exactly as `tokenizer(text, hypothesis)` makes them, but cheaper.

Each text and each hypothesis is tokenised once. A tokenizer joins two sequences by a fixed pattern: special tokens
before, text, special tokens between, hypothesis, special tokens after. The pattern is read off the tokenizer by
example, checked against it for every hypothesis, and filled in with numpy. A tokenizer that does not work by such a
pattern is called for each pair instead.
"""

from __future__ import annotations

import dataclasses
import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from raydistill.errors import ModelError, shown
from raydistill.token_rows import RowsOf, chunks, first_tokens

Ints = npt.NDArray[np.int64]
PROBE = "A probe, of some words."
# A batch costs as much as such a share of the budget, beside its own tokens: on a CPU 32 of 2,048, where teachers of 11
# to 300 million parameters are fastest with 16 to 64. A device that needs larger batches has larger budgets.
BATCH_SHARE = 64


@dataclasses.dataclass(frozen=True)
class TokenizedTexts:
    """Texts as one flat array of token ids; text i is `tokens[starts[i] : starts[i] + lengths[i]]`.

    `faults` has what the tokenizer raised for a text that it cannot take, by index; such a text has no tokens.
    """

    texts: Sequence[str]
    tokens: Ints
    starts: Ints
    lengths: Ints
    faults: Mapping[int, Exception] = dataclasses.field(default_factory=dict)


class PairEncoder:
    """Turns (text, hypothesis) index pairs into padded model inputs.

    Args:
        tokenizer: a transformers tokenizer.
        hypotheses: K hypotheses.
        max_length: longest pair in tokens; what is too long is cut from the text, never from the hypothesis.

    Raises:
        ModelError: a hypothesis leaves no room for any text.
    """

    def __init__(self, tokenizer: Any, hypotheses: Sequence[str], max_length: int) -> None:
        self.tokenizer, self.hypotheses, self.max_length = tokenizer, list(hypotheses), max_length
        self._left_padding = tokenizer.padding_side == "left"
        self._pad_id = tokenizer.pad_token_id or 0
        self._pad_type_id = getattr(tokenizer, "pad_token_type_id", 0)
        self._with_types = "token_type_ids" in tokenizer.model_input_names
        self._tokenizer_in_use = threading.Lock()  # it keeps its settings to itself, for all threads alike
        self._read_pattern()

    def _read_pattern(self) -> None:
        """Find the special tokens around text and hypothesis from one pair for each hypothesis."""
        probe = self._ids(PROBE)
        tails, tail_types, head, head_types = [], [], None, None
        self._fits_pattern = True
        for hypothesis in self.hypotheses:
            pair = self.tokenizer(PROBE, hypothesis, return_token_type_ids=True)
            ids, types = list(pair["input_ids"]), list(pair["token_type_ids"])
            own = self._ids(hypothesis)
            at = _find(ids, probe)
            if at < 0 or _find(ids[at + len(probe) :], own) < 0 or (head is not None and ids[:at] != head):
                self._fits_pattern = False
                tails.append(ids[len(probe) :])
                tail_types.append(types[len(probe) :])
                continue
            head, head_types = ids[:at], types[: at + 1]
            tails.append(ids[at + len(probe) :])
            tail_types.append(types[at + len(probe) :])
        head = head or []
        self._head = np.array(head, dtype=np.int64)
        self._text_type = head_types[-1] if head_types else 0
        self._head_types = np.array((head_types or [0])[:-1], dtype=np.int64)
        self.tail_lengths = np.array([len(tail) for tail in tails], dtype=np.int64)
        self._tails = _matrix(tails, self._pad_id)
        self._tail_types = _matrix(tail_types, self._pad_type_id)
        self.room = self.max_length - len(head) - self.tail_lengths
        if self.room.min() < 1:
            worst = int(self.room.argmin())
            raise ModelError(
                f"the hypothesis {shown(self.hypotheses[worst])} takes {self.tail_lengths[worst]} of the teacher's "
                f"{self.max_length} tokens and leaves none for the text. Shorten the template or the class name."
            )

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def tokenize(self, texts: Sequence[str]) -> TokenizedTexts:
        """Tokenise texts once, for all hypotheses; cut to what the shortest hypothesis leaves room for."""
        if not len(texts):
            none = np.empty(0, dtype=np.int64)
            return TokenizedTexts(texts, none, none, none)
        lengths, tokens = [], []
        faults: dict[int, Exception] = {}
        for rows in _in_chunks(self._token_rows, texts, faults):
            lengths.append(np.array([len(row) for row in rows], dtype=np.int64))
            tokens.append(np.fromiter(itertools.chain.from_iterable(rows), dtype=np.int64))
        all_lengths = np.concatenate(lengths)
        starts = np.cumsum(all_lengths) - all_lengths
        return TokenizedTexts(texts, np.concatenate(tokens), starts, all_lengths, faults)

    def _token_rows(self, texts: list[str]) -> list[list[int]]:
        if self.tokenizer.truncation_side == "left":
            return self._all_token_rows(texts)
        return first_tokens(self._all_token_rows, texts, int(self.room.max()))

    def _all_token_rows(self, texts: list[str]) -> list[list[int]]:
        with self._tokenizer_in_use:
            return self.tokenizer(
                texts,
                add_special_tokens=False,
                truncation=True,
                max_length=int(self.room.max()),
                padding=False,
                return_attention_mask=False,
                return_token_type_ids=False,
            )["input_ids"]

    def count_tokens(self, texts: Sequence[str]) -> Ints:
        """(N,) int64: tokens of every text alone, however long, without special ones; 0 of what has none."""

        def rows(chunk: list[str]) -> Any:
            return self.tokenizer(chunk, add_special_tokens=False)["input_ids"]

        found = itertools.chain.from_iterable(_in_chunks(rows, texts, {}))
        return np.fromiter(map(len, found), dtype=np.int64, count=len(texts))

    def lengths(self, text_lengths: Ints) -> Ints:
        """(N, K) int64: tokens of every pair, special ones included, of texts of (N,) tokens."""
        kept = np.minimum(text_lengths[:, None], self.room[None, :])
        return kept + len(self._head) + self.tail_lengths[None, :]

    def encode(self, texts: TokenizedTexts, text_index: Ints, class_index: Ints) -> dict[str, Ints]:
        """Padded inputs of B pairs.

        Args:
            text_index, class_index: (B,) int64: which text and which class each pair is of.

        Returns:
            input_ids, attention_mask and, for models that have types, token_type_ids: (B, longest pair) int64.
        """
        if not self._fits_pattern:
            return self._encode_by_tokenizer(texts, text_index, class_index)
        kept = np.minimum(texts.lengths[text_index], self.room[class_index])
        tail = self.tail_lengths[class_index]
        total = len(self._head) + kept + tail
        width = int(total.max())
        first = (width - total if self._left_padding else np.zeros_like(total))[:, None]
        column = np.arange(width)[None, :] - first  # position within the pair; below 0 or beyond the end is padding
        in_text = column - len(self._head)
        in_tail = in_text - kept[:, None]
        is_text = (in_text >= 0) & (in_tail < 0)
        is_tail = (in_tail >= 0) & (in_tail < tail[:, None])
        is_head = (column >= 0) & (in_text < 0)

        # With truncation on the left, the end of the text is what stays.
        begin = texts.starts[text_index]
        if self.tokenizer.truncation_side == "left":
            begin = begin + texts.lengths[text_index] - kept
        ids = np.full((len(total), width), self._pad_id, dtype=np.int64)
        ids[is_text] = texts.tokens[(begin[:, None] + in_text)[is_text]]
        rows = np.broadcast_to(class_index[:, None], ids.shape)
        ids[is_tail] = self._tails[rows[is_tail], in_tail[is_tail]]
        ids[is_head] = self._head[column[is_head]]
        inputs = {"input_ids": ids, "attention_mask": (is_head | is_text | is_tail).astype(np.int64)}
        if self._with_types:
            types = np.full_like(ids, self._pad_type_id)
            types[is_text] = self._text_type
            types[is_tail] = self._tail_types[rows[is_tail], in_tail[is_tail]]
            types[is_head] = self._head_types[column[is_head]]
            inputs["token_type_ids"] = types
        return inputs

    def _encode_by_tokenizer(self, texts: TokenizedTexts, text_index: Ints, class_index: Ints) -> dict[str, Ints]:
        with self._tokenizer_in_use:
            encoded = self.tokenizer(
                [texts.texts[i] for i in text_index],
                [self.hypotheses[j] for j in class_index],
                truncation="only_first",
                max_length=self.max_length,
                padding=True,
                return_tensors="np",
            )
        return {
            name: np.asarray(encoded[name], dtype=np.int64)
            for name in self.tokenizer.model_input_names
            if name in encoded
        }


def _in_chunks(rows_of: RowsOf, texts: Sequence[str], faults: dict[int, Exception]) -> Iterator[list[list[int]]]:
    """Rows of tokens, a chunk at a time; none of a text that the tokenizer refuses: that is a fault, by its index."""

    def row_of(text: str, index: int) -> list[int]:
        try:
            return rows_of([text])[0]
        except Exception as fault:
            faults[index] = fault
            return []

    at = 0
    for chunk in chunks(texts):
        try:
            rows = rows_of(chunk)
        except Exception:
            rows = [row_of(text, at + i) for i, text in enumerate(chunk)]
        yield rows
        at += len(chunk)


def budget_batches(lengths: Ints, token_budget: int, *, padded: bool = True) -> Iterator[Ints]:
    """Group pairs so that like lengths stand together and no batch, padded to its longest, exceeds a budget.

    A batch ends before that where the pairs after it would be padded for more than another batch costs.

    Longest first, so that a batch too large for the memory is met at once and not at the end.

    Args:
        lengths: (P,) tokens of each pair.
        token_budget: rows times width of a padded batch; one pair alone may exceed it.
        padded: whether padding is computed; where it is not, each batch is as large as the budget has it.

    Yields:
        (B,) int64 indices; together each index once.
    """
    order = np.argsort(-lengths, kind="stable")
    cost = token_budget / BATCH_SHARE if padded else np.inf
    at = 0
    while at < len(order):
        longest = lengths[order[at]]
        batch = order[at : at + max(1, int(token_budget // max(longest, 1)))]
        # What it saves to end before each: all from there on are padded to so much more than that one's length.
        while (saved := (longest - lengths[batch]) * np.arange(len(batch), 0, -1)).max() > cost:
            batch = batch[: saved.argmax()]
        yield batch
        at += len(batch)


def padded_tokens(lengths: Ints, token_budget: int) -> int:
    """Tokens of all batches that `budget_batches` makes, padding included."""
    return sum(len(batch) * int(lengths[batch].max()) for batch in budget_batches(lengths, token_budget))


def _find(sequence: list[int], part: list[int]) -> int:
    """Where `part` begins in `sequence`, or -1."""
    return next((i for i in range(len(sequence) - len(part) + 1) if sequence[i : i + len(part)] == part), -1)


def _matrix(rows: list[list[int]], fill: int) -> Ints:
    matrix = np.full((len(rows), max(map(len, rows), default=0)), fill, dtype=np.int64)
    for i, row in enumerate(rows):
        matrix[i, : len(row)] = row
    return matrix

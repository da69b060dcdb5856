"""Tokens of texts, some texts at a time; and of long ones no more is tokenised than is kept."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

CHUNK_TEXTS, CHUNK_CHARACTERS = 1024, 1 << 20  # a tokenizer's encodings take kilobytes each, or 200 bytes a character
CHARACTERS = 6  # that a token stands for; where so many characters come to fewer tokens, all are tokenised
LEAST_CHARACTERS = 256
BEHIND_A_WORD = re.compile(r"(?<=[^\W_])[ \n]")  # elsewhere, tokens may stand for blanks and what is before them

RowsOf = Callable[[list[str]], list[list[int]]]


def chunks(texts: Sequence[str]) -> Iterator[list[str]]:
    """The texts in their order, as many at a time as a tokenizer is given."""
    chunk: list[str] = []
    size = 0
    for text in texts:
        if chunk and (len(chunk) == CHUNK_TEXTS or size + len(text) > CHUNK_CHARACTERS):
            yield chunk
            chunk, size = [], 0
        chunk.append(text)
        size += len(text)
    if chunk:
        yield chunk


def first_tokens(rows_of: RowsOf, texts: Sequence[str], most: int) -> list[list[int]]:
    """What a tokenizer makes of texts, without its reading all of those that it cuts at their end.

    It reads a piece that ends behind a word, where tokens end, too.

    Args:
        rows_of: texts -> their token ids, cut to `most`.
    """
    pieces = [_beginning(text, max(most * CHARACTERS, LEAST_CHARACTERS)) for text in texts]
    rows = list(rows_of(pieces))
    for at, (text, piece) in enumerate(zip(texts, pieces, strict=True)):
        if len(piece) < len(text) and len(rows[at]) < most:
            rows[at] = rows_of([text])[0]
    return rows


def _beginning(text: str, characters: int) -> str:
    """So many characters of a text that has twice as many, to the end of a word; all of it if none ends there."""
    if len(text) <= 2 * characters:
        return text
    end = BEHIND_A_WORD.search(text, characters, 2 * characters)
    return text[: end.start()] if end else text

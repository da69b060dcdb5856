"""What `_labels.json` says of a store, for tests that make none by a run."""

from __future__ import annotations

from typing import Any

LABELLING: dict[str, Any] = {
    "teacher": "a teacher",
    "teacher_fingerprint": "0123456789abcdef",
    "hypothesis_template": "This is {}.",
    "class_names": ["a", "b", "c"],
    "max_length": 512,
    "entailment_id": 2,
    "contradiction_id": 0,
}


def complete(texts: int) -> dict[str, Any]:
    """Of a store that is finished, with distinct texts."""
    return {
        "id": "0" * 32,
        "corpus": "1" * 32,
        "texts": texts,
        "distinct": texts,
        "duplicates": 0,
        "blanks": 0,
        "rejected": 0,
        "pairs": texts * len(LABELLING["class_names"]),
    }

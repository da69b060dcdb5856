"""What the record of a label store (`_labels.json`) says of its labels, and whether it says it.

It may have been torn, or changed by hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# What stands in its tables at the least, by type.
LABELLING: dict[str, type] = {
    **dict.fromkeys(("teacher", "teacher_fingerprint", "hypothesis_template"), str),
    **dict.fromkeys(("max_length", "entailment_id", "contradiction_id"), int),
    "class_names": list,
}
SCORING: dict[str, type] = {"precision": str, "audit": dict}  # but for exact labels
AUDIT: dict[str, type] = {"agreement": float}
COMPLETE: dict[str, type] = {
    **dict.fromkeys(("id", "corpus"), str),
    **dict.fromkeys(("texts", "distinct", "duplicates", "blanks", "rejected", "pairs"), int),
}


def tells_labelling(record: Mapping[str, Any]) -> bool:
    """Whether a record says how labels were made: `labelling`, and `scoring` unless that was not begun."""
    labelling: Any = record.get("labelling")
    scoring: Any = record.get("scoring")
    if not _says(labelling, LABELLING):
        return False
    names = labelling["class_names"]
    if not names or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        return False
    if not scoring:
        return not record.get("complete")
    exact = isinstance(scoring, dict) and "precision" in scoring and scoring["precision"] in (None, "fp32")
    return exact or (_says(scoring, SCORING) and _says(scoring["audit"], AUDIT))


def tells_completion(record: Mapping[str, Any]) -> bool:
    """Whether a record, which tells its labelling, says what its store holds of the corpus, unless it is unfinished."""
    complete: Any = record.get("complete")
    if not complete:
        return True
    return _says(complete, COMPLETE) and complete["pairs"] == complete["texts"] * len(
        record["labelling"]["class_names"]
    )


def _says(table: Any, kinds: Mapping[str, type]) -> bool:
    """Whether something is a table with at least these entries, of these types."""
    return isinstance(table, dict) and all(isinstance(table.get(name), kind) for name, kind in kinds.items())

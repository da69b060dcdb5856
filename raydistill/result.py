"""What a run gives back."""

from __future__ import annotations

import dataclasses

from raydistill.quote import Quote


@dataclasses.dataclass(frozen=True)
class DistillResult:
    """What a run leaves.

    Attributes:
        output_dir: its path or URI; if a student was trained, `AutoModelForSequenceClassification.from_pretrained`
            loads it, from an object store once it is copied to a disk.
        labels: the label store.
        counts: texts, distinct, duplicates, blanks, rejected, pairs of the corpus; none after a dry run.
        figures: single-label: agreement; multi-label: mean_absolute_difference, f1_macro and f1/<class>; and loss.
            Empty where no student was trained, or `do_eval` is off.
        seconds: `start-up`, of `audit`, `label` and `train` those that had something to do this time, `shutdown` and
            `total`.
        quote: of a dry run, unless there was nothing to label.
    """

    output_dir: str
    labels: str
    counts: dict[str, int]
    figures: dict[str, float]
    seconds: dict[str, float]
    quote: Quote | None = None

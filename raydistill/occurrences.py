"""How often texts that were labelled in earlier passes stand in the corpus now: set right in the label store."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raydistill.known_texts import KnownTexts, zeros_on_disk
from raydistill.label_store import SCHEMA, LabelStore


def correct_occurrences(
    store: LabelStore,
    parts: Sequence[str],
    known: KnownTexts,
    counted: npt.NDArray[np.int64],
    moved: Callable[[], None] = lambda: None,
) -> int:
    """Make a store say what the corpus holds now, for texts that were known before this pass.

    A text that is gone from the corpus gets 0 and is no longer trained on. Parts that need no change are not
    touched; others are replaced, so a kill here is mended by the next pass.

    Args:
        parts: the parts that were there before this pass.
        known: their texts.
        counted: (len(known),) how often this pass met each.
        moved: called whenever a part is done with.

    Returns:
        the number of texts that were set right.

    Raises:
        RunDirError: a part cannot be read, or its copy cannot be written.
    """
    with store.room_for_ids() as folder:
        changed = KnownTexts.on_disk(known.recounted(counted), folder)
        left, rows_left = changed.occurrences, zeros_on_disk(len(changed), folder)
    if not len(changed):
        return 0
    to_mend: list[str] = []
    for name in parts:
        moved()
        for table in store.read_part(name, ["text_id"]):
            at = changed.find(table["text_id"])
            np.add.at(rows_left, at[at >= 0], 1)
            if (at >= 0).any() and name not in to_mend[-1:]:
                to_mend.append(name)

    def mended(table: pa.Table) -> pa.Table:
        at = changed.find(table["text_id"])
        occurrences = table["occurrences"].to_numpy().copy()
        for row in np.flatnonzero(at >= 0):  # a text that stands in several parts is shared out among them
            text = at[row]
            occurrences[row] = -(-left[text] // rows_left[text])
            left[text], rows_left[text] = left[text] - occurrences[row], rows_left[text] - 1
        index = SCHEMA.get_field_index("occurrences")
        return table.set_column(index, SCHEMA.field(index), pa.array(occurrences, pa.int64()))

    for name in to_mend:
        store.mend_part(name, mended)
        moved()
    return len(changed)

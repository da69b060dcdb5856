"""What a train worker is told. Imports nothing heavy: it is read before the worker has loaded torch."""

from __future__ import annotations

import dataclasses

from raydistill.files import Folder
from raydistill.specs import StudentSpec
from raydistill.stages.board import Board
from raydistill.student_rows import StudentRows


@dataclasses.dataclass(frozen=True)
class TrainTask:
    """The same for every worker of a training.

    Attributes:
        texts: how many there are, each as often as it stands in the corpus.
        rows: how texts have become the rows that the worker gets.
        board: where rank 0 and the driver tell each other what they have to say.
        storage: where Ray Train keeps checkpoints.
        begun_with: the number of workers that the training was planned for: its updates stay as large with another.
        checkpoint_seconds: after which a checkpoint is kept, besides those that `TrainingArguments` ask for.
        threads: torch's.
    """

    spec: StudentSpec
    texts: int
    rows: StudentRows
    board: Board
    storage: Folder
    begun_with: int
    checkpoint_seconds: float
    threads: int
    use_gpu: bool

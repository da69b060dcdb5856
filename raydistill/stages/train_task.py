"""What a train worker is told. Imports nothing heavy: it is read before the worker has loaded torch."""

from __future__ import annotations

import dataclasses

from raydistill.files import Folder
from raydistill.specs import StudentSpec
from raydistill.stages.board import Board
from raydistill.student_rows import StudentRows

TRAIN_SHARD, EVALUATION_SHARD = "train", "evaluation"  # shards of the same rows


@dataclasses.dataclass(frozen=True)
class TrainTask:
    """The same for every worker of a training.

    Attributes:
        spec: the student.
        texts: how many there are, each as often as it stands in the corpus.
        rows: how texts have become the rows that the worker gets.
        board: where rank 0 and the driver tell each other what they have to say.
        storage: where Ray Train keeps checkpoints.
        begun_with: the number of workers that the training was planned for: its updates stay as large with another.
        checkpoint_seconds: after which a checkpoint is kept, besides those that `TrainingArguments` ask for.
        evaluates_midway: whether the student is evaluated before it is trained to the end, too.
        threads: torch's.
        use_gpu: each worker has one.
    """

    spec: StudentSpec
    texts: int
    rows: StudentRows
    board: Board
    storage: Folder
    begun_with: int
    checkpoint_seconds: float
    evaluates_midway: bool
    threads: int
    use_gpu: bool

    def evaluation_shard(self, workers: int) -> str:
        """The shard to evaluate on.

        A worker that is alone has all training rows and goes over them once more, so that Ray Data need not start
        another executor: unless it would end the pass that training is at.
        """
        return TRAIN_SHARD if workers == 1 and not self.evaluates_midway else EVALUATION_SHARD

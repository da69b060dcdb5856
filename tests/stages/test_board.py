"""The board between the first train worker and the driver, on real Ray."""

from __future__ import annotations

import time

from raydistill.progress import Console
from raydistill.stages.board import followed_board
from raydistill.stages.train_callbacks import TellBoard
from raydistill.stopping import Stop


def test_an_evaluation_that_gets_on_is_no_standstill(console: Console) -> None:
    with console.stage("train", "steps") as progress, followed_board(progress, Stop(console.say, 0.0)) as board:
        board.tell(step=5, steps=5)
        deadline = time.monotonic() + 30
        while progress.total != 5:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(1.5)
        stood_since = progress.moved_at
        told = TellBoard(board)
        assert list(told.over(iter([{}, {}, {}]))) == [{}, {}, {}]
        while progress.moved_at == stood_since:
            assert time.monotonic() < deadline
            time.sleep(0.1)

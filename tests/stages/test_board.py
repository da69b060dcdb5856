"""The board between the first train worker and the driver, on real Ray."""

from __future__ import annotations

import re
import time

import torch
from transformers import TrainerState

from raydistill.progress import Console
from raydistill.stages.board import Board, followed_board
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
        told = TellBoard(board, texts=5)
        assert list(told.over(iter([{}, {}, {}]))) == [{}, {}, {}]
        while progress.moved_at == stood_since:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_a_training_tells_texts_tokens_and_padding(console: Console) -> None:
    def batch(texts: int, tokens: int, width: int) -> dict[str, torch.Tensor]:
        return {"attention_mask": (torch.arange(width) < tokens).long().expand(texts, width)}

    with console.stage("train", "steps") as progress, followed_board(progress, Stop(console.say, 0.0)) as board:
        told, state = TellBoard(board, texts=192), TrainerState(max_steps=3)
        for step, _ in enumerate(told.counted([batch(16, 8, 10), batch(16, 8, 10), batch(16, 14, 20)]), 1):
            state.global_step, state.epoch = step, step / 6
            told._told = 0.0  # as if a second had passed
            told.on_step_end(None, state, None)
            deadline = time.monotonic() + 30
            while progress._amounts["steps"] != step:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        assert progress._amounts == {"steps": 3, "texts": 96, "tokens": 960}  # of two workers, ten tokens a text
        assert "25% padding" in progress._note
        assert told.padding == 1 - 480 / 640
        status = progress._status()
        assert re.search(
            r"3 of 3 steps \(100%\) · [\d.]+ steps/s · [\d,.]+ texts/s · [\d,.]+ tokens/s · 25% padding", status
        )


def test_padding_is_that_of_the_parts_that_batches_are_computed_in() -> None:
    told = TellBoard(None, texts=4)
    mask = (torch.arange(60) < torch.tensor([[60], [3], [2]])).long()
    assert len(list(told.counted([{"attention_mask": mask}], part_tokens=640))) == 1
    assert told.padding == 1 - 65 / (60 + 2 * 3)


def test_what_a_new_worker_does_not_say_is_not_missed(console: Console) -> None:
    with console.stage("train", "steps") as progress, followed_board(progress, Stop(console.say, 0.0)) as board:
        for steps, news in ((5, {"evaluated": 3, "said": "2 workers now"}), (6, {}), (7, {"said": "1 worker now"})):
            Board(board._notes).tell(step=5, steps=steps, **news)  # each in a process that begins anew
            deadline = time.monotonic() + 30
            while progress.total != steps:
                assert time.monotonic() < deadline
                time.sleep(0.1)
    assert re.findall(r"\d workers? now", console.stream.getvalue()) == ["2 workers now", "1 worker now"]

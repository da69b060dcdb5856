"""The token budget that a device is measured for."""

from __future__ import annotations

import contextlib
import time

import numpy as np
import pytest

from raydistill.engines import engine
from raydistill.engines.budget import CPU_LEAST, LEAST, cpu_budget, measured_budget
from raydistill.engines.engine import tokens_per_second
from raydistill.engines.torch_engine import TorchEngine
from raydistill.pairs import PairEncoder
from raydistill.specs import TeacherSpec
from raydistill.teacher import Teacher, long_batch


class Clock:
    """One that only devices move: what else the machine is at does not count."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds + 1e-9


clock = Clock()


@pytest.fixture
def on_that_clock(monkeypatch):
    monkeypatch.setattr(engine, "time", clock)


pytestmark = pytest.mark.usefixtures("on_that_clock")


class Timed:
    """A device that takes some time for any batch, some for each token, and has memory for so many."""

    backend, precision, memory_error, ahead, packs = "timed", "fp32", MemoryError, 0, False

    def __init__(self, each_batch: float, each_token: float, memory: int = 1 << 40) -> None:
        self.each_batch, self.each_token, self.memory = each_batch, each_token, memory
        self.tried: list[int] = []
        self.released = 0

    def logits(self, inputs):
        tokens = inputs["input_ids"].size
        if tokens not in self.tried:
            self.tried.append(tokens)
        if tokens > self.memory:
            raise MemoryError
        clock.sleep(self.each_batch + tokens * self.each_token)
        return np.zeros((1, 3), dtype=np.float32)

    def recover(self) -> None:
        self.released += 1


def tokens(budget: int) -> dict[str, np.ndarray]:
    return {"input_ids": np.zeros((1, budget), dtype=np.int64)}


def test_where_every_batch_costs_a_launch_large_ones_are_chosen():
    assert measured_budget(Timed(each_batch=0.05, each_token=0), tokens, 16 * LEAST) == 16 * LEAST


def test_where_tokens_alone_cost_a_small_one_is_chosen_and_large_ones_are_not_tried():
    device = Timed(each_batch=0, each_token=2e-5)
    assert measured_budget(device, tokens, 1024 * LEAST) == LEAST
    assert max(device.tried) <= 8 * LEAST


def test_what_does_not_fit_is_not_chosen_and_its_memory_given_back():
    device = Timed(each_batch=0.05, each_token=0, memory=4 * LEAST)
    assert measured_budget(device, tokens, 64 * LEAST) == 4 * LEAST
    assert device.released == 1


class Counted(Timed):
    """A device that keeps every batch it was given."""

    def logits(self, inputs):
        self.tried.append(inputs["input_ids"].size)
        return super().logits(inputs)


@pytest.mark.parametrize(("each_batch", "passes"), [(0.001, 4), (0.12, 2)])
def test_a_rate_is_of_several_rounds_but_what_takes_long_is_not_repeated(each_batch, passes, monkeypatch):
    monkeypatch.setattr("raydistill.engines.engine.LONG_SECONDS", 0.1)
    device = Counted(each_batch, each_token=0)
    assert 0 < tokens_per_second(device, [tokens(100)]) <= 100 / each_batch
    assert device.tried == [100] * passes


class Limited(Timed):
    """A device whose kernels take no more than so many tokens."""

    def logits(self, inputs):
        if inputs["input_ids"].size > 2 * LEAST:
            raise RuntimeError("invalid configuration argument")
        return super().logits(inputs)


def test_what_a_device_cannot_do_is_not_chosen_and_what_it_can_never_do_is_an_error():
    assert measured_budget(Limited(each_batch=0.02, each_token=0), tokens, 64 * LEAST) == 2 * LEAST
    with pytest.raises(RuntimeError, match="invalid configuration"):
        measured_budget(Limited(0, 0), lambda size: tokens(4 * size), 64 * LEAST)


@pytest.mark.parametrize(
    ("told", "passes"), [("DefaultCPUAllocator: can't allocate memory", True), ("invalid configuration", False)]
)
def test_a_cpu_whose_memory_is_short_is_left_to_scoring(told, passes, monkeypatch):
    def fail(device, inputs):
        raise RuntimeError(told)

    monkeypatch.setattr(Timed, "logits", fail)
    with contextlib.nullcontext() if passes else pytest.raises(RuntimeError, match=told):
        assert cpu_budget(Timed(0, 0), tokens, 8 * CPU_LEAST) == CPU_LEAST
    with contextlib.nullcontext() if passes else pytest.raises(RuntimeError, match=told):
        assert measured_budget(Timed(0, 0), tokens, 8 * LEAST) == LEAST


def test_the_bound_is_kept_and_a_device_without_any_room_is_left_to_scoring():
    assert measured_budget(Timed(0.01, 0), tokens, 3 * LEAST // 2) == 3 * LEAST // 2
    assert measured_budget(Timed(0.01, 0), tokens, LEAST // 4) == LEAST // 4
    assert measured_budget(Timed(0, 0, memory=1), tokens, 8 * LEAST) == LEAST


def test_on_a_cpu_the_usual_budget_stays_unless_a_larger_one_gains_much():
    most = 8 * CPU_LEAST
    assert cpu_budget(Timed(each_batch=0.01, each_token=0), tokens, most) == most
    assert cpu_budget(Timed(each_batch=0.002, each_token=2e-5), tokens, most) == CPU_LEAST  # a twentieth to gain
    assert cpu_budget(Timed(each_batch=0.01, each_token=0), tokens, CPU_LEAST // 2) == CPU_LEAST // 2


class Disturbed(Timed):
    """A device that others had for a while: as long as the usual budget was measured."""

    calls = 0

    def logits(self, inputs):
        self.calls += 1
        if inputs["input_ids"].size == CPU_LEAST and self.calls <= 8:
            clock.sleep(0.015)
        return super().logits(inputs)


def test_what_seemed_faster_while_another_process_had_the_cpu_is_not_kept_for_good():
    device = Disturbed(each_batch=0, each_token=2e-5)
    assert cpu_budget(device, tokens, 4 * CPU_LEAST) == CPU_LEAST
    assert device.calls > 8 + 2 * 4  # and it had seemed so
    assert measured_budget(Disturbed(each_batch=0, each_token=2e-5), tokens, 4 * CPU_LEAST, CPU_LEAST, 0.9) > CPU_LEAST


@pytest.mark.parametrize(("each_token", "tried"), [(1e-3, [CPU_LEAST // 4]), (7e-5, [CPU_LEAST // 4, CPU_LEAST])])
def test_a_cpu_that_takes_its_time_for_a_batch_is_not_kept_from_work(each_token, tried):
    device = Timed(each_batch=0, each_token=each_token)
    assert cpu_budget(device, tokens, 8 * CPU_LEAST) == CPU_LEAST
    assert device.tried == tried


@pytest.mark.parametrize(("work", "times"), [(1e12, 1), (9e11, 0)])
def test_a_teacher_on_a_cpu_is_measured_once_where_there_is_much_to_do(work, times, tiny_teacher_dir, monkeypatch):
    measured = []

    def budget(engine, batch_of, most):
        measured.append(most)
        return most // 2

    monkeypatch.setattr("raydistill.teacher.cpu_budget", budget)
    spec = TeacherSpec(str(tiny_teacher_dir), ("sport",), "{}", backend="torch", fingerprint=str(work), work=work)
    found = [Teacher.load(spec).token_budget for _ in range(2)]
    most = spec.batch_size * Teacher.load(spec).encoder.max_length
    assert measured == [most] * times
    assert found == [most // 2 if times else min(most, CPU_LEAST)] * 2


@pytest.mark.parametrize("budget", [10, 1000, 5000])
def test_a_real_model_is_measured_with_real_pairs(budget, tiny_teacher_dir, monkeypatch):
    monkeypatch.setattr(engine, "time", time)
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    encoder = PairEncoder(AutoTokenizer.from_pretrained(tiny_teacher_dir), ["about sport", "about art"], 64)
    batch = long_batch(encoder, budget)
    rows, width = batch["input_ids"].shape
    assert rows == max(2, budget // width)
    assert batch["attention_mask"].mean() > 0.9
    model = TorchEngine(AutoModelForSequenceClassification.from_pretrained(tiny_teacher_dir))
    assert measured_budget(model, lambda size: long_batch(encoder, size), budget) <= budget

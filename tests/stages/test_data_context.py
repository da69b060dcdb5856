"""Ray Data's settings, and what it has no setting for."""

from __future__ import annotations

import subprocess
import sys


def answer(code: str) -> str:
    """What a process answers, a list first. Ray may tell it beside that how an actor ended that was still starting."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("[0, ")] or [done.stdout + done.stderr]
    return line


ALONE = """
import ray, ray.data
from raydistill.stages.cluster import connection
from raydistill.stages.data_context import data_settings
from raydistill.stages.faults import job_actors

class Doubling:
    def __call__(self, batch):
        return {"id": 2 * batch["id"]}

with connection(None), data_settings():
    pool = ray.data.ActorPoolStrategy(size=2)
    rows = ray.data.range(8, override_num_blocks=4).map_batches(Doubling, compute=pool)
    print(sorted(row["id"] for row in rows.iter_rows()), {actor["ActorClassName"] for actor in job_actors()})
"""


def test_a_dataset_in_a_ray_of_our_own_keeps_no_actors_beside_its_own() -> None:
    assert answer(ALONE) == "[0, 2, 4, 6, 8, 10, 12, 14] {'MapWorker(ReadRange->MapBatches(Doubling))'}"


RESTING = """
import time
import ray, ray.data
from raydistill.stages.cluster import connection
from raydistill.stages.data_context import RestsWhileAllWork, data_settings

steps = []

class Seen(RestsWhileAllWork):
    def on_execution_step(self, executor):
        super().on_execution_step(executor)
        steps.append(time.monotonic())

class Slow:
    def __call__(self, batch):
        time.sleep(1)
        return batch

with connection(None), data_settings(custom_execution_callback_classes=[Seen]):
    pool = ray.data.ActorPoolStrategy(size=1)
    rows = ray.data.range(7, override_num_blocks=7).materialize().map_batches(Slow, compute=pool, batch_size=None)
    seen = [(time.monotonic(), row["id"]) for row in rows.iter_rows()]
    begun, ended = seen[0][0], seen[4][0]
    print(sorted(row for _, row in seen), ended - begun, sum(begun < step < ended for step in steps))
"""


def test_ray_data_looks_around_less_often_while_an_actor_has_its_next_block() -> None:
    rows, seconds, steps = answer(RESTING).rsplit(maxsplit=2)
    assert rows == "[0, 1, 2, 3, 4, 5, 6]"
    # Five blocks of a second; of its own accord it would look ten times in each.
    assert float(seconds) > 3
    assert 3 <= int(steps) <= 5 * float(seconds)

"""Ray Data's settings, and what it has no setting for."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

from raydistill.stages import data_context
from raydistill.stages.data_context import LessAndLess, Unhurried

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
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, timeout=300)
    assert done.stdout == ("[0, 2, 4, 6, 8, 10, 12, 14] {'MapWorker(ReadRange->MapBatches(Doubling))'}\n"), done.stderr


@pytest.mark.parametrize(
    ("kind", "step", "in_first_seconds", "later"), [(Unhurried, 0.001, 50, 50), (LessAndLess, 0.1, 10, 4)]
)
def test_ray_data_looks_around_so_often_in_a_second(
    kind: type[Unhurried], step: float, in_first_seconds: int, later: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(data_context, "time", SimpleNamespace(monotonic=lambda: now, sleep=sleep))
    callback, looks = kind(), [0] * 62
    while now < 161:
        sleep(step)
        looks[int(now) - 100] += 1
        callback.on_execution_step(None)
    assert looks[1] == pytest.approx(in_first_seconds, abs=1)
    assert looks[60] == pytest.approx(later, abs=1)

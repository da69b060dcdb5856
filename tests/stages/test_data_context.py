"""Ray Data's settings, and what it has no setting for."""

from __future__ import annotations

import subprocess
import sys

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
    assert done.stdout == "[0, 2, 4, 6, 8, 10, 12, 14] {'MapWorker(ReadRange->MapBatches(Doubling))'}\n", done.stderr

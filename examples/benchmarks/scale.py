"""Does one driver keep many GPUs busy, and what does that cost it? With stand-ins for the GPUs.

    pip install -e '.[demo]' && python examples/benchmarks/scale.py

No GPU is needed and no model is run: a stand-in teacher *sleeps* as long as a GPU of some pairs a second would take, on
fake GPUs of a private Ray on this machine. All else is the label stage as it is: reading, hashing, blocks, writing,
merging, receipts, and the counting of all ids at the end. So what is measured is the driver and the road, with the
tasks of all nodes here.

Texts are BBC News first sentences, each many times over with a number behind it. A GPU is busy while its stand-in
sleeps; the share is taken from when all have begun their first block until one begins its last. Memory is what a
process holds for itself, without Ray's shared object store. Linux only: reads /proc. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
from memory import OTHERS, peak_memory
from tables import benchmark_parser, markdown, publish

from raydistill.corpus_files import find_files
from raydistill.label_store import LabelStore
from raydistill.progress import Console
from raydistill.resources import Node, Request, make_plan
from raydistill.specs import BYTES_PER_TOKEN, Effort, TeacherSpec, Tolerance
from raydistill.stages.demo import CLASSES, TEMPLATE, prepare_demo
from raydistill.stages.label import GPU_FLOPS, MOST_BLOCKS, block_bytes, label_corpus
from raydistill.stages.private_ray import PRIVATE_ENVIRONMENT, WORKER_ENVIRONMENT
from raydistill.stages.teacher_actor import TeacherActor

CPUS, CPUS_PER_GPU = 4.0, 0.01
FILE_MB = 256
MB = 1 << 20


@dataclasses.dataclass(frozen=True)
class Case:
    """One run of the label stage. `block_seconds` is how much work of a GPU a block is to be."""

    gpus: int
    pairs_per_second: float
    texts: int
    block_seconds: float = Tolerance.block_seconds
    file_mb: int = FILE_MB


@dataclasses.dataclass
class SleepingTeacher:
    """Takes as long for its pairs as a GPU would, and keeps when it was at it."""

    pairs_per_second: float
    num_classes: int
    diary: Path

    def tokenize(self, texts: Sequence[str]) -> Sequence[str]:
        """Nothing: on a cluster the CPUs of the GPU's own node do it."""
        return texts

    def score_tokenized(
        self, texts: Sequence[str], effort: Effort
    ) -> tuple[np.ndarray, np.ndarray, dict[int, Exception]]:
        """Logits that mean nothing."""
        pairs = len(texts) * self.num_classes
        started = time.time()
        time.sleep(pairs / self.pairs_per_second)
        ended = time.time()
        with (self.diary / str(os.getpid())).open("a") as page:
            page.write(f"{started} {ended}\n")
        effort.forward_seconds += ended - started
        effort.engine = "stand-in"
        effort.pairs, effort.tokens, effort.padded_tokens = pairs, pairs, pairs
        logits = np.random.default_rng(len(texts)).normal(size=(2, len(texts), self.num_classes)).astype(np.float32)
        return logits[0], logits[1], {}


class SleepingActor(TeacherActor):
    """The label stage's actor with a stand-in; the teacher's name is a JSON of its rate and the place of its diary."""

    def load(self, spec: TeacherSpec) -> Any:
        """The stand-in."""
        about = json.loads(spec.name_or_path)
        return SleepingTeacher(about["pairs_per_second"], len(spec.class_names), Path(about["diary"]))


class ObjectStoreWatch(threading.Thread):
    """Keeps the most that the object store has held, in bytes."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.limit, self.most, self._over = ray.cluster_resources()["object_store_memory"], 0.0, threading.Event()

    def run(self) -> None:
        """Look twice a second."""
        while not self._over.wait(0.5):
            self.most = max(self.most, self.limit - ray.available_resources().get("object_store_memory", 0.0))

    def stop(self) -> None:
        """Look no more."""
        self._over.set()
        self.join()


def busy(diary: Path) -> dict[str, float]:
    """The share of the GPUs' time in which they are busy, when all had begun, and the number of blocks."""
    pages = [np.loadtxt(page, ndmin=2) for page in diary.iterdir()]
    first, last = max(page[0, 0] for page in pages), min(page[-1, 0] for page in pages)
    inside = sum((np.minimum(page[:, 1], last) - np.maximum(page[:, 0], first)).clip(0).sum() for page in pages)
    share = inside / (len(pages) * (last - first)) if last > first else float("nan")  # over before all had begun
    return {"busy": share, "all_begun": first, "blocks": sum(map(len, pages))}


def drive(case: Case, corpus: Path, folder: Path) -> dict[str, float]:
    """Run the label stage with this process as the driver; what it took."""
    os.environ.update(PRIVATE_ENVIRONMENT | WORKER_ENVIRONMENT)
    diary = folder / "diary"
    diary.mkdir()
    ray.init("local", num_cpus=int(CPUS), num_gpus=case.gpus, include_dashboard=False, log_to_driver=False)
    plan = make_plan([Node(CPUS, case.gpus)], Request(teacher_cpus_per_actor=CPUS_PER_GPU))
    assert plan.teacher_actors_max == case.gpus
    # So many parameters that blocks come out as long as they are to be.
    block = corpus.stat().st_size / case.texts * case.pairs_per_second * case.block_seconds / len(CLASSES)
    spec = TeacherSpec(
        json.dumps({"pairs_per_second": case.pairs_per_second, "diary": str(diary)}),
        tuple(CLASSES),
        TEMPLATE,
        parameters=round(Tolerance.block_seconds * GPU_FLOPS * BYTES_PER_TOKEN / (2 * len(CLASSES) * block)),
    )
    files, store = find_files([str(corpus)]), LabelStore(str(folder / "labels"))
    store.folder.create()
    watch = ObjectStoreWatch()
    watch.start()
    began, cpu = time.time(), time.process_time()
    progress = Console(io.StringIO()).stage("label", "texts")
    limits: dict[str, Any] = {"file_bytes": case.file_mb * MB, "most_rejected": 0, "tolerance": Tolerance()}
    counts = label_corpus(files, "text", spec, store, plan, progress, **limits, actor=SleepingActor)
    labelled, labelled_cpu = time.time(), time.process_time()
    census = store.census(about=counts.texts)
    ended, ended_cpu = time.time(), time.process_time()
    watch.stop()
    session = Path(ray._private.worker.global_worker.node.get_session_dir_path())
    sizes = [size for name, size in store.folder.sizes().items() if name.endswith(".parquet")]
    found = busy(diary)
    ray.shutdown()
    assert counts.texts == counts.labelled == census.texts == case.texts
    return {
        **found,
        "pairs": counts.effort.pairs,
        "seconds": ended - began,
        "start_up_seconds": found["all_begun"] - began,
        "block_bytes": block_bytes(files, spec, plan, Tolerance.block_seconds),
        "driver_cpu_seconds": labelled_cpu - cpu,
        "census_seconds": ended - labelled,
        "census_cpu_seconds": ended_cpu - labelled_cpu,
        "object_store_bytes": watch.most,
        "object_store_limit": watch.limit,
        "spilled_files": sum(path.is_file() for path in session.glob("ray_spilled*/**/*")),
        "store_bytes": sum(sizes),
        "store_files": len(sizes),
        "store_large_files": sum(size >= case.file_mb * MB // 2 for size in sizes),
        "end_seconds": labelled - began - counts.last_block_seconds,
    }


def measure(case: Case, sentences: Sequence[str]) -> dict[str, Any]:
    """Run a case in a process of its own, and watch the memory of all its processes."""
    with tempfile.TemporaryDirectory() as folder:
        corpus, result = Path(folder, "corpus.txt"), Path(folder, "result.json")
        with corpus.open("w", encoding="utf-8") as stream:
            stream.writelines(f"{sentences[i % len(sentences)]} {i}\n" for i in range(case.texts))
        asked = json.dumps([dataclasses.asdict(case), str(corpus), folder, str(result)])
        driver = subprocess.Popen([sys.executable, __file__, "--drive", asked], stdout=subprocess.DEVNULL)
        peaks = peak_memory(driver, every=1.0)
        assert driver.returncode == 0, f"{case} failed"
        return dataclasses.asdict(case) | json.loads(result.read_text()) | {"peak_mb": peaks}


def describe(case: dict[str, Any]) -> list[str]:
    """A row of the first table."""
    millions = case["texts"] / 1e6
    return [
        f"{case['gpus']} × {case['pairs_per_second']:,.0f} pairs/s",
        f"{case['texts']:,}",
        f"{case['blocks']:,} of {case['block_bytes'] / 1024:,.0f} KB",
        f"{case['seconds']:.0f} s",
        f"{case['start_up_seconds']:.0f} s",
        f"{case['end_seconds']:.0f} s",
        f"{case['census_seconds']:.1f} s",
        f"{case['busy']:.1%}" if case["busy"] == case["busy"] else "too short",
        f"{(case['driver_cpu_seconds'] + case['census_cpu_seconds']) / millions:.0f} s",
        *(f"{case['peak_mb'][kind]:.0f} MB" for kind in ("driver", "teacher actor", OTHERS)),
        f"{case['object_store_bytes'] / MB:,.0f} of {case['object_store_limit'] / MB:,.0f} MB",
        f"{case['spilled_files']}",
        f"{case['store_bytes'] / case['pairs']:.1f} MB",
        f"{case['store_large_files']} + {case['store_files'] - case['store_large_files']}",
    ]


COLUMNS = (
    "stand-ins",
    "texts",
    "blocks",
    "label stage",
    "until all had begun",
    "after the last block",
    "ids are counted",
    "busy",
    "driver's CPU per million texts",
    "peak: driver",
    "peak: teacher actor",
    "peak: other tasks",
    "object store, most",
    "spilled files",
    "label store per million pairs",
    "label files: large + small",
)


def project(few: dict[str, Any], many: dict[str, Any], texts: int) -> list[dict[str, str]]:
    """What so many texts come to, from two cases of as many pairs, in few blocks and in many."""

    def of_a_block(what: Callable[[dict[str, Any]], float]) -> float:
        return (what(many) - what(few)) / (many["blocks"] - few["blocks"])

    blocks = min(texts * few["blocks"] / few["texts"], MOST_BLOCKS)
    memory = blocks * of_a_block(lambda case: case["peak_mb"]["driver"])
    cpu = blocks * of_a_block(lambda case: case["driver_cpu_seconds"])
    census = texts / many["texts"] * many["census_cpu_seconds"]
    stored = texts / many["texts"] * many["store_bytes"]  # merged files, which shrink better
    rows = [
        [
            "blocks",
            f"{blocks:,.0f}",
            f"never more than {MOST_BLOCKS:,}, up to 0.6 TB of texts of 130 bytes and 1.6 TB of long ones: they grow",
        ],
        ["driver's CPU", f"{cpu / 60:,.0f} min", "the number of blocks"],
        ["the same to count ids, at the end", f"{census / 60:,.0f} min", "the number of texts"],
        [
            "disk to count ids on, meanwhile",
            f"{24 * texts / 1e9:,.0f} GB",
            "the number of texts: 24 bytes each, beside the store (for one in an object store, in `TMPDIR`)",
        ],
        ["driver's memory, more", f"{memory:,.0f} MB", "the number of blocks"],
        [
            "a node's object store, in a run that goes on",
            f"{16 * texts / 1e9:,.0f} GB",
            "its size: each text that is labelled takes 16 bytes, and what does not fit lies on the node's disk",
        ],
        [
            "the driver's disk, in a run that goes on",
            f"{64 * texts / 1e9:,.0f} GB",
            "the number of texts: 32 to 64 bytes each, read and written in memory that the system can take back",
        ],
        [
            "label store",
            f"{stored / 1e9:,.0f} GB and the texts, compressed",
            "logits and ids; these texts repeat a thousand sentences, which take next to nothing",
        ],
        ["label files", f"{stored / FILE_MB / MB:,.0f} and more, for the texts", "`--label-file-mb`"],
    ]
    return [dict(zip((f"{texts:,} texts", "", "bounded by"), row, strict=True)) for row in rows]


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--texts", type=int, nargs=2, default=[100_000, 1_000_000])
    parser.add_argument("--gpus", type=int, nargs=2, default=[16, 64])
    parser.add_argument("--pairs-per-second", type=float, default=1000)
    parser.add_argument("--drive", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.drive:
        case, corpus, folder, result = arguments.drive
        Path(result).write_text(json.dumps(drive(Case(**case), Path(corpus), Path(folder))))
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ["RAYDISTILL_CACHE"] = f"{folder}/cache"
        files, _ = prepare_demo(f"{folder}/demo", texts=1000)
        sentences = files.corpus.read_text(encoding="utf-8").splitlines()
    (few_texts, many_texts), (few_gpus, many_gpus), rate = arguments.texts, arguments.gpus, arguments.pairs_per_second
    cases = [
        Case(few_gpus, rate, many_texts // 4),
        Case(many_gpus, rate, few_texts),
        Case(many_gpus, rate, many_texts),
        # Many small blocks, to see what a block costs; and files so small that there are many to merge.
        Case(few_gpus, 4 * rate, many_texts, block_seconds=0.1, file_mb=8),
    ]
    found = []
    for case in cases:
        found.append(measure(case, sentences))
        print(f"| {' | '.join(describe(found[-1]))} |", file=sys.stderr, flush=True)
    projection = project(found[2], found[3], 1_000_000_000)
    print(markdown(projection), end="\n\n")
    rows = [dict(zip(COLUMNS, describe(one), strict=True)) for one in found]
    publish(rows, arguments, found=found, projection=projection)


if __name__ == "__main__":
    main()

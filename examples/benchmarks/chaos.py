"""Is anything lost or doubled when a run is killed again and again? A cluster of two nodes, and kills at random.

    pip install -e '.[test]' && python examples/benchmarks/chaos.py

Two raylets on this machine are the cluster. The corpus is labelled and a student trained on it undisturbed; then once
more while teacher actors, train workers, tasks, the second node and the driver itself are killed (SIGKILL) at random
times, half of them while labels are made and half while the student is trained; one in ten hits an actor or a task that
writes. A node that was lost comes back after some seconds; a driver that was lost is started again with the same
command. Then both runs are compared: every text of the corpus must be there as often as it occurs, with the same
logits, and the student must have had as many updates. The teacher itself counts the pairs that it is given, so that
those of work that was lost are counted too.

The models are tiny and random: what is tried is the road, not the models. --s3 puts everything into a bucket of a local
S3 server; --alone leaves the undisturbed run out: then all texts are scored again instead. Prints a Markdown table;
--json keeps the kills too. Exit code 1 if anything is not as it must be.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.fs as pafs
from ray.cluster_utils import Cluster
from tables import benchmark_parser, publish

from raydistill.files import Folder
from raydistill.label_store import LabelStore, logits_matrix

KINDS = ("actor", "task", "node", "driver")
WRITE = "write"  # an actor or a task that has a label file open to write it; one kill in ten
# What a process of Ray's calls itself while it is at that.
ACTORS = {"label": ("MapWorker",), "train": ("RayTrainWorker", "TrainWorker")}
TASKS = ("ReadCorpusSource", "merge_parts", "ReadLabelSource")
WRITERS = ("MapWorker", "merge_parts")
CLASSES = ("sport", "politics", "money", "art", "technology")
PATIENCE, LOOK_SECONDS = 120.0, 0.3
LABEL_HASTE = 6  # labels are made in less time than the student is trained, and are to be disturbed as often


class Nodes:
    """The cluster: a head, and a second node that comes and goes."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        self.cluster.add_node(num_cpus=1, include_dashboard=False)
        self.second: Any = None
        self.gone_until = 0.0
        self.restore()

    @property
    def address(self) -> str:
        """Where to join."""
        return self.cluster.address

    def lose(self, seconds: float) -> None:
        """Kill the second node, for so long."""
        self.cluster.remove_node(self.second, allow_graceful=False)
        self.second, self.gone_until = None, time.monotonic() + seconds

    def restore(self) -> None:
        """Bring it back when it is time."""
        if self.second is None and time.monotonic() >= self.gone_until:
            self.second = self.cluster.add_node(num_cpus=1, include_dashboard=False)


class Run:
    """A `raydistill run` that is started again until it is done."""

    def __init__(self, folder: Path, name: str, options: dict[str, Any], output_dir: str) -> None:
        self.log = folder / f"{name}.log"
        self.store = LabelStore(f"{output_dir}/labels")
        config = folder / f"{name}.json"
        config.write_text(json.dumps(options | {"output_dir": output_dir}))
        self.command = [sys.executable, "-m", "raydistill", "run", "--config", str(config)]
        self.output_dir, self.started, self.gave_up = output_dir, 0, 0
        self.process: subprocess.Popen[bytes] | None = None
        self._stage, self._look_at = "label", 0.0

    def start(self) -> None:
        """Begin, or go on."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stderr=log, stdout=log, start_new_session=True)
        self.started += 1

    @property
    def stage(self) -> str:
        """What is made now: label, then train; looked up every so often, which a bucket takes its time for."""
        if self._stage == "label" and time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + LOOK_SECONDS
            with contextlib.suppress(Exception):
                self._stage = "train" if (self.store.record() or {}).get("complete") else "label"
        return self._stage

    def done(self) -> bool:
        """Whether it has ended well; one that gave up by itself is started again."""
        assert self.process is not None
        if self.process.poll() is None:
            return False
        if self.process.returncode == 0:
            return True
        self.gave_up += 1
        self.start()
        return False

    def kill(self) -> None:
        """SIGKILL the driver, and nothing else."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def finish(self) -> None:
        """Wait for its end."""
        while not self.done():
            time.sleep(0.5)


def workers() -> list[psutil.Process]:
    """Ray's worker processes under this one's nodes."""
    return [process for process in psutil.Process().children(recursive=True) if _title(process).startswith("ray::")]


def _title(process: psutil.Process) -> str:
    """What it calls itself: what it is at, if it is one of Ray's workers. Fast, where psutil is not."""
    try:
        return Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
    except OSError:
        return ""


def strike(kind: str, run: Run, nodes: Nodes, rng: random.Random) -> str | None:
    """Kill something of a kind; returns what, or None where there is none just now."""
    if kind == "driver":
        run.kill()
        run.start()
        return "driver"
    if kind == "node":
        if nodes.second is None:
            return None
        nodes.lose(rng.uniform(2, 10))
        return "node"
    if kind == WRITE:
        return _strike_write(run, rng)
    titles = ACTORS[run.stage] if kind == "actor" else TASKS
    victims = [(process, title) for process in workers() if any(name in (title := _title(process)) for name in titles)]
    if kind == "task":
        victims = [(process, title) for process, title in victims if "MapWorker" not in title]
    if not victims:
        return None
    victim, title = rng.choice(victims)
    victim.kill()
    return title


def _strike_write(run: Run, rng: random.Random) -> str | None:
    """Look out for a write, which lasts milliseconds, and kill what is at it some moments into it.

    A write into a bucket cannot be seen, but lasts longer: of those who write, one is killed at any moment.
    """
    writers = [process for process in workers() if any(name in _title(process) for name in (*WRITERS, "IDLE"))]
    if not run.store.folder.local:
        writers = [process for process in writers if "IDLE" not in _title(process)]
        rng.shuffle(writers)
    until = time.monotonic() + 1
    while time.monotonic() < until:
        for process in writers:
            if not run.store.folder.local or _writes(process, run.store.path):
                time.sleep(rng.uniform(0, 0.004))
                with contextlib.suppress(psutil.NoSuchProcess):
                    title = _title(process)
                    process.suspend()  # so that it is still at it
                    if not run.store.folder.local or _writes(process, run.store.path):
                        process.kill()
                        return f"{title} at writing"
                    process.resume()
        time.sleep(0.0005)
    return None


def _writes(process: psutil.Process, folder: str) -> bool:
    """Whether it has a file open in a folder that has no name yet."""
    with contextlib.suppress(OSError):
        for link in Path(f"/proc/{process.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                target = os.readlink(link)
                if target.startswith(folder) and target.endswith(".tmp"):
                    return True
    return False


def planned(kills: int, rng: random.Random) -> dict[str, list[str]]:
    """What is to be killed in each stage: half of the kills, those that aim at writing while labels are made."""
    writes = math.ceil(kills / 10)
    others = [KINDS[i % len(KINDS)] for i in range(kills - writes)]
    rng.shuffle(others)
    in_label, in_train = others[: kills // 2 - writes], others[kills // 2 - writes :]
    first = in_label[:writes] + [WRITE] * writes  # before labels are made in spite of it all
    rng.shuffle(first)
    return {"label": in_label[writes:] + first, "train": in_train}  # each from its end


def disturb(run: Run, nodes: Nodes, kills: int, rng: random.Random, pause: tuple[float, float]) -> list[dict[str, Any]]:
    """Run to the end under so many kills."""
    plan = planned(kills, rng)
    struck: list[dict[str, Any]] = []
    begun = time.monotonic()
    run.start()
    while any(plan.values()):
        wait_until = time.monotonic() + rng.uniform(*pause) / (LABEL_HASTE if run.stage == "label" else 1)
        while time.monotonic() < wait_until and not run.done():
            nodes.restore()
            time.sleep(0.05)
        if run.stage == "label" and not plan["label"]:
            continue
        deadline = time.monotonic() + PATIENCE
        while True:
            if run.process is not None and run.process.poll() == 0:
                return struck
            run.done()
            nodes.restore()
            stage = run.stage
            if stage == "train" and plan["label"]:  # labels were made faster than they could be disturbed
                plan["train"] += ["task" if kind == WRITE else kind for kind in plan.pop("label")]
                plan["label"] = []
            if not plan[stage]:
                break
            what = strike(plan[stage][-1], run, nodes, rng)
            if what:
                kind = plan[stage].pop()
                struck.append({"kind": kind, "stage": stage, "what": what, "at": time.monotonic() - begun})
                print(f"{struck[-1]['at']:6.0f} s  {len(struck):3}  {stage:5}  {what}", file=sys.stderr, flush=True)
                break
            if time.monotonic() > deadline:
                rng.shuffle(plan[stage])
                deadline = time.monotonic() + PATIENCE
            time.sleep(0.1)  # a look takes 10 or 20 ms of a processor that others need
    while not run.done():
        nodes.restore()
        time.sleep(0.2)
    return struck


# A teacher that writes down in a file how many pairs it is given each time.
COUNTING = """
import transformers

class Own(transformers.BertForSequenceClassification):
    def forward(self, input_ids=None, **inputs):
        with open(self.config.counted_in, "a") as pairs:
            pairs.write(f"{len(input_ids)}\\n")
        return super().forward(input_ids=input_ids, **inputs)
"""


def scored_again(file: Path, pairs: int) -> int:
    """How many pairs more than these were scored; the count begins anew."""
    again = sum(map(int, file.read_text().split())) - pairs
    file.unlink()
    return again


def contents(store: LabelStore) -> tuple[dict[str, int], dict[str, np.ndarray], int]:
    """(occurrences of each text, its logits, rows in all)."""
    texts: Counter[str] = Counter()
    logits: dict[str, np.ndarray] = {}
    rows = 0
    for name in store.parts():
        for table in store.read_part(name):
            both = np.concatenate(
                [logits_matrix(table[column], len(CLASSES)) for column in ("entailment", "contradiction")], axis=1
            )
            for text, times, row in zip(table["text"].to_pylist(), table["occurrences"].to_pylist(), both, strict=True):
                texts[text] += times
                logits[text] = row
            rows += table.num_rows
    return dict(texts), logits, rows


def corpus_of(texts: int, rng: random.Random) -> list[str]:
    """Short texts, one in a hundred of them twice."""
    words = ["striker", "minister", "singer", "bank", "phone", "farmer", "vote", "film", "shares", "chip", "goal"]
    lines = [f"{' '.join(rng.choices(words, k=rng.randint(4, 24)))} {i}" for i in range(texts * 99 // 100)]
    lines += rng.sample(lines, texts - len(lines))
    return lines


@contextlib.contextmanager
def bucket() -> Iterator[str]:
    """A bucket on a local S3 server; its address is in the environment, for all that is started from here."""
    from s3_server import s3_server

    with s3_server() as endpoint:
        os.environ.update(
            AWS_ENDPOINT_URL=f"http://{endpoint}",
            AWS_ACCESS_KEY_ID="key",
            AWS_SECRET_ACCESS_KEY="secret",
            AWS_DEFAULT_REGION="us-east-1",
        )
        fs, _ = pafs.FileSystem.from_uri("s3://runs?allow_bucket_creation=true")
        fs.create_dir("runs")
        yield "s3://runs"


def main() -> int:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--texts", type=int, default=100_000)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pause", type=float, nargs=2, default=(2.0, 8.0), help="seconds between kills in training")
    parser.add_argument("--save-steps", type=int, default=200, help="updates between checkpoints")
    parser.add_argument("--most-again", type=float, default=0.02, help="of the pairs, that may be scored twice")
    parser.add_argument("--s3", action="store_true")
    parser.add_argument("--alone", action="store_true", help="without the undisturbed run")
    parser.add_argument("--keep", type=Path, default=None, help="a folder to leave both runs and their logs in")
    arguments = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
    from tiny_models import bring_class, save_classifier, save_encoder

    rng = random.Random(arguments.seed)
    environment = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    os.environ.update(environment | {"CUDA_VISIBLE_DEVICES": ""})
    with contextlib.ExitStack() as stack:
        folder = arguments.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        place = stack.enter_context(bucket()) if arguments.s3 else str(folder)
        lines = corpus_of(arguments.texts, rng)
        (folder / "corpus.txt").write_text("".join(f"{line}\n" for line in lines))
        (folder / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
        nodes = Nodes()
        stack.callback(nodes.cluster.shutdown)
        os.environ["RAY_ADDRESS"] = nodes.address
        teacher, counted = save_classifier(folder / "teacher"), folder / "pairs"
        bring_class(teacher, COUNTING, counted_in=str(counted))
        options = {
            "data_file": str(folder / "corpus.txt"),
            "class_names_file": str(folder / "classes.txt"),
            "teacher_name_or_path": str(teacher),
            "teacher_backend": "torch",  # which runs the teacher's own code
            "trust_remote_code": True,
            "student_name_or_path": str(save_encoder(folder / "student")),
            "address": "auto",
            "block_seconds": 0.25,
            "train_workers": "1:2",
            "max_failures": 20,
            "num_train_epochs": arguments.epochs,
            "save_steps": arguments.save_steps,
            "label_file_mb": 1,  # so that small files are merged under way
            "learning_rate": 1e-3,
        }
        pairs = len(set(lines)) * len(CLASSES)
        again, undisturbed = {}, None
        if not arguments.alone:
            undisturbed = Run(folder, "undisturbed", options, f"{place}/undisturbed")
            undisturbed.start()
            undisturbed.finish()
            again["undisturbed"] = scored_again(counted, pairs)
        disturbed = Run(folder, "disturbed", options, f"{place}/disturbed")
        struck = disturb(disturbed, nodes, arguments.kills, rng, arguments.pause)
        again["disturbed"] = scored_again(counted, pairs)
        report = compare(lines, disturbed, undisturbed)
        sample = ["--sample", "1"] if arguments.alone else []
        verify = ["verify", disturbed.output_dir, "--trust-remote-code", *sample]
        verified = subprocess.run([sys.executable, "-m", "raydistill", *verify], capture_output=True, text=True)
        log = disturbed.log.read_text()
    kinds, stages = (Counter(kill[key] for kill in struck) for key in ("kind", "stage"))
    report |= {
        f"pairs scored again, {' / '.join(again)}": " / ".join(
            f"{more:,} ({more / pairs:.2%})" for more in again.values()
        ),
        "kills": f"{len(struck)}: {', '.join(f'{kinds[kind]} {kind}' for kind in (*KINDS, WRITE))}",
        "of these while labels were made / while the student was trained": f"{stages['label']} / {stages['train']}",
        "drivers started / that gave up by themselves": f"{disturbed.started} / {disturbed.gave_up}",
        "`raydistill verify`": "passed" if verified.returncode == 0 else verified.stdout,
    }
    rows = [{"what": name, "figure": value} for name, value in report.items()]
    publish(rows, arguments, report=report, kills=struck, log=log)
    wrong = [name for name in MUST_BE_NONE if report.get(name, 0) != 0]
    return 1 if wrong or verified.returncode or again["disturbed"] > arguments.most_again * pairs else 0


LOST, DOUBLED, LOGITS, UPDATES = (
    "texts lost",
    "texts counted more often than they occur",
    "texts with other logits (by more than 1e-5)",
    "updates more or fewer than undisturbed",
)
MUST_BE_NONE = (LOST, DOUBLED, LOGITS, UPDATES)


def compare(lines: list[str], disturbed: Run, undisturbed: Run | None) -> dict[str, Any]:
    """What differs between a run and its corpus, and from a run that was let alone."""
    wanted, record = Counter(lines), _record(disturbed)
    found, logits, rows = contents(disturbed.store)
    report = {
        "texts, distinct / pairs": f"{len(lines):,}, {len(wanted):,} / {len(wanted) * len(CLASSES):,}",
        LOST: sum((wanted - Counter(found)).values()),
        DOUBLED: sum((Counter(found) - wanted).values()),
        "rows more than distinct texts": rows - len(wanted),
        "updates": record["stages"]["train"]["updates"],
        "agreement": f"{record['figures']['agreement']:.3f}",
    }
    if undisturbed:
        expected, other = contents(undisturbed.store)[1], _record(undisturbed)
        off = (np.abs(logits[text] - expected[text]).max() for text in wanted.keys() & found.keys())
        report |= {
            LOGITS: sum(bool(difference > 1e-5) for difference in off),
            UPDATES: abs(report["updates"] - other["stages"]["train"]["updates"]),
            "agreement, undisturbed": f"{other['figures']['agreement']:.3f}",
        }
    return report


def _record(run: Run) -> dict[str, Any]:
    return json.loads(Folder(run.output_dir).read("run.json"))


if __name__ == "__main__":
    sys.exit(main())

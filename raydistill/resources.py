"""The plan of resources: how many teacher actors and train workers of what size, so that no stage can wait for ever.

Actors and workers hold their CPUs as long as they live, and the read, write and tokenising tasks that feed them need
some too. So every node that holds any keeps a share for tasks, and CPU requests are fractions where a node is small.
Pure arithmetic, without Ray.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from raydistill.errors import ResourceError

# A read, write or tokenising task: light beside a forward pass. Not a quarter, so that no actor is of the same size:
# Ray Data would then read within the actor.
TASK_CPUS = 0.24
CPUS_PER_CPU_ACTOR = 4  # small batches share out badly among many threads; not measured beyond two
# For each parameter: the teacher's weights in fp32; the student's, and their gradients. Whatever else there is, such as
# what an optimizer keeps, comes on top.
TEACHER_BYTES, STUDENT_BYTES = 4, 8
EPSILON = 1e-6


@dataclasses.dataclass(frozen=True)
class Node:
    """What a node has free; memory in bytes, without end where it is not known."""

    cpus: float
    gpus: float = 0.0
    name: str = ""
    memory: float = math.inf


@dataclasses.dataclass(frozen=True)
class Size:
    """What an actor takes; memory in bytes, and at the least. That of a GPU is not known: beside one, none counts."""

    cpus: float
    gpus: float = 0.0
    memory: float = 0.0


@dataclasses.dataclass(frozen=True)
class Request:
    """What the user asked for, as the options of these names; None where the plan decides."""

    teacher_actors: str | None = None
    teacher_gpus_per_actor: float | None = None
    teacher_cpus_per_actor: float | None = None
    train_workers: str | None = None
    gpus_per_train_worker: float | None = None
    cpus_per_train_worker: float | None = None
    use_cpu: bool = False


@dataclasses.dataclass(frozen=True)
class Plan:
    """How the two stages are laid out. CPUs and GPUs are Ray's logical resources; threads are torch's.

    Attributes:
        nodes: how many have something free.
        teacher_actors_min, teacher_actors_max: how many there are to begin with, and how many there may be.
        teacher_cpus, teacher_gpus, teacher_threads: of each.
        train_workers_min, train_workers: how few training may go on with, and how many it is planned for.
        train_cpus, train_gpus, train_threads: of each.
    """

    nodes: int
    teacher_actors_min: int
    teacher_actors_max: int
    teacher_cpus: float
    teacher_gpus: float
    teacher_threads: int
    train_workers_min: int
    train_workers: int
    train_cpus: float
    train_gpus: float
    train_threads: int

    @property
    def elastic(self) -> bool:
        """Whether there may be fewer train workers for a while."""
        return self.train_workers_min < self.train_workers


def make_plan(
    nodes: Sequence[Node], request: Request, *, teacher_parameters: int = 0, student_parameters: int = 0
) -> Plan:
    """Decide.

    Args:
        teacher_parameters, student_parameters: how many the models have, embeddings included, for the memory that they
            need beside CPUs; 0: memory is not looked at.

    Raises:
        ResourceError: the request cannot be read, or does not fit what the nodes have free.
    """
    nodes = [node for node in nodes if node.cpus > EPSILON or node.gpus > EPSILON]
    if not nodes:
        raise ResourceError("the cluster has no free CPU. Wait for other work to end, or add a node.")
    has_gpus = not request.use_cpu and any(node.gpus >= 1 - EPSILON for node in nodes)
    low, high = _range(request.teacher_actors, "--teacher-actors")
    teacher_gpus = _gpus(request.teacher_gpus_per_actor, "--teacher-gpus-per-actor", has_gpus)
    # A pool that may grow is made of actors of one CPU, or of larger ones where all of them fit.
    wanted = low if low == high else max(low or 1, min(high or 1, places(nodes, Size(1.0))))
    teacher_cpus = _cpus(request.teacher_cpus_per_actor, "--teacher-cpus-per-actor", nodes, teacher_gpus, wanted)
    teacher = Size(teacher_cpus, teacher_gpus, TEACHER_BYTES * teacher_parameters)
    fitting = places(nodes, teacher)
    _expect_fit(low or 1, fitting, "--teacher-actors", teacher, nodes)
    low = low or fitting

    train_gpus = _gpus(request.gpus_per_train_worker, "--gpus-per-train-worker", has_gpus, shares=False)
    workers, most_workers = _range(request.train_workers, "--train-workers")
    train_cpus = _cpus(
        request.cpus_per_train_worker,
        "--cpus-per-train-worker",
        nodes,
        train_gpus,
        workers or (None if train_gpus else 1),
    )
    worker = Size(train_cpus, train_gpus, STUDENT_BYTES * student_parameters)
    train_fitting = places(nodes, worker)
    _expect_fit(workers or 1, train_fitting, "--train-workers", worker, nodes)
    return Plan(
        nodes=len(nodes),
        teacher_actors_min=low,
        teacher_actors_max=max(low, min(high or low, fitting)),
        teacher_cpus=teacher_cpus,
        teacher_gpus=teacher_gpus,
        teacher_threads=max(1, math.ceil(teacher_cpus - EPSILON)),
        train_workers_min=workers or (train_fitting if train_gpus else 1),
        train_workers=most_workers or (train_fitting if train_gpus else 1),  # nodes may come back for some of them
        train_cpus=train_cpus,
        train_gpus=train_gpus,
        train_threads=max(1, math.ceil(train_cpus - EPSILON)),
    )


def tasks_reserve(node: Node) -> float:
    """CPUs of a node that actors and workers leave to tasks: a quarter of it, at least one task, at most two CPUs."""
    return min(max(0.25, node.cpus / 4), 2.0)


def places(nodes: Sequence[Node], size: Size, *, beside_tasks: bool = True) -> int:
    """How many actors of a size fit: beside each node's reserve for tasks, or in all that it has free."""
    total = 0
    for node in nodes:
        room = node.cpus - tasks_reserve(node) if beside_tasks else node.cpus
        fitting = [max(0, math.floor(room / size.cpus + EPSILON))]
        if size.gpus:
            fitting.append(_gpu_places(node.gpus, size.gpus))
        elif size.memory and math.isfinite(node.memory):
            fitting.append(math.floor(node.memory / size.memory))
        total += min(fitting)
    return total


def _range(text: str | None, option: str) -> tuple[int | None, int | None]:
    """'N' or 'MIN:MAX' -> (least, most)."""
    if text is None:
        return None, None
    low, colon, high = text.partition(":")
    try:
        least, most = int(low), int(high) if colon else int(low)
    except ValueError:
        least, most = 0, 0
    if not 1 <= least <= most:
        raise ResourceError(f"{option} {text} must be N or MIN:MAX, with 1 <= MIN <= MAX.")
    return least, most


def _gpus(asked: float | None, option: str, has_gpus: bool, *, shares: bool = True) -> float:
    if asked is None:
        return 1.0 if has_gpus else 0.0
    if asked not in (0, 1) and not (shares and 0 < asked < 1):
        wanted = "0, a fraction of a GPU, or 1" if shares else "0 or 1"
        raise ResourceError(f"{option} {asked:g} must be {wanted}: no model is spread over several.")
    if asked and not has_gpus:
        raise ResourceError(
            f"{option} {asked:g}: there is no free GPU, or --use-cpu forbids it. Leave it out to use CPUs."
        )
    return float(asked)


def _cpus(asked: float | None, option: str, nodes: Sequence[Node], gpus: float, count: int | None) -> float:
    """CPUs of one actor: as asked, else a GPU's fair share of its node, else a few, else what the node has left."""
    if asked is not None:
        if not (math.isfinite(asked) and asked > 0):
            raise ResourceError(f"{option} {asked:g} must be above 0.")
        return float(asked)
    if gpus:
        shares = [(node.cpus - tasks_reserve(node)) * gpus / node.gpus for node in nodes if node.gpus >= gpus - EPSILON]
        return _round_down(min([*shares, 1.0])) if shares else 1.0
    largest = max(node.cpus - tasks_reserve(node) for node in nodes)
    if count is None:
        return _round_down(min(largest, CPUS_PER_CPU_ACTOR))
    # So many actors as asked: share the nodes among them.
    size = largest
    while size > 0.25 and places(nodes, Size(size)) < count:
        size -= 0.125
    return _round_down(min(size, 8 * CPUS_PER_CPU_ACTOR))


def _round_down(cpus: float) -> float:
    """To quarters of a CPU above one quarter, and to hundredths below: Ray takes four decimals at most."""
    return max(0.05, math.floor(cpus * 4 + EPSILON) / 4 if cpus >= 0.25 else math.floor(cpus * 100) / 100)


def _gpu_places(free: float, gpus: float) -> int:
    """A fraction must fit within single GPUs: three of 0.4 do not fit on one, nor do they span two."""
    return math.floor(free + EPSILON) * math.floor(1 / gpus + EPSILON)


def _expect_fit(wanted: int, fitting: int, option: str, size: Size, nodes: Sequence[Node]) -> None:
    if wanted <= fitting:
        return

    def in_memory(amount: float) -> str:
        known = size.memory >= 5e7 and not size.gpus and math.isfinite(amount)
        return f" {amount / 1e9:,.1f} GB" if known else ""

    have = ", ".join(
        f"{node.name or 'node'} {node.cpus:g} CPU {node.gpus:g} GPU{in_memory(node.memory)}" for node in nodes[:8]
    )
    least = f", and{in_memory(size.memory)} of memory at the least," if in_memory(size.memory) else ""
    raise ResourceError(
        f"{option} {wanted} of {size.cpus:g} CPU and {size.gpus:g} GPU{least} each: {fitting} fit, beside what reading "
        f"and writing need (free now: {have}). Ask for fewer or smaller ones."
    )

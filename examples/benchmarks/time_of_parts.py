"""Where does a forward pass spend its time?

    pip install -e '.[demo,int8]' && python examples/benchmarks/time_of_parts.py

BBC News in the batches that raydistill makes of them, in each engine, five topics. PyTorch's operators and OpenVINO's
nodes are timed by their own profilers, which slow them down a little, and summed by what they are for: shares of all
that is computed. Products are those with weights; OpenVINO's include the GELU that follows. Prints a Markdown table.
On a GPU:

    pip install -e '.[demo]' && python examples/benchmarks/time_of_parts.py --device cuda --shape roberta-large
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import torch
from shapes import CHOICES, batches_of, native_engines, profiles_of, teacher_of_shape
from tables import benchmark_parser, publish

from raydistill.engines.engine import Inputs
from raydistill.specs import TeacherSpec
from raydistill.stages.demo import CLASSES, TEMPLATE, prepare_demo
from raydistill.teacher import Teacher

# By a part of the name of an operator, a kernel or a node, in lower case; the first that fits.
KINDS = {
    "attention": ("scaled_dot_product", "scaleddotproduct", "attention", "flash", "fmha", "softmax", "bmm", "matmul"),
    "products": ("fullyconnected", "addmm", "::mm", "linear", "gemm", "cutlass", "nvjet", "xmma"),
    "GELU": ("gelu",),
    "layer norms": ("layer_norm", "layernorm", "mvn"),
    "sums": ("add", "eltwise", "subgraph"),
}
OTHERS = "others"


def kind_of(name: str) -> str:
    """What an operator, a kernel or a node is for."""
    name = name.lower()
    return next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), OTHERS)


def of_torch(teacher: Teacher, batches: Sequence[Inputs], device: str) -> Counter[str]:
    """Seconds by operator or kernel."""
    on_gpu = device == "cuda"
    activity = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[activity.CPU, activity.CUDA] if on_gpu else [activity.CPU]) as profile:
        for batch in batches:
            teacher.engine.logits(batch)
    events: Any = profile.key_averages()
    if on_gpu:  # kernels alone: operators have the time of theirs as well
        kernels = [event for event in events if event.device_type == torch.autograd.DeviceType.CUDA]
        return Counter({event.key: event.self_device_time_total / 1e6 for event in kernels})
    return Counter({event.key: event.self_cpu_time_total / 1e6 for event in events})


@contextlib.contextmanager
def counting() -> Iterator[None]:
    """Have OpenVINO time its nodes in the models that are compiled within."""
    import openvino

    compile_model: Callable[..., Any] = openvino.Core.compile_model

    def counted(core: Any, model: Any, device: str, settings: dict[str, Any]) -> Any:
        return compile_model(core, model, device, settings | {"PERF_COUNT": True})

    with mock.patch.object(openvino.Core, "compile_model", counted):
        yield


def of_openvino(teacher: Teacher, batches: Sequence[Inputs]) -> Counter[str]:
    """Seconds by type of node."""
    engine: Any = teacher.engine
    found: Counter[str] = Counter()
    for batch in batches:
        engine.logits(batch)
        for node in engine._request.profiling_info:
            attention = "scaled_dot_product" in node.node_name  # of which it makes a subgraph
            found["ScaledDotProduct" if attention else node.node_type] += node.real_time.total_seconds()
    return found


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--shape", choices=CHOICES, default="demo")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--documents", type=int, default=24)
    parser.add_argument("--sentences", type=int, default=200)
    arguments = parser.parse_args()
    threads, device = os.cpu_count() or 1, arguments.device
    rows: list[dict[str, Any]] = []
    raw: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["RAYDISTILL_CACHE"] = f"{temporary}/cache"
        files, _ = prepare_demo(f"{temporary}/demo", texts=arguments.sentences)
        folder = teacher_of_shape(arguments.shape, files)
        profiles = profiles_of(files, arguments.documents)
        for backend, precision in native_engines(device):
            spec = TeacherSpec(
                str(folder),
                tuple(CLASSES),
                TEMPLATE,
                threads=threads,
                fingerprint="benchmark",
                backend=backend,
                precision=precision,
                use_gpu=device == "cuda",
            )
            with counting() if backend == "openvino" else contextlib.nullcontext():
                teacher = Teacher.load(spec)
            torch.set_num_threads(threads)
            for name, texts in profiles.items():
                batches = batches_of(teacher, texts)
                for _ in range(2):  # once, so that kernels are there
                    found = (
                        of_openvino(teacher, batches) if backend == "openvino" else of_torch(teacher, batches, device)
                    )
                shares: Counter[str] = Counter()
                for what, seconds in found.items():
                    shares[kind_of(what)] += seconds
                raw[f"{backend} {precision}, {name}"] = dict(found.most_common(20))
                columns = {kind: f"{shares[kind] / found.total():.0%}" for kind in ("products", *KINDS, OTHERS)}
                rows.append({"engine": f"{backend} {precision}", "texts": name, **columns})
    publish(rows, arguments, seconds=raw)


if __name__ == "__main__":
    main()

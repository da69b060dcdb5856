"""Which engines are worth offering on this CPU? Those that raydistill has, beside others that it might.

    pip install -e '.[demo,int8]' onnx onnxruntime && python examples/benchmarks/engines.py

One teacher, narrowed as raydistill narrows it, in every engine that is installed; batches of pairs of one length from
BBC News, each engine in turn, several rounds. How much faster than PyTorch in fp32: medians, least and most in
brackets; how far the logits are off, as a share of the largest; and for how many first sentences the class is another.
Prints a Markdown table; --json keeps it.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from shapes import CHOICES, native_engines, teacher_of_shape
from tables import at_least_one, benchmark_parser, publish, spread, times_as_fast
from transformers import AutoTokenizer

from raydistill.engines.engine import Engine, Inputs, PendingLogits, engine_name, share_off
from raydistill.engines.openvino_engine import Positional
from raydistill.engines.torch_engine import load_exact
from raydistill.specs import TeacherSpec
from raydistill.stages.demo import CLASSES, TEMPLATE, demo_documents, prepare_demo
from raydistill.teacher import Teacher

EXACT = "torch fp32"
SHAPES = [(32, 64), (16, 128), (8, 256)]


@dataclasses.dataclass
class OtherEngine:
    """An engine that raydistill does not have."""

    backend: str
    precision: str
    logits: Callable[[Inputs], Any]
    memory_error: type[Exception] = MemoryError
    ahead: int = 0
    packs: bool = False
    fallback: str = ""

    def start(self, inputs: Inputs) -> PendingLogits:
        """Computed at once."""
        found = self.logits(inputs)
        return lambda: found

    def recover(self) -> None:
        """Nothing to give back."""


def in_torch(model: torch.nn.Module, names: list[str]) -> Callable[[Inputs], Any]:
    """What gives the logits of a module that takes tensors by position."""

    def score(inputs: Inputs) -> Any:
        with torch.inference_mode():
            return model(*(torch.from_numpy(inputs[name]) for name in names)).float().numpy()

    return score


def other_engines(model: Any, example: Inputs, folder: Path, threads: int) -> list[OtherEngine]:
    """Those that are installed."""
    names = list(example)
    whole = Positional(model, names).eval()
    # Of a narrowed layer's keys and values the weights are used, which a quantised one does not have.
    last = f".{model.config.num_hidden_layers - 1}."
    rounded_ones = {
        name
        for name, module in whole.named_modules()
        if isinstance(module, torch.nn.Linear) and not (last in name and name.endswith(("key", "value")))
    }
    quantised = torch.ao.quantization.quantize_dynamic(copy.deepcopy(whole), rounded_ones, dtype=torch.qint8)
    found = [
        OtherEngine("torch.compile, weights frozen,", "fp32", in_torch(frozen(whole), names)),
        OtherEngine("torch, dynamic", "int8", in_torch(quantised, names)),
    ]
    if importlib.util.find_spec("onnx") and importlib.util.find_spec("onnxruntime"):
        import onnxruntime
        from onnxruntime.quantization import QuantType, quantize_dynamic

        axes = {name: {0: "pairs", 1: "tokens"} for name in names}
        tensors = tuple(torch.from_numpy(example[name]) for name in names)
        exact, rounded = str(folder / "exact.onnx"), str(folder / "int8.onnx")
        torch.onnx.export(whole, tensors, exact, input_names=names, dynamic_axes=axes, opset_version=17, dynamo=False)
        quantize_dynamic(exact, rounded, per_channel=True, weight_type=QuantType.QInt8)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads

        def in_onnx(path: str) -> Callable[[Inputs], Any]:
            session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
            return lambda inputs: session.run(None, dict(inputs))[0]

        found.append(OtherEngine("ONNX Runtime", "fp32", in_onnx(exact)))
        found.append(OtherEngine("ONNX Runtime, dynamic, per channel,", "int8", in_onnx(rounded)))
    return found


def frozen(model: torch.nn.Module) -> torch.nn.Module:
    """Compiled with its weights as constants, which lays them out for the CPU's products."""
    import torch._inductor.config as inductor

    inductor.freezing = True
    return torch.compile(model, dynamic=True)  # type: ignore[return-value]


def batches(tokenizer: Any, documents: list[str]) -> dict[str, Inputs]:
    """Pairs of one length for each shape, cut from documents."""
    made = {}
    for pairs, tokens in SHAPES:
        encoded = tokenizer(
            documents[:pairs],
            [TEMPLATE.format(CLASSES[i % len(CLASSES)]) for i in range(pairs)],
            truncation="only_first",
            padding="max_length",
            max_length=tokens,
            return_tensors="np",
        )
        made[f"{pairs} × {tokens}"] = {name: np.asarray(array, dtype=np.int64) for name, array in encoded.items()}
    return made


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--shape", choices=CHOICES, default="demo")
    parser.add_argument("--rounds", type=at_least_one, default=7)
    parser.add_argument("--agreement-texts", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["RAYDISTILL_CACHE"] = f"{temporary}/cache"
        files, _ = prepare_demo(f"{temporary}/demo", texts=arguments.agreement_texts)
        folder = teacher_of_shape(arguments.shape, files)
        spec = TeacherSpec(str(folder), tuple(CLASSES), TEMPLATE, threads=arguments.threads, fingerprint="benchmark")
        tokenizer = AutoTokenizer.from_pretrained(folder)
        inputs = batches(tokenizer, demo_documents())
        teachers = [
            Teacher.load(dataclasses.replace(spec, backend=backend, precision=precision))
            for backend, precision in native_engines("cpu")
        ]
        torch.set_num_threads(arguments.threads)  # of which a load may have taken fewer
        example = next(iter(inputs.values()))
        loaded = [
            *(teacher.engine for teacher in teachers),
            *other_engines(load_exact(spec, tokenizer.pad_token_id), example, Path(temporary), arguments.threads),
        ]
        engines: dict[str, Engine] = {engine_name(engine): engine for engine in loaded}
        rows: dict[str, dict[str, Any]] = {name: {"engine": name} for name in engines}
        rounds: dict[str, dict[str, list[float]]] = {}
        for shape, batch in inputs.items():
            wanted = engines[EXACT].logits(batch)
            for name, engine in engines.items():
                rows[name]["logits off"] = max(
                    rows[name].get("logits off", 0.0), share_off(engine.logits(batch), wanted)
                )
            took = rounds[shape] = {name: [] for name in engines}
            for _ in range(arguments.rounds):
                for name, engine in engines.items():
                    started = time.perf_counter()
                    engine.logits(batch)
                    took[name].append(time.perf_counter() - started)
            for name, row in rows.items():
                row[shape] = spread(times_as_fast(took[EXACT], took[name]))
        teacher, sentences = teachers[0], files.corpus.read_text(encoding="utf-8").splitlines()
        classes = {}
        for name, engine in engines.items():
            teacher.engine = engine
            classes[name] = teacher.score(sentences)[0].argmax(1)
        for name, row in rows.items():
            row["logits off"] = f"{row['logits off']:.1e}"
            row[f"another class, of {len(sentences):,}"] = f"{(classes[name] != classes[EXACT]).mean():.1%}"
    publish(list(rows.values()), arguments, seconds=rounds)


if __name__ == "__main__":
    main()

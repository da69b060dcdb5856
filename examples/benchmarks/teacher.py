"""How fast is the teacher beside the original script's loop, and how near the machine's own matrix products?

    pip install -e '.[demo,int8]' && python examples/benchmarks/teacher.py

Whole BBC News documents, their beginnings of 10 to 1,000 words, and their first sentences, five topics. Every method
scores the same texts with the same threads, in turn, several rounds; medians, and least and most in brackets. A loop
over transformers' zero-shot pipeline is measured too. Shares are of the time that matrix products alone
would take at the machine's own rate: all of the loop's, and those of them that raydistill computes. Prints a Markdown
table; --json keeps it.

Any other --shape takes random weights: for speed, not for agreement. On a GPU:

    pip install -e '.[demo]' && python examples/benchmarks/teacher.py --device cuda --shape roberta-large \\
        --documents 120 --sentences 1200
"""

from __future__ import annotations

import dataclasses
import functools
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from seed_method import seed_score, zero_shot_soft_labels
from shapes import CHOICES, batches_of, distinct_share, native_engines, of_mixed_length, profiles_of, teacher_of_shape
from tables import at_least_one, benchmark_parser, publish, spread, times_as_fast
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from raydistill import soft_labels
from raydistill.onednn import onednn_linear
from raydistill.specs import Effort, TeacherSpec
from raydistill.stages.demo import CLASSES, TEMPLATE, prepare_demo
from raydistill.teacher import Teacher

# What engines are held against: a CPU's own rate for each shape in fp32, a GPU's best in bf16.
REFERENCE = {"cpu": "fp32 GEMM rate", "cuda": "bf16 matrix peak"}
SHARES = ("share of {}", "the same, of what is computed")  # of all the loop's products, and of raydistill's alone
SEED, PIPELINE = "the loop", "zero-shot pipeline"
ROWS, PEAK = 2048, 8192  # of a layer's product, of a square one


def linear_seconds_per_token(model: Any, device: str, distinct: float) -> tuple[float, float]:
    """Seconds that the encoder's matrix products alone take for a token, at the rate of `REFERENCE`.

    Args:
        distinct: of the tokens, the share that the first layer's queries, keys and values are made of.

    Returns:
        for all products that the loop computes, and for those of them that raydistill computes: of the last layer none,
        or on a GPU (packed) keys and values.
    """
    whole = computed = 0.0
    body = model.base_model
    layers = [*body.encoder.layers, *body.decoder.layers] if hasattr(body, "decoder") else body.encoder.layer
    of_tokens = ("query", "key", "value")
    for layer in layers:
        for name, module in layer.named_modules():
            if not isinstance(module, torch.nn.Linear):
                continue
            inputs, outputs = module.in_features, module.out_features
            if device == "cuda":
                seconds = inputs * outputs * product_seconds(PEAK, PEAK, PEAK, device) / PEAK**3
            else:
                seconds = product_seconds(ROWS, inputs, outputs, device) / ROWS
            whole += seconds
            if layer is layers[-1]:
                computed += seconds if device == "cuda" and name.endswith(of_tokens[1:]) else 0
            else:
                computed += seconds * (distinct if layer is layers[0] and name.endswith(of_tokens) else 1)
    product_seconds.cache_clear()  # measured anew in the next round
    return whole, computed


@functools.cache
def product_seconds(rows: int, inputs: int, outputs: int, device: str) -> float:
    """The best of several products with bias, of each library; each shape once until the cache is cleared."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    states, weight, bias = (
        torch.randn(shape, device=device, dtype=dtype) for shape in ((rows, inputs), (outputs, inputs), (outputs,))
    )

    libraries = [torch.nn.functional.linear]
    if device == "cpu" and torch.backends.mkldnn.is_available():
        libraries.append(onednn_linear)

    def product(multiply: Callable[..., torch.Tensor]) -> None:
        multiply(states, weight, bias)
        if device == "cuda":
            torch.cuda.synchronize()

    with torch.inference_mode():
        return min(timed(product, multiply)[0] for multiply in libraries for _ in range(8))


def timed(work: Callable[..., Any], *given: Any) -> tuple[float, Any]:
    started = time.perf_counter()
    found = work(*given)
    return time.perf_counter() - started, found


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--shape", choices=CHOICES, default="demo")
    parser.add_argument("--device", choices=list(REFERENCE), default="cpu")
    parser.add_argument("--rounds", type=at_least_one, default=5)
    parser.add_argument("--documents", type=int, default=24, help="whole documents a round")
    parser.add_argument("--sentences", type=int, default=150, help="first sentences a round")
    parser.add_argument("--agreement-texts", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["RAYDISTILL_CACHE"] = f"{temporary}/cache"
        files, _ = prepare_demo(f"{temporary}/demo", texts=max(arguments.agreement_texts, arguments.sentences))
        teacher = teacher_of_shape(arguments.shape, files)
        profiles = profiles_of(files, arguments.documents, arguments.sentences)
        profiles["10 to 1,000 words"] = of_mixed_length(profiles["whole documents"])
        device = arguments.device
        model = AutoModelForSequenceClassification.from_pretrained(teacher).eval().to(device)
        tokenizer = AutoTokenizer.from_pretrained(teacher)
        spec = TeacherSpec(str(teacher), tuple(CLASSES), TEMPLATE, threads=arguments.threads, fingerprint="benchmark")
        spec = dataclasses.replace(spec, use_gpu=device == "cuda")
        engines = {
            f"{backend} {precision}": Teacher.load(dataclasses.replace(spec, backend=backend, precision=precision))
            for backend, precision in native_engines(device)
        }
        torch.set_num_threads(arguments.threads)  # of which a load may have taken fewer
        entailment = engines["torch fp32"].label_ids[0]
        rows: list[dict[str, Any]] = []
        rounds: dict[str, dict[str, list[float]]] = {}
        for profile, texts in profiles.items():
            seconds = rounds[profile] = {name: [] for name in [SEED, PIPELINE, *engines]}
            forward, padding, off, off_logits = {name: [] for name in engines}, {}, {}, {}
            distinct = distinct_share(batches_of(engines["torch fp32"], texts)) if device == "cpu" else 1.0
            for engine in engines.values():
                engine.score(texts[:4])
            for _ in range(arguments.rounds):
                gemm = np.array(linear_seconds_per_token(model, device, distinct))
                took, logits = timed(seed_score, model, tokenizer, texts, CLASSES, TEMPLATE)
                seconds[SEED].append(took)
                wanted_logits = logits[..., entailment].numpy()
                wanted = soft_labels(wanted_logits, logits[..., 0].numpy())
                took, scores = timed(zero_shot_soft_labels, model, tokenizer, texts, CLASSES, TEMPLATE)
                seconds[PIPELINE].append(took)
                off[PIPELINE] = float(np.abs(scores - wanted).max())
                for name, engine in engines.items():
                    effort = Effort()
                    took, found = timed(engine.score, texts, effort)
                    seconds[name].append(took)
                    forward[name].append(effort.tokens * gemm / effort.forward_seconds)
                    padding[name] = 1 - effort.tokens / effort.padded_tokens
                    off[name] = float(np.abs(soft_labels(*found) - wanted).max())
                    off_logits[name] = float(np.abs(found[0] - wanted_logits).max())
            pairs = len(texts) * len(CLASSES)
            for name, took in seconds.items():
                row = {"texts": profile, "method": name, "pairs/s": round(pairs / statistics.median(took), 1)}
                row |= {"times the loop": spread(times_as_fast(seconds[SEED], took))}
                if name in engines:
                    shares = zip(SHARES, np.transpose(forward[name]), strict=True)
                    row |= {share.format(REFERENCE[device]): spread(list(rates)) for share, rates in shares}
                    row |= {"padding": f"{padding[name]:.1%}"}
                if name in off:
                    row |= {"largest difference of soft labels": f"{off[name]:.1e}"}
                if name in off_logits:
                    row |= {"of logits": f"{off_logits[name]:.1e}"}
                rows.append(row)
        if arguments.shape == "demo":
            sentences = files.corpus.read_text(encoding="utf-8").splitlines()
            exact = engines["torch fp32"].score(sentences)[0].argmax(1)
            for row in rows:
                if row["method"] in engines and row["texts"] == "first sentences":
                    found = engines[row["method"]].score(sentences)[0].argmax(1)
                    row[f"same class, {len(sentences):,} sentences"] = f"{(found == exact).mean():.1%}"
    publish(rows, arguments, seconds=rounds)


if __name__ == "__main__":
    main()

"""What does it save that of the last layer only the first token is computed?

    pip install -e . && python examples/benchmarks/last_layer.py

Classifiers of well-known shapes with random weights, whole and as raydistill has them, on the same batch of random
tokens, by turns: the forward pass of a teacher, and forward and backward passes of a student, without dropout.
Medians of several rounds, the middle half in brackets. Prints a Markdown table; --json keeps it.
"""

from __future__ import annotations

import copy
import os
import time
from typing import Any

import numpy as np
import shapes
import torch
from tables import at_least_one, benchmark_parser, publish
from transformers import AutoModelForSequenceClassification, BertConfig, DebertaV2Config, DistilBertConfig

from raydistill.last_layer import narrow_last_layer

SIX_LAYERS = {"num_hidden_layers": 6, "vocab_size": 30522}
# DeBERTa-v3's own, but for its large vocabulary
RELATIVE = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 256, "share_att_key": True}
SHAPES = {
    "BERT, 6 layers, 384 wide": BertConfig(
        hidden_size=384, num_attention_heads=12, intermediate_size=1536, **SIX_LAYERS
    ),
    "DistilBERT": DistilBertConfig(),
    "BERT-base": BertConfig(),
    "BART-base": shapes.SHAPES["bart-base"],
    "DeBERTa-v3-small": DebertaV2Config(hidden_size=768, num_attention_heads=12, **SIX_LAYERS, **RELATIVE),
}


def forward(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.inference_mode():
        return model(**batch).logits


def step(model: Any, batch: dict[str, torch.Tensor]) -> None:
    model.zero_grad()
    model(**batch).logits.logsumexp(-1).sum().backward()


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--pairs", type=int, default=4, help="in a batch")
    parser.add_argument("--tokens", type=int, default=128, help="of each")
    parser.add_argument("--rounds", type=at_least_one, default=9)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    ids = torch.randint(5, 30000, (arguments.pairs, arguments.tokens))
    ids[:, -1] = SHAPES["BART-base"].eos_token_id
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    rows: list[dict[str, str]] = []
    rounds: dict[str, dict[str, list[float]]] = {}
    for name, config in SHAPES.items():
        whole = AutoModelForSequenceClassification.from_config(config).eval()
        whole.config.use_cache = False  # as of every teacher
        narrow = copy.deepcopy(whole)
        assert narrow_last_layer(narrow)
        row, rounds[name] = {"classifier": name}, {}
        for work in (forward, step):
            ratios = rounds[name][work.__name__] = []
            for _ in range(arguments.rounds + 1):
                seconds = []
                for model in (whole, narrow):
                    started = time.perf_counter()
                    work(model, batch)
                    seconds.append(time.perf_counter() - started)
                ratios.append(seconds[0] / seconds[1])
            low, median, high = np.quantile(ratios[1:], [0.25, 0.5, 0.75])  # the first one warms up
            row[f"{work.__name__}, times as fast"] = f"{median:.2f} ({low:.2f}–{high:.2f})"
        off = (forward(whole, batch) - forward(narrow, batch)).abs().max()
        rows.append(row | {"largest difference of logits": f"{off:.1e}"})
    publish(rows, arguments, ratios=rounds)


if __name__ == "__main__":
    main()

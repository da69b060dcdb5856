"""What every benchmark ends with: a Markdown table, and the same as JSON where asked for."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def benchmark_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser that shows a script's docstring, and takes --json."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=None, help="a file for the same figures as JSON")
    return parser


def publish(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    """Print rows as a Markdown table, and write them to `arguments.json`, if there is one."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    print("| " + " | ".join(columns) + " |\n|" + " --- |" * len(columns))
    for row in rows:
        print("| " + " | ".join(str(row.get(name, "")) for name in columns) + " |")
    if arguments.json:
        arguments.json.write_text(json.dumps({"arguments": vars(arguments), "rows": rows}, indent=2, default=str))

"""What the README says is so."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from raydistill.cli import cli
from raydistill.config import option_fields
from raydistill.flags import collect_config
from raydistill.option_values import flag

ROOT = Path(__file__).parents[1]
DOCUMENTS = ["README.md", "cluster/README.md", "examples/agnews.md"]
LINKED = [*DOCUMENTS, "raydistill/README.md", "examples/benchmarks/README.md"]


def option_table() -> str:
    """The README's table of options, from their declarations. `python tests/test_readme.py` writes it."""
    rows = ["| option | default | |", "| --- | --- | --- |"]
    for field in option_fields():
        default = "" if field.default in (None, (), False) else f"`{field.default}`"
        about = field.metadata["help"].replace("|", "\\|")
        if field.metadata["choices"]:
            about += f" One of {', '.join(field.metadata['choices'])}."
        rows.append(f"| `{flag(field.name)}` | {default} | {about} |")
    return "\n".join(rows)


def readme_with_table() -> str:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.sub(
        r"<!-- options -->.*<!-- /options -->",
        lambda _: f"<!-- options -->\n{option_table()}\n<!-- /options -->",
        text,
        flags=re.S,
    )


def test_the_table_lists_every_option_as_it_is_declared() -> None:
    assert (ROOT / "README.md").read_text(encoding="utf-8") == readme_with_table()


def commands() -> list[str]:
    found = []
    for name in DOCUMENTS:
        text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
        for block in re.findall(r"```bash\n(.*?)```", text, flags=re.S):
            found += [line.strip() for line in block.splitlines() if line.strip().startswith("raydistill ")]
    return found


@pytest.mark.parametrize("line", commands())
def test_every_command_shown_is_one_that_would_run(line: str) -> None:
    _, name, *flags = shlex.split(line)
    assert name in cli.commands
    context = cli.commands[name].make_context(name, flags)
    if name != "demo":
        config = collect_config(dict(context.params), context.args)
        config.check(["output_dir"])
        from raydistill.training_arguments import training_arguments

        training_arguments(config.training, output_dir="unused", use_cpu=True)


@pytest.mark.parametrize("name", LINKED)
def test_what_a_document_links_to_is_there(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert "@@" not in text  # left to be filled in
    anchors = {re.sub(r"[^a-z0-9_ -]", "", line.strip("# ").lower()).replace(" ", "-") for line in headings(text)}
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in anchors
        elif "://" not in target:
            assert (ROOT / name).parent.joinpath(target).exists(), target


def headings(text: str) -> list[str]:
    return re.findall(r"^#+ .*$", re.sub(r"```.*?```", "", text, flags=re.S), flags=re.M)


def test_the_map_of_the_code_names_every_module() -> None:
    text = (ROOT / "raydistill" / "README.md").read_text(encoding="utf-8")
    modules = {path.stem for path in (ROOT / "raydistill").rglob("*.py") if not path.stem.startswith("__")}
    assert modules <= set(re.findall(r"[`/(]([a-z_]+)(?:\.py)?`", text)), modules


if __name__ == "__main__":
    (ROOT / "README.md").write_text(readme_with_table(), encoding="utf-8")

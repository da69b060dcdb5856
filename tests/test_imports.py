"""Who imports whom: Ray stays in the stages, the front door is light, and no import runs in a circle."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import raydistill

ROOT = Path(raydistill.__file__).parent
HEAVY = ("torch", "ray", "transformers", "pyarrow", "numpy", "pandas")


def module_names():
    """Every module of the package and its file."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = module_names()


class Imports(ast.NodeVisitor):
    """What a module imports, at its top and in functions, but for `if TYPE_CHECKING`."""

    def __init__(self, module, path):
        self.package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        self.found = set()
        self.visit(ast.parse(path.read_text(encoding="utf-8")))

    def visit_If(self, node):
        if "TYPE_CHECKING" not in ast.unparse(node.test):
            self.generic_visit(node)

    def visit_Import(self, node):
        self.found |= {alias.name for alias in node.names}

    def visit_ImportFrom(self, node):
        base = node.module or ""
        if node.level:
            base = ".".join([*self.package.split(".")[: len(self.package.split(".")) - node.level + 1], base]).strip(
                "."
            )
        self.found |= {f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base for alias in node.names}


IMPORTS = {module: Imports(module, path).found for module, path in MODULES.items()}


def test_the_walk_sees_imports_of_every_kind():
    assert "ray" in IMPORTS["raydistill.stages.cluster"]
    assert "raydistill.resources" in IMPORTS["raydistill.stages.cluster"]
    assert "raydistill.stages.run" in IMPORTS["raydistill.cli"]  # in a function
    assert "numpy" in IMPORTS["raydistill.distillation"]


@pytest.mark.parametrize("module", [name for name in MODULES if not name.startswith("raydistill.stages")])
def test_ray_is_imported_by_the_stages_alone(module):
    assert not {name for name in IMPORTS[module] if name.split(".")[0] == "ray"}


@pytest.mark.parametrize("module", [name for name in MODULES if not name.startswith("raydistill.stages")])
def test_the_stages_are_imported_by_the_front_doors_alone(module):
    reached = {name for name in IMPORTS[module] if name.startswith("raydistill.stages")}
    assert not reached or module == "raydistill.cli"


def test_no_import_runs_in_a_circle():
    ours = {module: {name for name in names if name in MODULES} for module, names in IMPORTS.items()}
    done: set[str] = set()

    def follow(module, road):
        assert module not in road, " -> ".join([*road[road.index(module) :], module])
        if module not in done:
            for name in sorted(ours[module]):
                follow(name, [*road, module])
            done.add(module)

    for module in MODULES:
        follow(module, [])
    assert done == set(MODULES)


def loaded_by(code):
    """The heavy packages that a child process has loaded after some code."""
    tail = f"; import sys; print('loaded:', sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code + tail], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_ray_trains_controller_and_the_data_tasks_read_loads_no_torch():
    modules = (
        "board",
        "checkpoints",
        "ingest",
        "label",
        "training_data",
        "process_group",
        "train_policies",
        "train_task",
    )
    printed = loaded_by(f"import {', '.join(f'raydistill.stages.{module}' for module in modules)}")
    assert "ray" in printed
    assert "torch" not in printed
    assert "transformers" not in printed


def test_importing_the_package_loads_nothing_heavy():
    assert "loaded: []" in loaded_by("import raydistill; raydistill.__version__; raydistill.DistillConfig")


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["label", "-h"], ["--version"]])
def test_help_loads_nothing_heavy(arguments):
    printed = loaded_by(f"from raydistill.cli import main; main({arguments!r})")
    assert "raydistill" in printed
    assert printed.splitlines()[-1] == "loaded: []"


def test_a_mistyped_option_is_told_without_loading_anything_heavy():
    printed = loaded_by("from raydistill.cli import main; print('exit', main(['run', '--temperature', 'hot']))")
    assert printed.splitlines() == ["exit 2", "loaded: []"]


def test_a_missing_option_is_told_without_loading_models_or_ray():
    printed = loaded_by("from raydistill.cli import main; print('exit', main(['run']))")
    assert printed.splitlines()[0] == "exit 2"
    for name in ("torch", "ray", "transformers", "pandas"):
        assert repr(name) not in printed


def test_the_public_names_are_these():
    assert raydistill.__all__ == [
        "DistillConfig",
        "DistillResult",
        "RaydistillError",
        "distill",
        "label",
        "soft_labels",
        "train",
    ]


@pytest.mark.parametrize("name", raydistill.__all__)
def test_every_public_name_is_there_and_documented(name):
    found = getattr(raydistill, name)
    assert found.__name__ == name
    assert found.__doc__


def test_a_public_name_is_there_however_modules_were_imported_before():
    # A module of a public name's own name would hide it once it is imported.
    importlib.import_module("raydistill.distillation")
    code = "import raydistill.distillation; from raydistill import soft_labels; print(callable(soft_labels))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_star_import_gives_the_public_names():
    code = "from raydistill import *; import raydistill; print(all(name in globals() for name in raydistill.__all__))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'distil'"):
        raydistill.distil  # noqa: B018

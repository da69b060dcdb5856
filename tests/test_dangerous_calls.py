"""What the package never calls. ruff's rules of bandit (S) see to most; this is what they do not know of."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import raydistill

ROOT = Path(raydistill.__file__).parent
NEVER = {
    "eval",
    "exec",
    "os.system",
    "os.popen",
    "yaml.load",
    "yaml.unsafe_load",
    *(f"{module}.{name}" for module in ("pickle", "cloudpickle", "dill", "marshal") for name in ("load", "loads")),
    "torch.load",  # weights are transformers' business, which reads no more than tensors
    "joblib.load",
}
MODULES = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in sorted(ROOT.rglob("*.py"))}


def dangers(code: str, *, loads_models: bool) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            loads = name.endswith(".from_pretrained") and not loads_models
            if name in NEVER or loads or given.get("shell") == "True" or given.get("allow_pickle") == "True":
                found.append(name)
    return found


@pytest.mark.parametrize("module", MODULES)
def test_nothing_dangerous_is_called_and_models_are_loaded_in_one_place(module: str) -> None:
    assert not dangers(MODULES[module], loads_models=module in ("pretrained.py", "demo_teacher/__init__.py"))


@pytest.mark.parametrize(
    "code",
    [
        "eval(text)",
        "import os; os.system(text)",
        "subprocess.run(text, shell=True)",
        "np.load(path, allow_pickle=True)",
        "torch.load(path, weights_only=True)",
        "AutoModel.from_pretrained(name)",
    ],
)
def test_what_is_dangerous_is_seen(code: str) -> None:
    assert dangers(code, loads_models=False)

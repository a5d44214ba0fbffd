"""The layers are a test: contracts by import-linter, and purity of the policies by reading them."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
IMPURE = {"time", "datetime", "random", "os", "io", "logging", "socket", "subprocess", "sys", "pathlib", "asyncio"}
POLICIES = sorted((ROOT / "policies").rglob("*.py"))


def test_the_import_contracts_hold() -> None:
    """Simulations may use the autoscaler, the autoscaler the policies; the restore driver stands alone."""
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports; raise SystemExit(lint_imports())"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout


def test_the_purity_of_baselines_is_checked_too() -> None:
    assert {p.parent.name for p in POLICIES} == {"policies", "baselines"}


@pytest.mark.parametrize("path", POLICIES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_policy_module_imports_nothing_impure_and_opens_nothing(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            assert not {a.name.split(".")[0] for a in node.names} & IMPURE
        if isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] not in IMPURE
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("open", "print", "input")


@pytest.mark.parametrize("path", POLICIES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_policy_module_stands_on_the_standard_library_and_numpy_alone(path: Path) -> None:
    """An allow-list: a vendor client that nobody thought of forbidding is refused, too."""
    roots = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            roots |= {a.name.split(".")[0] for a in node.names}
        if isinstance(node, ast.ImportFrom) and not node.level:
            roots.add((node.module or "").split(".")[0])

    assert not roots - sys.stdlib_module_names - {"numpy", "policies"}


@pytest.mark.parametrize("room", ["autoscaler", "policies", "restore_driver", "simulations"])
def test_modules_stay_small_and_open_with_what_belongs_there(room: str) -> None:
    for path in (ROOT / room).rglob("*.py"):
        text = path.read_text("utf-8")
        assert len(text.splitlines()) <= 400, path
        assert ast.get_docstring(ast.parse(text)), path

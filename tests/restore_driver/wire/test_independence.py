"""The wire package may be imported where the driver's dependencies are missing."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import restore_driver.wire

MODULES = sorted(Path(restore_driver.wire.__path__[0]).glob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_a_wire_module_imports_only_pydantic_the_standard_library_and_wire(path: Path) -> None:
    """An allow-list: a library that no contract names is refused as well."""
    imported = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert not node.level
            imported.add(node.module or "")
    foreign = {name for name in imported if name.split(".")[0] not in sys.stdlib_module_names}

    ours = {name for name in foreign if name.startswith("restore_driver.wire.")}
    assert foreign - ours <= {"pydantic", "pydantic_core"}

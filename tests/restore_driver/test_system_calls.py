"""System calls are in `restore_driver/host/`: held by reading every module, with each exception and its reason."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "restore_driver"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if PACKAGE / "host" not in path.parents)

FORBIDDEN_MODULES = {"ctypes", "fcntl", "subprocess", "pty", "multiprocessing"}
FORBIDDEN_FUNCTIONS = {
    *("fork", "forkpty", "system", "popen", "posix_spawn", "posix_spawnp", "fdopen_spawn"),
    *(f"{kind}{suffix}" for kind in ("exec", "spawn") for suffix in ("l", "le", "lp", "lpe", "v", "ve", "vp", "vpe")),
    *("wait", "wait3", "wait4", "waitid", "waitpid", "pidfd_open", "kill", "killpg", "pidfd_send_signal"),
    *("setns", "unshare", "chroot", "setuid", "setgid", "setgroups", "setresuid", "setresgid", "setsid", "setpgid"),
}
EXCEPTIONS = {
    "placeholder/init.py": "run as a file by the bare interpreter (-I -S): it cannot import the package",
    "cuda/nvml.py": "binds NVIDIA's own library, which has no system call of the kernel's; ctypes is its only binding",
}


def imported(tree: ast.Module) -> Iterator[str]:
    """Yield the top-level names of all imports, also within functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        if isinstance(node, ast.ImportFrom) and not node.level:
            yield (node.module or "").split(".")[0]


def called_in(tree: ast.Module, *owners: str) -> Iterator[str]:
    """Yield the names that are used or imported from modules such as `os` and `signal`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in owners:
            yield node.attr
        if isinstance(node, ast.ImportFrom) and node.module in owners:
            yield from (alias.name for alias in node.names)


def violations(text: str) -> set[str]:
    tree = ast.parse(text)
    return set(imported(tree)) & FORBIDDEN_MODULES | set(called_in(tree, "os", "signal")) & FORBIDDEN_FUNCTIONS


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_outside_host_make_no_system_call_of_their_own(path: Path) -> None:
    name = str(path.relative_to(PACKAGE))
    found = violations(path.read_text("utf-8"))

    assert bool(found) == (name in EXCEPTIONS), found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import ctypes.util", {"ctypes"}),
        ("def f():\n    from fcntl import flock", {"fcntl"}),
        ("import os\nos.fork()", {"fork"}),
        ("from os import waitpid", {"waitpid"}),
        ("import signal\nsignal.pidfd_send_signal(1, 9)", {"pidfd_send_signal"}),
        ("import os\nos.open('x', os.O_RDONLY)\nfrom os import _exit", set()),
    ],
)
def test_the_check_finds_each_form_of_a_violation(text: str, found: set[str]) -> None:
    assert violations(text) == found


def test_the_replicas_helper_needs_the_standard_library_only() -> None:
    """It is imported by the replica's own process; torch and cuda-bindings are imported there on use."""
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import restore_driver.replica.control as control; "
        "print(sorted({name.split('.')[0] for name in sys.modules} - set(sys.stdlib_module_names) - {'__main__'}))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program, str(ROOT)], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "['restore_driver']"

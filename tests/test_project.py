"""What a newcomer's first command stands on: locks, Makefile, CI, hooks and what a wheel carries."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
RUNTIME, DEV = "requirements.lock", "requirements-dev.lock"


def pins(lock: str) -> dict[str, set[str]]:
    """Versions by package name: one, or one for each range of Python that the resolver had to tell apart."""
    found = re.findall(r"^([a-z0-9-]+)(?:\[[^]]*\])?==([^ ;]+)", (ROOT / lock).read_text("utf-8"), re.MULTILINE)
    return {name: {version for n, version in found if n == name} for name, _ in found}


def within(requirement: str, lock: str) -> bool:
    """Whether the lock holds the requirement, and only at versions that it allows."""
    wanted = Requirement(requirement)
    versions = pins(lock).get(wanted.name, set())
    return bool(versions) and all(v in wanted.specifier for v in versions)


def requirements(extra: str | None) -> list[str]:
    """What the base, or an extra with the extras that it names, asks for."""
    if extra is None:
        return list(PROJECT["project"]["dependencies"])
    named = [Requirement(text) for text in PROJECT["project"]["optional-dependencies"][extra]]
    return [
        text
        for wanted in named
        for text in ([str(wanted)] if wanted.name != "forethaw" else chain(*map(requirements, sorted(wanted.extras))))
    ]


def installed_with(extra: str) -> set[str]:
    """Names of all that `pip install forethaw[extra]` brings on this platform, by the installed packages' metadata."""
    found: set[str] = set()
    waiting = [Requirement(text) for text in requirements(None) + requirements(extra)]
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        if name in found:
            continue
        found.add(name)
        for text in metadata.requires(name) or []:
            needed = Requirement(text)
            extras = {"", *wanted.extras}
            if needed.marker is None or any(needed.marker.evaluate({"extra": each}) for each in extras):
                waiting.append(needed)
    return found


def entries(lock: str) -> list[str]:
    """One text for each pinned package, its hashes included."""
    text = (ROOT / lock).read_text("utf-8").replace("\\\n", " ")
    return [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]


def makefile() -> str:
    return (ROOT / "Makefile").read_text("utf-8")


@pytest.mark.parametrize("lock", [RUNTIME, DEV])
def test_every_locked_package_is_pinned_with_its_hashes_and_has_no_home_of_its_own(lock: str) -> None:
    assert len(entries(lock)) > 10
    for entry in entries(lock):
        assert re.match(r"[a-z0-9-]+(\[[a-z,]+\])?==\S+ ", entry), entry
        assert "--hash=sha256:" in entry, entry
    assert not re.search(r"://|--(extra-)?index|--find-links|file:|(?<![\w.])/[a-z]+/", "".join(entries(lock)))


def test_the_locks_satisfy_the_project_and_agree_with_one_another() -> None:
    locked = re.search(r"^EXTRAS := (.+)$", makefile(), re.MULTILINE)
    assert locked
    assert set(locked[1].split()) | {"gpu"} == set(PROJECT["project"]["optional-dependencies"])
    runtime = list(chain(*map(requirements, [None, *locked[1].split()])))
    dev = PROJECT["dependency-groups"]["dev"]

    assert [r for r in runtime if not within(r, RUNTIME)] == []
    assert [r for r in dev if not within(r, DEV)] == []
    assert {name: pins(DEV).get(name) for name in pins(RUNTIME)} == pins(RUNTIME)


def test_the_driver_installs_without_the_numerics_of_the_simulator() -> None:
    """A node's agent carries no compiler, no forecasts and no plots."""
    brought = installed_with("driver")

    assert {"blake3", "obstore", "pydantic", "typer", "zstandard"} <= brought
    assert brought & {"llvmlite", "numba", "pandas", "plotly", "scipy", "statsmodels"} == set()


def test_the_controller_installs_without_the_simulator_and_keda_with_the_controller() -> None:
    assert installed_with("controller") & {"blake3", "llvmlite", "numba", "obstore", "plotly"} == set()
    assert installed_with("controller") <= installed_with("keda")
    assert {"numba", "plotly", *installed_with("controller")} <= installed_with("simulator")


@pytest.mark.parametrize(
    ("packages", "extras"),
    [
        (["restore_driver"], ["driver", "gpu"]),
        (["policies", "autoscaler"], ["controller"]),
        (["policies", "autoscaler", "simulations"], ["simulator"]),
    ],
    ids=["driver", "controller", "simulator"],
)
def test_an_extra_brings_what_its_packages_import_and_nothing_else(packages: list[str], extras: list[str]) -> None:
    """What a replica's own process has already (torch, safetensors) is not ours to bring."""
    names = {"cuda": "cuda-bindings", "pydantic_core": "pydantic"}
    imported = {names.get(each, each) for each in chain(*map(third_party_imports, packages))} - {"torch", "safetensors"}
    base = {Requirement(text).name for text in requirements(None)}
    brought = {Requirement(text).name for extra in extras for text in requirements(extra)}

    assert imported - brought - base == set()
    # plotly is never imported: the report carries its script, which is read as a file of the package.
    assert brought - imported <= {"plotly"}


def third_party_imports(package: str) -> set[str]:
    """Top-level names that a package's modules import, wherever the import stands."""
    found = set()
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            if isinstance(node, ast.ImportFrom) and not node.level:
                found.add(str(node.module).partition(".")[0])
    return found - sys.stdlib_module_names - {"autoscaler", "policies", "restore_driver", "simulations"}


def test_the_development_lock_can_install_the_project_itself() -> None:
    """`make test` builds without isolation: the backend and what its editable build needs must be locked."""
    assert "--no-build-isolation" in makefile()
    assert [r for r in PROJECT["build-system"]["requires"] if not within(r, DEV)] == []
    assert "editables" in pins(DEV)


def test_make_help_lists_every_target_and_the_modules_that_make_runs_exist() -> None:
    targets = re.search(r"^\.PHONY: (.+)$", makefile(), re.MULTILINE)
    modules = re.findall(r"-m (benchmarks\.\w+)", makefile())

    assert targets
    assert set(targets[1].split()) == set(re.findall(r"^([a-z]+):.*## ", makefile(), re.MULTILINE))
    assert modules
    assert [m for m in modules if not (ROOT / m.replace(".", "/")).with_suffix(".py").is_file()] == []


def test_ci_runs_what_a_contributor_runs_and_the_hooks_run_the_tools_of_make_lint() -> None:
    ci = ROOT / ".ci" / "run"
    hooks = (ROOT / ".pre-commit-config.yaml").read_text("utf-8")

    assert os.access(ci, os.X_OK)
    assert {"make lint", "make test"} <= set(ci.read_text("utf-8").splitlines())
    lint = makefile().split("\nlint:")[1].split("\n\n")[0]
    tools = set(re.findall(r"\$\(BIN\)/([\w-]+)", lint))
    assert tools == set(re.findall(r"entry: \.venv/bin/([\w-]+)", hooks))


def test_the_command_of_the_demo_is_one_that_the_command_line_takes() -> None:
    """Checked by the options themselves, without the replay."""
    from typer.main import get_command

    from autoscaler.application import application, registered

    words = re.search(r"^DEMO := (.+)$", makefile(), re.MULTILINE)

    assert words
    simulate = get_command(application(registered())).commands["simulate"]  # type: ignore[attr-defined]
    given = simulate.make_context("simulate", words[1].split()).params
    assert (given["fleet"], given["compare"]) == ("servegen", "all")
    assert given["duration"] > given["warmup"]


def test_a_wheel_carries_every_data_file_and_nothing_but_the_four_packages(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr

    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    data = {p.relative_to(ROOT).as_posix() for p in (ROOT / "simulations" / "data").rglob("*") if p.is_file()}
    assert data <= names
    packages = {n.split("/")[0] for n in names if ".dist-info/" not in n}
    assert packages == {"autoscaler", "policies", "restore_driver", "simulations"}

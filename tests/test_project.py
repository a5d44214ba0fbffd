"""What a newcomer's first command stands on: locks, Makefile, CI, hooks and what a wheel carries."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

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
    runtime, dev = PROJECT["project"]["dependencies"], PROJECT["dependency-groups"]["dev"]

    assert [r for r in runtime if not within(r, RUNTIME)] == []
    assert [r for r in dev if not within(r, DEV)] == []
    assert {name: pins(DEV).get(name) for name in pins(RUNTIME)} == pins(RUNTIME)


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

    from simulations.commands import app

    words = re.search(r"^DEMO := (.+)$", makefile(), re.MULTILINE)

    assert words
    simulate = get_command(app).commands["simulate"]  # type: ignore[attr-defined]
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

"""The command as a user runs it, on this machine or with stand-in programs on PATH."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from restore_driver.doctor import Finding, Verdict
from tests.restore_driver.cuda.conftest import StandIn, built_driver, stand_in

__all__ = ["built_driver", "stand_in"]

ROOT = Path(__file__).parents[3]
FATAL = {Verdict.MISSING, Verdict.BROKEN}

SMI = """
case $1 in
  --query-gpu=uuid,name,memory.total,driver_version)
    echo 'GPU-00000000-0000-0000-0000-000000000001, NVIDIA H200, 143771, DRIVER' ;;
  --query-gpu=index,mig.mode.current,persistence_mode) echo '0, MIG, PERSISTENCE' ;;
  --query-gpu=uuid,memory.total,memory.free) echo 'GPU-00000000-0000-0000-0000-000000000001, 143771, 143771' ;;
  --query-compute-apps=*) ;;
  *) exit 1 ;;
esac
"""


@dataclass(frozen=True)
class Examination:
    """Findings and exit code of the command."""

    exit_code: int
    findings: dict[str, Finding]

    def fatal(self) -> dict[str, Verdict]:
        """Return the verdicts that made it end with 1."""
        return {name: finding.verdict for name, finding in self.findings.items() if finding.verdict in FATAL}

    def some(self, *names: str) -> list[Finding]:
        """Return the findings of these names, in this order."""
        return [self.findings[name] for name in names]


def doctor(*words: str | Path, environment: Mapping[str, str | Path] | None = None) -> Examination:
    """Run `doctor --json`."""
    argv = [sys.executable, "-m", "restore_driver", "doctor", *map(str, words), "--json"]
    done = subprocess.run(
        argv,
        cwd=ROOT,
        env={**os.environ, **{name: str(value) for name, value in (environment or {}).items()}},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    return read(done.returncode, done.stdout)


def read(exit_code: int, text: str) -> Examination:
    """Parse the command's JSON."""
    answer = json.loads(text)
    assert answer["fit"] is (exit_code == 0)
    findings = [Finding(**{**each, "verdict": Verdict(each["verdict"])}) for each in answer["findings"]]
    return Examination(exit_code, {finding.name: finding for finding in findings})


def program(path: Path, body: str) -> Path:
    """Write an executable shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    return path


Gpu = Callable[..., dict[str, str | Path]]


@pytest.fixture
def gpu(stand_in: StandIn, tmp_path: Path) -> Gpu:
    """Environments with a GPU: a stand-in nvidia-smi on PATH, and the stand-in for the driver's libraries."""

    def make(driver: str = "580.159", mig: str = "Disabled", persistence: str = "Enabled") -> dict[str, str | Path]:
        text = SMI.replace("DRIVER", driver).replace("MIG", mig).replace("PERSISTENCE", persistence)
        program(tmp_path / "programs" / "nvidia-smi", text)
        path = f"{tmp_path / 'programs'}:{os.environ['PATH']}"
        return {"PATH": path, "LD_LIBRARY_PATH": stand_in.directory}

    return make

"""Records and decision logs through the command line: written by `simulate`, decided again by `redecide`."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

ASKED = ("simulate", "azure-conv", "--scale", "8", "--duration", "420", "--warmup", "60", "--no-progress")


def forethaw(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    argv = [sys.executable, "-c", "from autoscaler.cli import main; main()", *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(("policy", "passes"), [("forethaw", 210), ("hpa", 28)])
def test_recorded_decisions_come_out_again(policy: str, passes: int, tmp_path: Path) -> None:
    records = tmp_path / "records.jsonl.gz"
    written = forethaw(*ASKED, "--policy", policy, "--records", str(records))

    again = forethaw("redecide", str(records), "--policy", policy)

    assert (written.returncode, again.returncode) == (0, 0), written.stderr + again.stderr
    assert again.stdout == f"{passes} decisions made again, 0 differ\n"


def test_records_of_another_policy_are_refused(tmp_path: Path) -> None:
    records = tmp_path / "records.jsonl"
    forethaw(*ASKED, "--policy", "hpa", "--records", str(records))

    again = forethaw("redecide", str(records), "--policy", "knative")

    assert again.returncode == 2
    assert "line 2, field --policy" in again.stderr and "another policy's" in again.stderr


def test_decisions_that_come_out_otherwise_are_counted(tmp_path: Path) -> None:
    """The reasons in all records but the first are forged: they are no longer what follows from their input."""
    records, forged = tmp_path / "records.jsonl", tmp_path / "forged.jsonl"
    forethaw(*ASKED, "--policy", "hpa", "--records", str(records))
    first, *others = records.read_text("utf-8").splitlines(keepends=True)
    forged.write_text(first + "".join(o.replace('["utilization",0.7]', '["utilization",0.5]') for o in others), "utf-8")

    again = forethaw("redecide", str(forged), "--policy", "hpa")

    assert again.returncode == 1
    assert again.stdout.startswith("28 decisions made again, 27 differ\nfirst at 16 s")


def test_the_log_has_a_line_a_decision_with_counts_and_reason_codes(tmp_path: Path) -> None:
    log = tmp_path / "decisions.jsonl"
    forethaw(*ASKED, "--policy", "forethaw", "--decisions", str(log))

    lines = [json.loads(line) for line in log.read_text("utf-8").splitlines()]

    assert len(lines) == 210
    assert {line["event"] for line in lines} == {"decision"}
    assert all(sum(line["codes"].values()) == 1 for line in lines)
    changed = [line for line in lines if "ScaledUp" in line["codes"]]
    assert changed
    for line in changed:
        told = line["targets"]["simulation/azure-conv"]
        assert told["reasons"][0] == "ScaledUp"
        assert f"to {told['active']} replicas" in told["text"]


def test_a_file_that_holds_no_records_is_refused_with_its_line(tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl.gz"
    bad.write_bytes(gzip.compress(b'{"is":"Plan","of":[]}\n'))

    told = forethaw("redecide", str(bad))

    assert told.returncode == 2
    assert f"{bad}, line 1" in told.stderr and "forethaw simulate --records" in told.stderr


def test_records_of_several_rows_are_refused(tmp_path: Path) -> None:
    told = forethaw(*ASKED, "--compare", "hpa,knative", "--records", str(tmp_path / "x"))

    assert told.returncode == 2
    assert "--records" in told.stderr and "give one --policy" in told.stderr

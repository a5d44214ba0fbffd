"""Run `forethaw` as a user does, within the test's process."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from autoscaler.cli import main


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


def forethaw(*words: str) -> Done:
    """Return what the entry point prints for these words, and its exit code."""
    out, err, argv = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["forethaw", *words]
    code = 0
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main()
    except SystemExit as leave:
        code = int(leave.code or 0)
    finally:
        sys.argv = argv
    return Done(code, out.getvalue(), err.getvalue())


def refused(*words: str) -> str:
    """Return the one sentence of a refusal; nothing else is printed, and never a traceback."""
    done = forethaw(*words)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    (sentence,) = done.stderr.strip().splitlines()
    return sentence


def counts_file(path: Path, by_minute: Sequence[int | None]) -> str:
    """Write requests by minute; a minute without a number is missing from the record."""
    rows = [f"2026-01-05 {m // 60:02d}:{m % 60:02d},{n}" for m, n in enumerate(by_minute) if n is not None]
    path.write_text("minute_utc,requests\n" + "\n".join(rows) + "\n", "utf-8")
    return str(path)

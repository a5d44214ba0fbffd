"""A mistake of ours at the command line: exit code 1, a short message, and the traceback only when asked for."""

from __future__ import annotations

import sys

import pytest

import autoscaler.rating.service
from autoscaler.cli import main


def crashed(monkeypatch: pytest.MonkeyPatch, *words: str) -> int | str | None:
    """Return the exit code of a command that meets an unforeseen error."""

    def broken() -> tuple[str, ...]:
        raise RuntimeError("the list is torn")

    monkeypatch.setattr(autoscaler.rating.service, "service_names", broken)
    monkeypatch.setattr(sys, "argv", ["forethaw", *words])
    with pytest.raises(SystemExit) as left:
        main()
    return left.value.code


def test_the_message_is_short_and_says_how_to_see_more(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = crashed(monkeypatch, "services")
    printed = capsys.readouterr().err

    assert code == 1
    assert "RuntimeError: the list is torn" in printed
    assert "--debug" in printed
    assert "Traceback" not in printed


def test_debug_shows_where(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code = crashed(monkeypatch, "--debug", "services")
    printed = capsys.readouterr().err

    assert code == 1
    assert "Traceback" in printed
    assert "the list is torn" in printed

"""A mistake of ours at the command line: exit code 1, a short message, and the traceback only when asked for."""

from __future__ import annotations

import sys

import pytest

import autoscaler.rating.service
from autoscaler.cli import main


def crashed(monkeypatch: pytest.MonkeyPatch, *words: str) -> int | str | None:
    """The exit code of a command that meets an error which nobody foresaw."""

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
    said = capsys.readouterr().err

    assert code == 1
    assert "RuntimeError: the list is torn" in said
    assert "--debug" in said
    assert "Traceback" not in said


def test_debug_shows_where(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code = crashed(monkeypatch, "--debug", "services")
    said = capsys.readouterr().err

    assert code == 1
    assert "Traceback" in said
    assert "the list is torn" in said

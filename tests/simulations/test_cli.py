"""The command line as a user meets it: what it writes, and one sentence with exit code 2 for bad input."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from tests.simulations.command_line import forethaw, refused

PLAIN = "time_s,prompt_tokens,output_tokens\n"


def trace(folder: Path, *rows: str, header: str = PLAIN) -> str:
    file = folder / "mine.csv"
    file.write_text(header + "".join(f"{r}\n" for r in rows), "utf-8")
    return str(file)


def test_a_replay_prints_the_table_and_writes_html_json_and_csv(tmp_path: Path) -> None:
    paths = {kind: tmp_path / "out" / f"r.{kind}" for kind in ("html", "json", "csv")}
    done = forethaw(
        "simulate", "azure-conv", "--scale", "8", "--duration", "420", "--warmup", "120", "--compare",
        "forethaw,hpa-cold,clairvoyant", "--no-progress", "--jobs", "1", "--report", str(paths["html"]),
        "--json", str(paths["json"]), "--csv", str(paths["csv"]),
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert "forethaw" in done.stdout and "hpa" in done.stdout
    told = json.loads(paths["json"].read_text("utf-8"))["comparison"]
    assert "--scale 8" in told["command"] and "--json" not in told["command"]
    assert len(list(csv.DictReader(paths["csv"].read_text("utf-8").splitlines()))) >= 3
    assert paths["html"].read_text("utf-8").startswith("<!")
    again = forethaw("report", str(paths["json"]), "-o", str(tmp_path / "again.html"))
    assert again.returncode == 0, again.stderr
    # JSON keeps nine digits, so the page is the same to the eye and not to the byte.
    drawn = (tmp_path / "again.html").read_text("utf-8")
    assert drawn.startswith("<!") and all(row in drawn for row in ("forethaw", "hpa (cold)", "clairvoyant"))


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        (("0.0,10,5", "2.0,10,5", "1.0,10,5"), ("line 4", "time_s", "1.0")),
        (("0.0,10,5", "nan,10,5"), ("line 3", "time_s", "nan")),
        (("0.0,-10,5",), ("line 2", "prompt_tokens", "-10")),
        (("0.0,10,many",), ("line 2", "output_tokens", "many")),
    ],
)
def test_a_bad_row_is_refused_by_file_line_field_and_value(
    tmp_path: Path, rows: tuple[str, ...], named: tuple[str, ...]
) -> None:
    sentence = refused("simulate", trace(tmp_path, *rows))

    assert "mine.csv" in sentence
    assert all(word in sentence for word in named), sentence


def test_files_that_are_no_traces_are_refused(tmp_path: Path) -> None:
    assert "empty" in refused("simulate", trace(tmp_path, header=""))
    assert "a,b" in refused("simulate", trace(tmp_path, "1,2", header="a,b\n"))
    assert "nowhere.csv" in refused("simulate", str(tmp_path / "nowhere.csv"))


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--gpus", "0"), ("--gpus", "0")),
        (("--slo-wait", "0"), ("--slo-wait", "0")),
        (("--policy", "magic"), ("magic", "forethaw")),
        (("--leadtimes", "nowhere"), ("nowhere", "h100")),
        (("--service", "nothing"), ("--service", "nothing")),
        (("--scale", "0"), ("scale", "0")),
        (("--thin", "2"), ("thin", "2")),
        (("--duration", "200"), ("--duration", "warm-up")),
        (("--supply", "magic"), ("--supply", "magic", "lent", "node")),
        (("--supply", "node+lent"), ("--supply", "node+lent", "not farther")),
        (("--supply", "lent+lent"), ("--supply", "lent+lent", "repeats")),
        (("--supply", "lent+"), ("--supply", "lent+")),
    ],
)
def test_a_bad_option_is_refused_by_name_and_value(words: tuple[str, ...], named: tuple[str, ...]) -> None:
    sentence = refused("simulate", "azure-conv", *words)

    assert all(word in sentence for word in named), sentence


def test_what_excludes_one_another_or_is_missing_is_refused() -> None:
    assert "exclude" in refused("simulate", "azure-conv", "--fleet", "servegen")
    assert "TRACE" in refused("simulate")
    assert "NAME=TRACE" in refused("simulate", "--target", "chat")
    assert "scale" in refused("simulate", "--target", "chat=azure-conv,scale=many")


def test_help_teaches_and_lists_are_complete() -> None:
    shown = forethaw("simulate", "--help")
    assert shown.returncode == 0
    assert "--compare" in shown.stdout and "Examples" in shown.stdout
    assert all(f"`{supply}`" in shown.stdout for supply in ("lent", "node", "lent+node"))
    assert "servegen/m-mid" in forethaw("traces").stdout
    assert "llama-3.1-8b-h100" in forethaw("services").stdout
    assert forethaw("--version").stdout.startswith("forethaw ")

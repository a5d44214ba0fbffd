"""The table on a terminal and in Markdown: every row, every number, ours marked, bounds set apart."""

from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from simulations.report import markdown_table, print_table
from simulations.report.columns import columns, slo_cell
from simulations.report.derived import standing, standings
from simulations.results import Comparison
from tests.simulations.report_fixture import comparison, with_row


def printed(given: Comparison, width: int) -> str:
    sheet = io.StringIO()
    print_table(given, Console(file=sheet, width=width, force_terminal=False))
    return sheet.getvalue()


def line_of(text: str, row: str) -> list[str]:
    (line,) = (one for one in text.splitlines() if one.strip().removeprefix("▸ ").startswith(row))
    return line.split()


def test_a_wide_terminal_shows_every_number_of_every_row_on_one_line() -> None:
    given = with_row(comparison(), "forethaw", 1234.0, 56)
    text = printed(given, 160)

    for one in standings(given):
        line = line_of(text, one.run.row)
        for column in columns(given)[1:]:
            assert set(column.shown(one).split()) <= set(line), (one.run.row, column.title)
    assert "1,234" in line_of(text, "forethaw")
    assert "56" in line_of(text, "forethaw")


def test_ours_is_marked_and_bounds_stand_below_a_line_of_their_own() -> None:
    """Even where the bounds were given first."""
    given = comparison()
    bounds_first = replace(given, rows=given.rows[-2:] + given.rows[:-2])
    lines = printed(bounds_first, 160).splitlines()

    marked = [one for one in lines if one.startswith(" ▸ ")]
    assert [one.split()[1] for one in marked] == ["forethaw"]
    place = {name: i for i, one in enumerate(lines) for name in ("forethaw", "informed (bound)") if name in one}
    assert place["informed (bound)"] == place["forethaw"] + 2
    assert not lines[place["forethaw"] + 1].strip(" ─")


def test_a_narrow_terminal_gets_two_tables_and_loses_no_number() -> None:
    given = comparison()
    text = printed(given, 100)

    assert max(len(one) for one in text.splitlines()) <= 100
    assert "…" not in text
    ours = standing(given, given.row("forethaw"))
    words = {word for one in text.splitlines() if "▸ forethaw" in one for word in one.split()}
    for column in columns(given)[1:]:
        assert set(column.shown(ours).split()) <= words, column.title


def test_the_legend_explains_every_column() -> None:
    given = comparison()
    text = printed(given, 200)

    for column in columns(given):
        assert f"{column.title} " in text
        assert column.meaning in text


def test_a_comparison_without_bounds_has_no_regret() -> None:
    given = replace(comparison(), rows=tuple(r for r in comparison().rows if not r.bound))

    assert "regret" not in printed(given, 160)
    assert "regret" not in markdown_table(given)


def test_names_with_markup_are_shown_as_they_are() -> None:
    """A row called `[red]` is a name, not a colour; a bar in a name does not end a Markdown cell."""
    given = comparison()
    odd = replace(given, rows=(replace(given.rows[0], row="[red]a|b*"),))

    assert "[red]a|b*" in printed(odd, 160)
    assert "| [red]a\\|b\\* |" in markdown_table(odd)


def test_markdown_has_one_cell_a_column_ours_bold_and_bounds_in_italics_last() -> None:
    given = comparison()
    head, rule, *lines = markdown_table(given).splitlines()

    width = len(columns(given)) + 1
    assert {one.count("|") for one in (head, rule, *lines)} == {width}
    assert [one.split("|")[1].strip() for one in lines] == [
        "static peak",
        "hpa (cold)",
        "hpa (restored)",
        "kpa (cold)",
        "kpa (restored)",
        "planner (restored)",
        "**forethaw**",
        "*informed*",
        "*clairvoyant*",
    ]


def test_a_target_that_misses_the_slo_shows_even_where_the_sum_meets_it() -> None:
    """One of three targets fails alone: `yes 2/3`, not a plain yes."""
    given = comparison()
    run = given.row("forethaw")
    clean = [replace(t, misses=0) for t in run.targets]
    small = replace(clean[0], requests=1000, misses=50)
    mixed = replace(run, targets=(small, *clean[1:]), misses=50)
    failed = replace(run, targets=(small,), requests=1000, misses=50)

    assert slo_cell(standing(given, replace(run, targets=tuple(clean), misses=0))) == "yes"
    assert slo_cell(standing(given, mixed)) == "yes 2/3"
    assert slo_cell(standing(given, failed)) == "no"

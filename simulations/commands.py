"""The simulator's commands, registered by an entry point of the group `forethaw.commands`.

Thin on purpose: options are checked in `scenario/options.py`, the work is `compare.py`'s, the outputs are `report/`'s.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from autoscaler.input_error import InputError

if TYPE_CHECKING:
    from simulations.results import Comparison

NEEDS = ("numba", "numpy", "plotly", "scipy", "statsmodels")
"""Modules that the extra brings."""
EXAMPLES = ("forethaw simulate azure-conv --scale 40 --compare all --report out.html",)

WHAT, POLICY, POOL, OUTPUT = "What is replayed", "Who decides", "Pool, SLO and costs", "Output"
NOT_REPEATED = ("--report", "--json", "--csv", "--jobs", "--records", "--decisions")
"""Options with a value that change no number."""


def simulate(
    trace: Annotated[str | None, typer.Argument(help="A shipped trace (see `forethaw traces`) or a CSV file.")] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=TRACE[,service=S][,scale=K][,thin=P]; repeat it: all share one pool.", rich_help_panel=WHAT
        ),
    ] = None,
    fleet: Annotated[
        str | None, typer.Option(help="A fleet by name: `servegen`, five production models.", rich_help_panel=WHAT)
    ] = None,
    service: Annotated[
        str, typer.Option(help="Engine and model of a replica (see `forethaw services`).", rich_help_panel=WHAT)
    ] = "llama-3.1-8b-h100",
    scale: Annotated[
        int,
        typer.Option(help="Superpose this many time-shifted copies; time is never compressed.", rich_help_panel=WHAT),
    ] = 1,
    thin: Annotated[float, typer.Option(help="Keep each request with this probability.", rich_help_panel=WHAT)] = 1.0,
    start: Annotated[float, typer.Option(help="Seconds into the trace at which to begin.", rich_help_panel=WHAT)] = 0.0,
    duration: Annotated[
        float | None,
        typer.Option(help="Seconds to replay, warm-up included; default: to the end.", rich_help_panel=WHAT),
    ] = None,
    warmup: Annotated[
        float, typer.Option(help="Seconds replayed but not scored (whole minutes).", rich_help_panel=WHAT)
    ] = 300.0,
    seed: Annotated[int, typer.Option(help="Equal seeds give byte-identical JSON.", rich_help_panel=WHAT)] = 1,
    policy: Annotated[
        list[str] | None,
        typer.Option(help="A row of the table, such as forethaw or hpa-cold; repeat it.", rich_help_panel=POLICY),
    ] = None,
    compare: Annotated[str, typer.Option(help="`all`, or rows separated by commas.", rich_help_panel=POLICY)] = "",
    gpus: Annotated[
        int | None, typer.Option(help="GPUs in the pool; default: 1.5 x the static peaks.", rich_help_panel=POOL)
    ] = None,
    supply: Annotated[
        str,
        typer.Option(
            help="Where the next GPU comes from: `lent` to preemptible work, a new `node`, or both: `lent+node`.",
            rich_help_panel=POOL,
        ),
    ] = "lent",
    slo_wait: Annotated[
        float,
        typer.Option(
            help="A request misses when its prefill begins later than this, in seconds.", rich_help_panel=POOL
        ),
    ] = 2.0,
    slo_share: Annotated[
        float, typer.Option(help="Share of requests that should meet it.", rich_help_panel=POOL)
    ] = 0.999,
    miss_cost: Annotated[
        float, typer.Option(help="Cost of a missed request in GPU-seconds.", rich_help_panel=POOL)
    ] = 5.0,
    leadtimes: Annotated[
        str, typer.Option(help="Lead times: h100, h200 or a TOML file.", rich_help_panel=POOL)
    ] = "h100",
    report: Annotated[
        Path | None, typer.Option(help="Write an HTML report with plots.", rich_help_panel=OUTPUT)
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write all results as JSON.", rich_help_panel=OUTPUT)] = None,
    csv: Annotated[
        Path | None, typer.Option(help="Write a CSV row per row and target.", rich_help_panel=OUTPUT)
    ] = None,
    records: Annotated[
        Path | None,
        typer.Option(
            help="Write every pass of the one row whole, to be decided again (`forethaw redecide`); .gz is compressed.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    decisions: Annotated[
        Path | None,
        typer.Option(
            help="Write one JSON line a decision of the one row: counts and reason codes.", rich_help_panel=OUTPUT
        ),
    ] = None,
    progress: Annotated[bool, typer.Option(help="Show progress on stderr.", rich_help_panel=OUTPUT)] = True,
    jobs: Annotated[
        int, typer.Option(help="Cores: rows side by side, or a single row's targets.", rich_help_panel=OUTPUT)
    ] = 2,
) -> None:
    """Replay a trace through the production decision loop on a simulated clock and compare policies.

    Exit code 2 and one sentence for input that cannot be used: file or option, line, field, value and hint.

    Examples:

    forethaw simulate azure-conv --scale 40 --compare all --report out.html

    forethaw simulate --target chat=azure-conv,scale=40 --target code=azure-code --compare all

    forethaw simulate --fleet servegen --start 32400 --duration 1800
    """
    # Rows and targets already use the cores; linear algebra on tiny matrices only loses time to threads.
    # It must stand before numpy is first imported, which the next line does.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from simulations.compare import run_simulate
    from simulations.record_files import keeping
    from simulations.scenario.options import COMMAND_LINE, make_options, parse_rows

    options = make_options(
        targets=_targets(trace, target or [], fleet, service, scale, thin),
        rows=parse_rows(policy or [], compare),
        start_s=start,
        duration_s=duration,
        warmup_s=warmup,
        gpus=gpus,
        supply=supply,
        slo_wait_s=slo_wait,
        slo_share=slo_share,
        miss_cost=miss_cost,
        leadtimes=leadtimes,
        seed=seed,
        jobs=jobs,
        progress=progress,
        command=_command(),
    )
    if (records or decisions) and len(options.rows) != 1:
        problem = f"{len(options.rows)} rows were asked for, and a file holds the decisions of one"
        raise InputError(COMMAND_LINE, None, "--records", records or decisions, problem, "give one --policy")
    _writable(report, json, csv, records, decisions)
    with keeping(records, decisions) as keep:
        comparison = run_simulate(options, keep)
    _publish(comparison, report, json, csv)


def redecide(
    records: Annotated[Path, typer.Argument(help="A file that `forethaw simulate --records` wrote.")],
    policy: Annotated[str, typer.Option(help="The policy that decides again: forethaw, hpa or knative.")] = "forethaw",
) -> None:
    """Make recorded decisions again, from their records alone, and compare them byte for byte.

    Exit code 0 if all come out as they were, 1 if any differs (another policy or another version), 2 for bad input.

    Examples:

    forethaw simulate azure-conv --scale 8 --policy hpa --records out/hpa.jsonl.gz

    forethaw redecide out/hpa.jsonl.gz --policy hpa
    """
    from simulations.record_files import POLICIES, decide_again
    from simulations.scenario.options import COMMAND_LINE

    if policy not in POLICIES:
        hint = f"give one of {', '.join(sorted(POLICIES))}"
        raise InputError(COMMAND_LINE, None, "--policy", policy, "no recorded row has this policy", hint)
    again = decide_again(records, POLICIES[policy])
    print(f"{again.passes:,} decisions made again, {len(again.differing):,} differ")
    if again.differing:
        print("first at " + ", ".join(f"{at_s:g} s" for at_s in again.differing[:5]))
        raise typer.Exit(1)


def _targets(
    trace: str | None, targets: list[str], fleet: str | None, service: str, scale: int, thin: float
) -> tuple[Any, ...]:
    from simulations.scenario.options import COMMAND_LINE, FLEETS, TargetRequest, parse_target

    if sum((trace is not None, bool(targets), fleet is not None)) > 1:
        problem = "TRACE, --target and --fleet exclude one another"
        raise InputError(COMMAND_LINE, None, "TRACE", trace or fleet, problem, "give one of them")
    if fleet is not None:
        if fleet not in FLEETS:
            raise InputError(
                COMMAND_LINE, None, "--fleet", fleet, "there is no such fleet", f"give {', '.join(FLEETS)}"
            )
        return tuple(t.model_copy(update={"scale": scale, "thin": thin}) for t in FLEETS[fleet])
    if trace is not None:
        name = Path(trace).name.split(".")[0]
        return (TargetRequest(name=name, trace=trace, service=service, scale=scale, thin=thin),)
    return tuple(parse_target(text, service, scale, thin) for text in targets)


def _command() -> str:
    """Repeat the command line that makes these numbers again, less where its output went."""
    words, skip = [], False
    for word in sys.argv[1:]:
        if skip:
            skip = False
        elif word in NOT_REPEATED:
            skip = True
        elif not word.startswith(("--debug", *(f"{name}=" for name in NOT_REPEATED), "--progress", "--no-progress")):
            words.append(word)
    return shlex.join(["forethaw", *words])


def _writable(*paths: Path | None) -> None:
    """Refuse before the work, not after it."""
    from simulations.scenario.options import COMMAND_LINE

    for path in paths:
        if path is None:
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        except OSError as error:
            raise InputError(
                COMMAND_LINE, None, "output", path, str(error.strerror), "give a path that can be written"
            ) from error


def _publish(comparison: Comparison, report: Path | None, json: Path | None, csv: Path | None) -> None:
    from simulations.report import print_table, to_json, verdict, write_csv, write_html

    console = Console()
    print_table(comparison, console)
    for sentence in verdict(comparison):
        console.print(sentence.text)
    if json is not None:
        json.write_text(to_json(comparison), encoding="utf-8")
    if csv is not None:
        write_csv(comparison, csv)
    if report is not None:
        write_html(comparison, report)
    for path in (report, json, csv):
        if path is not None:
            console.print(f"written: {path}")


def report(
    source: Annotated[Path, typer.Argument(help="JSON that `forethaw simulate --json` wrote.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="HTML file to write.")],
    markdown: Annotated[bool, typer.Option(help="Print the table as Markdown, too.")] = False,
) -> None:
    """Draw the HTML report again from a JSON result.

    Example: forethaw report out.json -o out.html --markdown
    """
    from simulations.report import ReportFormatError, from_json, markdown_table, write_html

    try:
        comparison = from_json(source.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(str(source), None, None, None, str(error.strerror), "give a file that exists") from error
    except (ReportFormatError, UnicodeDecodeError) as error:
        raise InputError(str(source), None, None, None, str(error), "give JSON that `simulate --json` wrote") from error
    _writable(output)
    write_html(comparison, output)
    if markdown:
        typer.echo(markdown_table(comparison))
    typer.echo(f"written: {output}")


def traces() -> None:
    """List the shipped traces."""
    from simulations.traces import open_trace, trace_names

    table = Table("name", "kind", "hours", "requests", "licence")
    for name in trace_names():
        info = open_trace(name, seed=0).info
        table.add_row(name, info.kind, f"{info.span_s / 3600:.1f}", f"{info.requests:,}", info.licence)
    Console().print(table)


def services() -> None:
    """List the engines that replicas can be simulated with."""
    from autoscaler.rating.service import load_service, service_names

    table = Table("name", "GPU", "GPUs", "weights, GB", "requests/s rated at 1000 + 200 tokens")
    table.columns[0].no_wrap = True
    for name in service_names():
        service = load_service(name)
        rated = service.rated(1000, 200)
        table.add_row(
            name, service.gpu, str(service.gpus_per_replica), f"{service.weights_bytes / 1e9:.0f}", f"{rated.rps:.1f}"
        )
    Console().print(table)


COMMANDS: dict[str, dict[str, Callable[..., None]]] = {
    "Simulate": {
        "simulate": simulate,
        "report": report,
        "redecide": redecide,
        "traces": traces,
        "services": services,
    }
}

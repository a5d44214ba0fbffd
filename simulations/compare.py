"""The comparison: one scenario, one row after another, side by side on the machine's cores.

Rows do not touch one another: each replays the same arrivals, drawn anew from the same seed, in its own
process. A single row uses the cores for its targets instead. Results come back in the order asked for,
whatever finishes first, so equal seeds give equal bytes.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from multiprocessing.sharedctypes import Synchronized

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn

from simulations.bounds.clairvoyant import clairvoyant_row
from simulations.record_files import Keep
from simulations.replay import replay
from simulations.results import Comparison, PoolingGain, RunResult
from simulations.scenario.build import build_scenario
from simulations.scenario.options import SimulateOptions
from simulations.scenario.rows import CLAIRVOYANT, ROWS
from simulations.scenario.scenario import Scenario

APART = "forethaw-apart"
OURS = "forethaw"


@dataclass(slots=True)
class _Shares:
    """What a worker process tells of its progress: one number a row."""

    shares: list[Synchronized[float]]


_told = _Shares([])


def run_simulate(options: SimulateOptions, keep: Keep | None = None) -> Comparison:
    """Replay every row asked for; raises InputError before anything runs if the input is bad.

    `keep` is given each pass's record of the one row asked for.
    """
    scenario = build_scenario(options)
    names = options.rows
    # What pooling saves needs the row that does not pool, shown or not.
    pooling = len(scenario.targets) > 1 and OURS in names and len(names) > 1 and APART not in names
    wanted = (*names, APART) if pooling else names
    results = _run_rows(options, scenario, wanted, keep)
    rows = tuple(results[n] for n in names)
    gain = None
    if APART in results and OURS in results:
        gain = _gain(results[OURS], results[APART])
    return Comparison(
        title=_title(scenario),
        command=options.command,
        seed=options.seed,
        slo_wait_s=options.slo_wait_s,
        slo_share=options.slo_share,
        miss_cost_gpu_s=options.miss_cost,
        scenario=scenario.facts,
        rows=rows,
        pooling=gain,
        notes=_notes(scenario),
    )


def run_row(
    scenario: Scenario,
    name: str,
    jobs: int,
    progress: Callable[[float], None] | None = None,
    keep: Keep | None = None,
) -> RunResult:
    """Replay one row by its name."""
    if name == CLAIRVOYANT:
        return clairvoyant_row(scenario)
    return replay(scenario, ROWS[name](scenario), jobs, progress, keep)


def _run_rows(
    options: SimulateOptions, scenario: Scenario, names: tuple[str, ...], keep: Keep | None
) -> dict[str, RunResult]:
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        console=Console(file=sys.stderr),
        disable=not options.progress,
    ) as shown:
        if len(names) == 1 or options.jobs <= 1:
            results = {}
            for name in names:
                task = shown.add_task(name, total=1.0)
                results[name] = run_row(scenario, name, options.jobs, partial(_show, shown, task), keep)
                shown.update(task, completed=1.0)
            return results
        return _in_processes(options, names, shown)


def _show(shown: Progress, task: TaskID, share: float) -> None:
    shown.update(task, completed=share)


def _in_processes(options: SimulateOptions, names: tuple[str, ...], shown: Progress) -> dict[str, RunResult]:
    # Spawned, not forked: this process has threads (the progress display) that a fork would break.
    context = multiprocessing.get_context("spawn")
    shares = [context.Value("d", 0.0) for _ in names]
    tasks = [shown.add_task(name, total=1.0) for name in names]
    results: dict[str, RunResult] = {}
    with ProcessPoolExecutor(options.jobs, context, _begin_worker, (shares,)) as pool:
        futures: dict[Future[RunResult], int] = {
            pool.submit(_work, options, name, i): i for i, name in enumerate(names)
        }
        left = set(futures)
        while left:
            done, left = wait(left, timeout=0.2, return_when=FIRST_COMPLETED)
            for i, task in enumerate(tasks):
                shown.update(task, completed=shares[i].value)
            for future in done:
                results[names[futures[future]]] = future.result()
                shown.update(tasks[futures[future]], completed=1.0)
    return results


def _begin_worker(shares: list[Synchronized[float]]) -> None:
    _told.shares = shares


def _work(options: SimulateOptions, name: str, index: int) -> RunResult:
    def tell(share: float) -> None:
        _told.shares[index].value = share

    return run_row(build_scenario(options), name, 1, tell)


def _gain(pooled: RunResult, apart: RunResult) -> PoolingGain:
    def spare(result: RunResult) -> float:
        return (result.gpu_seconds["spare"] + result.gpu_seconds["reclaiming"]) / result.duration_s

    return PoolingGain(
        spare(pooled), spare(apart), pooled.held_gpu_hours, apart.held_gpu_hours, pooled.misses, apart.misses
    )


def _title(scenario: Scenario) -> str:
    names = ", ".join(t.name for t in scenario.targets)
    return f"{names}: {(scenario.duration_s - scenario.warmup_s) / 3600:.2f} h on a pool of {scenario.pool_gpus} GPUs"


def _notes(scenario: Scenario) -> tuple[str, ...]:
    return (
        f"The first {scenario.warmup_s:g} s are replayed but not scored.",
        "A request misses when its prefill begins more than the SLO after its arrival.",
        "Held GPUs are all that are not lent: serving, starting, draining, spare or being reclaimed.",
    )

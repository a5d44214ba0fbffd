"""A pass that is killed anywhere loses nothing: run again from the state that it began with, it ends as if unharmed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest

from autoscaler.outcomes import Outcome
from autoscaler.planbook import PlanEntry
from autoscaler.ports import Cluster, ClusterView, MetricFrame, MetricSource, PassRecord, PlanReaders, Recorder
from autoscaler.reconcile import Ports, ReconcileState, initial_state, reconcile, resumed
from autoscaler.records import to_json
from policies.actions import Action
from policies.keys import TargetKey
from simulations.replay import Run
from tests.autoscaler.small_worlds import run, scenario


class Killed(Exception):  # noqa: N818 - what becomes of a process, no error of ours
    """The process died here."""


class Fuse:
    """Kills once at each moment of a pass that has not killed yet: every port call has two, before and after it."""

    def __init__(self) -> None:
        self.left: Counter[str] = Counter()
        self.kills: Counter[str] = Counter()

    def new_pass(self) -> None:
        self.left.clear()

    def moment(self, name: str) -> None:
        # A pass observes twice, once to decide and once more before it acts.
        if self.left[name] < (2 if name.endswith("observe") else 1):
            self.left[name] += 1
            self.kills[name.split("/", maxsplit=1)[0]] += 1
            raise Killed


@dataclass
class Fused:
    """All ports of a run behind one fuse."""

    metrics: MetricSource
    cluster: Cluster
    recorder: Recorder
    readers: PlanReaders
    fuse: Fuse

    def _around(self, name: str, call: Callable[[], Any]) -> Any:
        self.fuse.moment(f"before {name}")
        answer = call()
        self.fuse.moment(f"after {name}")
        return answer

    def read(self, keys: Collection[TargetKey], after_s: float, until_s: float) -> MetricFrame:
        frame: MetricFrame = self._around("read", lambda: self.metrics.read(keys, after_s, until_s))
        return frame

    def observe(self, now_s: float) -> ClusterView:
        view: ClusterView = self._around("observe", lambda: self.cluster.observe(now_s))
        return view

    def apply(self, actions: tuple[Action, ...], now_s: float) -> Mapping[str, Outcome]:
        outcomes: dict[str, Outcome] = {}
        for action in actions:
            one: Callable[[], Any] = partial(self.cluster.apply, (action,), now_s)
            outcomes |= self._around(f"apply/{action.name}", one)
        return outcomes

    def begin(self, record: PassRecord) -> None:
        self._around("begin", lambda: self.recorder.begin(record))

    def complete(self, record: PassRecord) -> None:
        self._around("complete", lambda: self.recorder.complete(record))

    def last(self, pool: str) -> PassRecord | None:
        return self.recorder.last(pool)

    def publish(self, entry: PlanEntry) -> None:
        self._around("publish", lambda: self.readers.publish(entry))


def killed_everywhere(of: Run) -> tuple[int, Counter[str]]:
    """Step `of` to its end, killing each pass at each moment before it is let through; passes, and kills by moment."""
    fuse, plain = Fuse(), of.ports
    fused = Fused(plain.metrics, plain.cluster, plain.recorder, plain.readers, fuse)
    ports: Ports[Any] = Ports(fused, fused, plain.forecaster, fused, fused)
    policy, end_s = of.row.policy, of.scenario.duration_s
    state: ReconcileState[Any] = initial_state(ports, policy, of.config, 0.0)
    now_s, passes = of.scenario.sample_period_s, 0
    while now_s < end_s:
        of.cluster.advance(now_s)
        fuse.new_pass()
        again = True
        while again:
            with suppress(Killed):
                state, now_s = reconcile(ports, policy, of.config, state, now_s)
                again = False
        passes += 1
    of.cluster.advance(end_s)
    for serving in of.cluster.serving.values():
        serving.fleet.finish()
    return passes, fuse.kills


@pytest.mark.parametrize("name", ["forethaw", "hpa", "knative"])
def test_a_pass_killed_at_every_port_call_of_an_hour_ends_as_if_unharmed(name: str) -> None:
    """Same requests missed, same GPU-seconds, same starts, same last record: nothing was lost or done twice."""
    of = scenario()
    whole, killed = run(of, name, n_paths=16), run(of, name, n_paths=16)
    whole.to_end()

    passes, kills = killed_everywhere(killed)

    for call in ("observe", "read", "begin", "complete", "publish"):
        assert min(kills[f"before {call}"], kills[f"after {call}"]) >= passes
    assert min(kills["before apply"], kills["after apply"]) > 0
    assert killed.cluster.starts == whole.cluster.starts
    assert _outcome(killed) == _outcome(whole)


def _outcome(of: Run) -> tuple[Any, ...]:
    result, last = of.result(), of.recorder.last("pool")
    assert last is not None
    return result.misses, result.gpu_seconds, result.targets, to_json(last)


def stepped(of: Run, state: ReconcileState[Any], now_s: float, until_s: float) -> tuple[ReconcileState[Any], float]:
    """Let `of` run from `now_s` to the first pass at or after `until_s`."""
    while now_s < until_s:
        of.cluster.advance(now_s)
        state, now_s = reconcile(of.ports, of.row.policy, of.config, state, now_s)
    of.cluster.advance(now_s)
    return state, now_s


@pytest.mark.parametrize("died_while_acting", [False, True])
def test_a_process_that_begins_again_resumes_from_record_and_history_within_one_tick(died_while_acting: bool) -> None:
    """After half an hour the process dies; its successor, which remembers nothing, plans what it would have planned.

    The level's past beyond the hour of history is forgotten by a factor of 1e-15, so counts are equal.
    """
    of = run(scenario(), "forethaw")
    state, now_s = stepped(of, initial_state(of.ports, of.row.policy, of.config, 0.0), 1.0, 1800.0)
    if died_while_acting:
        last = of.recorder.last("pool")
        assert last is not None
        of.recorder.begin(replace(last, outcomes=None))
    again = resumed(of.ports, of.row.policy, of.config, now_s)

    reconcile(of.ports, of.row.policy, of.config, state, now_s)
    unharmed = of.recorder.last("pool")
    reconcile(of.ports, of.row.policy, of.config, again, now_s)
    successor = of.recorder.last("pool")

    assert unharmed is not None and successor is not None
    counts = [{k: p.active for k, p in r.plan.targets.items()} for r in (unharmed, successor)]
    assert counts[0] == counts[1]
    assert successor.violations == ()

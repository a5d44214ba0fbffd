"""Clusters between a pass and the simulated one: views that lag, answers that are lost, changes at a bad moment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from autoscaler.outcomes import Outcome
from autoscaler.ports import Cluster, ClusterView
from policies.actions import Action


@dataclass
class Lagging:
    """Implements `Cluster`: acts at once, and shows the view of `lag` passes ago."""

    to: Cluster
    lag: int
    seen: list[tuple[float, ClusterView]] = field(default_factory=list)

    def observe(self, now_s: float) -> ClusterView:
        if not self.seen or self.seen[-1][0] != now_s:
            self.seen.append((now_s, self.to.observe(now_s)))
        return self.seen[max(len(self.seen) - 1 - self.lag, 0)][1]

    def apply(self, actions: tuple[Action, ...], now_s: float) -> Mapping[str, Outcome]:
        return self.to.apply(actions, now_s)


@dataclass
class Answering:
    """Implements `Cluster`: `answer` may answer for an action, which is then obeyed only if `obeys`; else as ever."""

    to: Cluster
    answer: Callable[[Action, float], Outcome | None] = lambda action, now_s: None
    obeys: bool = False
    asked: list[tuple[float, Action]] = field(default_factory=list)

    def observe(self, now_s: float) -> ClusterView:
        return self.to.observe(now_s)

    def apply(self, actions: tuple[Action, ...], now_s: float) -> Mapping[str, Outcome]:
        self.asked += [(now_s, action) for action in actions]
        answers = {a.name: answer for a in actions if (answer := self.answer(a, now_s)) is not None}
        obeyed = tuple(a for a in actions if self.obeys or a.name not in answers)
        return {**self.to.apply(obeyed, now_s), **answers}

    def when(self, name: str) -> list[float]:
        """The moments at which the action of this name was asked for, in seconds."""
        return [at_s for at_s, action in self.asked if action.name == name]


@dataclass
class Restless:
    """Implements `Cluster`: `change` happens once, between a pass's first look and its second at `at_s`."""

    to: Cluster
    change: Callable[[ClusterView], ClusterView]
    at_s: float
    looks: int = 0

    def observe(self, now_s: float) -> ClusterView:
        view = self.to.observe(now_s)
        self.looks += now_s == self.at_s
        return self.change(view) if self.looks == 2 and now_s == self.at_s else view

    def apply(self, actions: tuple[Action, ...], now_s: float) -> Mapping[str, Outcome]:
        return self.to.apply(actions, now_s)

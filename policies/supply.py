"""Bring the pool's idle GPUs to what the plan wants at each step of the supply ladder.

The ladder's first step is `free`. GPUs between it and the last step are owned and idle elsewhere (`lent`); those of
a step with `whole_nodes` come and go as nodes. Whatever is short is taken from the next step outward, whatever is
too much is moved one step outward: free GPUs are lent where the ladder lends, and nodes that stand idle are given
back where the ladder buys.
"""

from __future__ import annotations

from policies.actions import Action, ActionKind
from policies.gpus import Gpus
from policies.reasons import Reason
from policies.types import FREE, Plan, SupplyStep


def balance_supply(plan: Plan, supply: tuple[SupplyStep, ...], gpus: Gpus, why: Reason) -> list[Action]:
    """Return the actions on nodes, once the replicas of this pass have taken theirs from `gpus`.

    One action a node and kind: the final number of lent GPUs, and whether the node is bought or given back.
    """
    lends = any(not s.whole_nodes for s in supply[1:])
    buys = any(s.whole_nodes for s in supply[1:])
    free_wanted = plan.spare_gpus
    lent_wanted = sum(n for step, n in plan.supply.items() if step != FREE)
    if buys:
        _give_back(gpus, free_wanted + lent_wanted)
    _fill_free(gpus, free_wanted)
    if lends:
        _lend_surplus(gpus, free_wanted)
    if buys:
        _buy_short(gpus, free_wanted + lent_wanted)
    return _actions(gpus, why)


def _fill_free(gpus: Gpus, wanted: int) -> None:
    """Take lent GPUs back until `wanted` are free or on their way, gathered on as few nodes as possible."""
    short = wanted - gpus.free() - gpus.coming()
    order = sorted(gpus.nodes.values(), key=lambda n: (-(n.free + n.coming), -len(n.snapshots), n.name))
    for node in order:
        taken = min(node.lent, max(short, 0))
        if taken:
            gpus.reclaim(node, taken)
            short -= taken


def _lend_surplus(gpus: Gpus, wanted: int) -> None:
    """Lend free GPUs beyond `wanted`, from the nodes with the fewest, so that whole groups stay free.

    GPUs on their way replace no free one: they may be minutes away.
    """
    over = gpus.free() - wanted
    for node in sorted(gpus.nodes.values(), key=lambda n: (n.free, n.name)):
        lent = min(node.free, max(over, 0))
        if lent:
            gpus.lend(node, lent)
            over -= lent


def _buy_short(gpus: Gpus, wanted: int) -> None:
    """Order absent nodes until `wanted` GPUs are idle or on their way."""
    short = wanted - gpus.free() - gpus.coming() - gpus.lent()
    for node in sorted(gpus.nodes.values(), key=lambda n: n.name):
        if short > 0 and node.absent and not node.bought:
            gpus.buy(node)
            short -= node.gpus


def _give_back(gpus: Gpus, wanted: int) -> None:
    """Give back nodes that stand wholly idle while the GPUs that are idle now, not on their way, still cover `wanted`.

    It comes before the others, so that what is free is filled up from the nodes that stay.
    """
    idle = gpus.free() + gpus.lent()
    last_first = sorted(gpus.nodes.values(), key=lambda n: n.name, reverse=True)
    for node in sorted(last_first, key=lambda n: len(n.snapshots)):
        whole = not node.absent and node.free + node.lent == node.gpus and node.name not in gpus.warm_on
        if whole and idle - node.gpus >= wanted:
            idle -= node.gpus
            gpus.give_back(node)


def _actions(gpus: Gpus, why: Reason) -> list[Action]:
    actions = []
    for node in gpus.nodes.values():
        if node.returned:
            actions.append(Action(ActionKind.REMOVE_NODE, why, node=node.name))
        elif node.bought:
            actions.append(Action(ActionKind.ADD_NODE, why, node=node.name))
        elif node.lent != node.lent_before:
            actions.append(Action(ActionKind.SET_LENT, why, node=node.name, gpus=node.lent))
    return actions

"""What must hold of every assignment: once applied nothing is left to do, GPUs are conserved, order does not matter."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import TypeVar

from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from policies.actions import Action
from policies.assignment import assign
from policies.effects import after
from policies.types import NodeObservation, Plan
from tests.policies.drawn import HOLDING, NOW_S, Replicas, World, worlds_and_plans

T = TypeVar("T")


def held_gpus(world: World, replicas: Replicas, node: str) -> int:
    """GPUs of `node` that replicas hold or wait for."""
    return sum(
        world.spec(r.target).gpus_per_replica
        for members in replicas.values()
        for r in members
        if r.node == node and r.phase in HOLDING
    )


def applied(world: World, actions: tuple[Action, ...]) -> World:
    replicas, nodes = after(actions, world.replicas, world.given.nodes, NOW_S)
    return World(replace(world.given, nodes=nodes), replicas, world.running)


def assigned(world: World, plan: Plan) -> tuple[Action, ...]:
    return assign(plan, world.given, world.replicas, world.running)


def conserved(world: World, node: NodeObservation) -> bool:
    idle = node.free_gpus + node.lent_gpus + node.reclaiming_gpus
    return idle + held_gpus(world, world.replicas, node.name) == (0 if node.absent else node.gpus)


@settings(max_examples=200)
@drawn(worlds_and_plans())
def test_assigning_again_after_the_actions_took_effect_yields_none(drawn_world: tuple[World, Plan]) -> None:
    world, plan = drawn_world

    assert assigned(applied(world, assigned(world, plan)), plan) == ()


@settings(max_examples=200)
@drawn(worlds_and_plans())
def test_applying_actions_twice_is_applying_them_once(drawn_world: tuple[World, Plan]) -> None:
    world, plan = drawn_world
    actions = assigned(world, plan)

    once = applied(world, actions)

    assert applied(once, actions) == once


@settings(max_examples=200)
@drawn(worlds_and_plans())
def test_gpus_are_conserved_on_every_node_and_never_negative(drawn_world: tuple[World, Plan]) -> None:
    world, plan = drawn_world
    assert all(conserved(world, n) for n in world.given.nodes)

    then = applied(world, assigned(world, plan))

    assert all(conserved(then, n) for n in then.given.nodes)
    assert all(min(n.free_gpus, n.lent_gpus, n.reclaiming_gpus) >= 0 for n in then.given.nodes)


@settings(max_examples=200)
@drawn(worlds_and_plans(), st.randoms(use_true_random=False))
def test_the_order_of_targets_nodes_and_replicas_does_not_matter(
    drawn_world: tuple[World, Plan], random: Random
) -> None:
    world, plan = drawn_world

    def shuffled(items: tuple[T, ...]) -> tuple[T, ...]:
        return tuple(random.sample(items, len(items)))

    other = World(
        replace(world.given, targets=shuffled(world.given.targets), nodes=shuffled(world.given.nodes)),
        {key: shuffled(members) for key, members in world.replicas.items()},
        world.running,
    )

    assert set(assigned(other, plan)) == set(assigned(world, plan))

"""Choose among a target's replicas: which one goes first, and what a new one is called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import count

from policies.keys import TargetKey
from policies.types import Phase, ReplicaView

_ORDER = {Phase.PENDING: 0, Phase.STARTING: 1, Phase.ACTIVE: 2}


def victims(replicas: Sequence[ReplicaView], running: Mapping[str, float]) -> list[ReplicaView]:
    """Return `replicas` in the order in which to give them up.

    Those that still wait for GPUs go first and cost nothing, then the youngest that start, then the ones with the
    fewest requests in service (`running`, by name; without an entry a replica counts as the busiest). Ties go to
    the youngest, then by name, so that the choice is the same in every replay.
    """

    def key(replica: ReplicaView) -> tuple[int, float, float, str]:
        load = running.get(replica.name, float("inf")) if replica.phase is Phase.ACTIVE else 0.0
        return (_ORDER[replica.phase], load, -replica.since_s, replica.name)

    return sorted(replicas, key=key)


def free_names(target: TargetKey, taken: frozenset[str]) -> Iterator[str]:
    """Yield names for new replicas, `<target>-<ordinal>`, lowest ordinal that is not `taken` first.

    The same view gives the same names, so a pass that is repeated asks for the same objects again.
    """
    return (name for n in count() if (name := f"{target.name}-{n}") not in taken)

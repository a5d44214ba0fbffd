"""Decisions without side effects: frozen input in, frozen plan out, a reason beside every number.

What belongs here is arithmetic on `types.py` alone: no clock, no I/O, no import of a sibling room,
nothing beyond the standard library and numpy. Forethaw's own policy begins in `decide.py`, which
names its parts in order; `actions.py` turns any policy's plan into steps. The policies that it is
compared with answer to the same interface: `static.py`, `hpa.py`, `knative.py` and `planner.py`,
on the common ground of `baselines.py`. The story goes on in `autoscaler/reconcile.py`, which asks a
policy and carries out what it says, live and in the simulator alike.

Nothing is imported here, so that a baseline does not load what only another policy needs.
"""

"""Decisions without side effects: frozen input in, frozen plan out, a reason beside every number.

What belongs here is arithmetic on `types.py` alone: no clock, no I/O, no import of a sibling package,
nothing beyond the standard library and numpy. Forethaw's own policy begins in `decide.py`, which
names its parts in order; `contract.py` says what any policy's plan must satisfy, and `assignment.py` binds it to
nodes and replicas by name. The policies that it is compared with answer to the same interface in `baselines/`.
The story goes on in `autoscaler/reconcile.py`, which asks a policy and carries out what it plans, live and in the
simulator alike.

Nothing is imported here, so that a baseline does not load what only another policy needs.
"""

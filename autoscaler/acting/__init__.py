"""Between a plan and the cluster: modes, a fresh look, and what is in flight.

`modes.py` drops what a target's mode leaves to others, `fresh.py` drops what a second look shows to be stale, and
`inflight.py` remembers what was asked for until the cluster's cache shows it.
"""

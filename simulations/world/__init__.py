"""The simulated cluster: nodes, GPUs, snapshots and replicas behind the autoscaler's own ports.

`cluster.py` implements the `Cluster` and `MetricSource` ports on a simulated clock, so that the
production reconcile runs unmodified; `nodes.py` keeps the GPUs of each node, `ledger.py` accounts
for every GPU-second, `replicas.py` is the life of a replica. Requests are served by the engine
(`simulations/engine`); nothing here looks at a policy.
"""

"""The simulated cluster: nodes, GPUs, snapshots and replicas behind the autoscaler's own ports.

`cluster.py` implements the `Cluster` port on a simulated clock (what each action does is in `obeying.py`),
`metrics.py` the `MetricSource` port, `recorder.py` the `Recorder` port and `clock.py` the runner's clock, so that the
production reconcile runs unmodified. `nodes.py` keeps the GPUs of each node, `snapshots.py` their caches, `ledger.py`
accounts for every GPU-second, `replicas.py` is the life of a replica, `serving.py` feeds the engine
(`simulations/engine`) with its requests. Nothing here looks at a policy, and nothing decides.
"""

"""The autoscaler: ports, forecasts and the one reconcile pass.

Begin with `reconcile.py`; `ports.py` says what a pass needs of the world, `forecast/` where its sample
paths come from. The simulator implements the same ports and runs the same pass.
"""

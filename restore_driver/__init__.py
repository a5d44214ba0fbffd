"""The restore driver's room: checkpoint, restore, park and unpark of real replicas.

Nothing of it is here yet; the simulator draws restore times from measured distributions
(`simulations/data/leadtimes`). The room stands alone: it will import neither policies nor autoscaler.
"""

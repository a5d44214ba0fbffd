"""The restore driver's room: checkpoint, restore, park and unpark of real replicas.

`phases.py` holds the sequences as one table, `driver.py` is the door for a library, `agent/` for a resident process,
`cli.py` for a person. The room stands alone: it imports neither policies nor autoscaler, and runs on a node without
the simulator (`python -m restore_driver`).
"""

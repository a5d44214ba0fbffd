"""The simulator: replay a trace of requests against policies, a year of load in minutes.

Begin with `service.py` (what one replica of a model can do), then `engine/` (requests meeting
replicas, fast), `world/` (the simulated cluster behind the production ports), `replay.py` (one row
of the table) and `results.py` (what a replay leaves behind).
"""

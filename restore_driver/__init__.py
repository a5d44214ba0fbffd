"""The restore driver: checkpoint, restore, park and unpark of real replicas.

`wire/` is what clients send and receive, `attempt/phases.py` holds the sequences as data, `steps/` carries them out.
`driver.py` is the API of the library, `agent/` the resident process, `commands/` the command line. The package stands
alone: it imports neither policies nor autoscaler, and runs on a node without the simulator as
`python -m restore_driver`.
"""

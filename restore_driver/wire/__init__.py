"""The wire contract of the restore driver: requests, results, reasons, phase names and the replica spec.

`requests.py` is what a client sends, `result.py` what it gets back; `reasons.py` and `phase.py` are the names in both,
`replica_spec.py` describes a replica's engine and proof, `version.py` versions all of it. The package stands on
pydantic and the standard library and imports nothing else of the driver, so that a controller can use these models
without the driver's dependencies. An import-linter contract and a test hold that.
"""

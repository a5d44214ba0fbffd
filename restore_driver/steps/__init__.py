"""The steps of the sequences, one function a phase; which follows which stands in `phases.py` alone."""

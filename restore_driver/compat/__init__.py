"""Compatibility of a snapshot with a machine: fingerprints and the rules that compare them."""

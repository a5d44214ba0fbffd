"""Prove that a replica is well: a weights digest and a known request."""

"""Placeholders: the empty, isolated homes into which replicas are restored."""

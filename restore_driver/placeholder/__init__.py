"""Placeholders: the empty, isolated process namespaces into which replicas are restored."""

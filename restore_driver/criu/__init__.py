"""CRIU: find it, run it, read and rewrite its image files."""

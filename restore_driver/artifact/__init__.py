"""Snapshot artifacts: a directory of images with a manifest that describes them and digests that verify them."""

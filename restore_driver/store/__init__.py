"""Stores of artifacts outside the node: a mounted volume or an object store.

    STORE/<name>/<first 16 hex digits of the manifest's digest>/files/...     the files, in chunks (`chunk_index.py`)
                                                               /chunks.json    the index of their chunks
                                                               /manifest.json  written last

A snapshot is listed once it has a manifest, so a killed push leaves nothing that could be staged. `address.py` selects
the backend (`local.py` or `objects.py`, both behind the port `backend.py`), `push.py` writes a snapshot, `catalog.py`
lists, `stage.py` fetches a snapshot to a node, `retention.py` decides what to remove and `prune.py` removes it.
"""

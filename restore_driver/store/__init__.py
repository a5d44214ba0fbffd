"""Where artifacts are kept apart from the node: a mounted volume or an object store.

    STORE/<name>/<first 16 hex digits of the manifest's digest>/files/...     the files, in pieces (`travel.py`)
                                                               /travel.json    the index of their pieces
                                                               /manifest.json  written last

Until its manifest is there a snapshot isn't listed, so a push that dies leaves nothing that could be staged. The story
goes: `address.py` finds the backend (`local.py`, `objects.py`, both behind `backend.py`), `push.py` fills it,
`catalog.py` lists it, `stage.py` brings a snapshot to a node, `retention.py` decides what goes and `prune.py` does it.
"""

"""The resident driver: one a node or restore pod, which carries out requests from a local socket without any start-up.

`protocol.py` is what travels, `server.py` the agent, `client.py` what a caller imports.
"""

"""The resident driver: one a node or restore pod, asked over a local socket, so that nothing has to be started."""

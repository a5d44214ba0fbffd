"""The weights holder: a resident process with models in page-locked host memory.

It copies a model to the GPU while CRIU restores the replica, and hands the device memory over by file descriptor.
`protocol.py` is what travels, `holder.py` the server, `client.py` what driver and replicas use, `store.py` and
`leases.py` hold the models and the copies, `device.py` is the port to the GPU.
"""

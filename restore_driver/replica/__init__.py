"""The helper within a PyTorch replica: its large memory stands at fixed addresses and can leave and return.

Imported by the replica's own process, so it needs no more than the standard library, cuda-bindings and torch there.

    weights = WeightsRange.adopt(model)               # parameters now lie in one reserved range
    kv = ScratchRange(8 << 30)                        # its content need not survive
    control = ReplicaControl("/run/replica.sock", weights={"chat": weights}, scratch=[kv])
    control.start()
    ...
    with control.step():                              # each step of the engine
        graph.replay()
"""

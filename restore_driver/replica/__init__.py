"""The helper within a PyTorch replica: large device memory at fixed addresses, unmapped and mapped again on request.

Imported by the replica's own process, so it needs no more than the standard library, cuda-bindings and torch there.

    weights = WeightsRange.adopt(model)               # parameters now lie in one reserved range
    kv = ScratchRange(8 << 30)                        # its content need not survive
    control = ReplicaControl("/run/replica.sock", weights={"chat": weights}, scratch=[kv])
    control.start()
    ...
    with control.step():                              # each step of the engine
        graph.replay()
"""

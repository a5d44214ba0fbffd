"""A stand-in for an inference engine: a decoder of realistic size, torch.compile, CUDA graphs, a KV cache, HTTP."""

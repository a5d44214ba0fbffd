"""The parts of `benchmarks/gpu_restore.py`: the machine it runs on, and a function for each row."""

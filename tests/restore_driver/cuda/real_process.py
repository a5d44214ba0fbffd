"""A process with 64 MB on the first GPU, for the contract on a real one; with its commands on standard input.

busy SECONDS    starts GPU work of about that long, answers at once
digest          answers a sum of the memory, so that a change shows
"""

import sys

import torch

CLOCK_PER_S = 1_500_000_000

numbers = torch.arange(16 * 1024 * 1024, dtype=torch.int32, device="cuda") * 7
torch.cuda.synchronize()
print("ready", flush=True)
for line in sys.stdin:
    match line.split():
        case ["busy", seconds]:
            torch.cuda._sleep(int(float(seconds) * CLOCK_PER_S))
            print("busy", flush=True)
            torch.cuda.synchronize()
        case ["digest"]:
            print(int(numbers.sum(dtype=torch.int64)), flush=True)

"""Requests meeting replicas: continuous batching at request level, a million requests a second.

One `Fleet` is one target: a central FIFO queue before a number of replica slots. The rules are described
in `events.py`; `batch.py` holds one replica's virtual time, `tournament.py` the trees that find the
next replica in O(log R), `tally.py` what is counted and where, `layout.py` the memory that all of
them share, `jit.py` how they are compiled. `fleet.py` is the interface, `latency.py` reads the
histograms.

The model, in short (sources: continuous batching after Yu et al., "Orca", OSDI 2022; the KV limit
after Kwon et al., "PagedAttention", SOSP 2023; virtual time after the processor-sharing argument of
Parekh and Gallager, 1993):

- A replica runs a batch of n sequences; one decode iteration gives every one of them a token and
  takes `iteration_base_s + iteration_per_sequence_s * n + iteration_per_kv_token_s * kv`.
- Prefill goes first: an admitted request has the replica alone for `prefill_base_s + prompt /
  prefill_tokens_per_s`, first come first served on that replica, and decoding stands still
  meanwhile. So first-token time and wait are known at dispatch.
- `kv` counts a request at `prompt + output / 2` tokens for all its life: the mean over its decode,
  too much at first and too little at last, right for the batch as a whole.
- A replica refuses when it runs `max_num_seqs`, when the request's kv does not fit, and while its
  prefill backlog exceeds `max_prefill_backlog_s`: what it refuses waits in the central queue, where
  a replica restored a moment later can take it.

With `max_num_seqs` 1, no prefill and real-valued outputs this is M/M/c, respectively M/D/1, exactly:
the tests hold it to their formulas.
"""

from simulations.engine.fleet import Fleet, Summary
from simulations.engine.latency import LatencyHistogram
from simulations.engine.layout import SAMPLE_FIELDS

__all__ = ["SAMPLE_FIELDS", "Fleet", "LatencyHistogram", "Summary"]

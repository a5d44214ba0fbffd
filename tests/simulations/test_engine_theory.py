"""The engine against queueing theory: formulas it must meet within its own error bars.

Error bars are batch means (30 batches, the first dropped); a formula is missed at five standard
errors, about once in fifty thousand honest trials. Draws are derandomised: the same trials each run.
"""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscaler.rating.service import ServiceModel
from policies.arrays import FloatArray
from simulations.engine import Fleet

BATCHES = 30
DRAWS = settings(max_examples=8, derandomize=True, deadline=None)


def bare(**changes: float) -> ServiceModel:
    """One request at a time, no prefill, a token a second: a plain queue's server."""
    fields: dict[str, Any] = {
        "name": "bare", "source": "queueing theory", "gpu": "none", "gpus_per_replica": 1, "weights_bytes": 0,
        "prefill_tokens_per_s": math.inf, "prefill_base_s": 0.0, "iteration_base_s": 1.0,
        "iteration_per_sequence_s": 0.0, "iteration_per_kv_token_s": 0.0, "max_num_seqs": 1,
        "kv_tokens_limit": 1e12,
    }  # fmt: skip
    return ServiceModel(**(fields | changes))


def batch_mean_waits(service: ServiceModel, servers: int, times: FloatArray, outputs: FloatArray) -> FloatArray:
    """Mean wait of the requests dispatched in each of BATCHES stretches of time, without the first."""
    fleet = Fleet(service, servers, 1e9, float(times[-1]) + 1.0, 1e9, 1e9)
    for slot in range(servers):
        fleet.activate(slot, 0.0)
    means = []
    edges = np.linspace(0, times.size, BATCHES + 1).astype(int)
    for begin, end in pairwise(edges):
        waited, dispatched = fleet.totals.wait_sum_s, fleet.totals.dispatched
        until = float(times[end]) if end < times.size else float(times[-1]) + 1e-6
        fleet.advance(until, times[begin:end], np.zeros(end - begin), outputs[begin:end])
        means.append((fleet.totals.wait_sum_s - waited) / (fleet.totals.dispatched - dispatched))
    return np.array(means[1:])


def assert_mean(samples: FloatArray, expected: float) -> None:
    error = samples.std(ddof=1) / math.sqrt(samples.size)
    assert abs(samples.mean() - expected) < 5 * error
    assert error < 0.1 * expected, "too noisy to tell anything"


def poisson(rng: np.random.Generator, rate: float, count: int) -> FloatArray:
    return np.cumsum(rng.exponential(1.0 / rate, count))


def erlang_c_wait(servers: int, utilisation: float) -> float:
    """Mean wait of M/M/c in units of the mean service time (Erlang 1917)."""
    load = servers * utilisation
    below = sum(load**k / math.factorial(k) for k in range(servers))
    last = load**servers / math.factorial(servers) / (1 - utilisation)
    return last / (below + last) / (servers * (1 - utilisation))


@DRAWS
@given(utilisation=st.floats(0.3, 0.9), servers=st.sampled_from([1, 2, 5, 12]), seed=st.integers(0, 1000))
def test_exponential_work_on_c_replicas_waits_as_erlang_says(utilisation: float, servers: int, seed: int) -> None:
    """M/M/c (M/M/1 for one): flow control and routing always find the idle replica."""
    # Many servers wait seldom at a low load; a small mean then has a large relative error.
    utilisation = max(utilisation, 0.3 + 0.03 * servers)
    rng = np.random.default_rng(seed)
    times = poisson(rng, servers * utilisation, 600_000)
    outputs = 1.0 + rng.exponential(1.0, times.size)

    waits = batch_mean_waits(bare(), servers, times, outputs)

    assert_mean(waits, erlang_c_wait(servers, utilisation))


@DRAWS
@given(utilisation=st.floats(0.3, 0.9), seed=st.integers(0, 1000))
@pytest.mark.parametrize("kind", ["decode", "prefill", "prefill in a batch"])
def test_constant_work_waits_as_pollaczek_and_khinchine_say(kind: str, utilisation: float, seed: int) -> None:
    """M/D/1, whether the second of work is a token, a prefill, or one of many prefills in line."""
    service = {
        "decode": bare(),
        "prefill": bare(prefill_base_s=1.0),
        "prefill in a batch": bare(prefill_base_s=1.0, max_num_seqs=64),
    }[kind]
    rng = np.random.default_rng(seed)
    times = poisson(rng, utilisation, 200_000)
    outputs = np.full(times.size, 2.0 if kind == "decode" else 1.0)

    waits = batch_mean_waits(service, 1, times, outputs)

    assert_mean(waits, utilisation / (2 * (1 - utilisation)))


@DRAWS
@given(utilisation=st.floats(0.3, 0.85), seed=st.integers(0, 1000), shape=st.sampled_from([0.5, 1.0, 4.0]))
def test_a_batch_without_a_base_shares_its_replica_like_a_processor(
    utilisation: float, seed: int, shape: float
) -> None:
    """M/G/1 processor sharing: a token takes 1 / (1 - load), whatever the sizes' distribution."""
    service = bare(iteration_base_s=0.0, iteration_per_sequence_s=1.0, max_num_seqs=4096)
    rng = np.random.default_rng(seed)
    times = poisson(rng, utilisation, 300_000)
    outputs = 1.0 + rng.gamma(shape, 1.0 / shape, times.size)
    fleet = Fleet(service, 1, 1e9, float(times[-1]) + 1.0, float(times[-1]) / BATCHES, 1e9)
    fleet.activate(0, 0.0)

    fleet.advance(float(times[-1]) + 1e-6, times, np.zeros(times.size), outputs)
    ends = [fleet.summary(i * float(times[-1]) / BATCHES) for i in range(BATCHES)]
    sums = np.array([s.itl_mean_s * s.completed for s in ends])
    counts = np.array([s.completed for s in ends])
    per_batch = (sums[:-1] - sums[1:]) / (counts[:-1] - counts[1:])

    assert_mean(per_batch[1:], 1.0 / (1.0 - utilisation))


@pytest.mark.parametrize(("prompt", "output"), [(1000, 200), (200, 1000), (4000, 100)])
def test_an_overloaded_replica_completes_what_it_is_rated_for(prompt: int, output: int) -> None:
    """Equal requests at twice the rated load: throughput settles at `rated`, within two percent."""
    service = ServiceModel(
        **bare().model_dump()
        | {
            "prefill_tokens_per_s": 30_000.0, "prefill_base_s": 0.001, "iteration_base_s": 0.007,
            "iteration_per_sequence_s": 2e-5, "iteration_per_kv_token_s": 5e-8, "max_num_seqs": 128,
            "kv_tokens_limit": 200_000.0,
        }
    )  # fmt: skip
    rated = service.rated(prompt, output)
    count = int(4000 * rated.rps)
    times = np.linspace(0, 2000, count, endpoint=False)
    fleet = Fleet(service, 1, 1.0, 2000, 100)
    fleet.activate(0, 0.0)

    fleet.advance(2000.0, times, np.full(count, prompt), np.full(count, output))

    settled = fleet.summary(500.0).completed / 1500
    assert settled == pytest.approx(rated.rps, rel=0.02)
    assert fleet.take_samples()[:, 4].max() == int(rated.concurrency)

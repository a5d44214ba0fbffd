"""Real shipped traces, laws of arrival, and streams that are the same however they are cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscaler.input_error import InputError
from simulations.traces import open_trace, trace_names


def everything(stream: object) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    taken = stream.take_until(stream.duration_s)  # type: ignore[attr-defined]  # any stream
    return tuple(np.array(part) for part in taken)  # type: ignore[return-value]  # three arrays


def rates_file(folder: Path, rate: float, cv: float, windows: int = 6, gap: int | None = None) -> str:
    """One client with one rate and cv, and a token file beside it."""
    rows = [f"{600 * w},0,{rate},{cv}" for w in range(windows) if w != gap]
    file = folder / "mine_week1.csv"
    file.write_text("window_start_s,client,rate_rps,cv\n" + "\n".join(rows) + "\n")
    quantiles = [100 + k for k in range(40)]
    import gzip
    import json

    tokens = {"0": {"input_tokens": quantiles, "output_tokens": quantiles}}
    (folder / "mine_tokens.json.gz").write_bytes(gzip.compress(json.dumps(tokens).encode()))
    return str(file)


@pytest.mark.parametrize(
    ("name", "requests", "prompt", "output"),
    [("azure-code", 8819, 2047.8, 27.9), ("azure-conv", 19366, 1154.7, 211.1), ("mooncake", 12031, 12035.1, 342.6)],
)
def test_recorded_arrivals_come_out_as_recorded(name: str, requests: int, prompt: float, output: float) -> None:
    times, prompts, outputs = everything(open_trace(name, seed=1))

    assert len(times) == requests
    assert prompts.mean() == pytest.approx(prompt, abs=0.05)
    assert outputs.mean() == pytest.approx(output, abs=0.05)
    assert np.all(np.diff(times) >= 0)


@pytest.mark.parametrize("name", trace_names())
def test_every_shipped_trace_opens_and_names_its_origin(name: str) -> None:
    info = open_trace(name, seed=1, duration_s=600.0).info

    assert info.licence and info.citation and info.rule.endswith(".")
    assert info.requests > 0


def test_counts_are_kept_minute_by_minute() -> None:
    """The first minutes of the World Cup record: 841, 737, 690."""
    times = everything(open_trace("worldcup98", seed=1, duration_s=180.0))[0]

    assert list(np.bincount((times // 60).astype(int))) == [841, 737, 690]


@pytest.mark.parametrize(("rate", "cv"), [(20.0, 0.5), (20.0, 1.0), (20.0, 3.0), (200.0, 30.0)])
def test_drawn_arrivals_have_the_recorded_rate_and_cv(tmp_path: Path, rate: float, cv: float) -> None:
    """An hour of one client; the error of the mean rate of n intervals is cv / sqrt(n)."""
    times = everything(open_trace(rates_file(tmp_path, rate, cv), seed=3))[0]
    n = rate * 3600

    assert len(times) == pytest.approx(n, rel=4 * cv / np.sqrt(n) + 0.001)
    intervals = np.diff(times)
    assert intervals.std() / intervals.mean() == pytest.approx(cv, rel=0.35 if cv > 2 else 0.05)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(0.0, 300.0), min_size=1, max_size=12), st.sampled_from(["azure-conv", "servegen/m-large"]))
def test_a_stream_is_the_same_however_it_is_cut(cuts: list[float], name: str) -> None:
    whole = everything(open_trace(name, seed=2, duration_s=300.0))
    stream = open_trace(name, seed=2, duration_s=300.0)
    parts = [tuple(np.array(p) for p in stream.take_until(c)) for c in (*sorted(cuts), 300.0)]

    for k in range(3):
        assert np.array_equal(np.concatenate([p[k] for p in parts]), whole[k])


def test_seeds_decide_and_nothing_else() -> None:
    first = everything(open_trace("servegen/m-small", seed=1, duration_s=60.0))[0]

    assert np.array_equal(first, everything(open_trace("servegen/m-small", seed=1, duration_s=60.0))[0])
    assert not np.array_equal(first, everything(open_trace("servegen/m-small", seed=2, duration_s=60.0))[0])


def test_copies_add_up_and_thinning_takes_its_share() -> None:
    one = len(everything(open_trace("azure-conv", seed=1))[0])

    assert len(everything(open_trace("azure-conv", seed=1, scale=5))[0]) == 5 * one
    assert len(everything(open_trace("azure-conv", seed=1, thin=0.25))[0]) == pytest.approx(one / 4, rel=0.05)


def test_a_window_without_any_client_is_a_gap_and_not_silence(tmp_path: Path) -> None:
    stream = open_trace(rates_file(tmp_path, 10.0, 1.0, gap=2), seed=1)

    assert not stream.in_gap(0.0, 1200.0)
    assert stream.in_gap(1199.0, 1201.0)
    assert stream.in_gap(1500.0, 1501.0)
    assert not stream.in_gap(1800.0, 1900.0)


def test_the_true_rate_is_the_records() -> None:
    """The five-model fleet's m-large, first day: 279 requests/s on the mean."""
    rate = open_trace("servegen/m-large", seed=1, duration_s=86_400.0).true_rate()
    mean = float(rate.rate_rps @ np.diff(rate.edges_s)) / 86_400.0

    assert mean == pytest.approx(279.3, abs=0.5)
    assert rate.burstiness.min() > 0.5


def test_a_long_stream_stays_small_in_memory() -> None:
    """Ten minutes of m-mid hold a million requests; no piece of them is large."""
    stream = open_trace("servegen/m-mid", seed=1, duration_s=600.0)
    sizes = [chunk.times_s.size for chunk in stream.chunks()]

    assert sum(sizes) > 300_000
    assert max(sizes) < 300_000


def test_a_truncated_archive_is_refused(tmp_path: Path) -> None:
    import gzip

    whole = gzip.compress(b"time_s,prompt_tokens,output_tokens\n" + b"0.0,1,1\n" * 1000)
    file = tmp_path / "cut.csv.gz"
    file.write_bytes(whole[: len(whole) // 2])

    with pytest.raises(InputError, match=r"cut\.csv\.gz"):
        open_trace(str(file), seed=1)


def test_what_is_not_utf8_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "latin.csv"
    file.write_bytes(b"time_s,prompt_tokens,output_tokens\n0.0,1,\xff\xfe\n")

    with pytest.raises(InputError, match=r"latin\.csv"):
        open_trace(str(file), seed=1)

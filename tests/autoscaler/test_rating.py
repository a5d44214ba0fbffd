"""Service models: what the files say, what follows from it, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from autoscaler.rating.service import ServiceModel, load_service, service_names


def test_every_shipped_service_names_its_source_and_fits_its_gpus() -> None:
    """Weights and KV together must fit into nine tenths of the GPUs' memory."""
    assert len(service_names()) >= 5
    for name in service_names():
        service = load_service(name)
        assert service.name == name
        assert "data sheet" in service.source
        assert service.weights_bytes < 0.9 * 80e9 * service.gpus_per_replica


@pytest.mark.parametrize(
    ("prompt", "output", "published_tokens_per_s"),
    [(2048, 128, 762), (1000, 1000, 4205), (128, 2048, 6651), (5000, 500, 898), (2048, 2048, 3082)],
)
def test_the_checked_service_reproduces_the_published_table(
    prompt: int, output: int, published_tokens_per_s: float
) -> None:
    """Llama 3.3 70B FP8 on two H100: the TensorRT-LLM 1.0 performance overview, within a tenth."""
    rated = load_service("llama-3.1-70b-fp8-h100-tp2").rated(prompt, output)

    assert rated.rps * output == pytest.approx(published_tokens_per_s, rel=0.10)


@given(
    name=st.sampled_from(service_names()),
    prompt=st.floats(0, 20_000),
    output=st.floats(1, 4_000),
)
def test_rated_throughput_is_one_over_the_price_of_the_mean_request(name: str, prompt: float, output: float) -> None:
    """The three prices add up to the work of a request, which no request can undercut."""
    service = load_service(name)
    rated = service.rated(prompt, output)
    work_s = rated.work_per_request_s + prompt * rated.work_per_prompt_token_s + output * rated.work_per_output_token_s

    assert rated.rps == pytest.approx(1.0 / work_s)
    assert 1 <= rated.concurrency <= service.max_num_seqs
    assert service.least_work(prompt, output) <= work_s * (1 + 1e-9)


@given(prompt=st.floats(0, 5_000), output=st.floats(1, 1_000), more=st.floats(0, 1_000))
def test_longer_requests_never_rate_higher(prompt: float, output: float, more: float) -> None:
    service = load_service("llama-3.1-8b-h100")
    rps = service.rated(prompt, output).rps

    assert service.rated(prompt + more, output).rps <= rps * (1 + 1e-9)
    assert service.rated(prompt, output + more).rps <= rps * (1 + 1e-9)


def test_least_work_takes_arrays() -> None:
    service = load_service("llama-3.1-8b-h100")
    prompts, outputs = np.array([10, 1000]), np.array([1, 200])

    together = service.least_work(prompts, outputs)

    assert together.tolist() == [float(service.least_work(10, 1)), float(service.least_work(1000, 200))]


def test_a_service_of_ones_own_is_read_from_a_path(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "autoscaler/rating/data/llama-3.1-8b-h100.toml").read_text()
    own = tmp_path / "mine.toml"
    own.write_text(text.replace('name = "llama-3.1-8b-h100"', ""))

    assert load_service(own).name == "mine"


def test_an_unknown_service_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown service 'gpt-0'.*llama-3\.1-8b-h100"):
        load_service("gpt-0")


def test_a_service_file_that_is_missing_or_not_toml_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("name = ")

    with pytest.raises(FileNotFoundError):
        load_service(tmp_path / "missing.toml")
    with pytest.raises(ValueError, match="Invalid value"):
        load_service(broken)


@pytest.mark.parametrize(("prompt", "output"), [(-1.0, 10.0), (10.0, 0.0), (float("nan"), 10.0), (10.0, float("nan"))])
def test_a_mix_that_has_no_requests_is_not_rated(prompt: float, output: float) -> None:
    with pytest.raises(ValueError, match="prompt >= 0 and output > 0"):
        load_service("llama-3.1-8b-h100").rated(prompt, output)


@pytest.mark.parametrize(
    "change",
    [
        {"iteration_base_s": 0.0, "iteration_per_sequence_s": 0.0},
        {"prefill_tokens_per_s": 0.0},
        {"max_num_seqs": 0},
        {"kv_tokens_limit": float("nan")},
        {"misspelt": 1.0},
    ],
)
def test_a_service_that_cannot_be_served_is_refused(change: dict[str, float]) -> None:
    fields = load_service("llama-3.1-8b-h100").model_dump()

    with pytest.raises(ValidationError):
        ServiceModel(**(fields | change))

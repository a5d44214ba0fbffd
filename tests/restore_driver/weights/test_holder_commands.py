"""`forethaw holder ...` as a person uses it, with memory in place of a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from restore_driver.commands.holder import parse_size
from restore_driver.doctor import Machine
from restore_driver.errors import DriverError, Reason
from restore_driver.weights.client import HolderClient
from restore_driver.weights.safetensors import Layout, in_file_order
from tests.restore_driver.weights.test_holder import MIB, ROOT, Weights, taken, write_safetensors

ALIGNED = "in file order, each tensor at a multiple of 256 bytes"


def forethaw(*words: str | Path, exit_code: int = 0) -> subprocess.CompletedProcess[str]:
    """Runs one command to its end."""
    argv = [sys.executable, "-m", "restore_driver", "holder", *map(str, words)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == exit_code, f"{done.returncode}: {done.stdout}{done.stderr}"
    return done


def answer(*words: str | Path) -> dict[str, Any]:
    """What a command says in JSON."""
    said: dict[str, Any] = json.loads(forethaw(*words, "--json").stdout)
    return said


def refusal(*words: str | Path) -> str:
    """The sentence with which a command refuses."""
    return forethaw(*words, exit_code=2).stderr.strip()


Begin = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    """Starts holders at `tmp_path/sock`; ends them after the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*options: str | Path, budget: str = "64M") -> subprocess.Popen[str]:
        argv = [sys.executable, "-m", "restore_driver", "holder", "serve", "--socket", tmp_path / "sock"]
        argv += ["--budget", budget, "--device", "host:1G", *options]
        child = subprocess.Popen([*map(str, argv)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(child)
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        return child

    yield start
    for child in started:
        child.terminate()
        child.communicate()


def on_the_gpu(path: Path, model: str) -> bytes:
    """What a replica that takes a model finds in its range."""
    client = HolderClient(path)
    try:
        return bytes(taken(client, client.load(model, 10.0))[:])
    finally:
        client.close()


def test_a_model_without_a_layout_lies_as_in_its_files(begin: Begin, tmp_path: Path) -> None:
    """The header may name its tensors in any order: the bytes' order counts."""
    begin()
    tensors = {"b": b"\2" * 300, "a": b"\1" * 256, "c": b"\3" * 5}
    write_safetensors(tmp_path / "x.safetensors", tensors)
    write_safetensors(tmp_path / "y.safetensors", {"0": b"\4" * 10})
    files = [tmp_path / "x.safetensors", tmp_path / "y.safetensors"]
    said = answer("preload", "chat", *files, "--socket", tmp_path / "sock")

    assert said.pop("read_bytes_per_s") == pytest.approx(1280 / said.pop("read_s"))
    assert said.pop("total_s") > said.pop("pin_s") >= 0.0
    assert said == {
        "model": "chat",
        "layout": ALIGNED,
        "tensors": 4,
        "bytes": 1280,
        "held_bytes": 2 * MIB,
        "was_held": False,
    }
    assert in_file_order(files) == Layout(1280, {"b": 0, "a": 512, "c": 768, "0": 1024})
    expected = b"".join(content + bytes(-len(content) % 256) for content in (*tensors.values(), b"\4" * 10))
    assert on_the_gpu(tmp_path / "sock", "chat")[:1280] == expected


def test_a_day_of_a_holder(begin: Begin, tmp_path: Path) -> None:
    """Preloaded by the replica's own layout, again, seen, dropped, dropped again."""
    holder = begin()
    socket, model = ("--socket", tmp_path / "sock"), Weights(tmp_path, 1)
    (tmp_path / "layout.json").write_text(
        json.dumps({"total_bytes": model.layout.total_bytes, "offsets_bytes": dict(model.layout.offsets_bytes)})
    )
    preload: tuple[str | Path, ...] = ("preload", "chat", *model.files, *socket, "--layout", tmp_path / "layout.json")
    first = forethaw(*preload).stdout
    what = f"chat: {model.layout.total_bytes:,} bytes, 4 tensors ({tmp_path}/layout.json); "
    assert first.startswith(f"{what}read in ")
    assert " GB/s), page-locked in " in first
    assert on_the_gpu(tmp_path / "sock", "chat")[: len(model.expected)] == model.expected
    assert forethaw(*preload).stdout == f"{what}held already\n"

    held = 4 * MIB
    assert answer("status", *socket) == {
        "pid": holder.pid,
        "budget_bytes": 64 * MIB,
        "held_bytes": held,
        "free_device_bytes": 1 << 30,
        "gpu": "host",
        "models": {"chat": held},
        "leases": 0,
    }
    assert forethaw("status", *socket).stdout == (
        f"chat: 4,194,304 bytes\nprocess {holder.pid} holds 4,194,304 of 67,108,864 bytes, "
        "1,073,741,824 bytes of its GPU are free, 0 loads are under way\n"
    )

    assert answer("drop", "chat", *socket) == {"model": "chat", "freed_bytes": held}
    assert forethaw("drop", "chat", *socket).stdout == "chat was not held; held: nothing\n"
    assert answer("status", *socket)["held_bytes"] == 0


def test_a_model_beyond_the_budget_is_refused_with_the_numbers(begin: Begin, tmp_path: Path) -> None:
    begin(budget="2M")
    model = Weights(tmp_path, 1)

    assert refusal("preload", "chat", *model.files, "--socket", tmp_path / "sock") == (
        "TooLittleMemory: model chat needs 4,194,304 bytes, the budget is 2,097,152 and 0 of it are in use; "
        "start the holder with a larger budget"
    )


def test_a_second_holder_leaves_the_first_its_socket(begin: Begin, tmp_path: Path) -> None:
    first, path = begin(), tmp_path / "sock"
    said = refusal("serve", "--socket", path, "--budget", "64M", "--device", "host:1G")

    assert said == f"Busy: a holder serves {path} already; end it, or give another --socket"
    assert answer("status", "--socket", path)["pid"] == first.pid


def test_truncated_list_of_models_is_reported_and_left_out(begin: Begin, tmp_path: Path) -> None:
    (tmp_path / "models.json").write_text('[{"model": "chat", "fi')
    holder = begin("--state", tmp_path / "models.json")

    assert answer("status", "--socket", tmp_path / "sock")["models"] == {}
    holder.terminate()
    _, said = holder.communicate()
    [failure] = [line for line in said.splitlines() if "model_not_reloaded" in line]
    assert f"{tmp_path}/models.json is no list of models: " in failure


def test_unwritable_list_of_models_is_reported(begin: Begin, tmp_path: Path) -> None:
    """The client gets the reason instead of a closed connection."""
    begin("--state", tmp_path / "gone" / "models.json")
    model = Weights(tmp_path, 1)
    said = refusal("preload", "chat", *model.files, "--socket", tmp_path / "sock")

    assert said.startswith("WeightsFailed: preload: [Errno 2] No such file or directory: ")


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        ("{", "cannot be read: Expecting property name"),
        ("[]", "total_bytes is None, not a size"),
        ('{"total_bytes": "1G", "offsets_bytes": {}}', "total_bytes is '1G', not a size"),
        ('{"total_bytes": 9, "offsets_bytes": [0]}', "offsets_bytes is [0], not a table"),
        ('{"total_bytes": 9, "offsets_bytes": {"a": -1}}', "offset of a is -1"),
    ],
)
def test_a_layout_is_refused_by_field_and_value(layout: str, said: str, tmp_path: Path) -> None:
    model, path = Weights(tmp_path, 1), tmp_path / "layout.json"
    path.write_text(layout)
    sentence = refusal("preload", "chat", *model.files, "--socket", tmp_path / "none", "--layout", path)

    assert sentence.startswith(f"RequestInvalid: --layout {path}")
    assert said in sentence
    assert sentence.endswith("or leave --layout out")


def test_invalid_options_are_refused_by_field_value_and_hint(tmp_path: Path) -> None:
    socket = ("--socket", tmp_path / "none")
    sizes = "give bytes, or a number with K, M, G or T (powers of 1024), such as 40G"

    assert refusal("serve", *socket, "--budget", "40X") == f"RequestInvalid: --budget '40X' is not a size; {sizes}"
    assert refusal("serve", *socket, "--budget", "1G", "--device", "host:") == (
        f"RequestInvalid: --device '' is not a size; {sizes}"
    )
    assert refusal("serve", *socket, "--budget", "1G", "--device", "first") == (
        "RequestInvalid: --device 'first' is no GPU; give its ordinal, or host:BYTES"
    )
    assert refusal("status", *socket).startswith(f"WeightsFailed: the weights holder at {tmp_path}/none: [Errno 2]")
    assert "no safetensors file" in refusal("preload", "chat", tmp_path / "absent.safetensors", *socket)
    write_safetensors(tmp_path / "empty.safetensors", {})
    assert refusal("preload", "chat", tmp_path / "empty.safetensors", *socket) == (
        f"WeightsFailed: {tmp_path}/empty.safetensors: no tensors; name the model's shards"
    )


def test_holder_without_a_gpu_reports_it_with_a_hint(tmp_path: Path) -> None:
    if Machine(tmp_path).nvidia_trace:
        pytest.skip("there is a GPU")
    said = refusal("serve", "--socket", tmp_path / "sock", "--budget", "1G")

    assert said.startswith(
        ("CudaMissing: libcuda cannot be loaded: ", "CudaMissing: cuda-bindings cannot be imported: ")
    )
    assert said.endswith(("; install NVIDIA's driver", "; pip install 'forethaw[gpu]'"))


def test_sizes_are_bytes_or_powers_of_1024() -> None:
    assert [parse_size("--budget", text) for text in ("4096", "1K", "1.5g", "40G", "2TiB", "1MB")] == [
        4096,
        1 << 10,
        3 << 29,
        40 << 30,
        2 << 40,
        1 << 20,
    ]
    for text in ("", "G", "-1G", "0", "1e9", "40 G B"):
        with pytest.raises(DriverError, match="--budget") as caught:
            parse_size("--budget", text)
        assert caught.value.reason is Reason.REQUEST_INVALID

"""The stand-in replica's process.

    python -m benchmarks.standin.serve --make DIR ...       write random weights (seeded) as safetensors, and end
    python -m benchmarks.standin.serve --weights DIR --socket PATH --port N ...    serve

Prints one line of JSON with the time of each part of its start when it is ready. `POST /generate` with
{"prompt": [tokens], "steps": n} answers {"tokens": [...], "logits": [...]}.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.standin import http_server

BEGAN_S = time.monotonic()


def options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--make", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--socket", default="/tmp/standin.sock")
    parser.add_argument("--model", default="standin", help="name that the weights holder knows it by")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--hidden", type=int, default=11008)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--eager", action="store_true", help="no torch.compile")
    parser.add_argument("--plain", action="store_true", help="weights and KV in ordinary memory: for the naive row")
    return parser.parse_args()


def main() -> None:
    """Make or load the model, and serve it."""
    chosen = options()
    laps: dict[str, float] = {}
    at = BEGAN_S

    def lap(name: str) -> None:
        nonlocal at
        now = time.monotonic()
        laps[name], at = now - at, now

    import torch

    from benchmarks.standin.model import Decoder, Engine, Sizes
    from restore_driver.replica.control import end_compile_workers

    lap("import_s")
    sizes = Sizes(
        layers=chosen.layers,
        width=chosen.width,
        heads=chosen.width // 128,
        hidden=chosen.hidden,
        sequences=chosen.sequences,
        context=chosen.context,
    )
    torch.manual_seed(7)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = Decoder(sizes).requires_grad_(requires_grad=False).eval()
    torch.cuda.synchronize()
    lap("build_s")
    if chosen.make:
        make(model, chosen.make)
        return
    weights, scratch, cache = place(model, sizes, chosen)
    lap("place_s")
    load(model, chosen.weights)
    torch.cuda.synchronize()
    lap("load_s")
    engine = Engine(model, list(cache.unbind(0)), compiled=not chosen.eager)
    torch.cuda.synchronize()
    lap("compile_and_capture_s")
    engine.generate([1, 2, 3], 2)
    lap("first_answer_s")
    server = serve(chosen, engine, weights, scratch, cache)
    if chosen.plain:  # there is no control that would do it before the checkpoint
        end_compile_workers()
    print(json.dumps({"ready": True, "start_s": time.monotonic() - BEGAN_S, **laps}), flush=True)
    server.serve_forever()


def make(model: Any, directory: Path) -> None:
    """Write the model's weights into `directory`."""
    from restore_driver.replica.ranges import WeightsRange

    WeightsRange.adopt(model).save(directory)


def place(model: Any, sizes: Any, chosen: argparse.Namespace) -> tuple[Any, Any, Any]:
    """Weights and KV into reserved ranges, or, for the naive row, into ordinary memory."""
    import torch

    from restore_driver.replica.ranges import ScratchRange, WeightsRange

    shape = (2 * sizes.layers, sizes.sequences, sizes.heads, sizes.context, sizes.width // sizes.heads)
    if chosen.plain:
        return None, None, torch.zeros(shape, device="cuda")
    weights = WeightsRange.adopt(model)
    scratch = ScratchRange(sizes.kv_bytes)
    scratch.bytes.zero_()
    torch.cuda.empty_cache()
    return weights, scratch, scratch.tensor(torch.bfloat16, shape)


def load(model: Any, directory: Path) -> None:
    """Fill the model with the weights of `directory`."""
    from safetensors.torch import load_file

    targets = dict([*model.named_parameters(), *model.named_buffers()])
    for file in sorted(directory.glob("*.safetensors")):
        for name, tensor in load_file(file, device="cuda").items():
            targets[name].copy_(tensor)


def serve(chosen: argparse.Namespace, engine: Any, weights: Any, scratch: Any, cache: Any) -> Any:
    """Answer requests until the process is ended."""
    import torch

    from restore_driver.replica.control import ReplicaControl

    one_at_a_time = threading.Lock()
    control = ReplicaControl(
        chosen.socket,
        weights={} if weights is None else {chosen.model: weights},
        scratch=[] if scratch is None else [scratch],
        on_resume=cache.zero_,  # undefined bits could be NaN, and NaN times a masked zero is NaN
    )
    if not chosen.plain:
        control.start()

    def generate(request: dict[str, Any]) -> dict[str, Any]:
        with one_at_a_time, control.step():
            torch.cuda.set_device(0)
            tokens, logits = engine.generate(request["prompt"], request["steps"])
            return {"tokens": tokens, "logits": logits}

    return http_server.serve(chosen.port, generate)


if __name__ == "__main__":
    main()

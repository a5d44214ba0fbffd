"""A model of Hugging Face's transformers, served over HTTP, with the replica's helper; random weights, seeded.

    python -m benchmarks.standin.transformers_serve --make DIR | --weights DIR --socket PATH --port N

`POST /generate` with {"prompt": [tokens], "steps": n} answers {"tokens": [...]}, greedily.
"""

from __future__ import annotations

import argparse
import json
import threading
from pathlib import Path
from typing import Any

from benchmarks.standin.http_server import serve


def main() -> None:
    """Load the model and answer requests until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--make", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--socket", default="/tmp/transformers.sock")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--model", default="transformers")
    chosen = parser.parse_args()

    import torch
    from safetensors.torch import load_file
    from transformers import LlamaConfig, LlamaForCausalLM

    from restore_driver.replica.control import ReplicaControl
    from restore_driver.replica.ranges import WeightsRange

    torch.manual_seed(11)
    config = LlamaConfig(
        hidden_size=2048, intermediate_size=5632, num_hidden_layers=16, num_attention_heads=16, vocab_size=32000
    )
    model: Any = (
        LlamaForCausalLM(config).to(dtype=torch.bfloat16, device="cuda").eval().requires_grad_(requires_grad=False)
    )
    weights = WeightsRange.adopt(model)
    if chosen.make:
        weights.save(chosen.make)
        return
    for file in sorted(chosen.weights.glob("*.safetensors")):
        for name, tensor in load_file(file, device="cuda").items():
            weights.tensors[name].copy_(tensor)
    control = ReplicaControl(chosen.socket, weights={chosen.model: weights})
    control.start()
    one_at_a_time = threading.Lock()

    @torch.no_grad()
    def generate(request: dict[str, Any]) -> dict[str, Any]:
        with one_at_a_time, control.step():
            torch.cuda.set_device(0)
            prompt = torch.tensor([request["prompt"]], device="cuda")
            made = model.generate(prompt, max_new_tokens=request["steps"], do_sample=False, pad_token_id=0)
            return {"tokens": made[0, prompt.shape[1] :].tolist()}

    generate({"prompt": [1, 2, 3], "steps": 2})
    server = serve(chosen.port, generate)
    print(json.dumps({"ready": True}), flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()

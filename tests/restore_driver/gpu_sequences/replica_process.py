"""A replica that takes its weights from a holder, on a machine without a GPU.

The switch between running and quiet is the product's own (`restore_driver.replica.ReplicaControl`); only what stands
under it is another: its ranges are memfds instead of device memory, and `torch` is the few names that it calls.

    python replica_process.py --driver libcuda.so.1 --weights FILE --socket PATH --port N

GET /answer       {"sum": of all bytes of the weights, "count": n}
GET /long         the same, by a step that lasts until POST /enough; a file "long" beside FILE tells that it runs
POST /increment   {"count": n}
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import mmap
import os
import sys
import threading
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[3]))
torch = types.ModuleType("torch")
torch.cuda = types.SimpleNamespace(  # type: ignore[attr-defined]
    set_device=lambda ordinal: None, synchronize=lambda ordinal=None: None, empty_cache=lambda: None
)
torch._C = types.SimpleNamespace()  # type: ignore[attr-defined]
sys.modules["torch"] = torch

from restore_driver.replica.control import ReplicaControl  # noqa: E402 (it must find the module above)


class HostRange:
    """`vmm.Range` over a memfd."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes, self.ordinal, self.mapped = size_bytes, 0, False
        self.memory: Any = None

    def map_own(self) -> None:
        self.memory, self.mapped = mmap.mmap(-1, self.size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), True

    def map_imported(self, fd: int) -> None:
        self.memory, self.mapped = mmap.mmap(fd, self.size_bytes), True
        os.close(fd)

    def unmap(self) -> None:
        if self.mapped:
            self.memory.close()
            self.memory, self.mapped = None, False


class HostWeights:
    """`ranges.WeightsRange` as far as the control asks."""

    def __init__(self, content: bytes) -> None:
        self.range = HostRange(len(content))
        self.range.map_own()
        self.range.memory[:] = content

    def digest(self) -> str:
        return hashlib.blake2b(self.range.memory, digest_size=8).hexdigest()


class Scratch:
    """`ranges.ScratchRange`."""

    def __init__(self, size_bytes: int) -> None:
        self.range = HostRange(size_bytes)
        self.range.map_own()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--driver", required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--socket", required=True)
    parser.add_argument("--port", type=int, required=True)
    chosen = parser.parse_args()
    ctypes.CDLL(chosen.driver)  # a process that maps libcuda may use CUDA: so the driver finds out
    weights, counted, enough = HostWeights(chosen.weights.read_bytes()), [0], threading.Event()
    control = ReplicaControl(chosen.socket, weights={"m": weights}, scratch=[Scratch(1 << 20)])  # type: ignore[dict-item, list-item]
    control.start()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with control.step():
                if self.path == "/long":
                    chosen.weights.with_name("long").touch()
                    enough.wait(60.0)
                self._answer({"sum": sum(weights.range.memory[:4096]), "count": counted[0]})

        def do_POST(self) -> None:
            if self.path == "/enough":
                enough.set()
                self._answer({})
                return
            with control.step():
                counted[0] += 1
                self._answer({"count": counted[0]})

        def _answer(self, value: dict[str, int]) -> None:
            body = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            return

    ThreadingHTTPServer(("127.0.0.1", chosen.port), Handler).serve_forever()


if __name__ == "__main__":
    main()

"""Real servers that do what vLLM, SGLang and our own helper say they do, faults included.

What they were asked is kept.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from restore_driver.engines import ProcessRoot

Reply = tuple[int, Any]
HERE = ProcessRoot(os.getpid(), Path("/"))
NOT_FOUND: Reply = (404, {"detail": "Not Found"})


class FakeEngine:
    """Answers by `reply`; `faults` answer first, by path; `hang` lists paths that never answer."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.bodies: list[Any] = []
        self.headers: list[dict[str, str]] = []
        self.faults: dict[str, Reply] = {}
        self.hang: set[str] = set()
        self.ended = threading.Event()
        self.base_url = ""

    def reply(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> Reply:
        raise NotImplementedError

    def answer(self, method: str, url: str, body: Any, headers: dict[str, str]) -> Reply:
        parts = urlsplit(url)
        self.asked.append(f"{method} {url}")
        self.bodies.append(body)
        self.headers.append(headers)
        if parts.path in self.hang:
            self.ended.wait(30.0)
        if parts.path in self.faults:
            return self.faults[parts.path]
        return self.reply(method, parts.path, parse_qs(parts.query), body)


class FakeVllm(FakeEngine):
    """vLLM: docs/features/sleep_mode.md and `entrypoints/serve/dev/sleep`, as of 0.32.0."""

    def __init__(self) -> None:
        super().__init__()
        self.dev_mode = True
        self.running: list[int] = []
        self.asleep: set[str] = set()
        self.weights = "loaded"
        self.sleep_works = True
        self.paused = False

    def reply(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> Reply:
        if path == "/metrics":
            return 200, self._metrics()
        if not self.dev_mode:
            return NOT_FOUND
        match method, path:
            case "GET", "/is_sleeping":
                return 200, {"is_sleeping": self.paused or bool(self.asleep)}
            case "POST", "/sleep":
                if self.sleep_works and not self.asleep:
                    self.asleep, self.paused = {"weights", "kv_cache"}, True
                    self.weights = {"1": "in host memory", "2": "dropped"}[query["level"][0]]
                return 200, None
            case "POST", "/wake_up":
                woken = set(query.get("tags", self.asleep))
                if "weights" in self.asleep & woken:
                    self.weights = "loaded" if self.weights == "in host memory" else "rubbish"
                self.asleep -= woken
                self.paused = self.paused and bool(self.asleep)
                return 200, None
            case "POST", "/collective_rpc":
                assert body == {"method": "reload_weights"}
                assert "weights" not in self.asleep
                self.weights = "loaded"
                return 200, {"results": [None]}
        return NOT_FOUND

    def _metrics(self) -> str:
        running = self.running.pop(0) if self.running else 0
        labels = '{engine="0",model_name="m"}'
        return (
            "# TYPE vllm:num_requests_running gauge\n"
            f"vllm:num_requests_running{labels} {running}.0\nvllm:num_requests_waiting{labels} 0.0\n"
            'vllm:request_success_total{finished_reason="stop"} 7.0\n'
        )


class FakeSglang(FakeEngine):
    """SGLang: docs/advanced_features/sglang_for_rl.md, `http_server.py`, `weight_updater.py`, as of 0.5.23."""

    def __init__(self) -> None:
        super().__init__()
        self.arguments = {"enable_memory_saver": True, "enable_weights_cpu_backup": True, "tp_size": 1}
        self.has_pause = True
        self.info_path = "/server_info"
        self.running: list[int] = []
        self.released: set[str] = set()
        self.paused = False
        self.weights = "loaded"
        self.dead = False

    def reply(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> Reply:
        if self.dead:
            return 500, {"error": "the scheduler is dead"}
        match method, path:
            case "GET", self.info_path:
                return 200, self.arguments
            case "POST", "/flush_cache":
                busy = self.running.pop(0) if self.running else 0
                return (400 if busy else 200), "Cache flushed.\nPlease check backend logs for more details."
            case "POST", "/pause_generation" if self.has_pause:
                self.paused = True
                self.running.clear()
                return 200, {"message": "Generation paused successfully.", "status": "ok"}
            case "POST", "/continue_generation" if self.has_pause:
                self.paused = False
                return 200, {"message": "Generation continued successfully.", "status": "ok"}
            case "POST", "/release_memory_occupation":
                return self._release(set(body["tags"]))
            case "POST", "/resume_memory_occupation":
                return self._resume(set(body["tags"]))
            case "POST", "/update_weights_from_disk":
                self.weights = f"loaded from {body['model_path']}"
                return 200, {"success": True, "message": "Succeeded to update model weights."}
        return NOT_FOUND

    def _release(self, tags: set[str]) -> Reply:
        if self.running:
            return self._die()
        self.released |= tags
        if "weights" in tags:
            self.weights = "backed up" if self.arguments["enable_weights_cpu_backup"] else "lost"
        return 200, None

    def _resume(self, tags: set[str]) -> Reply:
        if not tags <= self.released:
            return self._die()
        self.released -= tags
        if "weights" in tags:
            self.weights = "loaded" if self.weights == "backed up" else "rubbish"
        return 200, None

    def _die(self) -> Reply:
        self.dead = True
        return 500, {"error": "the scheduler is dead"}


class Helper:
    """The helper within a replica whose root is a directory; `answer` says what, byte by byte."""

    def __init__(self, root: Path) -> None:
        self.root, self.asked = root, list[Any]()
        self.answer: Callable[[dict[str, Any]], bytes] = lambda message: b'{"result": {"digest": "d"}}\n'
        (root / "run").mkdir(parents=True)
        self._listener = socket.socket(socket.AF_UNIX)
        fd = os.open(root / "run", os.O_RDONLY)
        self._listener.bind(f"/proc/self/fd/{fd}/helper.sock")
        os.close(fd)
        self._listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with suppress(OSError), connection, connection.makefile("rb") as lines:
                message = json.loads(lines.readline())
                self.asked.append(message)
                connection.sendall(self.answer(message))

    @property
    def target(self) -> ProcessRoot:
        return ProcessRoot(os.getpid(), self.root)

    def close(self) -> None:
        self._listener.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is part of the tests; anything else is told as usual."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


@contextmanager
def serving(engine: FakeEngine) -> Iterator[None]:
    """Serves it on a free port of this machine; `base_url` says where."""
    server = _Server(("127.0.0.1", 0), _handler(engine.answer))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    engine.base_url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield
    finally:
        engine.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(answer: Callable[[str, str, Any, dict[str, str]], Reply]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            sent = self.rfile.read(int(self.headers.get("content-length", 0)))
            is_json = self.headers.get("content-type") == "application/json"
            headers = {name.lower(): value for name, value in self.headers.items()}
            reply = answer(self.command, self.path, json.loads(sent) if is_json else sent.decode(), headers)
            status, value = reply
            body = b"" if value is None else (value if isinstance(value, str) else json.dumps(value)).encode()
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("location", "/elsewhere")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_PUT = do_DELETE = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler

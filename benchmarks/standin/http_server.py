"""`POST /generate`: JSON in, JSON out, a thread a request."""

from __future__ import annotations

import http.server
import json
import socketserver
from collections.abc import Callable
from typing import Any


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """No look-up of the host's name: a namespace of its own knows none."""

    allow_reuse_address = True
    daemon_threads = True


def serve(port: int, generate: Callable[[dict[str, Any]], dict[str, Any]]) -> Server:
    """Return a server on 127.0.0.1, bound and not yet serving."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            body = json.dumps(generate(request)).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name of the base class
            return

    return Server(("127.0.0.1", port), Handler)

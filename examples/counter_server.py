#!/usr/bin/env python3
"""A server to try checkpoint and restore on: it counts, and holds a bit of everything that a process can hold.

    python examples/counter_server.py --port 8080 --directory /tmp/counter

It has threads (one ticks), a child process behind two pipes that keeps its own count, a TCP listener with HTTP, a unix
socket, a piece of shared memory in /dev/shm, an open file that it appends to, and 12 MiB of memory of its own. None of
that is on disk alone, so a restored server that counts on has really been restored. Only the standard library is used.

    GET /count        {"count": 3}
    POST /increment   {"count": 4}
    GET /state        everything that must survive, each looked at afresh; equal before and after
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import mmap
import os
import queue
import signal
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

TICK_S = 0.05
SHARED_BYTES = 4096
MEMORY_BYTES = 12 << 20
PATIENCE_S = 5.0
PR_SET_DUMPABLE = 4


class Ticker:
    """A thread that ticks; asked whether it does, it answers with its next tick."""

    def __init__(self) -> None:
        self._questions: queue.SimpleQueue[threading.Event] = queue.SimpleQueue()
        self._wake = threading.Event()
        self.ticks = 0
        threading.Thread(target=self._tick, name="ticker", daemon=True).start()

    def _tick(self) -> None:
        while True:
            self._wake.wait(TICK_S)
            self._wake.clear()
            self.ticks += 1
            while not self._questions.empty():
                self._questions.get().set()

    def is_ticking(self) -> bool:
        """Return whether the thread runs."""
        question = threading.Event()
        self._questions.put(question)
        return question.wait(PATIENCE_S)


class Child:
    """A forked process that adds what it is sent to a number of its own, and sends the sum back."""

    def __init__(self) -> None:
        requests, self._requests = os.pipe()
        self._answers, answers = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._requests)
            os.close(self._answers)
            self._work(requests, answers)
        os.close(requests)
        os.close(answers)

    @staticmethod
    def _work(requests: int, answers: int) -> None:
        count = 0
        while word := os.read(requests, 1):  # ends with the parent
            count += word[0]
            os.write(answers, count.to_bytes(8, "little"))
        os._exit(0)

    def add(self, number: int) -> int:
        """Add a number and return the sum."""
        os.write(self._requests, bytes([number]))
        return int.from_bytes(os.read(self._answers, 8), "little")


class Memory:
    """Private memory without a page of zeros; each count is written into one."""

    def __init__(self) -> None:
        self._pages = mmap.mmap(-1, MEMORY_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for at in range(0, MEMORY_BYTES, mmap.PAGESIZE):
            self._pages[at : at + 4] = (at + 1).to_bytes(4, "little")

    def note(self, count: int) -> None:
        """Append a count to the file."""
        at = count * mmap.PAGESIZE % MEMORY_BYTES
        self._pages[at : at + 8] = count.to_bytes(8, "big")

    def digest(self) -> str:
        """Return the digest of the file's contents."""
        return hashlib.sha256(self._pages).hexdigest()[:16]


class Counter:
    """All that the server holds; one lock for it."""

    def __init__(self, directory: Path, unix_socket: Path | None, name: str) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._file_path = directory / "counter.log"
        self._shared_path = Path("/dev/shm") / name
        # Names are relative to the working directory: a user who may not pass its parents still reaches them.
        os.chdir(directory)
        self._socket_name = "counter.sock" if unix_socket is None else str(unix_socket)
        self._file = os.open("counter.log", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        self._shared = self._open_shared()
        self._unix = self._listen()

    def _open_shared(self) -> mmap.mmap:
        fd = os.open(self._shared_path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.ftruncate(fd, SHARED_BYTES)
            return mmap.mmap(fd, SHARED_BYTES)
        finally:
            os.close(fd)

    def _listen(self) -> socket.socket:
        Path(self._socket_name).unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(self._socket_name)
        listener.listen()
        return listener

    def give_to(self, user_id: int) -> None:
        """Give the files to the user that the server will run as."""
        for path in (self._shared_path, Path("counter.log"), Path(self._socket_name)):
            os.chown(path, user_id, user_id)

    def start(self) -> None:
        """Start the child, and after it what a fork does not copy or would share: threads and memory.

        The child runs as the user that the server has by now.
        """
        self.child = Child()
        self._memory = Memory()
        self._ticker = Ticker()
        threading.Thread(target=self._answer_unix, name="unix socket", daemon=True).start()

    def _answer_unix(self) -> None:
        while True:
            connection, _ = self._unix.accept()
            with connection:
                connection.sendall(str(self.count()).encode())

    def count(self) -> int:
        """Return the count."""
        with self._lock:
            return self._count

    def increment(self) -> int:
        """Add one and return the count."""
        with self._lock:
            self._count += 1
            self.child.add(1)
            os.write(self._file, f"count {self._count}\n".encode())
            self._memory.note(self._count)
            self._shared[:] = f"count {self._count}".encode().ljust(SHARED_BYTES, b"\0")
            return self._count

    def state(self) -> dict[str, Any]:
        """Nothing in it moves by itself."""
        asked = self._ask_unix()
        with self._lock:
            return {
                "count": self._count,
                "pid": os.getpid(),
                "user_id": os.getuid(),
                "threads": sorted(t.name for t in threading.enumerate() if not t.name.startswith("Thread-")),
                "ticking": self._ticker.is_ticking(),
                "child": {"pid": self.child.pid, "count": self.child.add(0)},
                "memory": {"bytes": MEMORY_BYTES, "digest": self._memory.digest()},
                "shared_memory": {"path": str(self._shared_path), "text": bytes(self._shared).rstrip(b"\0").decode()},
                "unix_socket": {"path": self._socket_name, "answer": asked},
                "file": {
                    "path": str(self._file_path),
                    "offset": os.lseek(self._file, 0, os.SEEK_CUR),
                    "text": os.pread(self._file, 1 << 20, 0).decode(),
                },
            }

    def _ask_unix(self) -> str:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(PATIENCE_S)
            connection.connect(self._socket_name)
            return connection.recv(64).decode()


class Handler(BaseHTTPRequestHandler):
    """HTTP/1.0: each request is a connection of its own."""

    counter: Counter

    def do_GET(self) -> None:
        """Answer with the state that a restore must keep."""
        if self.path == "/count":
            self._answer(200, {"count": self.counter.count()})
        elif self.path == "/state":
            self._answer(200, self.counter.state())
        else:
            self._answer(404, {"error": f"there is no {self.path}"})

    def do_POST(self) -> None:
        """Count one request."""
        if self.path == "/increment":
            self._answer(200, {"count": self.counter.increment()})
        else:
            self._answer(404, {"error": f"there is no {self.path}"})

    def _answer(self, status: int, value: dict[str, Any]) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
        """Quiet: standard output says where the server is, and nothing else."""


def become(user_id: int) -> None:
    """Drop root for good."""
    os.setgroups([])
    os.setresgid(user_id, user_id, user_id)
    os.setresuid(user_id, user_id, user_id)
    # A process that changes its user without an exec hides its /proc from that user; a server started by a container
    # engine doesn't, and this one is to look like it.
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080, help="0 takes a free one")
    parser.add_argument("--directory", type=Path, default=Path("/tmp/counter"), help="for its file and its socket")
    parser.add_argument("--unix-socket", type=Path, help="default: counter.sock in the directory")
    parser.add_argument("--user", type=int, metavar="UID", help="run as this user (needs root)")
    options = parser.parse_args()

    options.directory.mkdir(parents=True, exist_ok=True)
    server = ThreadingHTTPServer((options.host, options.port), Handler)
    server.daemon_threads = True
    port = server.server_address[1]
    counter = Counter(options.directory.resolve(), options.unix_socket, f"forethaw-counter-{port}")
    if options.user is not None:
        counter.give_to(options.user)
        become(options.user)
    counter.start()
    Handler.counter = counter
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print(f"pid {os.getpid()} http://{options.host}:{port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""A process tree whose memory follows a plan; asked over TCP, it answers with a digest of each page that it sees.

    python memory_process.py PLAN.json DIRECTORY

The plan names regions and what is done to each of their pages, then what each forked generation writes over, one
generation after the other, and last what the first process writes when all have forked. `expected` is the model: what
every generation must see, worked out from the plan alone, so that nobody need look (and thereby touch a page) before
the dump. The port is written to DIRECTORY/port when all is ready.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import mmap
import os
import socket
import sys
from pathlib import Path
from typing import Any

PAGE = 4096
UNTOUCHED, READ, ZEROED, DATA, LAST_BYTE, DROPPED = ".", "r", "z", "d", "l", "x"
"""What is done to a page: nothing, read, written with zeros, with data, with one byte, written and given back."""
MADV_DONTNEED, PROT_READ = 4, 1

Plan = dict[str, Any]
Write = tuple[int, int, str]
Content = list[list[bytes]]


def written(what: str, region: int, page: int, before: bytes) -> bytes:
    """A page's content once `what` was done to it."""
    if what == ZEROED:
        return bytes(PAGE)
    if what == DATA:
        return hashlib.sha256(f"{region} {page}".encode()).digest() * (PAGE // 32)
    if what == LAST_BYTE:
        return bytes(PAGE - 1) + b"\1"
    return before


def file_page(region: int, page: int) -> bytes:
    """The file below a file-backed region has no page of zeros."""
    return bytes([(region * 31 + page) % 255 + 1]) * PAGE


def digests(content: Content) -> list[str]:
    """One word a region: the digest of all of its pages."""
    return [hashlib.sha256(b"".join(pages)).hexdigest()[:16] for pages in content]


def expected(plan: Plan) -> list[list[str]]:
    """What each generation must see: digests by region."""
    content: Content = []
    for number, region in enumerate(plan["regions"]):
        from_file = region["kind"] == "file"
        begun = [file_page(number, page) if from_file else bytes(PAGE) for page in range(len(region["pages"]))]
        content.append([written(what, number, page, begun[page]) for page, what in enumerate(region["pages"])])
    generations = [content]
    for writes in plan["forks"]:
        child = [
            pages if plan["regions"][number]["kind"] == "shared" else list(pages)  # shared: one list for all
            for number, pages in enumerate(generations[-1])
        ]
        _model(child, writes)
        generations.append(child)
    _model(content, plan["after"])
    return [digests(generation) for generation in generations]


def _model(content: Content, writes: list[Write]) -> None:
    for region, page, what in writes:
        content[region][page] = written(what, region, page, content[region][page])


class Memory:
    """The regions as this process has them mapped."""

    def __init__(self, plan: Plan, directory: Path) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._maps = [self._map(number, region, directory) for number, region in enumerate(plan["regions"])]
        for number, region in enumerate(plan["regions"]):
            for page, what in enumerate(region["pages"]):
                self.do(number, page, what)
            for page in region["read_only"]:
                self._call("mprotect", number, page, PROT_READ)

    @staticmethod
    def _map(number: int, region: dict[str, Any], directory: Path) -> mmap.mmap:
        size = len(region["pages"]) * PAGE
        if region["kind"] != "file":
            kind = mmap.MAP_SHARED if region["kind"] == "shared" else mmap.MAP_PRIVATE
            return mmap.mmap(-1, size, flags=kind | mmap.MAP_ANONYMOUS)
        path = directory / f"region-{number}"
        path.write_bytes(b"".join(file_page(number, page) for page in range(size // PAGE)))
        fd = os.open(path, os.O_RDONLY)
        try:
            return mmap.mmap(fd, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        finally:
            os.close(fd)

    def do(self, region: int, page: int, what: str) -> None:
        at = page * PAGE
        if what == READ:
            assert self._maps[region][at] >= 0
        elif what == DROPPED:
            self._maps[region][at : at + PAGE] = written(DATA, region, page, b"")
            self._call("madvise", region, page, MADV_DONTNEED)
        elif what != UNTOUCHED:
            self._maps[region][at : at + PAGE] = written(what, region, page, bytes(PAGE))

    def digests(self) -> list[str]:
        return [hashlib.sha256(region[:]).hexdigest()[:16] for region in self._maps]

    def _call(self, name: str, region: int, page: int, argument: int) -> None:
        begin = ctypes.addressof(ctypes.c_char.from_buffer(self._maps[region]))
        answer = getattr(self._libc, name)(ctypes.c_void_p(begin + page * PAGE), ctypes.c_size_t(PAGE), argument)
        if answer != 0:
            raise OSError(ctypes.get_errno(), name)


class Child:
    """The next generation: built and ready when this returns, asked over two pipes."""

    def __init__(self, memory: Memory, forks: list[list[Write]]) -> None:
        requests, self._requests = os.pipe()
        answers_fd, answers = os.pipe()
        if os.fork() == 0:
            os.close(self._requests)
            os.close(answers_fd)
            _live(memory, forks, requests, answers)
        os.close(requests)
        os.close(answers)
        self._answers = os.fdopen(answers_fd, "rb")
        assert self._answers.readline() == b"ready\n"

    def digests(self) -> list[list[str]]:
        os.write(self._requests, b"?")
        found: list[list[str]] = json.loads(self._answers.readline())
        return found


def _live(memory: Memory, forks: list[list[Write]], requests: int, answers: int) -> None:
    for region, page, what in forks[0]:
        memory.do(region, page, what)
    child = Child(memory, forks[1:]) if forks[1:] else None
    os.write(answers, b"ready\n")
    while os.read(requests, 1):  # ends with the parent
        seen = [memory.digests(), *(child.digests() if child else [])]
        os.write(answers, json.dumps(seen).encode() + b"\n")
    os._exit(0)


def main() -> None:
    plan: Plan = json.loads(Path(sys.argv[1]).read_text())
    directory = Path(sys.argv[2])
    memory = Memory(plan, directory)
    child = Child(memory, plan["forks"]) if plan["forks"] else None
    for region, page, what in plan["after"]:
        memory.do(region, page, what)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        (directory / "port.new").write_text(str(listener.getsockname()[1]))
        os.rename(directory / "port.new", directory / "port")
        while True:
            connection, _ = listener.accept()
            with connection:
                # The proof's connection asks for nothing, and is to touch nothing.
                if connection.recv(1):
                    seen = [memory.digests(), *(child.digests() if child else [])]
                    connection.sendall(json.dumps(seen).encode())


if __name__ == "__main__":
    main()

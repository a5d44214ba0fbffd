"""List the TCP addresses that a process tree listens on, from /proc."""

from __future__ import annotations

import ipaddress
import re
import struct
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict

_LISTEN = "0A"


class Listener(BaseModel):
    """One listening TCP socket."""

    model_config = ConfigDict(frozen=True)

    host: str
    port: int


def listeners(pid: int, pids: Iterable[int]) -> tuple[Listener, ...]:
    """Return the TCP listeners of processes in the network namespace of `pid`, sorted by host and port.

    Processes and tables that cannot be read count as having none.
    """
    inodes = {inode for member in pids for inode in _socket_inodes(member)}
    found = set()
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
                words = line.split()
                if words[3] == _LISTEN and words[9] in inodes:
                    found.add(_address(words[1]))
    return tuple(Listener(host=host, port=port) for host, port in sorted(found))


def _socket_inodes(pid: int) -> set[str]:
    found = set()
    with suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                match = re.fullmatch(r"socket:\[(\d+)\]", str(link.readlink()))
                if match:
                    found.add(match[1])
    return found


def _address(text: str) -> tuple[str, int]:
    """Parse an address of /proc/net/tcp, whose words are in the host's byte order."""
    address, port = text.split(":")
    words = [int(address[at : at + 8], 16) for at in range(0, len(address), 8)]
    packed = b"".join(struct.pack("=I", word) for word in words)
    return str(ipaddress.ip_address(packed)), int(port, 16)

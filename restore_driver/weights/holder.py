"""The holder's process: a socket, a thread a connection, one card.

    python -m restore_driver.weights.holder --socket PATH --budget-bytes N [--device 0] [--state PATH]
    forethaw holder serve --socket PATH --budget 40G                the same, for people (`commands/holder.py`)

It serves root, and its own user, within its own pid and user namespace: agent and command line belong there, too (on
Kubernetes: hostPID). Replicas come from anywhere, each with the token of a lease.

Leases that a connection began and nobody finished end with that connection. With `--state`, the models that are held
are written down, and a holder that comes back after its death reads them again. Its death hurts no running replica:
device memory that was mapped belongs to whoever mapped it.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import select
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from restore_driver.errors import DriverError, Reason
from restore_driver.host.meminfo import available_memory_bytes
from restore_driver.host.trusted import require_trusted
from restore_driver.host.unix_sockets import accept_one, is_root_or_us, peer
from restore_driver.weights.device import NO_CARD, CudaDevice, Device, HostDevice, measure_pinned_rate
from restore_driver.weights.leases import Leases
from restore_driver.weights.protocol import FOR_TAKERS, hung_up, receive, send, size, sizes, text, texts
from restore_driver.weights.safetensors import Layout
from restore_driver.weights.store import Store

_SO_PEERPIDFD = 77
"""unix(7), from Linux 6.5 on; Python has no name for it yet."""


class Holder:
    """Serves one store on one socket."""

    def __init__(self, device: Device, path: Path, budget_bytes: int, state: Path | None, huge_pages: bool) -> None:
        self.device, self.path, self.state = device, path, state
        self.store = Store(device, budget_bytes, huge_pages)
        self.leases = Leases(device, self.store)
        self._writing = threading.Lock()

    def reload(self) -> list[str]:
        """Reads the models that the state file names; a model that can't be had any more is left out and told."""
        failed: list[str] = []
        if self.state is None or not self.state.exists():
            return failed
        require_trusted(self.state, owner=os.geteuid())
        try:
            for about in json.loads(self.state.read_text()):
                if not isinstance(about, dict):
                    raise ValueError(f"{about!r:.100} is no model")
                try:
                    self._preload(about)
                except (DriverError, OSError) as error:
                    failed.append(str(error))
        except (ValueError, TypeError, RecursionError) as error:  # cut off or edited: the models can be preloaded again
            failed.append(f"{self.state} is no list of models: {error}")
        return failed

    def serve(self, ready: Callable[[], None]) -> None:
        """Listens until the process ends."""
        require_trusted(self.path.parent, owner=os.geteuid())
        self.path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(str(self.path))
            self.path.chmod(0o666)  # takers of other users come with a token; its directory keeps the rest out
            listener.listen(64)
            ready()
            while True:  # whatever there is too little of now, the models are kept for when there is enough
                accept_one(listener, self._converse, "holder-asker")

    def _converse(self, connection: socket.socket) -> None:
        begun: set[str] = set()
        buffered = bytearray()
        with connection, suppress(OSError):
            try:
                ours = is_ours(connection)
                while True:
                    message, fd = receive(connection, buffered)
                    if fd is not None:
                        os.close(fd)
                    if message is None:
                        break
                    self._answer(connection, message, ours, begun)
            except DriverError as error:
                send(connection, _told(error))
            finally:
                self._end(begun)

    def _end(self, begun: set[str]) -> None:
        """Nobody is there to be told any more, so copies that still run are not waited for."""
        with ExitStack() as all_of_them:  # one that fails keeps none of the others
            for token in begun:
                all_of_them.callback(self.leases.release, token, patience_s=0.0)

    def _answer(self, connection: socket.socket, message: dict[str, Any], ours: bool, begun: set[str]) -> None:
        what = str(message.get("do"))
        try:
            if not ours and what not in FOR_TAKERS:
                raise DriverError(
                    Reason.NOT_TRUSTED,
                    f"{what} is for root alone",
                    "ask as root, from the holder's own pid and user namespace (on Kubernetes: hostPID)",
                )
            if what == "take":
                fd, size_bytes = self.leases.export(text(message, "token"), lambda: hung_up(connection))
                try:
                    send(connection, {"size_bytes": size_bytes}, fd)
                finally:
                    os.close(fd)
                return
            if what == "wait":
                answer = self.leases.wait(text(message, "token"), lambda: hung_up(connection)).timings()
            else:
                answer = self._do(what, message, begun)
        except DriverError as error:
            answer = _told(error)
        except OSError as error:  # a file that is gone, a disk that is full; where the asker is gone, so is this answer
            answer = _told(DriverError(Reason.WEIGHTS_FAILED, f"{what}: {error}"))
        except Exception as error:  # no memory, no thread, or a defect of ours: told, and the next request is served
            answer = _told(DriverError(Reason.WEIGHTS_FAILED, f"{what}: {type(error).__name__}: {error}"))
        send(connection, answer)

    def _do(self, what: str, message: dict[str, Any], begun: set[str]) -> dict[str, Any]:
        if what == "load":
            self._refuse_other_card(None if message.get("gpu") is None else text(message, "gpu"))
            lease = self.leases.load(text(message, "model"))
            begun.add(lease.token)
            return {"token": lease.token, "gpu": self.device.uuid()}
        if what in ("done", "release"):
            begun.discard(text(message, "token"))
            self.leases.release(text(message, "token"))
            return {}
        if what == "preload":
            answer = self._preload(message)
            self._write_state()
            return answer
        if what == "drop":
            self.store.drop(text(message, "model"))
            self._write_state()
            return {}
        if what == "measure":
            return {"pinned_h2d_bytes_per_s": measure_pinned_rate(self.device)}
        if what == "status":
            return self._status()
        raise DriverError(Reason.REQUEST_INVALID, f"there is no request {what!r}")

    def _refuse_other_card(self, wanted: str | None) -> None:
        own = self.device.uuid()
        if wanted is not None and own not in (None, NO_CARD) and wanted != own:
            raise DriverError(
                Reason.WEIGHTS_FAILED,
                f"the replica is on GPU {wanted}, this holder's card is {own}",
                "name the socket of the holder of that card",
            )

    def _preload(self, about: dict[str, Any]) -> dict[str, Any]:
        name, files = text(about, "model"), tuple(Path(file) for file in texts(about, "files"))
        layout = Layout(size(about, "total_bytes"), sizes(about, "offsets_bytes"))
        before = self.store.models.get(name)
        model = self.store.preload(name, files, layout, available_memory_bytes())
        held = {"held_bytes": len(model.buffer), "was_held": model is before}
        return {**held, "read_s": model.read_s, "pin_s": model.pin_s}

    def _status(self) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "budget_bytes": self.store.budget_bytes,
            "held_bytes": self.store.held_bytes,
            "free_device_bytes": self.device.free_bytes(),
            "gpu": self.device.uuid(),
            "models": {model.name: len(model.buffer) for model in self.store.held()},
            "leases": len(self.leases.leases),
        }

    def _write_state(self) -> None:
        if self.state is None:
            return
        with self._writing:
            held = [
                {
                    "model": model.name,
                    "files": [str(file) for file in model.files],
                    "total_bytes": model.layout.total_bytes,
                    "offsets_bytes": dict(model.layout.offsets_bytes),
                }
                for model in self.store.held()
            ]
            new = self.state.with_name(self.state.name + ".new")
            new.write_text(json.dumps(held))
            os.replace(new, self.state)


def is_ours(connection: socket.socket) -> bool:
    """Whether whoever connected may do more than take what he has a token for.

    User 0 of a container that sees the socket is user 0 to the kernel, too: the peer must besides be in our own pid and
    user namespaces. So holder, agent and command line belong into the same ones (on Kubernetes: hostPID). It must live
    still, once that was looked at: it can leave its connection to others, and its PID to a process of the host.
    """
    if not is_root_or_us(connection):
        return False
    pid, _ = peer(connection)
    try:
        same = all(
            os.stat(f"/proc/{pid}/ns/{kind}").st_ino == os.stat(f"/proc/self/ns/{kind}").st_ino
            for kind in ("pid", "user")
        )
    except OSError:
        return False
    return same and _peer_lives(connection)


def _peer_lives(connection: socket.socket) -> bool:
    try:
        (fd,) = struct.unpack("i", connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD, struct.calcsize("i")))
    except OSError as error:
        return error.errno == errno.ENOPROTOOPT  # an older kernel can't tell; others say this of a peer that is gone
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return not poll.poll(0)  # readable once its process has ended, pidfd_open(2)
    finally:
        os.close(fd)


def _told(error: DriverError) -> dict[str, Any]:
    return {"error": error.detail, "reason": error.reason.value, "hint": error.hint}


def open_device(name: str) -> Device:
    """The card of an ordinal, or `host:BYTES` for memfds without a card.

    Raises:
        DriverError: REQUEST_INVALID for what is neither; CUDA_MISSING.
    """
    kind, _, size = name.partition(":")
    if kind == "host" and size.isdecimal():
        return HostDevice(int(size))
    if not name.isdecimal():
        raise DriverError(Reason.REQUEST_INVALID, f"--device {name!r} is no card", "give its ordinal, or host:BYTES")
    return CudaDevice(int(name))


def refuse_second(path: Path) -> None:
    """A live holder keeps its socket, and its models; the socket of a dead one is replaced.

    Raises:
        DriverError: BUSY when a holder answers there.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, suppress(OSError):
        probe.settimeout(1.0)
        probe.connect(str(path))
        raise DriverError(Reason.BUSY, f"a holder serves {path} already", "end it, or give another --socket")


def serve(device: str, path: Path, budget_bytes: int, state: Path | None, huge_pages: bool) -> None:
    """The process: reads again what a dead one held, says `ready`, and serves until SIGTERM.

    Raises:
        DriverError: BUSY when a holder serves there; NOT_TRUSTED; REQUEST_INVALID or CUDA_MISSING for the device.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    require_trusted(path.parent, owner=os.geteuid())
    refuse_second(path)
    holder = Holder(open_device(device), path, budget_bytes, state, huge_pages)
    for failure in holder.reload():
        print(f"not reloaded: {failure}", file=sys.stderr, flush=True)
    holder.serve(lambda: print("ready", flush=True))


def main() -> None:
    """The options."""
    parser = argparse.ArgumentParser(prog="restore_driver.weights.holder", description=__doc__)
    where = "where to listen; only root may write beside it, and only root of this pid namespace may load"
    parser.add_argument("--socket", type=Path, required=True, help=where)
    parser.add_argument("--budget-bytes", type=int, required=True, help="page-locked host memory for models")
    parser.add_argument("--device", default="0", help="ordinal of the card, or host:BYTES for memfds without a card")
    parser.add_argument("--state", type=Path, help="file that lists the models, read again after a death")
    parser.add_argument("--small-pages", action="store_true", help="no huge pages for the models")
    options = parser.parse_args()
    try:
        serve(options.device, options.socket, options.budget_bytes, options.state, not options.small_pages)
    except DriverError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()

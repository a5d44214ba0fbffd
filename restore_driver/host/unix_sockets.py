"""Unix stream sockets: listeners, connections and the credentials of peers.

A listener has its mode from its first moment on; a connection waits while the backlog is full.

Standard library only, like `jsonlines`.
"""

from __future__ import annotations

import errno
import math
import os
import select
import socket
import struct
import time
from pathlib import Path

_SO_PEERPIDFD = 77
"""unix(7), from Linux 6.5 on; Python 3.13 has no name for it yet."""
_SECOND_US = 1_000_000
_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)
_DESCRIPTOR_PATIENCE_S, _PAUSE_S = 5.0, 0.05


def listen(path: Path | str, mode: int = 0o600) -> socket.socket:
    """Listen at a path, whose socket has `mode` from its first moment on; a file that stands there is removed.

    The backlog is the largest that the kernel grants (net.core.somaxconn): a burst of clients waits there.

    Raises:
        OSError: any error of bind(2) or listen(2).
    """
    Path(path).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        before = os.umask(0o777 & ~mode)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        listener.listen(socket.SOMAXCONN)
    except BaseException:
        listener.close()
        raise
    return listener


def connect(path: Path | str, deadline_s: float) -> socket.socket:
    """Connect to a path, waiting for space in the listener's backlog; the socket's timeout is the deadline after.

    A socket with a timeout is non-blocking to the kernel, and connect(2) fails at once with EAGAIN while the backlog is
    full: a busy server would look like a dead one. With SO_SNDTIMEO the kernel waits.

    Raises:
        TimeoutError: the backlog stayed full.
        OSError: any other error of connect(2); ECONNREFUSED when no process listens.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(deadline_s))
        connection.connect(str(path))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(0.0))
        connection.settimeout(deadline_s)
    except BlockingIOError as error:
        connection.close()
        raise TimeoutError(f"its backlog stayed full for {deadline_s:.3g} s") from error
    except BaseException:
        connection.close()
        raise
    return connection


def is_served(path: Path | str, deadline_s: float = 1.0) -> bool:
    """Return True when a process listens at a path, however busy; the socket of a killed one is still a file."""
    try:
        connect(path, deadline_s).close()
    except TimeoutError:
        return True
    except OSError:
        return False
    return True


def is_root_or_us(connection: socket.socket) -> bool:
    """Return True when root, or a process of our own user, connected."""
    return peer(connection)[1] in (0, os.geteuid())


def peer(connection: socket.socket) -> tuple[int, int]:
    """Return PID (in this pid namespace) and user id of the process that connected (SO_PEERCRED, unix(7))."""
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, user_id, _ = struct.unpack("3i", packed)
    return int(pid), int(user_id)


def is_same_machine_root(connection: socket.socket) -> bool:
    """Return True when root or our own user connected from our own pid and user namespaces, and still lives.

    User 0 of a container that sees the socket is user 0 to the kernel, too, hence the namespaces. The peer's life is
    checked after them: it may have left its connection to another process, and its PID to a process of the host.

    Raises:
        OSError: no descriptor is left to check its life with (EMFILE, ENFILE).
    """
    if not is_root_or_us(connection):
        return False
    pid, _ = peer(connection)
    try:
        same = all(
            Path(f"/proc/{pid}/ns/{kind}").stat().st_ino == Path(f"/proc/self/ns/{kind}").stat().st_ino
            for kind in ("pid", "user")
        )
    except OSError:
        return False
    return same and _peer_lives(connection)


def has_hung_up(connection: socket.socket) -> bool:
    """Return True once the other side has closed the whole connection, whatever it sent before."""
    poll = select.poll()
    poll.register(connection, 0)  # POLLHUP is reported without being asked for
    return bool(poll.poll(0))


def _peer_lives(connection: socket.socket) -> bool:
    try:
        fd = _peer_pidfd(connection)
    except OSError as error:
        if error.errno in _NO_DESCRIPTORS:
            raise
        return error.errno == errno.ENOPROTOOPT  # an older kernel has no such option; other errors mean a dead peer
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return not poll.poll(0)  # readable once its process has ended, pidfd_open(2)
    finally:
        os.close(fd)


def _peer_pidfd(connection: socket.socket) -> int:
    """Return a pidfd of the peer; wait a while for a descriptor, since without one a peer cannot be identified."""
    ends_s = time.monotonic() + _DESCRIPTOR_PATIENCE_S
    while True:
        try:
            packed = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD, struct.calcsize("i"))
        except OSError as error:
            if error.errno not in _NO_DESCRIPTORS or time.monotonic() >= ends_s:
                raise
            time.sleep(_PAUSE_S)
        else:
            return int(struct.unpack("i", packed)[0])


def _timeval(seconds: float) -> bytes:
    """Return struct timeval, rounded up to microseconds; 0 means no limit."""
    return struct.pack("ll", *divmod(math.ceil(max(seconds, 0.0) * _SECOND_US), _SECOND_US))

"""Messages over a socket: deadlines for slow peers, descriptors, and connections that wait for a full backlog."""

from __future__ import annotations

import array
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from restore_driver.errors import DriverError
from restore_driver.host.message_stream import MessageStream
from restore_driver.host.unix_sockets import connect, is_served, listen
from tests.restore_driver.trees import descriptors

LONG_S = 20.0
Pair = tuple[MessageStream, MessageStream]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield MessageStream(ours, 1000), MessageStream(theirs, 1000)


def test_messages_arrive_in_order_and_end_with_the_connection(pair: Pair) -> None:
    ours, theirs = pair
    ours.send({"n": 1})
    ours.send({"n": 2})
    ours.connection.sendall(b'{"n": 3')
    ours.connection.close()

    assert [theirs.receive(LONG_S), theirs.receive(LONG_S), theirs.receive(LONG_S)] == [{"n": 1}, {"n": 2}, None]


def test_a_peer_that_sends_byte_by_byte_has_no_more_time_than_a_silent_one(pair: Pair) -> None:
    ours, theirs = pair
    stop = threading.Event()

    def drip() -> None:
        while not stop.wait(0.02):
            ours.connection.sendall(b" ")

    thread = threading.Thread(target=drip)
    thread.start()
    began_s = time.monotonic()
    with pytest.raises(TimeoutError):
        theirs.receive(0.3)
    took_s = time.monotonic() - began_s
    stop.set()
    thread.join()

    assert 0.3 <= took_s < LONG_S


def test_an_idle_peer_may_have_other_time_than_a_slow_one(pair: Pair) -> None:
    """The deadline of a message begins with its first byte; before it, the idle limit counts."""
    ours, theirs = pair
    with pytest.raises(TimeoutError):
        theirs.receive(LONG_S, first_byte_s=0.05)
    ours.connection.sendall(b"{")
    with pytest.raises(TimeoutError):
        theirs.receive(0.05, first_byte_s=LONG_S)


def test_a_descriptor_comes_with_its_message(pair: Pair) -> None:
    ours, theirs = pair
    read_fd, write_fd = os.pipe()
    ours.send({"pipe": True}, read_fd)
    message, fd = theirs.receive_with_descriptor(LONG_S)
    os.write(write_fd, b"through")

    assert message == {"pipe": True}
    assert fd is not None and os.read(fd, 100) == b"through"
    assert not os.get_inheritable(fd)
    for each in (fd, read_fd, write_fd):
        os.close(each)


@pytest.mark.parametrize("end", [b'{"a": 1}\n', b"garbage\n", b""])
def test_unwanted_descriptors_are_closed(pair: Pair, end: bytes) -> None:
    """Several at once, or with what is no message, or with half of one."""
    ours, theirs = pair
    before = descriptors(os.getpid())
    with open(os.devnull) as null:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [null.fileno()] * 3))]
        for _ in range(5):
            ours.connection.sendmsg([b" "], rights)
    ours.connection.sendall(end)
    ours.connection.shutdown(socket.SHUT_WR)
    fd = None
    try:
        _, fd = theirs.receive_with_descriptor(LONG_S)
    except DriverError:
        assert end == b"garbage\n"

    assert descriptors(os.getpid()) == before + (fd is not None)
    if fd is not None:
        os.close(fd)


def test_a_connection_waits_for_space_in_the_backlog(tmp_path: Path) -> None:
    """A busy server is not a dead one: connect(2) of a non-blocking socket would fail with EAGAIN."""
    path = tmp_path / "socket"
    with listen(path) as listener:
        listener.listen(0)
        waiting = [connect(path, LONG_S)]  # the backlog of 0 holds one
        with pytest.raises(TimeoutError, match="backlog stayed full"):
            connect(path, 0.05)
        accepted = [is_served(path, 0.05)]
        thread = threading.Thread(target=lambda: waiting.append(connect(path, LONG_S)))
        thread.start()
        connections = [listener.accept()[0], listener.accept()[0]]
        thread.join(LONG_S)

        assert (accepted, len(waiting)) == ([True], 2)
        for each in (*waiting, *connections):
            each.close()
    assert not is_served(path)


def test_a_socket_has_its_mode_from_its_first_moment(tmp_path: Path) -> None:
    for mode in (0o600, 0o666):
        with listen(tmp_path / "socket", mode):
            assert (tmp_path / "socket").stat().st_mode & 0o777 == mode

"""A thread of its own for each errand in another network namespace."""

from __future__ import annotations

import os
import threading

import pytest

from restore_driver.errors import DriverError, Reason
from restore_driver.host import proc
from restore_driver.host.netns import in_network_namespace


def here() -> int:
    return os.stat("/proc/thread-self/ns/net").st_ino


def test_the_errand_runs_there_and_the_caller_stays(stranger: int) -> None:
    before = here()
    seen = in_network_namespace(stranger, here, 5.0)

    assert seen == proc.namespace_id(stranger, "net") != before
    assert here() == before
    assert in_network_namespace(os.getpid(), here, 5.0) == before


def test_none_is_an_answer_and_an_exception_is_raised_again() -> None:
    assert in_network_namespace(os.getpid(), lambda: None, 5.0) is None
    with pytest.raises(ZeroDivisionError):
        in_network_namespace(os.getpid(), lambda: 1 // 0, 5.0)


def test_a_hang_is_left_behind_with_its_own_descriptor(stranger: int) -> None:
    done, there = threading.Event(), list[int]()

    def hang() -> None:
        done.wait(30.0)
        there.append(here())

    with pytest.raises(DriverError) as caught:
        in_network_namespace(stranger, hang, 0.1)
    threads = [thread for thread in threading.enumerate() if thread.name == f"netns-{stranger}"]
    done.set()
    for thread in threads:
        thread.join()

    assert caught.value.reason is Reason.DEADLINE_EXCEEDED
    assert there == [proc.namespace_id(stranger, "net")]


def test_a_process_that_is_gone_is_lost() -> None:
    with pytest.raises(DriverError) as caught:
        in_network_namespace(2**22 - 1, here, 5.0)
    assert caught.value.reason is Reason.REPLICA_LOST


def test_no_descriptor_is_left(stranger: int) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(20):
        in_network_namespace(stranger, here, 5.0)
    assert len(os.listdir("/proc/self/fd")) == len(before)

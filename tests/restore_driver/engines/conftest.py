"""Fake engines, served; and a process in namespaces of its own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.restore_driver.engines.fake_engines import FakeSglang, FakeVllm, Helper, serving


@pytest.fixture
def vllm() -> Iterator[FakeVllm]:
    engine = FakeVllm()
    with serving(engine):
        yield engine


@pytest.fixture
def sglang() -> Iterator[FakeSglang]:
    engine = FakeSglang()
    with serving(engine):
        yield engine


@pytest.fixture
def helper(tmp_path: Path) -> Iterator[Helper]:
    """Its socket's path is longer than a socket's address may be."""
    made = Helper(tmp_path / ("long" * 30) / "root")
    yield made
    made.close()


@pytest.fixture
def stranger() -> Iterator[int]:
    """PID of a process of user 1000 in its own network and UTS namespaces, named `stranger`, with MARK=left."""
    if os.geteuid() != 0:
        pytest.skip("other namespaces need root")
    script = "hostname stranger && cd /usr && exec setpriv --reuid=1000 --regid=1001 --groups=1002 sh -c 'echo; read x'"
    child = subprocess.Popen(
        ["unshare", "--uts", "--net", "sh", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "MARK": "left"},
    )
    assert child.stdout is not None
    child.stdout.readline()
    yield child.pid
    child.communicate()

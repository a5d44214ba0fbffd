"""A compacted snapshot restores the same memory as the whole one: drawn process trees, real CRIU, page for page."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, note, settings
from hypothesis import strategies as st

from restore_driver.driver import Driver
from restore_driver.host.netns import in_network_namespace
from restore_driver.placeholder.create import create
from restore_driver.toolset import open_toolset
from restore_driver.wire.replica_spec import ReplicaSpec
from restore_driver.wire.requests import CheckpointRequest, RestoreRequest
from restore_driver.wire.result import Result
from tests.restore_driver.real import memory_process
from tests.restore_driver.real.memory_process import PAGE, ZEROED, Plan, expected
from tests.restore_driver.trees import kill_tree
from tests.restore_driver.waiting import PATIENCE_S, eventually

PROGRAM = Path(memory_process.__file__)
LARGE = "z" * 2000 + "d" + "z" * 3000 + "l." * 50
"""20 MB, all but 51 pages of it zeros that were written: what a fresh arena of an engine looks like."""


@st.composite
def regions(draw: st.DrawFn) -> dict[str, Any]:
    """Stretches of pages, since runs of one kind are what a pagemap is made of."""
    kind = draw(st.sampled_from(["anonymous", "anonymous", "file", "shared"]))
    stretch = st.tuples(st.sampled_from(".rzdlx" if kind == "anonymous" else ".rzdl"), st.integers(1, 12))
    pages = "".join(what * count for what, count in draw(st.lists(stretch, min_size=1, max_size=8)))
    # A page that may not be written any more cuts its mapping in two or three. One that is shared stays writable.
    read_only = draw(st.sets(st.integers(0, len(pages) - 1), max_size=2)) if kind != "shared" else set()
    return {"kind": kind, "pages": pages, "read_only": sorted(read_only)}


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Regions; up to two forked generations that write over some pages; what the first process does after."""
    drawn = draw(st.lists(regions(), min_size=1, max_size=5))
    writable = [
        (number, page)
        for number, region in enumerate(drawn)
        for page in range(len(region["pages"]))
        if page not in region["read_only"]
    ]
    place = st.sampled_from(writable) if writable else st.nothing()
    writes = st.lists(st.tuples(place, st.sampled_from("zzdl")), max_size=12) if writable else st.just([])
    flat = writes.map(lambda found: [[region, page, what] for (region, page), what in found])
    return {"regions": drawn, "forks": draw(st.lists(flat, max_size=2)), "after": draw(flat)}


def region(kind: str, pages: str) -> dict[str, Any]:
    return {"kind": kind, "pages": pages, "read_only": []}


EVERYTHING: Plan = {
    "regions": [region("anonymous", LARGE), region("file", "z.dl" * 8), region("shared", "z.dl" * 8)],
    "forks": [[[0, 2000, "z"], [1, 1, "z"], [2, 2, "z"]], [[0, 5001, "z"], [0, 0, "d"], [1, 2, "z"]]],
    "after": [[0, 2000, "l"], [1, 3, "z"], [2, 0, "d"]],
}
"""By hand: each thing that compaction could get wrong, once for certain."""


@dataclass
class Holder:
    """One process tree that holds its plan's memory."""

    pid: int
    port: int

    def sees(self) -> list[list[str]]:
        """Digests by generation and region, looked at now."""

        def ask() -> bytes:
            with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S) as connection:
                connection.sendall(b"?")
                return b"".join(iter(lambda: connection.recv(1 << 16), b""))

        seen: list[list[str]] = json.loads(in_network_namespace(self.pid, ask, PATIENCE_S))
        return seen


@contextmanager
def running(plan: Plan, directory: Path) -> Iterator[Holder]:
    (directory / "plan.json").write_text(json.dumps(plan))
    argv = [os.path.realpath(sys.executable), str(PROGRAM), str(directory / "plan.json"), str(directory)]
    log = (directory / "log").open("wb")
    child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    try:
        eventually(lambda: (directory / "port").exists() or child.poll() is not None, "the process")
        assert child.poll() is None, (directory / "log").read_text()
        yield Holder(child.pid, int((directory / "port").read_text()))
    finally:
        kill_tree(child.pid)
        child.wait()
        log.close()


def restored_sees(driver: Driver, artifact: Path, port: int) -> list[list[str]]:
    placeholder = create(network="private")
    try:
        result = driver.carry_out(RestoreRequest(artifact=artifact, placeholder_pid=placeholder.pid))
        assert result.outcome == "proven", result
        return Holder(result.answer["host_pid"], port).sees()
    finally:
        placeholder.end()


def saved_bytes(result: Result) -> int:
    return int(next(phase.details["saved_bytes"] for phase in result.phases if phase.phase == "compact"))


def zeroed_bytes(plan: Plan) -> int:
    """Zeros that the first process wrote into private anonymous memory, less those written over afterwards."""
    last = {(region, page): what for region, page, what in plan["after"]}
    pages: int = sum(
        last.get((number, page), what) == ZEROED
        for number, region in enumerate(plan["regions"])
        if region["kind"] == "anonymous"
        for page, what in enumerate(region["pages"])
    )
    return PAGE * pages


@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(plan=plans(), looked_at=st.booleans())
@example(plan=EVERYTHING, looked_at=False)
def test_memory_comes_back_page_for_page_whether_compacted_or_not(
    plan: Plan, looked_at: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """One tree, dumped twice; both snapshots, and the tree that went on, hold what the plan says."""
    directory = tmp_path_factory.mktemp("memory")
    driver = Driver(open_toolset(directory / "state"))
    with running(plan, directory) as holder:
        if looked_at:
            assert holder.sees() == expected(plan)
        compacted = driver.carry_out(
            CheckpointRequest(pid=holder.pid, artifact=directory / "compacted", replica=ReplicaSpec())
        )
        whole = driver.carry_out(
            CheckpointRequest(pid=holder.pid, artifact=directory / "whole", replica=ReplicaSpec(), compact=False)
        )
        note(f"{compacted}\n{whole}")
        went_on = holder.sees()

    assert (compacted.outcome, whole.outcome) == ("published", "published")
    assert saved_bytes(compacted) > zeroed_bytes(plan)
    assert went_on == expected(plan)
    assert restored_sees(driver, directory / "compacted", holder.port) == expected(plan)
    assert restored_sees(driver, directory / "whole", holder.port) == expected(plan)

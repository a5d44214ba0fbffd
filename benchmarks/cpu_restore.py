"""What the driver costs around CRIU, and what compaction and the resident agent save; no GPU needed, root is.

    python -m benchmarks.cpu_restore [--megabytes 512] [--repeats 7]

A process with that much memory, half of it never written (as engines' is), is checkpointed and restored again and
again: through the resident agent and through the command line, compacted and not. The peer is CRIU itself, run bare
(`criu restore` by nsenter into a placeholder, nothing verified, placed or proven) on images whose zero pages are
dropped, and that hold all memory. Ratios, since machines differ.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from restore_driver.agent.client import ask, status
from restore_driver.artifact.manifest import IMAGES, load_manifest
from restore_driver.criu.compact import compact as compact_images
from restore_driver.criu.find import find_criu
from restore_driver.host import proc
from restore_driver.placeholder.create import Placeholder, create
from restore_driver.wire.replica_spec import ReplicaSpec
from restore_driver.wire.requests import CheckpointRequest, RestoreRequest

WORK = """
import mmap, os, sys, time
size = int(sys.argv[1]) << 20
memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
block = os.urandom(1 << 20)
for at in range(0, size, 1 << 20):
    memory[at:at + (1 << 20)] = block if (at >> 20) % 2 else bytes(1 << 20)
print("ready", flush=True)
while True:
    time.sleep(1000)
"""


def main() -> int:
    """Measure and print the table; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=7)
    chosen = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("needs root")
    work = Path(tempfile.mkdtemp(prefix="forethaw-benchmark-"))
    agent = subprocess.Popen([sys.executable, "-m", "restore_driver", "agent", "--state", str(work / "state")])
    try:
        measure(work, agent, chosen.megabytes, chosen.repeats)
    finally:
        agent.terminate()
        agent.wait()
        shutil.rmtree(work)
    return 0


def await_agent(work: Path, agent: subprocess.Popen[bytes]) -> Path:
    """Return the agent's socket once it answers; exits if the agent has ended."""
    socket = work / "state" / "agent.sock"
    while not socket.exists() or not status(socket):
        if agent.poll() is not None:
            sys.exit("the agent did not come up")  # its own message is above
        time.sleep(0.05)
    return socket


def measure(work: Path, agent: subprocess.Popen[bytes], megabytes: int, repeats: int) -> None:
    """Checkpoint a replica of that size and print how long its restores take."""
    socket = await_agent(work, agent)
    artifacts = {compact: work / ("compacted" if compact else "whole") for compact in (True, False)}
    for compact, artifact in artifacts.items():
        checkpoint(socket, artifact, megabytes, compact=compact)
    for_criu = work / "for-criu"  # as compacted as the other, but with nothing set apart for the driver to fill in
    shutil.copytree(artifacts[False], for_criu)
    compact_images(for_criu / IMAGES)

    def through_agent(artifact: Path) -> Callable[[Placeholder], None]:
        def restore(placeholder: Placeholder) -> None:
            result = ask(socket, RestoreRequest(artifact=artifact, placeholder_pid=placeholder.pid), 60.0)
            assert result.ok, result.detail

        return restore

    def through_command(placeholder: Placeholder) -> None:
        argv = [sys.executable, "-m", "restore_driver", "restore", str(artifacts[True]), "--json"]
        argv += ["--into", str(placeholder.pid), "--state", str(work / "other-state")]
        subprocess.run(argv, check=True, capture_output=True)

    def bare(artifact: Path) -> Callable[[Placeholder], None]:
        return lambda placeholder: bare_criu(artifact, placeholder, work)

    rows = {
        "bare CRIU, zero pages kept": bare(artifacts[False]),
        "bare CRIU, compacted": bare(for_criu),
        "agent, zero pages kept": through_agent(artifacts[False]),
        "agent, compacted": through_agent(artifacts[True]),
        "command line, compacted": through_command,
    }
    times_s: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(repeats):  # the rows in turn, so that a busy moment of the machine hits all
        for name, restore in rows.items():
            times_s[name].append(timed(restore))
    peer_s = statistics.median(times_s["bare CRIU, compacted"])
    for name, values in times_s.items():
        median_s = statistics.median(values)
        print(f"{name:28} {median_s / peer_s:6.2f}x   {median_s * 1e3:8.1f} ms   {min(values) * 1e3:8.1f} at best")


def checkpoint(socket: Path, artifact: Path, megabytes: int, *, compact: bool) -> None:
    """Checkpoint a counter with `megabytes` of memory into `artifact`."""
    argv = [os.path.realpath(sys.executable), "-c", WORK, str(megabytes)]
    # Standard error must be no pipe or terminal of this process: the restored one has the placeholder's.
    child = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
    assert child.stdout is not None
    child.stdout.readline()
    request = CheckpointRequest(
        pid=child.pid, artifact=artifact, replica=ReplicaSpec(), leave_running=False, compact=compact
    )
    result = ask(socket, request, 120.0)
    child.wait()
    assert result.ok, result.detail
    compaction = next(phase.details for phase in result.phases if phase.phase == "compact")
    print(f"{artifact.name}: {result.answer['bytes'] / 1e6:,.0f} MB, {compaction}")


def timed(restore: Callable[[Placeholder], None]) -> float:
    """Return the seconds of one restore into a fresh placeholder."""
    placeholder = create(network="private")
    began_s = time.perf_counter()
    try:
        restore(placeholder)
        return time.perf_counter() - began_s
    finally:
        pids = tuple(placeholder.members().values())
        placeholder.end()
        while any(proc.is_alive(pid) for pid in pids):
            time.sleep(0.005)


def bare_criu(artifact: Path, placeholder: Placeholder, work: Path) -> None:
    """CRIU by hand, as its own documentation says, into the placeholder."""
    criu = find_criu()
    manifest = load_manifest(artifact)
    images, log = artifact / IMAGES, work / "bare"
    log.mkdir(exist_ok=True)
    above = max(manifest.process.pids) + 64
    inherited = [f"--inherit-fd=fd[1]:{name}" for name in manifest.process.external.values()]
    argv = ["nsenter", "--target", str(placeholder.pid), "--all", "sh", "-c"]
    argv += [f'echo {above} >/proc/sys/kernel/ns_last_pid; exec "$@" >/dev/null', "sh", *criu.argv_prefix]
    argv += ["restore", "--restore-detached", "--images-dir", str(images), "--work-dir", str(log), *inherited]
    argv += ["--manage-cgroups=ignore", "--tcp-close", "--file-locks", "--ext-unix-sk", "--link-remap"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        with suppress(OSError):
            print((log / "restore.log").read_text()[-1000:])
        raise RuntimeError(done.stderr)


if __name__ == "__main__":
    sys.exit(main())

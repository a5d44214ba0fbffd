"""Files that were deleted while a replica holds them open: their content is the replica's alone, and comes back."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from restore_driver.driver import Driver
from restore_driver.toolset import open_toolset
from restore_driver.wire.replica_spec import ReplicaSpec
from restore_driver.wire.requests import CheckpointRequest, RestoreRequest
from tests.restore_driver.real.conftest import Place

HOLDER = """
import os, sys, time
held = open(sys.argv[1], "wb+")
for number in range(4 << 10): held.write(number.to_bytes(4, "big") * 256)
held.flush()
os.unlink(sys.argv[1])
os.dup2(held.fileno(), 9)
sys.stderr.write("ready")
sys.stderr.close()
while True: time.sleep(0.05)
"""


def test_a_temporary_file_of_some_megabytes_comes_back_whole(tmp_path: Path, place: Place) -> None:
    """CRIU's own limit is one."""
    child = subprocess.Popen(
        [os.path.realpath(sys.executable), "-c", HOLDER, tmp_path / "held"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert child.stderr is not None and child.stderr.read(5) == b"ready"
    child.stderr.close()
    content = hashlib.sha256(Path(f"/proc/{child.pid}/fd/9").read_bytes())
    driver, artifact = Driver(open_toolset(tmp_path / "state")), tmp_path / "artifacts" / "snapshot"
    made = driver.carry_out(
        CheckpointRequest(pid=child.pid, artifact=artifact, replica=ReplicaSpec(), leave_running=False)
    )
    child.kill()
    child.wait()
    restored = driver.carry_out(RestoreRequest(artifact=artifact, placeholder_pid=place().pid))

    assert (made.outcome, restored.outcome) == ("ended", "proven"), (made, restored)
    held = Path(f"/proc/{restored.answer['host_pid']}/fd/9")
    assert hashlib.sha256(held.read_bytes()).digest() == content.digest()
    assert os.readlink(held).endswith(" (deleted)")

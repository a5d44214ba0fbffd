"""The README's one command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.restore_driver.real.conftest import ROOT, free_port
from tests.restore_driver.trees import with_argument


def test_the_demo_counts_on_and_leaves_nothing(tmp_path: Path) -> None:
    """It checkpoints, kills and restores a server, and cleans up whatever it made."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PORT": str(free_port()),
        "TMPDIR": str(tmp_path),
    }
    done = subprocess.run(
        [ROOT / "examples" / "snapshot_demo.sh"], env=environment, capture_output=True, text=True, timeout=120
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == '{"count": 4}'
    assert "proven in" in done.stdout
    assert list(tmp_path.iterdir()) == []
    assert with_argument(environment["PORT"]) == []

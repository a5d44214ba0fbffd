"""A placeholder has what was mounted below its root, and one that does not come up leaves nothing behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from restore_driver.errors import DriverError, Reason
from restore_driver.host.mounts import mount, mount_points, unmount
from restore_driver.placeholder.create import create
from tests.restore_driver.containers import mounts_near


def test_what_is_mounted_below_its_root_comes_along(tmp_path: Path) -> None:
    """Devices and volumes, as a container engine mounts them; what the placeholder mounts itself stays its own."""
    root = tmp_path / "root"
    for name in ("proc", "dev/shm", "volume"):
        (root / name).mkdir(parents=True)
    mount("tmpfs", root / "volume", "tmpfs")
    before = mounts_near(tmp_path)
    try:
        (root / "volume/file").write_text("from the volume")
        placeholder = create(network="private", root=root)
        inside = mount_points(placeholder.pid)
        seen = Path(f"/proc/{placeholder.pid}/root/volume/file").read_text()
        placeholder.end()
        after = mounts_near(tmp_path)
    finally:
        unmount(root / "volume")

    assert set(inside) == {Path("/"), Path("/proc"), Path("/dev/shm"), Path("/volume")}
    assert (seen, after) == ("from the volume", before)


@pytest.mark.parametrize("missing", ["", "proc", "dev/shm"])
def test_a_root_that_is_none_is_refused_and_nothing_is_left(missing: str, tmp_path: Path) -> None:
    root, fds, mounts = tmp_path / "root", os.listdir("/proc/self/fd"), mounts_near(tmp_path)
    for name in {"proc", "dev/shm"} - {missing} if missing else ():
        (root / name).mkdir(parents=True)
    with pytest.raises(DriverError) as caught:
        create(network="private", root=root)

    assert caught.value.reason is Reason.PLACEHOLDER_LOST
    assert (len(os.listdir("/proc/self/fd")), mounts_near(tmp_path)) == (len(fds), mounts)

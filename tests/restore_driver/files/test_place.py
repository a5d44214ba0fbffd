"""Files of a container: captured from an overlay's upper layer, placed into another root, and rolled back."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from restore_driver.deadline import Deadline
from restore_driver.errors import DriverError, Reason
from restore_driver.files import place
from restore_driver.files.capture import capture, upper_layer
from restore_driver.host import proc
from restore_driver.host.mounts import mount, unmount
from restore_driver.placeholder.create import Placeholder, create
from tests.restore_driver.containers import Container, containers, tree
from tests.restore_driver.waiting import eventually

__all__ = ["containers"]


@pytest.fixture
def image(tmp_path: Path) -> Iterator[Path]:
    """An image layer over this machine's root, on a file system of its own, since layers must not overlap."""
    image = tmp_path / "image"
    image.mkdir()
    mount("tmpfs", image, "tmpfs")
    srv = image / "srv" / "app"
    srv.mkdir(parents=True)
    (srv / "config").write_text("from the image")
    (srv / "cache").mkdir()
    (srv / "cache" / "old").write_text("old")
    (srv / "doomed").write_text("to be deleted")
    yield image
    unmount(image)


def write_over(app: Path) -> None:
    """Change the root as a replica does."""
    (app / "config").write_text("changed")
    (app / "doomed").unlink()
    (app / "new").mkdir(mode=0o700)
    (app / "new" / "log").write_text("a line\n")
    (app / "alias").symlink_to("/srv/app/config")
    (app / "cache" / "old").unlink()
    (app / "cache").rmdir()
    (app / "cache").mkdir()
    (app / "cache" / "fresh").write_text("fresh")
    os.chown(app / "new" / "log", 1000, 1000)


def test_files_that_a_container_wrote_are_placed_into_another(
    containers: tuple[Container, Container], tmp_path: Path
) -> None:
    source, target = containers
    write_over(source.seen / "srv/app")
    archive = tmp_path / "files.tar"
    capture([source.placeholder.pid], source.placeholder.pid, archive)
    existed = place.survey(archive, target.seen)
    place.place(archive, target.seen, "pod-1", Deadline.after("place", 10.0))
    place.remove_aside(existed, target.seen, "pod-1")

    assert tree(target.seen / "srv/app") == tree(source.seen / "srv/app")
    assert tree(target.seen / "srv/app") == {
        "alias": "-> /srv/app/config",
        "cache": "directory",
        "cache/fresh": "fresh",
        "config": "changed",
        "new": "directory",
        "new/log": "a line\n",
    }
    status = (target.seen / "srv/app/new/log").stat()
    assert (status.st_uid, (target.seen / "srv/app/new").stat().st_mode & 0o777) == (1000, 0o700)


def test_a_roll_back_restores_the_placeholder_wherever_placing_stopped(
    containers: tuple[Container, Container], tmp_path: Path
) -> None:
    source, target = containers
    write_over(source.seen / "srv/app")
    archive = tmp_path / "files.tar"
    capture([source.placeholder.pid], source.placeholder.pid, archive)
    before = tree(target.seen / "srv")
    existed = place.survey(archive, target.seen)
    for steps in range(len(existed) + 1):
        clock = iter([0.0] * steps + [1.0e9] * 2).__next__
        with suppress(DriverError):
            place.place(archive, target.seen, "pod-1", Deadline("place", 1.0, 1.0, clock))
        place.roll_back(existed, target.seen, "pod-1")
        place.roll_back(existed, target.seen, "pod-1")

        assert tree(target.seen / "srv") == before, f"stopped after {steps} files"


def test_a_link_in_the_placeholder_is_resolved_within_its_root(
    containers: tuple[Container, Container], tmp_path: Path
) -> None:
    """/srv/app -> /tmp/... is resolved in the placeholder's root, not in the host's."""
    source, target = containers
    outside = tmp_path / "outside"
    outside.mkdir()
    write_over(source.seen / "srv/app")
    archive = tmp_path / "files.tar"
    capture([source.placeholder.pid], source.placeholder.pid, archive)
    shutil.rmtree(target.seen / "srv/app")
    (target.seen / "srv/app").symlink_to(outside)
    (target.seen / str(outside).lstrip("/")).mkdir(parents=True, exist_ok=True)
    with suppress(OSError):
        place.place(archive, target.seen, "pod-1", Deadline.after("place", 10.0))

    assert list(outside.iterdir()) == []


def test_a_process_in_the_drivers_own_root_has_no_layer() -> None:
    assert upper_layer(os.getpid()) is None


def test_ending_a_placeholder_is_idempotent() -> None:
    placeholder = create()
    assert proc.is_alive(placeholder.pid)

    for _ in range(2):
        placeholder.end()
        eventually(lambda: not proc.is_alive(placeholder.pid), "the placeholder's end")


def test_ending_a_placeholder_without_a_process_is_no_error() -> None:
    child = subprocess.Popen(["true"])
    assert child.wait() == 0

    Placeholder(child.pid).end()

    assert not Path(f"/proc/{child.pid}").exists()


def test_a_capture_is_stopped_at_its_deadline(containers: tuple[Container, Container], tmp_path: Path) -> None:
    """The deadline is checked before each write, not only at the end."""
    source, _ = containers
    (source.root / "srv/app/large").write_bytes(bytes(4 << 20))
    writes: list[None] = []

    def check() -> None:
        writes.append(None)
        if len(writes) > 20:
            raise DriverError(Reason.DEADLINE_EXCEEDED, "phase capture-files took longer than 1 s")

    pid = source.placeholder.pid
    with pytest.raises(DriverError, match="DeadlineExceeded"):
        capture((pid,), pid, tmp_path / "files.tar", check)

    assert (tmp_path / "files.tar").stat().st_size < 4 << 20

"""Containers without an engine: a placeholder whose root is an overlay: an image, and this machine's root below it."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from restore_driver.host.mounts import MS_BIND, mount, mount_points, unmount
from restore_driver.placeholder.create import create

Tree = dict[str, str]


def tree(root: Path) -> Tree:
    """Everything below a directory: path -> what it is."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        elif path.is_dir():
            found[name] = "directory"
        else:
            found[name] = path.read_text()
    return found


def whole_tree(root: Path) -> Tree:
    """The same with owners, modes and times; sockets and the like by their kind."""
    found = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        what = f"{stat.filemode(status.st_mode)} {status.st_uid}:{status.st_gid}"
        if stat.S_ISREG(status.st_mode):
            what += f" {status.st_mtime_ns} {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"
        elif stat.S_ISLNK(status.st_mode):
            what += f" -> {os.readlink(path)}"
        found[path.relative_to(root).as_posix()] = what
    return found


def mounts_near(directory: Path) -> list[Path]:
    """This machine's mount points; of those below the tests' temporary directory only this test's."""
    temporary = Path(tempfile.gettempdir())
    return [point for point in mount_points() if temporary not in point.parents or directory in point.parents]


class Container:
    """One container: its upper layer lies on a tmpfs of its own, as layers may not overlap."""

    def __init__(self, directory: Path, image: Path, output: int | None = None) -> None:
        self.directory, self.upper, self.root = directory, directory / "upper", directory / "root"
        directory.mkdir(parents=True)
        mount("tmpfs", directory, "tmpfs")
        for path in (self.upper, self.root, directory / "work"):
            path.mkdir()
        options = f"lowerdir={image}:/,upperdir={self.upper},workdir={directory / 'work'}"
        mount("overlay", self.root, "overlay", options=options)
        mount("/dev", self.root / "dev", flags=MS_BIND)
        self.placeholder = create(network="private", root=self.root, output=output)

    def end(self) -> None:
        """Its processes, then its mounts."""
        self.placeholder.end()
        unmount(self.root / "dev")
        unmount(self.root)
        unmount(self.directory)

    @property
    def seen(self) -> Path:
        """Its root as its own processes see it."""
        return Path(f"/proc/{self.placeholder.pid}/root")


@pytest.fixture
def containers(tmp_path: Path, image: Path) -> Iterator[tuple[Container, Container]]:
    """Two of one image (the test's own fixture): where a replica comes from, and where it goes."""
    made: list[Container] = []
    try:
        for name in ("source", "target"):
            made.append(Container(tmp_path / name, image))
        yield made[0], made[1]
    finally:
        for container in made:
            with suppress(OSError):
                container.end()

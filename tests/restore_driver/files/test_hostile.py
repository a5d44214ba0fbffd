"""Files in a root that hostile processes change: nothing outside is touched, nothing blocks."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from restore_driver.deadline import Deadline
from restore_driver.errors import DriverError
from restore_driver.files import nodes, place
from restore_driver.files.capture import DELETED, OPAQUE, _Layer
from tests.restore_driver.containers import tree, whole_tree

KEY = "restore-a-pod-that-has-a-long-uid-0123456789abcdef"


def deadline() -> Deadline:
    return Deadline.after("place", 30.0)


def archive(path: Path, **contents: str | None) -> Path:
    """Write a files.tar: name -> content, None for a directory; `/` in names as `__`."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(name.replace("__", "/"))
            member.mode = 0o777
            if content is None:
                member.type = tarfile.DIRTYPE
                tar.addfile(member)
            else:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content.encode()))
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "root"
    made.mkdir()
    return made


@contextmanager
def attacking(code: str) -> Iterator[None]:
    """Run a process that repeats one action, and has begun when the block does."""
    loop = f"import os\nprint(flush=True)\nwhile True:\n    try:\n        {code}\n    except OSError: pass\n"
    child = subprocess.Popen([sys.executable, "-S", "-c", loop], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    try:
        yield
    finally:
        child.kill()
        child.communicate()


def test_two_long_names_with_a_common_prefix_are_both_rolled_back(tmp_path: Path, root: Path) -> None:
    long = "a" * 110
    (root / f"{long}1").write_text("one")
    (root / f"{long}2").write_text("two")
    tar = archive(tmp_path / "files.tar", **{f"{long}1": "new", f"{long}2": "new"})
    existed = place.survey(tar, root)
    place.place(tar, root, KEY, deadline())
    place.roll_back(existed, root, KEY)

    assert tree(root) == {f"{long}1": "one", f"{long}2": "two"}


def test_two_attempts_of_one_pod_move_files_aside_to_different_names(tmp_path: Path, root: Path) -> None:
    """Keys differ at their ends only: a file left by the first attempt is not taken for the second's original."""
    (root / "a").write_text("original")
    tar = archive(tmp_path / "files.tar", a="new")
    place.place(tar, root, f"{KEY}-1", deadline())
    (root / "a").write_text("the second's original")
    existed = place.survey(tar, root)
    place.place(tar, root, f"{KEY}-2", deadline())
    place.roll_back(existed, root, f"{KEY}-2")

    assert (root / "a").read_text() == "the second's original"


def test_created_parent_directories_are_removed_by_a_roll_back(tmp_path: Path, root: Path) -> None:
    (root / "dev").mkdir()
    tar = archive(tmp_path / "files.tar", dev__shm__sub__x="new")
    existed = place.survey(tar, root)
    place.place(tar, root, KEY, deadline())
    assert tree(root)["dev/shm/sub/x"] == "new"
    place.roll_back(existed, root, KEY)

    assert tree(root) == {"dev": "directory"}
    assert existed == {"dev/shm": False, "dev/shm/sub": False, "dev/shm/sub/x": False}


def test_a_file_swapped_for_a_link_while_it_is_placed_changes_nothing_outside(tmp_path: Path, root: Path) -> None:
    secret = tmp_path / "host-secret"
    secret.write_text("s")
    secret.chmod(0o600)
    before = secret.stat()
    names = [f"d/f{number}" for number in range(100)]
    (root / "d").mkdir()
    tar = archive(tmp_path / "files.tar", **dict.fromkeys(names, "x"))
    code = f"[(os.unlink(p), os.symlink({str(secret)!r}, p)) for p in os.scandir({str(root / 'd')!r})]"
    with attacking(code):
        for attempt in range(60):
            with suppress(OSError):
                place.place(tar, root, f"{KEY}-{attempt}", deadline())

    after = secret.stat()
    assert (after.st_mode, after.st_uid, after.st_mtime_ns) == (before.st_mode, before.st_uid, before.st_mtime_ns)


def test_owner_mode_and_times_are_set_by_descriptor(root: Path) -> None:
    """The name refers to another file when owner, mode, attributes and times are set."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    (root / "other").write_text("other")
    try:
        with nodes.new_file(fd, "a") as made:
            os.rename(root / "a", root / "moved")
            os.symlink("other", root / "a")
            made.settle((1000, 1001), 0o4751, 5_000_000_007, {"user.note": b"\xff\0kept"})
        with nodes.new_other(fd, "link", stat.S_IFLNK, target="other") as made:
            made.settle((1000, 1001), 0o777, 7_000_000_001, {})
        with nodes.new_other(fd, "fifo", stat.S_IFIFO) as made:
            made.settle((1000, 1001), 0o640, 7_000_000_001, {})
    finally:
        os.close(fd)
    moved, link, fifo = (root / "moved").lstat(), (root / "link").lstat(), (root / "fifo").lstat()

    assert (moved.st_uid, moved.st_gid, stat.S_IMODE(moved.st_mode)) == (1000, 1001, 0o4751)
    assert (moved.st_mtime_ns, os.getxattr(root / "moved", "user.note")) == (5_000_000_007, b"\xff\0kept")
    assert (link.st_uid, link.st_mtime_ns) == (1000, 7_000_000_001)
    assert (fifo.st_uid, stat.S_IMODE(fifo.st_mode), fifo.st_mtime_ns) == (1000, 0o640, 7_000_000_001)
    assert (root / "other").lstat().st_uid == os.geteuid()


def test_a_directory_is_copied_with_attributes_links_and_fifos(root: Path) -> None:
    """As `cp -a` copies, links and FIFOs unchanged."""
    source = root / "source"
    (source / "below").mkdir(parents=True, mode=0o710)
    (source / "below" / "file").write_text("x" * 3_000_000)
    os.setxattr(source / "below" / "file", "user.note", b"1")
    os.chown(source / "below" / "file", 1000, 1001)
    (source / "below" / "file").chmod(0o4755)
    (source / "outside").symlink_to("/etc/passwd")
    os.mkfifo(source / "fifo")
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        nodes.copy(fd, "source", "copy")
        assert whole_tree(root / "copy") == whole_tree(source)
        assert os.getxattr(root / "copy" / "below" / "file", "user.note") == b"1"
        nodes.remove(fd, "source")
        nodes.remove(fd, "source")
    finally:
        os.close(fd)
    assert not source.exists() and Path("/etc/passwd").exists()


def test_a_directory_with_a_mount_point_is_not_removed(root: Path) -> None:
    """The files of a volume below a path that a snapshot replaces are not the driver's to remove."""
    (root / "data" / "volume").mkdir(parents=True)
    script = f"""
import os, sys
from pathlib import Path
from restore_driver.files import nodes
from restore_driver.host.mounts import MS_PRIVATE, MS_REC, mount
from restore_driver.host.namespaces import KINDS, unshare
unshare(KINDS["mnt"])
mount("", Path("/"), flags=MS_REC | MS_PRIVATE)
root = Path({str(root)!r})
mount("tmpfs", root / "data" / "volume", "tmpfs")
(root / "data" / "volume" / "precious").write_text("kept")
try:
    nodes.remove(os.open(root, os.O_RDONLY), "data")
except OSError as error:
    print(error.strerror)
print((root / "data" / "volume" / "precious").read_text())
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parents[3], capture_output=True, text=True, check=True
    )

    assert done.stdout == "Device or resource busy\nkept\n"


def layer_of(directory: Path, target: Path) -> _Layer:
    """Write a directory as the upper layer of an overlay."""
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT, encoding="utf-8") as tar:
        layer = _Layer(tar)
        layer.add(directory)
    return layer


def test_a_layer_keeps_attributes_and_nanoseconds_and_leaves_devices_out(tmp_path: Path, root: Path) -> None:
    upper = tmp_path / "upper"
    (upper / "opaque").mkdir(parents=True)
    os.setxattr(upper / "opaque", "trusted.overlay.opaque", b"y")
    (upper / "program").write_text("#!/bin/sh\n")
    capability = bytes.fromhex("0000000200040000000000000000000000000000")  # v2: net_bind_service, permitted
    os.setxattr(upper / "program", "security.capability", capability)
    os.setxattr(upper / "program", "user.binary", b"\x00\xff\n=\xc3\xa9")
    os.utime(upper / "program", ns=(1_700_000_000_123_456_789,) * 2)
    os.mknod(upper / "deleted", stat.S_IFCHR)
    os.mknod(upper / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    (upper / "dangling").symlink_to("/nowhere")
    (root / "deleted").write_text("to be")
    layer = layer_of(upper, tmp_path / "files.tar")
    place.place(tmp_path / "files.tar", root, KEY, deadline())
    place.remove_aside(place.survey(tmp_path / "files.tar", root), root, KEY)

    assert (layer.count, layer.devices) == (4, 1)
    assert sorted(os.listdir(root)) == ["dangling", "opaque", "program"]
    assert os.getxattr(root / "program", "security.capability") == capability
    assert os.getxattr(root / "program", "user.binary") == b"\x00\xff\n=\xc3\xa9"
    assert (root / "program").stat().st_mtime_ns == 1_700_000_000_123_456_789
    with tarfile.open(tmp_path / "files.tar") as tar:
        marks = {member.name: set(member.pax_headers) & {DELETED, OPAQUE} for member in tar}
    assert marks == {"dangling": set(), "deleted": {DELETED}, "opaque": {OPAQUE}, "program": set()}


def test_a_layer_that_changes_while_it_is_captured_leaks_no_file_of_the_host_and_never_blocks(tmp_path: Path) -> None:
    """A file becomes a FIFO, a link to a secret, a file again; a directory becomes a link to one of the host."""
    upper, outside = tmp_path / "upper", tmp_path / "outside"
    for directory in (upper / "d", outside):
        directory.mkdir(parents=True)
        (directory / "f").write_text("s" if directory is outside else "x")
    here, there = str(upper), str(outside)
    code = (
        f"[os.rename('{here}/d', '{here}/e'), os.symlink('{there}', '{here}/d'), os.unlink('{here}/d'), "
        f"os.rename('{here}/e', '{here}/d'), os.unlink('{here}/d/f'), os.symlink('{there}/f', '{here}/d/f'), "
        f"os.unlink('{here}/d/f'), os.mkfifo('{here}/d/f'), os.unlink('{here}/d/f'), "
        f"open('{here}/d/f', 'w').write('x')]"
    )
    seen = set()
    with attacking(code):
        for _ in range(300):
            with suppress(OSError, DriverError):
                layer_of(upper, tmp_path / "files.tar")
                with tarfile.open(tmp_path / "files.tar") as tar:
                    seen |= {tar.extractfile(member).read() for member in tar if member.isreg()}  # type: ignore[union-attr]

    assert b"s" not in seen

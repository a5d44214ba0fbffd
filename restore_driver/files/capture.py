"""Capture a replica's files into the artifact: the upper layer of its root, and the files of /dev/shm that it uses.

Both go into one tar, `files.tar`, whose names are paths within the replica's root. Deletions, which overlayfs writes
as character devices 0:0, are members with the header FORETHAW.deleted; directories that hide the image's (xattr
trusted.overlay.opaque) have FORETHAW.opaque; extended attributes are SCHILY.xattr.NAME headers, as in other tars.

The replica is stopped; other processes in its container are not, so everything is read by descriptor (`nodes.py`).
"""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from restore_driver.files.in_root import open_in_root
from restore_driver.files.nodes import FileNode, node

NAME = "files.tar"
DELETED, OPAQUE, ATTRIBUTE = "FORETHAW.deleted", "FORETHAW.opaque", "SCHILY.xattr."
SHARED_MEMORY = "/dev/shm/"
_OPAQUE_XATTRS = ("trusted.overlay.opaque", "user.overlay.opaque")
_NOT_STATE = ("proc", "sys", "dev", "run/secrets", "etc/hosts", "etc/hostname", "etc/resolv.conf")
"""Never captured: kernel file systems, and files that a container runtime writes for each pod."""
_KINDS = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
}


class _CheckedFile(io.FileIO):
    """A file that calls `check` before each write."""

    def __init__(self, path: Path, check: Callable[[], object]) -> None:
        super().__init__(path, "wb")
        self._check = check

    def write(self, content: Any) -> int:
        self._check()
        return super().write(content)


def capture(
    pids: Iterable[int], root_pid: int, target: Path, check: Callable[[], object] = lambda: None
) -> dict[str, object]:
    """Write `files.tar` for a stopped tree; an empty one is removed.

    `check` is called before each write; an exception that it raises (a missed deadline) ends the work.

    Returns:
        Details for the result: counts and bytes, why there is no root diff if there is none, devices left out.

    Raises:
        OSError: a file cannot be read or written.
    """
    upper = upper_layer(root_pid)
    shared = shared_memory_files(pids)
    details: dict[str, object] = {"shared_memory_files": 0, "root_diff_files": 0}
    if upper is None:
        details["root_diff"] = "the root is not an overlay: nothing to capture"
    with (
        _CheckedFile(target, check) as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8") as tar,
    ):
        layer = _Layer(tar)
        if upper is not None:
            layer.add(upper)
            details["root_diff_files"] = layer.count
        details["shared_memory_files"] = _add_shared_memory(tar, shared, root_pid)
        empty = not tar.getmembers()
    if layer.devices:
        details["devices_left_out"] = layer.devices
    if empty:
        target.unlink()
    else:
        details["bytes"] = target.stat().st_size
    return details


def upper_layer(pid: int) -> Path | None:
    """Return the writable layer of a process's root if that is an overlay whose layers are visible here, else None."""
    ours = Path("/proc/self/ns/mnt").stat().st_ino
    if Path(f"/proc/{pid}/ns/mnt").stat().st_ino == ours:
        return None  # the replica uses the driver's own root: its files stay where they are
    for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[4] == "/" and after.split()[0] == "overlay":
            options = dict(option.partition("=")[::2] for option in after.split(" ", 2)[2].split(","))
            upper = Path(options.get("upperdir", "").replace("\\040", " "))
            return upper if options.get("upperdir") and upper.is_dir() else None
    return None


def shared_memory_files(pids: Iterable[int]) -> dict[str, Path]:
    """Return the named files below /dev/shm that the processes have open or mapped -> a path to read each."""
    found: dict[str, Path] = {}
    for pid in pids:
        for kind in ("fd", "map_files"):
            directory = Path(f"/proc/{pid}/{kind}")
            with suppress(OSError):
                for link in directory.iterdir():
                    with suppress(OSError):
                        name = str(link.readlink())
                        if name.startswith(SHARED_MEMORY) and not name.endswith(" (deleted)"):
                            found.setdefault(name, link)
    return found


def modified_ns(member: tarfile.TarInfo) -> int:
    """Return a member's modification time from its PAX header: tarfile's float loses nanoseconds."""
    seconds, _, rest = member.pax_headers.get("mtime", str(int(member.mtime))).partition(".")
    return int(seconds) * 1_000_000_000 + int(f"{rest:0<9}"[:9])


def attributes(member: tarfile.TarInfo) -> dict[str, bytes]:
    """Return a member's extended attributes."""
    return {
        name.removeprefix(ATTRIBUTE): value.encode("utf-8", "surrogateescape")
        for name, value in member.pax_headers.items()
        if name.startswith(ATTRIBUTE)
    }


def _add_shared_memory(tar: tarfile.TarFile, shared: dict[str, Path], root_pid: int) -> int:
    count = 0
    with ExitStack() as stack:
        root_fd = os.open(f"/proc/{root_pid}/root", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, root_fd)
        for name in sorted({str(path) for file in shared for path in _directories(file)}):
            with suppress(OSError), _opened(open_in_root(root_fd, name, os.O_PATH | os.O_DIRECTORY)) as directory:
                _add(tar, directory, name.lstrip("/"), {})
        for name, link in sorted(shared.items()):
            with suppress(FileNotFoundError), _opened(os.open(link, os.O_PATH | os.O_CLOEXEC)) as file:
                if stat.S_ISREG(file.status.st_mode):
                    _add(tar, file, name.lstrip("/"), {})
                    count += 1
    return count


def _directories(name: str) -> list[PurePosixPath]:
    """Return the directories between /dev/shm and a file."""
    return [path for path in PurePosixPath(name).parents if str(path).startswith(SHARED_MEMORY)]


@dataclass
class _Layer:
    """Writer of an overlay's upper layer."""

    tar: tarfile.TarFile
    count: int = 0
    devices: int = 0
    """Devices left out: a container that may have some gets them from its runtime."""
    _below: list[tuple[int, str]] = field(default_factory=list)

    def add(self, upper: Path) -> None:
        """Add everything below a directory, parents first."""
        self._below = [(os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), "")]
        try:
            while self._below:
                self._add_entries(*self._below.pop())
        finally:
            for fd, _ in self._below:
                os.close(fd)

    def _add_entries(self, directory_fd: int, inside: str) -> None:
        try:
            for name in sorted(os.listdir(directory_fd)):
                if _is_captured(inside + name):
                    with suppress(FileNotFoundError), node(directory_fd, name) as entry:
                        self._add_entry(entry, inside + name)
        finally:
            os.close(directory_fd)

    def _add_entry(self, entry: FileNode, path: str) -> None:
        kind, headers = stat.S_IFMT(entry.status.st_mode), {}
        if stat.S_ISSOCK(kind) or (stat.S_ISCHR(kind) and entry.status.st_rdev == 0):
            # CRIU binds a socket again. Its path is written as a deletion, so that a roll-back removes CRIU's socket.
            headers[DELETED] = "1"
        elif stat.S_ISCHR(kind) or stat.S_ISBLK(kind):
            self.devices += 1
            return
        elif entry.is_directory:
            if _is_opaque(entry):
                headers[OPAQUE] = "1"
            self._below.append((entry.read(), f"{path}/"))
        _add(self.tar, entry, path, headers)
        self.count += 1


def _is_captured(path: str) -> bool:
    return not any(path == name or path.startswith(name + "/") for name in _NOT_STATE)


def _add(tar: tarfile.TarFile, entry: FileNode, path: str, headers: dict[str, str]) -> None:
    """Add one member; each name of a file with several hard links becomes a file of its own."""
    status = entry.status
    member = tarfile.TarInfo(path)
    member.mode, member.uid, member.gid = stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid
    member.mtime = status.st_mtime_ns // 1_000_000_000
    seconds, rest = divmod(status.st_mtime_ns, 1_000_000_000)
    member.pax_headers = {**headers, "mtime": f"{seconds}.{rest:09d}"}
    for name, value in entry.attributes().items():
        member.pax_headers[ATTRIBUTE + name] = value.decode("utf-8", "surrogateescape")
    member.type = _KINDS.get(stat.S_IFMT(status.st_mode), tarfile.REGTYPE)
    if member.issym():
        member.linkname = entry.link_target()
    if not member.isreg() or DELETED in headers:
        tar.addfile(member)
        return
    member.size = status.st_size
    with os.fdopen(entry.read(), "rb") as content:
        tar.addfile(member, content)


@contextmanager
def _opened(fd: int) -> Iterator[FileNode]:
    try:
        yield FileNode(fd, os.fstat(fd))
    finally:
        os.close(fd)


def _is_opaque(directory: FileNode) -> bool:
    for name in _OPAQUE_XATTRS:
        with suppress(OSError):
            if os.getxattr(directory.path, name) == b"y":
                return True
    return False

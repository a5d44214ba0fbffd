"""Into the artifact: the upper layer of a container's root, and the files of /dev/shm that a replica uses.

Both go into one tar, `files.tar`, whose names are paths within the replica's root. Deletions, which overlayfs writes
as character devices 0:0, travel as members with the header FORETHAW.deleted; directories that hide the image's
(xattr trusted.overlay.opaque) with FORETHAW.opaque.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

NAME = "files.tar"
DELETED, OPAQUE = "FORETHAW.deleted", "FORETHAW.opaque"
SHARED_MEMORY = "/dev/shm/"
_OPAQUE_XATTR = "trusted.overlay.opaque"
_NOT_STATE = ("proc", "sys", "dev", "run/secrets", "etc/hosts", "etc/hostname", "etc/resolv.conf")
"""Never carried: kernel file systems, and what a container runtime writes for each pod anew."""


def capture(pids: Iterable[int], root_pid: int, target: Path) -> dict[str, object]:
    """Writes `files.tar` for a stopped tree; an empty one is not written.

    Returns:
        What was saved: counts and bytes, and why there is no root diff if there is none.
    """
    upper = upper_layer(root_pid)
    shared = shared_memory_files(pids)
    details: dict[str, object] = {"shared_memory_files": len(shared), "root_diff_files": 0}
    if upper is None:
        details["root_diff"] = "the root is no overlay: nothing to carry"
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        if upper is not None:
            details["root_diff_files"] = _add_layer(tar, upper)
        for name, seen_as in sorted(shared.items()):
            with seen_as.open("rb") as content:
                tar.addfile(tar.gettarinfo(arcname=name.lstrip("/"), fileobj=content), content)
        empty = not tar.getmembers()
    if empty:
        target.unlink()
    else:
        details["bytes"] = target.stat().st_size
    return details


def upper_layer(pid: int) -> Path | None:
    """The writable layer of a process's root, if that is an overlay whose layers this machine can see."""
    ours = os.stat("/proc/self/ns/mnt").st_ino
    if os.stat(f"/proc/{pid}/ns/mnt").st_ino == ours:
        return None  # the replica lives in our own root: nothing of it moves
    for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[4] == "/" and after.split()[0] == "overlay":
            options = dict(option.partition("=")[::2] for option in after.split(" ", 2)[2].split(","))
            upper = Path(options.get("upperdir", "").replace("\\040", " "))
            return upper if options.get("upperdir") and upper.is_dir() else None
    return None


def shared_memory_files(pids: Iterable[int]) -> dict[str, Path]:
    """Named files below /dev/shm that the processes hold open or mapped -> where we can read each."""
    found: dict[str, Path] = {}
    for pid in pids:
        for kind in ("fd", "map_files"):
            directory = Path(f"/proc/{pid}/{kind}")
            with suppress(OSError):
                for link in directory.iterdir():
                    with suppress(OSError):
                        name = os.readlink(link)
                        if name.startswith(SHARED_MEMORY) and not name.endswith(" (deleted)"):
                            found.setdefault(name, link)
    return found


def _add_layer(tar: tarfile.TarFile, upper: Path) -> int:
    count = 0
    for where, directories, files in os.walk(upper):
        inside = Path(where).relative_to(upper).as_posix()
        directories[:] = [name for name in directories if _carried(f"{inside}/{name}")]
        for name in (*directories, *files):
            path = f"{inside}/{name}".removeprefix("./")
            if _carried(path):
                count += _add(tar, Path(where, name), path)
    return count


def _carried(path: str) -> bool:
    path = path.removeprefix("./")
    return not any(path == name or path.startswith(name + "/") for name in _NOT_STATE)


def _add(tar: tarfile.TarFile, source: Path, path: str) -> int:
    status = source.lstat()
    if stat.S_ISSOCK(status.st_mode):
        return 0  # CRIU binds sockets anew
    member = tar.gettarinfo(str(source), arcname=path)
    if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
        member.type = tarfile.REGTYPE
        member.pax_headers = {DELETED: "1"}
    elif stat.S_ISDIR(status.st_mode) and _is_opaque(source):
        member.pax_headers = {OPAQUE: "1"}
    elif member.islnk():  # tarfile's mark for a second name of one file: carried as a file of its own
        member.type, member.linkname, member.size = tarfile.REGTYPE, "", status.st_size
    if member.isreg() and DELETED not in member.pax_headers:
        with source.open("rb") as content:
            tar.addfile(member, content)
    else:
        tar.addfile(member)
    return 1


def _is_opaque(directory: Path) -> bool:
    try:
        return os.getxattr(directory, _OPAQUE_XATTR, follow_symlinks=False) == b"y"
    except OSError:
        return False

"""PID 1 of a placeholder without a container engine: mount /proc and /dev/shm, then only reap children.

Run as a file by the bare interpreter (`python -I -S`), so it imports little. A restored replica's processes become
children of this one when CRIU ends; a zombie would keep its PID, and so prevent the next restore.
"""

import ctypes
import fcntl
import os
import signal
import socket
import struct
import sys

_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_BIND, _MS_REC, _MNT_DETACH = 2, 4, 8, 0x1000, 0x4000, 2
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_libc = ctypes.CDLL(None, use_errno=True)
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1


def main() -> None:
    """Run PID 1; arguments: descriptor to write `ready` to, root directory, `private` or `host` network."""
    ready_fd, root, net = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    if root != "/":
        _change_root(root)
    os.chdir("/")
    _mount("proc", "/proc")
    _mount("tmpfs", "/dev/shm")
    if net == "private":
        _bring_loopback_up()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGTERM})
    os.write(ready_fd, b"ready")
    os.close(ready_fd)
    while signal.sigwait({signal.SIGCHLD, signal.SIGTERM}) != signal.SIGTERM:
        _reap()


def _change_root(root: str) -> None:
    """Change the root by pivot_root(2), not chroot: a process that enters the mount namespace starts at its root.

    Mounts below the new root (devices, volumes) are kept.
    """
    _check(_libc.mount(root.encode(), root.encode(), None, _MS_BIND | _MS_REC, None), root)
    os.chdir(root)
    _check(_libc.syscall(_SYS_PIVOT_ROOT[os.uname().machine], b".", b"."), root)
    _check(_libc.umount2(b".", _MNT_DETACH), root)


def _mount(kind: str, target: str) -> None:
    flags = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    _check(_libc.mount(kind.encode(), target.encode(), kind.encode(), flags, None), target)


def _check(answer: int, target: str) -> None:
    if answer != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), target)


def _bring_loopback_up() -> None:
    """Bring `lo` up: without it CRIU cannot restore listeners on 127.0.0.1 ("Network is unreachable")."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


if __name__ == "__main__":
    main()

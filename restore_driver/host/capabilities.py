"""Becoming another user while keeping capabilities, for dumps of non-root replicas.

CRIU in its `--unprivileged` mode dumps the processes of its own user and needs a few capabilities for it, not
CAP_SYS_RESOURCE, which root itself lacks on some hosts (nested containers, hardened nodes).
"""

from __future__ import annotations

import ctypes
import os

CAP_SYS_RESOURCE = 24
_VERSION_3 = 0x20080522
_PR_SET_KEEPCAPS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _PR_SET_DUMPABLE = 8, 47, 2, 4
_SYS_CAPSET = {"x86_64": 126, "aarch64": 91}
_libc = ctypes.CDLL(None, use_errno=True)


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = tuple((f"{name}_{half}", ctypes.c_uint32) for half in (0, 1) for name in ("eff", "prm", "inh"))


def effective() -> frozenset[int]:
    """Numbers of this process's effective capabilities."""
    with open("/proc/self/status") as lines:
        mask = next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff:"))
    return frozenset(number for number in range(64) if mask >> number & 1)


def become_with_capabilities(user_id: int) -> None:
    """Takes on a user id and keeps all capabilities, ambient too, so that they survive execve(2).

    Runs in a forked child.

    Raises:
        OSError: as the kernel says.
    """
    held = effective()
    _libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setresgid(user_id, user_id, user_id)
    os.setresuid(user_id, user_id, user_id)
    low, high = _mask(held, 0), _mask(held, 32)
    sets = _Sets(low, low, low, high, high, high)
    number = _SYS_CAPSET[os.uname().machine]
    if _libc.syscall(number, ctypes.byref(_Header(_VERSION_3, 0)), ctypes.byref(sets)) != 0:
        raise OSError(ctypes.get_errno(), "capset")
    for capability in held:
        _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability, 0, 0)


def _mask(capabilities: frozenset[int], base: int) -> int:
    return sum(1 << (number - base) for number in capabilities if base <= number < base + 32)

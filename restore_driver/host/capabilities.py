"""Change the user of a forked child, keeping all capabilities or with another process's rights and no more.

All capabilities are kept for dumps of non-root replicas: CRIU in its `--unprivileged` mode dumps the processes of its
own user and needs a few capabilities for it, without CAP_SYS_RESOURCE, which root itself lacks on some hosts (nested
containers, hardened nodes). Another process's rights are for programs that a replica could have started itself.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass

from restore_driver.host import proc
from restore_driver.host.libc import last_error, libc
from restore_driver.host.process import die_with_parent

CAP_SYS_RESOURCE = 24
_VERSION_3 = 0x20080522
_PR_SET_KEEPCAPS, _PR_CAPBSET_READ, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 8, 23, 24, 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 2, 4
_PR_SET_DUMPABLE = 4
_SYS_CAPGET, _SYS_CAPSET = {"x86_64": 125, "aarch64": 90}, {"x86_64": 126, "aarch64": 91}
_HIGHEST = 64
_SET_NAMES = ("eff", "prm", "inh")


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = tuple((f"{name}_{half}", ctypes.c_uint32) for half in (0, 1) for name in _SET_NAMES)


@dataclass(frozen=True)
class Rights:
    """A process's users and groups, and its five sets of capabilities as masks."""

    user_ids: tuple[int, int, int]
    """Real, effective and saved."""
    group_ids: tuple[int, int, int]
    groups: tuple[int, ...]
    inheritable: int
    permitted: int
    effective: int
    bounding: int
    ambient: int

    @classmethod
    def of(cls, pid: int) -> Rights:
        """Return the rights of a process; one in another user namespace has its capabilities there, and none here.

        Raises:
            DriverError: REPLICA_LOST.
        """
        fields = proc.status(pid)
        here = proc.namespace_id(pid, "user") == proc.namespace_id(os.getpid(), "user")
        users, groups = ([int(word) for word in fields[name].split()] for name in ("Uid", "Gid"))
        return cls(
            (users[0], users[1], users[2]),
            (groups[0], groups[1], groups[2]),
            tuple(int(word) for word in fields["Groups"].split()),
            *(int(fields[name], 16) if here else 0 for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")),
        )

    def take_on(self) -> None:
        """Take on these rights within a forked child of root, irrevocably.

        Capabilities that the driver lacks are not gained. `no_new_privs` is set whether or not the other process has
        it: with it an exec adds no rights, neither by a set-user-id bit nor to user 0. This process has the driver's
        memory, so it may not be traced between here and its exec.

        Raises:
            OSError: any error of the calls that change users, groups and capabilities.
        """
        _prctl(_PR_SET_DUMPABLE, 0)
        _prctl(_PR_SET_KEEPCAPS, 1)
        for number in range(_HIGHEST):
            if not self.bounding >> number & 1 and libc.prctl(_PR_CAPBSET_READ, number, 0, 0, 0) == 1:
                _prctl(_PR_CAPBSET_DROP, number)
        os.setgroups(self.groups)
        os.setresgid(*self.group_ids)
        os.setresuid(*self.user_ids)
        permitted = self.permitted & _capget()[1]
        inheritable = self.inheritable & self.bounding & permitted
        _capset(self.effective & permitted, permitted, inheritable)
        _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
        for number in _numbers(self.ambient & inheritable):
            _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number)
        forbid_new_privileges()
        die_with_parent()


def forbid_new_privileges() -> None:
    """Set `no_new_privs`: no exec from here on adds rights (prctl(2)).

    Raises:
        OSError: any error of prctl(2).
    """
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def effective() -> frozenset[int]:
    """Return the numbers of this process's effective capabilities."""
    return frozenset(_numbers(_capget()[0]))


def become_with_capabilities(user_id: int) -> None:
    """Change the user and group id of a forked child and keep all capabilities, ambient ones included, over execve(2).

    Raises:
        OSError: any error of the calls that change users and capabilities.
    """
    held = _capget()[0]
    _prctl(_PR_SET_KEEPCAPS, 1)
    os.setresgid(user_id, user_id, user_id)
    os.setresuid(user_id, user_id, user_id)
    _capset(held, held, held)
    for number in _numbers(held):
        libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number, 0, 0)
    die_with_parent()


def _numbers(mask: int) -> tuple[int, ...]:
    return tuple(number for number in range(_HIGHEST) if mask >> number & 1)


def _capget() -> tuple[int, int, int]:
    """Return the effective, permitted and inheritable masks by capget(2), since a container may have no /proc."""
    sets = _Sets()
    number = _SYS_CAPGET[os.uname().machine]
    if libc.syscall(number, ctypes.byref(_Header(_VERSION_3, 0)), ctypes.byref(sets)) != 0:
        raise last_error(what="capget")
    eff, prm, inh = (int(getattr(sets, f"{name}_0") | getattr(sets, f"{name}_1") << 32) for name in _SET_NAMES)
    return eff, prm, inh


def _capset(effective: int, permitted: int, inheritable: int) -> None:
    masks = (effective, permitted, inheritable)
    sets = _Sets(*(mask & 0xFFFFFFFF for mask in masks), *(mask >> 32 for mask in masks))
    number = _SYS_CAPSET[os.uname().machine]
    if libc.syscall(number, ctypes.byref(_Header(_VERSION_3, 0)), ctypes.byref(sets)) != 0:
        raise last_error(what="capset")


def _prctl(option: int, *arguments: int) -> None:
    if libc.prctl(option, *arguments, *(0,) * (4 - len(arguments))) != 0:
        raise last_error(what=f"prctl {option}")

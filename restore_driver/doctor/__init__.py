"""`forethaw doctor`: whether this machine can checkpoint and restore, found out by trying, and what would fix it.

`checks.py` is the table of what is looked at, `examine.py` goes through it, `findings.py` says what comes out; every
other module is one subject of the table. Nothing is changed: what must be tried (a namespace, a mount, CRIU's own
check) is tried in a process of its own and gone with it.
"""

from __future__ import annotations

from restore_driver.doctor.examine import examine
from restore_driver.doctor.findings import Finding, Verdict, is_fit
from restore_driver.doctor.machine import Machine

__all__ = ["Finding", "Machine", "Verdict", "examine", "is_fit"]

"""`forethaw doctor`: examine if this machine can checkpoint and restore, by trying it, with a hint for each problem.

`checks.py` is the table of checks, `examine.py` runs them, `findings.py` has the results; every other module is one
subject of the table. Nothing is changed: namespaces, mounts and CRIU's own check are tried in a process of its own,
and end with it.
"""

from __future__ import annotations

from restore_driver.doctor.examine import examine
from restore_driver.doctor.findings import Finding, Verdict, is_fit
from restore_driver.doctor.machine import Machine

__all__ = ["Finding", "Machine", "Verdict", "examine", "is_fit"]

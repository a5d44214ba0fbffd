"""Check the resident processes: the agent and the weights holder."""

from __future__ import annotations

import os

from restore_driver.agent.client import status as agent_status
from restore_driver.doctor.findings import Answer, absent, broken, missing, ok, warning
from restore_driver.doctor.machine import Machine
from restore_driver.errors import DriverError, Reason
from restore_driver.host.trusted import require_trusted
from restore_driver.weights.client import HolderClient


def agent(machine: Machine) -> Answer:
    """Check the agent; without one every command starts CRIU and CUDA itself, which takes longer than a restore."""
    path = machine.state / "agent.sock"
    if not os.path.lexists(path):
        return absent(f"none serves at {path}: each command starts everything itself (see `forethaw agent`)")
    try:
        found = agent_status(path, machine.patience_s)
    except DriverError as error:
        return broken(error.detail, "start `forethaw agent` again; it replaces a stale socket")
    cuda = "CUDA" if found.get("cuda") else "no CUDA"
    return ok(f"process {found.get('pid')} serves at {path}, with CRIU {found.get('criu')} and {cuda}")


def holder(machine: Machine) -> Answer:
    """Check the weights holder, if its socket is named."""
    if machine.holder is None:
        return absent("not checked: --holder was not given")
    client = HolderClient(machine.holder)
    try:
        require_trusted(machine.holder.parent, owner=os.geteuid())
        found = client.status(machine.patience_s)
    except DriverError as error:
        return _refused(machine, error)
    finally:
        client.close()
    return ok(
        f"process {found['pid']} holds {len(found['models'])} models, {found['held_bytes']:,} of "
        f"{found['budget_bytes']:,} bytes; {found['free_device_bytes']:,} bytes of its GPU are free"
    )


def _refused(machine: Machine, error: DriverError) -> Answer:
    if error.reason is Reason.WEIGHTS_FAILED:
        return missing(error.detail, f"forethaw holder serve --socket {machine.holder} --budget 40G")
    if error.reason is Reason.NOT_TRUSTED and not machine.is_root:
        return warning(f"it answers only root: {error.detail}", "run it as root")
    return broken(error.detail, error.hint or "end it and start it again: `forethaw holder serve`")

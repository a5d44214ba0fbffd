"""Who serves here: the agent, and the weights holder."""

from __future__ import annotations

import os

from restore_driver.agent import client as agents
from restore_driver.doctor.findings import Answer, absent, broken, missing, ok, warning
from restore_driver.doctor.machine import Machine
from restore_driver.errors import DriverError, Reason
from restore_driver.host.trusted import require_trusted
from restore_driver.weights.client import HolderClient


def agent(machine: Machine) -> Answer:
    """Without one, every command starts everything by itself, which takes longer than a restore."""
    path = machine.state / "agent.sock"
    if not os.path.lexists(path):
        return absent(f"none serves at {path}: each command starts everything anew (`forethaw agent` keeps it)")
    try:
        said = agents.status(path, machine.patience_s)
    except DriverError as error:
        return broken(error.detail, "start `forethaw agent` again; it replaces a socket that nobody serves")
    cuda = "CUDA" if said.get("cuda") else "no CUDA"
    return ok(f"process {said.get('pid')} serves at {path}, with CRIU {said.get('criu')} and {cuda}")


def holder(machine: Machine) -> Answer:
    """Only where one was named."""
    if machine.holder is None:
        return absent("not looked at: no --holder socket was named")
    client = HolderClient(machine.holder)
    try:
        require_trusted(machine.holder.parent, owner=os.geteuid())
        said = client.status(machine.patience_s)
    except DriverError as error:
        return _refused(machine, error)
    finally:
        client.close()
    return ok(
        f"process {said['pid']} holds {len(said['models'])} models, {said['held_bytes']:,} of {said['budget_bytes']:,} "
        f"bytes; {said['free_device_bytes']:,} bytes of its card are free"
    )


def _refused(machine: Machine, error: DriverError) -> Answer:
    if error.reason is Reason.WEIGHTS_FAILED:
        return missing(error.detail, f"forethaw holder serve --socket {machine.holder} --budget 40G")
    if error.reason is Reason.NOT_TRUSTED and not machine.is_root:
        return warning(f"it tells nobody but root: {error.detail}", "run it as root")
    return broken(error.detail, error.hint or "end it and start it again: `forethaw holder serve`")

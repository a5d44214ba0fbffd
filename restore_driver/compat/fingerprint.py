"""Fingerprints: the properties of machine and software that a snapshot depends on."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from restore_driver.errors import DriverError
from restore_driver.host.process import run


class Gpu(BaseModel):
    """One GPU by model name, UUID and memory, as nvidia-smi reports them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    uuid: str
    memory_bytes: int


class Fingerprint(BaseModel):
    """The properties whose change may break a restored process; `rules.py` compares two fingerprints."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    arch: str
    kernel: str
    cpu_features: tuple[str, ...]
    glibc: str
    image_digest: str | None = None
    gpus: tuple[Gpu, ...] = ()
    driver_version: str | None = None
    engine: str | None = None
    engine_arguments: tuple[str, ...] = ()


def here(
    *, image_digest: str | None = None, engine: str | None = None, engine_arguments: tuple[str, ...] = ()
) -> Fingerprint:
    """Return the fingerprint of this machine; it runs nvidia-smi, which takes a while: keep the result."""
    system = os.uname()
    gpus, driver = read_gpus()
    return Fingerprint(
        arch=system.machine,
        kernel=system.release,
        cpu_features=_cpu_features(),
        glibc=(os.confstr("CS_GNU_LIBC_VERSION") or "").removeprefix("glibc "),
        image_digest=image_digest,
        gpus=gpus,
        driver_version=driver,
        engine=engine,
        engine_arguments=engine_arguments,
    )


def read_gpus(deadline_s: float = 10.0) -> tuple[tuple[Gpu, ...], str | None]:
    """Return the NVIDIA GPUs in the driver's order and the driver's version; `((), None)` without a driver."""
    query = ["nvidia-smi", "--query-gpu=uuid,name,memory.total,driver_version", "--format=csv,noheader,nounits"]
    try:
        done = run(query, deadline_s=deadline_s)
    except DriverError:
        return (), None
    rows = [[cell.strip() for cell in line.split(",")] for line in done.output.splitlines()]
    if done.exit_code != 0 or any(len(row) != 4 for row in rows):
        return (), None
    gpus = tuple(Gpu(model=name, uuid=uuid, memory_bytes=int(mib) << 20) for uuid, name, mib, _ in rows)
    return gpus, rows[0][3] if rows else None


def _cpu_features() -> tuple[str, ...]:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return tuple(sorted(value.split()))
    return ()

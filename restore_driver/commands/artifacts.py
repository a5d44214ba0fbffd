"""`forethaw verify | compact | inspect`: commands for an artifact on this machine."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from restore_driver.commands.options import AsJson
from restore_driver.commands.outcome import FAILED
from restore_driver.commands.run_request import refuse
from restore_driver.errors import DriverError

Artifact = Annotated[Path, typer.Argument(help="Directory of an artifact.")]


def verify(artifact: Artifact, as_json: AsJson = False) -> None:
    """Verify every digest of an artifact and seal it, so that restores check the seal only."""
    from restore_driver.artifact.manifest import load_manifest, manifest_digest
    from restore_driver.artifact.seal import verify_and_seal

    began_s = time.monotonic()
    try:
        seal = verify_and_seal(artifact.absolute())
        manifest = load_manifest(artifact.absolute())
    except DriverError as error:
        refuse("verify", error, as_json=as_json)
    _print_facts(
        as_json=as_json,
        digest=manifest_digest(manifest),
        files=len(manifest.files),
        bytes=sum(entry.size_bytes for entry in manifest.files),
        kernel_watches=seal.verity,
        took_s=time.monotonic() - began_s,
    )


def compact(artifact: Artifact, as_json: AsJson = False) -> None:
    """Drop zero pages from an artifact's images and offload large memory, as `checkpoint` does by default.

    A restore fills in offloaded memory with all cores.
    The new artifact, verified and sealed, replaces the old one by one rename; until then the old one is unchanged.
    """
    from restore_driver.artifact.compacting import compact_artifact

    began_s = time.monotonic()
    try:
        done = compact_artifact(artifact.absolute())
    except DriverError as error:
        refuse("compact", error, as_json=as_json)
    _print_facts(
        as_json=as_json,
        digest=done.digest,
        replaced=done.replaced,
        before_bytes=done.compaction.before_bytes,
        after_bytes=done.compaction.after_bytes,
        saved_bytes=done.compaction.saved_bytes,
        offloaded_bytes=done.compaction.offloaded_bytes,
        took_s=time.monotonic() - began_s,
    )


def inspect(artifact: Artifact, as_json: AsJson = False) -> None:
    """Show what an artifact holds and whether it fits this machine; exit code 1 if it does not."""
    from restore_driver.artifact.manifest import load_manifest, manifest_digest
    from restore_driver.artifact.seal import check_seal
    from restore_driver.compat.fingerprint import here
    from restore_driver.compat.rules import incompatibilities

    try:
        manifest = load_manifest(artifact.absolute())
    except DriverError as error:
        refuse("inspect", error, as_json=as_json)
    wanted = manifest.fingerprint
    machine = here(engine=wanted.engine, engine_arguments=wanted.engine_arguments)
    wrong = incompatibilities(wanted, machine, gpus=machine.gpus[: len(wanted.gpus)])
    try:
        check_seal(artifact.absolute())
        sealed = "yes"
    except DriverError as error:
        sealed = f"no: {error.detail}"
    _print_facts(
        as_json=as_json,
        name=manifest.name,
        digest=manifest_digest(manifest),
        created=time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(manifest.created_unix_s)),
        bytes=sum(entry.size_bytes for entry in manifest.files),
        image_bytes=manifest.image_bytes,
        compacted_bytes=manifest.compacted_bytes,
        processes=len(manifest.process.pids),
        cuda_processes=len(manifest.cuda.pids),
        engine=wanted.engine,
        engine_arguments=list(wanted.engine_arguments),
        image_digest=wanted.image_digest,
        kernel=wanted.kernel,
        arch=wanted.arch,
        driver_version=wanted.driver_version,
        gpus=[gpu.model for gpu in wanted.gpus],
        sealed=sealed,
        fits_here=not wrong,
        misfits=list(wrong),
    )
    if wrong:
        raise typer.Exit(FAILED)


def _print_facts(*, as_json: bool, **facts: Any) -> None:
    if as_json:
        typer.echo(json.dumps(facts))
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        items = value if isinstance(value, list) else [value]
        for number, item in enumerate(items or ["none"]):
            typer.echo(f"{name if not number else '':{width}}  {_shown(name, item)}")


def _shown(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name.endswith("bytes"):
        return f"{value:,}"
    return f"{value:.3f}" if isinstance(value, float) else str(value)

"""Artifacts without a replica: any files, and a matching manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from restore_driver.artifact.publish import Draft
from restore_driver.compat.fingerprint import Fingerprint, Gpu
from restore_driver.proof.prove import ProofRecord
from restore_driver.wire.replica_spec import ReplicaSpec

FILES = {"images/pages-1.img": b"\1" * 9000, "images/core-9.img": b"core", "images/empty.img": b"", "files.tar": b"tar"}


def about(**other: Any) -> dict[str, Any]:
    """Return a manifest's fields without name and files."""
    gpu = Gpu(model="NVIDIA H200", uuid="GPU-1", memory_bytes=1 << 37)
    return {
        "created_unix_s": 1.7e9,
        "fingerprint": Fingerprint(
            arch="x86_64", kernel="6.18.0", cpu_features=("avx", "sse2"), glibc="2.36", gpus=(gpu,)
        ),
        "process": {"root_pid": 9, "pids": (9, 12), "user_id": 0, "external": {"1": "pipe:[7]"}},
        "cuda": {"pids": (9,)},
        "replica": ReplicaSpec(),
        "proof": ProofRecord(),
        "image_bytes": 9004,
        **other,
    }


def publish(target: Path, files: dict[str, bytes] | None = None, **manifest: Any) -> Path:
    """Publish an unsealed artifact."""
    draft = Draft.open(target)
    try:
        for name, content in (FILES if files is None else files).items():
            path = draft.path / name
            path.parent.mkdir(mode=0o700, exist_ok=True)
            path.write_bytes(content)
        draft.commit(about(**manifest))
    finally:
        draft.close()
    return target


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    """One artifact in a directory of its own."""
    (tmp_path / "artifacts").mkdir(mode=0o700)
    return publish(tmp_path / "artifacts" / "snapshot")

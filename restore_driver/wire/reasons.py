"""Reason codes: one for each way in which a checkpoint, restore or park can fail.

A `Reason` is what a controller acts on and what a person on call greps for; the detail names the object and the
value, the hint says what to do. Reasons are sorted by what happens next:

  refused       nothing was touched; the same request will be refused again until the hint is followed
  failed        something was begun and undone; this (pod, snapshot) is not tried again, the fallback is a cold start
  lost          the replica itself is gone or unusable; it must be replaced
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why an attempt ended without success; the value stands in JSON results and in Events."""

    # refused: nothing was touched
    REQUEST_INVALID = "RequestInvalid"
    NOT_TRUSTED = "NotTrusted"  # owner, mode, symlink, `..`: root must not act on it
    MANIFEST_INVALID = "ManifestInvalid"
    DIGEST_MISMATCH = "DigestMismatch"
    SEAL_BROKEN = "SealBroken"
    FINGERPRINT_MISMATCH = "FingerprintMismatch"
    ATTEMPTED_BEFORE = "AttemptedBefore"
    BUSY = "Busy"  # another attempt holds the lock
    PID_COLLISION = "PidCollision"
    TOO_LITTLE_MEMORY = "TooLittleMemory"  # of the GPU or of the host, checked before anything is touched
    CRIU_MISSING = "CriuMissing"
    CUDA_MISSING = "CudaMissing"
    STORE_UNREACHABLE = "StoreUnreachable"
    # failed: begun and undone
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    INTERRUPTED = "Interrupted"  # by the client, with Ctrl-C
    DISK_FULL = "DiskFull"
    CRIU_DUMP_FAILED = "CriuDumpFailed"
    CRIU_RESTORE_FAILED = "CriuRestoreFailed"
    CUDA_FAILED = "CudaFailed"
    QUIESCE_FAILED = "QuiesceFailed"
    RESUME_FAILED = "ResumeFailed"
    WEIGHTS_FAILED = "WeightsFailed"
    PROOF_FAILED = "ProofFailed"
    PLACEHOLDER_LOST = "PlaceholderLost"
    DRIVER_DIED = "DriverDied"
    INTERNAL = "InternalError"
    # lost: the replica is gone
    REPLICA_LOST = "ReplicaLost"

"""The names of all phases of all sequences, declared once.

They stand in results, in a request's deadlines, in journals and in metrics. Which sequence walks which phases, in
which order, is `attempt/phases.py`.
"""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """A phase of a sequence."""

    GATE = "gate"
    LOCK = "lock"
    SEAL = "seal"
    RECORD = "record"
    QUIESCE = "quiesce"
    CUDA_LOCK = "cuda-lock"
    CUDA_CHECKPOINT = "cuda-checkpoint"
    MEMORY_FREE = "memory-free"
    DRAFT = "draft"
    DUMP = "criu-dump"
    CAPTURE = "capture-files"
    CONTINUE = "continue"
    COMPACT = "compact"
    PUBLISH = "publish"
    END = "end-source"
    WEIGHTS = "weights-load"
    FILES = "place-files"
    RESTORE = "criu-restore"
    FILL = "fill-memory"
    CUDA_RESTORE = "cuda-restore"
    RESUME = "resume"
    PROVE = "prove"

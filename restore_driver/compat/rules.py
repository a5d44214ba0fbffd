"""May a snapshot be restored here? Judged before anything is touched, from two fingerprints alone.

One row a field: what is compared, when it fits, and why it matters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from restore_driver.compat.fingerprint import Fingerprint, Gpu


@dataclass(frozen=True)
class _Rule:
    field: str
    fits: Callable[[Any, Any], bool]
    why: str


def _equal(wanted: Any, have: Any) -> bool:
    return bool(wanted == have)


def _equal_if_known(wanted: Any, have: Any) -> bool:
    return wanted is None or have is None or bool(wanted == have)


def _subset(wanted: tuple[str, ...], have: tuple[str, ...]) -> bool:
    return set(wanted) <= set(have)


def _not_older(wanted: str, have: str) -> bool:
    return kernel_version(have) >= kernel_version(wanted)


_RULES = (
    _Rule("arch", _equal, "its machine code runs on no other"),
    _Rule("kernel", _not_older, "an image may hold what an older kernel cannot restore"),
    _Rule("cpu_features", _subset, "libraries chose their code by them when they were loaded"),
    _Rule("driver_version", _equal, "CUDA's state is restored by the driver that saved it"),
    _Rule("image_digest", _equal_if_known, "its open and mapped files must be the same"),
    _Rule("engine", _equal_if_known, "the hooks that wake it are the engine's"),
    _Rule("engine_arguments", _equal, "the snapshot holds their effects"),
)


def incompatibilities(
    wanted: Fingerprint, have: Fingerprint, *, gpus: tuple[Gpu, ...] | None = None
) -> tuple[str, ...]:
    """One sentence for each field that does not fit: the snapshot's value, this machine's, and why it matters.

    `gpus` are the ones that the replica would get; default: all of this machine's. UUIDs may differ (the device map
    sees to it), and glibc may: a process carries its own, which `image_digest` covers.
    """
    found = [
        _sentence(rule, getattr(wanted, rule.field), getattr(have, rule.field))
        for rule in _RULES
        if not rule.fits(getattr(wanted, rule.field), getattr(have, rule.field))
        and not (rule.field == "driver_version" and not wanted.gpus)
    ]
    return (*found, *_gpu_sentences(wanted.gpus, have.gpus if gpus is None else gpus))


def kernel_version(release: str) -> tuple[int, int]:
    """Major and minor of a kernel release such as `6.18.44-azure`."""
    parts = release.split("-", maxsplit=1)[0].split(".")
    numbers = [int(part) if part.isdigit() else 0 for part in parts[:2]] + [0, 0]
    return numbers[0], numbers[1]


def _sentence(rule: _Rule, wanted: Any, have: Any) -> str:
    if rule.field == "cpu_features":
        return f"cpu_features: this machine lacks {' '.join(sorted(set(wanted) - set(have)))}; {rule.why}"
    return f"{rule.field}: the snapshot's is {wanted!r}, this machine's {have!r}; {rule.why}"


def _gpu_sentences(wanted: tuple[Gpu, ...], have: tuple[Gpu, ...]) -> list[str]:
    if len(wanted) > len(have):
        return [f"gpus: the snapshot had {len(wanted)}, there are {len(have)}; each needs one of its own"]
    found = []
    for number, (old, new) in enumerate(zip(wanted, have, strict=False)):
        if old.model != new.model:
            found.append(f"gpus.{number}: the snapshot's is {old.model!r}, this one {new.model!r}; code is per model")
        elif new.memory_bytes < old.memory_bytes:
            found.append(
                f"gpus.{number}: the snapshot's had {old.memory_bytes:,} bytes, this one {new.memory_bytes:,}; "
                "its memory may not fit"
            )
    return found

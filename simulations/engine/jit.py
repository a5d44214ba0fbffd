"""How the engine's kernels are compiled: once per machine, without reference counts, never stale.

Every function of the inner loop is marked `@kernel` and melts into the one that Python enters, made
by `entry`. Three choices, each measured on a million requests before ten replicas:

- `forceinline`: left to itself LLVM calls each kernel, passing all arrays of the state every time
  (2.9 million requests a second; inlined 4.4).
- `_nrt=False`: no reference counts. They guard arrays that compiled code creates or drops; ours only
  borrows those that `Fleet` holds (2.2 million a second with them). Creating an array in a kernel is
  then a compile error, as it should be.
- Numba's on-disk cache looks only at the file of the function that it caches, so an edit in
  `tournament.py` would go unnoticed by a cached loop in `events.py`. `entry` therefore closes over a
  digest of all the engine's sources: closure values are part of numba's cache key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., object])

OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False}
"""`error_model`: a division by zero gives inf instead of a test before every division."""


def kernel(function: Function) -> Function:
    """Compile a function that only kernels call. It keeps its Python signature for the type checker."""
    return cast("Function", numba.njit(forceinline=True, **OPTIONS)(function))


def entry(make: Callable[[int], Function]) -> Function:
    """Compile the function that `make(digest)` returns; it must close over `digest`.

    It releases the GIL, so that targets can run on threads side by side.
    """
    return cast("Function", numba.njit(cache=True, **OPTIONS)(make(source_digest())))


def source_digest() -> int:
    """Return a number that changes whenever any source file of the engine does."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return int.from_bytes(digest.digest()[:7], "big")

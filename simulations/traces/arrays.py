"""The integer array types of the traces; floats are `policies.arrays.FloatArray`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
"""Times in nanoseconds, indices and counts."""
TokenArray = NDArray[np.int32]
"""Tokens of requests."""

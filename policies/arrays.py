"""The array type of the decision engine: floats, read-only by convention."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]
"""64 bits, or 32 where many sample paths would not fit otherwise; each docstring gives the axes."""

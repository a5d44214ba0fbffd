"""Interval laws of renewal processes: which one a window gets, and how a wait outlives its window.

A rates record says of each client and window only the rate and the coefficient of variation (cv) of
the times between requests. All laws here have mean 1: they live in *operational time*, in which a
source's rate is 1 whatever the clock says, and `draw_interval` in `kernels.py` draws from them.

Up to a cv of `GAMMA_LIMIT` the law is Gamma with shape 1/cv^2, the fit that the origin of the fleet
record uses (Xiang et al., "ServeGen", arXiv:2505.09999). A larger cv, in a window of some ten
thousand requests, says that a client paused a few times; a Gamma of that cv would instead put ten
thousand requests into one instant. There the law is the hyperexponential of two phases with balanced
means (Whitt, "Approximating a point process by a renewal process, I", Operations Research 1982;
Tijms, "A First Course in Stochastic Models"): same mean, same cv, two exponential phases, each of
which fills half of the time.

At any moment of a stationary renewal process the wait for its next event has the equilibrium
distribution, F_e(x) = integral of 1 - F from 0 to x (mean 1; Cox, "Renewal Theory", 1962). Sources
start with a draw from it. At the border of two windows the law changes, and the unfinished wait is
carried over *by rank*: the wait that was at F_e's quantile u under the old law goes on at quantile u
under the new one, and is unchanged if the law is. Each window then is stationary from its first
second, so its rate is right on the mean. To carry the bare number of units would not do: a pause of
a window with cv 1000 would silence an even client for hours, and a window with cv 1000 that follows
an even one would begin with a wait typical of cv 1 and run at twice its rate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from policies.arrays import FloatArray
from simulations.traces.arrays import IntArray
from simulations.traces.kernels import GAMMA, HYPEREXPONENTIAL

FAMILIES = ("auto", "gamma", "hyperexponential")
GAMMA_LIMIT = 20.0
LEAST_CV = 0.01
"""A smaller cv (a client like clockwork) is taken as this one: the shape must stay finite."""
NEWTON_STEPS = 200


@dataclass(frozen=True, slots=True)
class Laws:
    """One interval law per source; all arrays (sources,).

    GAMMA: `a` is the shape. HYPEREXPONENTIAL: `a` and `b` are the phase rates, the first phase taken
    with probability a/2, the second with b/2 (balanced means).
    """

    code: IntArray
    a: FloatArray
    b: FloatArray

    def chosen(self, which: IntArray | NDArray[np.bool_]) -> Laws:
        """Return the laws of the sources that `which` selects by index or mask."""
        return Laws(self.code[which], self.a[which], self.b[which])


def laws_for(cv: FloatArray, family: str) -> Laws:
    """Return the law of each cv (sources,). No hyperexponential has a cv below 1; there it is Gamma always."""
    cv = np.maximum(cv, LEAST_CV)
    limit = {"auto": GAMMA_LIMIT, "gamma": np.inf, "hyperexponential": 1.0}[family]
    phased = cv > limit
    skew = np.sqrt(np.maximum(cv**2 - 1.0, 0.0) / (cv**2 + 1.0))
    # 1 - skew, without the cancellation that a cv of 1000 would suffer.
    rare = 2.0 / ((cv**2 + 1.0) * (1.0 + skew))
    return Laws(
        code=np.where(phased, HYPEREXPONENTIAL, GAMMA).astype(np.int64),
        a=np.where(phased, 1.0 + skew, cv**-2.0),
        b=np.where(phased, rare, cv**-2.0),
    )


def equilibrium(laws: Laws, wait: FloatArray) -> tuple[FloatArray, FloatArray]:
    """F_e at each `wait` >= 0, and its slope there, which is the law's own survival function."""
    survival = np.empty_like(wait)
    reached = np.empty_like(wait)
    gamma = laws.code == GAMMA
    k, x = laws.a[gamma], wait[gamma]
    survival[gamma] = special.gammaincc(k, k * x)
    reached[gamma] = x * survival[gamma] + special.gammainc(k + 1.0, k * x)
    a, b, x = laws.a[~gamma], laws.b[~gamma], wait[~gamma]
    fast, slow = np.exp(-a * x), np.exp(-b * x)
    survival[~gamma] = 0.5 * (a * fast + b * slow)
    reached[~gamma] = 1.0 - 0.5 * (fast + slow)
    return reached, survival


def equilibrium_quantile(laws: Laws, rank: FloatArray) -> FloatArray:
    """Return the wait at which F_e reaches each `rank` in [0, 1], (sources,).

    Newton's method from the left: F_e is concave, so no step passes the root, and it starts at the
    rank itself because F_e(x) <= x.
    """
    rank = np.clip(rank, 0.0, 1.0 - 1e-12)
    wait = rank.copy()
    for _ in range(NEWTON_STEPS):
        reached, slope = equilibrium(laws, wait)
        step = np.maximum(rank - reached, 0.0) / np.maximum(slope, 1e-300)
        wait += step
        if np.all(step <= 1e-9 * wait):
            break
    return wait


def carried(before: Laws, after: Laws, wait: FloatArray) -> FloatArray:
    """Return the unfinished waits (sources,) of one law, in units of it, as waits under another, by rank."""
    rank, _ = equilibrium(before, wait)
    return equilibrium_quantile(after, rank)

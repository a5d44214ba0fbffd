"""The informed row: our policy, told the true rate and burstiness of every moment.

`bounds/informed.py` draws the sample paths; here the true rates of a scenario's traces are turned into
what it needs: requests, their burstiness, and the work that each brings.
"""

from __future__ import annotations

import numpy as np

from autoscaler.ports import Forecaster
from simulations.bounds.informed import InformedForecaster
from simulations.scenario import Scenario

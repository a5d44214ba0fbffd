"""The comparison: one scenario, one row after another, side by side on the machine's cores.

Rows do not touch one another: each replays the same arrivals, drawn anew from the same seed, in its own
process. A single row uses the cores for its targets instead. Results come back in the order asked for,
whatever finishes first, so equal seeds give equal bytes.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from multiprocessing.queues import SimpleQueue

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from simulations.build import build_scenario
from simulations.clairvoyant import clairvoyant_row
from simulations.options import SimulateOptions
from simulations.replay import replay
from simulations.results import Comparison, PoolingGain, RunResult
from simulations.rows import CLAIRVOYANT, ROWS
from simulations.scenario import Scenario

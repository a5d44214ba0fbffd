"""The two bounds of the table: what knowing every arrival, and knowing the true rate, would allow.

`clairvoyant.py` is a lower bound on cost by a linear programme; `informed.py` a forecaster that knows the law of the
arrivals but not the arrivals, for our own policy to act on. Each makes its row from a scenario.
"""

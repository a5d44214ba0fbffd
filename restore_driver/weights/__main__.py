"""The holder's process.

python -m restore_driver.weights --socket PATH --budget-bytes N [--device 0] [--state PATH]
forethaw holder serve --socket PATH --budget 40G                the same, for people (`commands/holder.py`)
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from restore_driver.errors import DriverError
from restore_driver.logs import ENVIRONMENT, LogFormat
from restore_driver.weights.serve import serve


def main() -> None:
    """Parse the options and serve; exit code 2 for a refusal, with one sentence on standard error."""
    parser = argparse.ArgumentParser(prog="restore_driver.weights", description=__doc__)
    where = "where to listen; only root may write beside it, and only root of this pid namespace may load"
    parser.add_argument("--socket", type=Path, required=True, help=where)
    parser.add_argument("--budget-bytes", type=int, required=True, help="page-locked host memory for models")
    parser.add_argument("--device", default="0", help="ordinal of the GPU, or host:BYTES for memfds without a GPU")
    parser.add_argument("--state", type=Path, help="file that lists the models, read again after a death")
    parser.add_argument("--small-pages", action="store_true", help="no huge pages for the models")
    default = os.environ.get(ENVIRONMENT) or LogFormat.TEXT
    parser.add_argument("--log-format", type=LogFormat, default=default, help="text, json or off")
    options = parser.parse_args()
    try:
        serve(
            options.device,
            options.socket,
            budget_bytes=options.budget_bytes,
            state=options.state,
            huge_pages=not options.small_pages,
            log_format=options.log_format,
        )
    except DriverError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()

"""`python -m restore_driver`: the driver's commands alone, for nodes and restore pods without the simulator."""

from __future__ import annotations

import sys


def main() -> None:
    """Try the light way first (`commands/light.py`), then the whole command line."""
    from restore_driver.commands import light

    exit_code = light.run(sys.argv[1:])
    if exit_code is None:
        from restore_driver.cli import application

        application()()
    sys.exit(exit_code)


if __name__ == "__main__":
    main()

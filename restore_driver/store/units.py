"""Parse and format sizes and durations with units: `200M`, `1.5G`, `64Mi`; `90s`, `24h`, `7d`."""

from __future__ import annotations

import re

from restore_driver.errors import DriverError, Reason

_BYTES = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
_SECONDS = {"": 1.0, "S": 1.0, "M": 60.0, "H": 3600.0, "D": 86400.0, "W": 7 * 86400.0}


def parse_bytes(text: str, what: str) -> int:
    """Return the bytes of a size: `200M` is 200,000,000, `64Mi` 67,108,864; a trailing B or /s is allowed.

    Raises:
        DriverError: REQUEST_INVALID naming `what` (the option) and the text.
    """
    return int(_amount(re.sub(r"(?i)b?(/s)?$", "", text), text, what, _BYTES, "bytes, for example 200M, 1.5G or 64Mi"))


def parse_duration_s(text: str, what: str) -> float:
    """Return the seconds of `90s`, `30m`, `24h`, `7d` or `2w`; a bare number is seconds.

    Raises:
        DriverError: REQUEST_INVALID naming `what` (the option) and the text.
    """
    return _amount(text, text, what, _SECONDS, "a time, for example 90s, 24h or 7d")


def format_bytes(number: float) -> str:
    """Return bytes with three significant digits and a decimal unit: `1.53 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(number) < 1000:
            return f"{number:.0f} B" if unit == "B" else f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.3g} TB"


def _amount(stripped: str, text: str, what: str, units: dict[str, int] | dict[str, float], example: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([A-Za-z]*)", stripped.strip())
    if match is None or match[2].upper() not in units or float(match[1]) <= 0:
        raise DriverError(Reason.REQUEST_INVALID, f"{what} {text!r} is not an amount above zero", f"give {example}")
    return float(match[1]) * units[match[2].upper()]

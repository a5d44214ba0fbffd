"""Where CRIU is, which version it is, and how it is started from any mount namespace.

`install.sh` beside this file puts CRIU, its loader and its libraries into one directory; that directory is opened
once, and CRIU is then run through `/proc/self/fd/N`: the descriptor still leads to the directory after the process
has entered a placeholder's mount namespace, so nothing is copied into the placeholder or mounted there.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from restore_driver.errors import DriverError, Reason
from restore_driver.host.process import run

HOME = Path("/usr/local/lib/forethaw/criu")
OLDEST = (4, 2, 0)
"""4.1 cannot dump TCP sockets on kernels from 6.16 ("Can't get 1:16 opt: Operation not supported")."""

_INSTALL = "install it: restore_driver/criu/install.sh, or name one by FORETHAW_CRIU=/path/to/criu"


@dataclass(frozen=True)
class Criu:
    """One usable CRIU: `directory` holds `criu.bin` and `lib/` (bundled), or just the binary `name`."""

    directory: Path
    name: str
    bundled: bool
    version: tuple[int, int, int]

    @property
    def argv_prefix(self) -> tuple[str, ...]:
        """How to start it from the host's mount namespace."""
        return self.argv_at(str(self.directory))

    def argv_at(self, directory: str) -> tuple[str, ...]:
        """How to start it where its directory is reached by another path, such as `/proc/self/fd/9`."""
        if not self.bundled:
            return (f"{directory}/{self.name}",)
        return (f"{directory}/lib/loader", "--library-path", f"{directory}/lib", f"{directory}/{self.name}")


def find_criu(environment: Mapping[str, str] | None = None) -> Criu:
    """The CRIU of FORETHAW_CRIU, else the one that `install.sh` installed, else the one on PATH.

    Raises:
        DriverError: CRIU_MISSING when there is none, it does not run, or it is older than `OLDEST`.
    """
    environment = os.environ if environment is None else environment
    wanted = environment.get("FORETHAW_CRIU")
    on_path = shutil.which("criu", path=environment.get("PATH"))
    candidates = [Path(wanted)] if wanted else [HOME / "criu", *([Path(on_path)] if on_path else [])]
    for candidate in candidates:
        if candidate.is_dir():
            candidate = candidate / "criu"
        if candidate.is_file():
            return _examine(candidate.resolve())
    looked_at = ", ".join(str(path) for path in candidates)
    raise DriverError(Reason.CRIU_MISSING, f"there is no CRIU (looked at {looked_at})", _INSTALL)


def _examine(program: Path) -> Criu:
    directory = program.parent
    bundled = (directory / "criu.bin").is_file() and (directory / "lib" / "loader").is_file()
    criu = Criu(directory, "criu.bin" if bundled else program.name, bundled, (0, 0, 0))
    answer = run([*criu.argv_prefix, "--version"], deadline_s=10.0)
    match = re.search(r"^Version: (\d+)\.(\d+)(?:\.(\d+))?", answer.output, re.MULTILINE)
    if answer.exit_code != 0 or match is None:
        said = answer.output.strip().splitlines()[-1:] or ["nothing"]
        raise DriverError(Reason.CRIU_MISSING, f"{program} does not run here: it said {said[0]!r}", _INSTALL)
    version = (int(match[1]), int(match[2]), int(match[3] or 0))
    if version < OLDEST:
        found, oldest = ".".join(map(str, version)), ".".join(map(str, OLDEST))
        raise DriverError(Reason.CRIU_MISSING, f"{program} is CRIU {found}, older than {oldest}", _INSTALL)
    return Criu(criu.directory, criu.name, bundled, version)

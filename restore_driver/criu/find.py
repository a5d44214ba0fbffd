"""Find a usable CRIU, and build the command that runs it from any mount namespace.

`install.sh` beside this file puts CRIU, its loader and its libraries into one directory; that directory is opened
once, and CRIU is then run through `/proc/self/fd/N`: the descriptor still leads to the directory after the process
has entered a placeholder's mount namespace, so nothing is copied into the placeholder or mounted there.

There every path names a file of the container, and CRIU is root of the whole machine. So nothing may be executed or
loaded by path: the loader reads neither /etc/ld.so.preload (`install.sh` patches it) nor /etc/ld.so.cache, and
`command.py` gives CRIU no configuration, plugins or programs of the container. A CRIU without a loader and libraries
beside it, such as a system's own, would load the container's: it is run only in the driver's own root.
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
from restore_driver.host.trusted import require_trusted

HOME = Path("/usr/local/lib/forethaw/criu")
OLDEST = (4, 2, 0)
"""4.1 cannot dump TCP sockets on kernels from 6.16 ("Can't get 1:16 opt: Operation not supported")."""

PATCHED = {"lib/loader": b"/etc/ld.so.preload", "criu.bin": b"/run/criu.kdat"}
"""Files of an installation, and the path that each holds unless it is patched."""

_INSTALL = "install it: restore_driver/criu/install.sh, or name one by FORETHAW_CRIU=/path/to/criu"


@dataclass(frozen=True)
class Criu:
    """A usable CRIU: `directory` holds `criu.bin` and `lib/` if `bundled`, else only the binary `name`."""

    directory: Path
    name: str
    bundled: bool
    version: tuple[int, int, int]

    @property
    def argv_prefix(self) -> tuple[str, ...]:
        """First arguments of its command line in the host's mount namespace."""
        return self.argv_at(str(self.directory))

    def argv_at(self, directory: str) -> tuple[str, ...]:
        """Return the first arguments of its command line for another path to its directory (`/proc/self/fd/9`)."""
        if not self.bundled:
            return (f"{directory}/{self.name}",)
        library_path = ("--inhibit-cache", "--library-path", f"{directory}/lib")
        return (f"{directory}/lib/loader", *library_path, f"{directory}/{self.name}")

    def require_own_libraries(self) -> None:
        """Refuse a CRIU without libraries of its own, which would load a container's.

        Raises:
            DriverError: CRIU_MISSING.
        """
        if not self.bundled:
            raise DriverError(
                Reason.CRIU_MISSING,
                f"{self.directory / self.name} has no libraries beside it, and would load a container's as root",
                _INSTALL,
            )


def find_criu(environment: Mapping[str, str] | None = None) -> Criu:
    """Return the CRIU of FORETHAW_CRIU, else the one that `install.sh` installed, else the one on PATH.

    Raises:
        DriverError: CRIU_MISSING if there is none, it does not run, is older than `OLDEST`, or was installed before
            install.sh patched it; NOT_TRUSTED if others than root may write there.
    """
    environment = os.environ if environment is None else environment
    wanted = environment.get("FORETHAW_CRIU")
    on_path = shutil.which("criu", path=environment.get("PATH"))
    candidates = [Path(wanted)] if wanted else [HOME / "criu", *([Path(on_path)] if on_path else [])]
    for candidate in candidates:
        program = candidate / "criu" if candidate.is_dir() else candidate
        if program.is_file():
            return _examine(program.resolve())
    searched = ", ".join(str(path) for path in candidates)
    raise DriverError(Reason.CRIU_MISSING, f"there is no CRIU (searched {searched})", _INSTALL)


def _examine(program: Path) -> Criu:
    directory = program.parent
    bundled = (directory / "criu.bin").is_file() and (directory / "lib" / "loader").is_file()
    criu = Criu(directory, "criu.bin" if bundled else program.name, bundled, (0, 0, 0))
    for file in (directory / criu.name, *((directory / "lib").iterdir() if bundled else ())):
        require_trusted(file, owner=os.geteuid())
    for name, path in PATCHED.items() if bundled else ():
        if path in (directory / name).read_bytes():
            raise DriverError(
                Reason.CRIU_MISSING,
                f"{directory} is of an older install.sh: its {name} would read a container's {path.decode()}",
                f"install it again: restore_driver/criu/install.sh {directory}",
            )
    answer = run([*criu.argv_prefix, "--version"], deadline_s=10.0)
    match = re.search(r"^Version: (\d+)\.(\d+)(?:\.(\d+))?", answer.output, re.MULTILINE)
    if answer.exit_code != 0 or match is None:
        last = answer.output.strip().splitlines()[-1:] or ["nothing"]
        raise DriverError(Reason.CRIU_MISSING, f"{program} does not run here: it printed {last[0]!r}", _INSTALL)
    version = (int(match[1]), int(match[2]), int(match[3] or 0))
    if version < OLDEST:
        found, oldest = ".".join(map(str, version)), ".".join(map(str, OLDEST))
        raise DriverError(Reason.CRIU_MISSING, f"{program} is CRIU {found}, older than {oldest}", _INSTALL)
    return Criu(criu.directory, criu.name, bundled, version)

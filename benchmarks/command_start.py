"""What a command costs before its request reaches the agent: `forethaw unpark` beside the bare interpreter.

`python -m benchmarks.command_start [--repeats N] [--json FILE]` starts whole processes against a socket that answers at
once: the light way, the whole command line (`--debug` goes before a command and so leads around the light way) and
`python -c pass`. It prints the fastest of each in milliseconds, and its ratios to the interpreter and the light way.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from socket import socket

from restore_driver.agent.limits import LONGEST_LINE_BYTES
from restore_driver.host.message_stream import MessageStream
from restore_driver.host.unix_sockets import listen

COMMAND = "from autoscaler.cli import main; main()"
RESULT: dict[str, object] = {
    "sequence": "unpark",
    "outcome": "proven",
    "reason": None,
    "total_s": 0.0,
    "unaccounted_s": 0.0,
    "phases": [],
    "answer": {},
    "warnings": [],
}


def main() -> None:
    """Print the table; write it as JSON where a file is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "agent.sock"
        with listen(path) as listener:
            threading.Thread(target=_answer, args=(listener,), daemon=True).start()
            measured_s = _measured_s(path, asked.repeats)
    told = _table(measured_s)
    for name, row in told.items():
        print(f"{name:14s} {row['ms']:7.1f} ms {row['over_interpreter']:6.1f}x {row['over_light']:6.2f}x")
    if asked.json:
        asked.json.write_text(json.dumps(told, indent=2), encoding="utf-8")


def _measured_s(agent: Path, repeats: int) -> dict[str, float]:
    words = ["unpark", "12", "--agent", str(agent), "--json"]
    programs = {
        "interpreter": ["-c", "pass"],
        "light": ["-c", COMMAND, *words],
        "whole command": ["-c", COMMAND, "--debug", *words],
    }
    return {name: min(_process_s(argv) for _ in range(repeats)) for name, argv in programs.items()}


def _process_s(argv: list[str]) -> float:
    began_s = time.perf_counter()
    subprocess.run([sys.executable, *argv], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began_s


def _table(measured_s: dict[str, float]) -> dict[str, dict[str, float]]:
    return {
        name: {
            "ms": took_s * 1e3,
            "over_interpreter": took_s / measured_s["interpreter"],
            "over_light": took_s / measured_s["light"],
        }
        for name, took_s in measured_s.items()
    }


def _answer(listener: socket) -> None:
    with suppress(OSError):  # the listener is closed at the end
        while True:
            connection, _ = listener.accept()
            with connection:
                stream = MessageStream(connection, LONGEST_LINE_BYTES)
                if stream.receive() is not None:
                    stream.send({"result": RESULT})


if __name__ == "__main__":
    main()

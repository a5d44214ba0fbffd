"""A restore on a real card, through the product, beside a cold start and a naive restore; prints a table, writes JSON.

    python -m benchmarks.gpu_restore [--rows cold,restore,unpark,...] [--repeats 7] [--output benchmarks/results]

Needs root, an NVIDIA card of 80 GB or more, driver 570 or newer, PyTorch, CRIU (`make criu`), and 100 GB of memory.
The replica is `benchmarks/standin`: 13 GB of bf16 weights, 8 GB of KV cache, torch.compile, CUDA graphs. Every restore
goes through the resident agent and counts from the request to the proof's end, as the caller's clock sees it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu_bench.machine import Machine, versions
from benchmarks.gpu_bench.rows import ROWS

DEFAULT_ROWS = ",".join(ROWS)


def main() -> int:
    """Measure the rows asked for, write and print them; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=DEFAULT_ROWS, help=f"which, in this order: {DEFAULT_ROWS}")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--scratch", type=Path, default=Path("/run/forethaw-benchmark"))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--layers", type=int, default=32, help="of the replica; fewer for a quick look")
    chosen = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("needs root")
    machine = Machine(chosen.scratch, chosen.layers)
    results = kept(chosen.output, versions())
    results["repeats"] = chosen.repeats
    sitting = {"on": time.strftime("%Y-%m-%d"), **results["versions"]}
    failed = []
    try:
        machine.prepare()
        results["holder"] = machine.holder_facts
        for name in chosen.rows.split(","):
            began_s = time.monotonic()
            try:
                results["rows"][name] = ROWS[name](machine, chosen.repeats) | {"measured": sitting}
            except Exception as error:  # noqa: BLE001 - one row's failure must not cost the others, which took minutes
                results["rows"][name] = {"failed": f"{type(error).__name__}: {error}"}
                failed.append(name)
            write(results | headline(results), chosen.output)
            print(f"{name} ({time.monotonic() - began_s:.1f} s): {shown(results['rows'][name])}", flush=True)
            machine.between_rows()
    finally:
        machine.clean_up()
    results.update(headline(results))
    print_headline(results)
    print(f"written: {path_of(results, chosen.output)}")
    return 1 if failed else 0


def headline(results: dict[str, Any]) -> dict[str, Any]:
    """Return the figures that are compared with the goals; None where a row was not measured.

    `pinned_h2d_share` is of the holder's copies while CRIU restores, against torch's own from page-locked memory.
    """
    rows = results["rows"]

    def of(row: str, key: str) -> Any:
        return rows.get(row, {}).get(key)

    restore_s, unpark_s = of("restore", "total_s"), of("unpark", "total_s")
    copied, yardstick = of("restore", "weights_bytes_per_s"), of("holder", "yardstick_bytes_per_s")
    found: dict[str, Any] = {
        "restore_s": restore_s,
        "unpark_s": unpark_s,
        "cold_s": of("cold", "cold_cache_s"),
        "warm_s": of("cold", "warm_cache_s"),
        "naive_s": of("naive", "total_s"),
        "pinned_h2d_bytes_per_s": yardstick,
        "pinned_h2d_share": copied / yardstick if copied and yardstick else None,
    }
    for name in ("cold", "warm", "naive"):
        time_s = found[f"{name}_s"]
        found[f"ratio_{name}_over_restore"] = time_s / restore_s if time_s and restore_s else None
    return found


def write(results: dict[str, Any], directory: Path) -> None:
    """Write the results as JSON into `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    path_of(results, directory).write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")


def path_of(results: dict[str, Any], directory: Path) -> Path:
    """Return the results' path: one file for each GPU model."""
    card = results["versions"]["card"].removeprefix("NVIDIA ").replace(" ", "-").lower()
    return directory / f"gpu_restore_{card}.json"


def kept(directory: Path, found: dict[str, str]) -> dict[str, Any]:
    """Rows of an earlier run on the same card, driver and libraries: a whole table may take several sittings."""
    results: dict[str, Any] = {"versions": found, "rows": {}}
    path = path_of(results, directory)
    if path.exists():
        before = json.loads(path.read_text())
        same = ("card", "driver", "torch")
        if all(before["versions"].get(name) == found[name] for name in same):
            results["rows"] = before["rows"]  # each says itself when and on what it was measured
    return results


def print_headline(results: dict[str, Any]) -> None:
    """Print the figures that are compared with the goals."""
    for name in ("cold_s", "warm_s", "naive_s", "restore_s", "unpark_s", "pinned_h2d_share"):
        if results[name] is not None:
            print(f"{name:>20}: {results[name]:.3f}")
    for name in ("cold", "warm", "naive"):
        ratio = results[f"ratio_{name}_over_restore"]
        if ratio is not None:
            print(f"{'restore is faster by':>20}: {ratio:.1f}x than {name}")


def shown(row: dict[str, Any]) -> str:
    """Return one row as a line of text."""
    return json.dumps({key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()})


if __name__ == "__main__":
    sys.exit(main())

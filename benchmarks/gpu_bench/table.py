"""Print the measured JSON as the table of docs/restore.md.

python -m benchmarks.gpu_bench.table benchmarks/results/gpu_restore_h200.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

MISSING = "not measured yet"


def table(results: dict[str, Any]) -> str:
    """Markdown, one line a row; a row that was not measured says so."""
    rows, restore_s = results["rows"], results["restore_s"]

    def of(row: str, key: str = "total_s") -> float | None:
        found = rows.get(row, {}).get(key)
        return None if found is None else float(found)

    def line(what: str, seconds: float | None, spread: list[float] | None = None, note: str = "") -> str:
        if seconds is None:
            return f"| {what} | {MISSING} | | | {note} |"
        low_high = (
            f"{min(spread):.2f} to {max(spread):.2f}, {len(spread)} runs" if spread and len(spread) > 1 else "once"
        )
        ratio = f"{seconds / restore_s:.1f}x" if seconds >= restore_s else f"1/{restore_s / seconds:.1f}"
        return f"| {what} | **{seconds:.2f}** | {low_high} | {ratio} | {note} |"

    def measured(row: str, what: str, note: str = "", key: str = "total_s", all_key: str = "all_s") -> str:
        return line(what, of(row, key), rows.get(row, {}).get(all_key), note)

    restored = rows["restore"]
    copied = (
        f"image {restored['image_bytes'] / 1e9:.2f} GB; weights {restored['weights_bytes'] / 1e9:.1f} GB at "
        f"{restored['weights_bytes_per_s'] / 1e9:.1f} GB/s, {results['pinned_h2d_share']:.2f} of torch's pinned rate"
    )
    lines = [
        "| what | seconds | spread | against restore | |",
        "|---|---:|---|---:|---|",
        measured(
            "cold", "cold start, empty compile cache", "process start to first answer", "cold_cache_s", "cold_all_s"
        ),
        measured("cold", "cold start, warm compile cache", "", "warm_cache_s", "warm_all_s"),
        measured("naive", "CRIU and CUDA alone, all memory in the image"),
        measured("restore", "**restore**, image in memory", copied),
        measured("plain", "the same without huge pages for restored memory"),
        measured("small_pages", "the same, image on a tmpfs of small pages"),
        measured("disk", "the same, image on disk, page cache dropped"),
        measured("unpark", "**unpark**", "the same weights"),
        measured("unpark_huge", "unpark, parked on huge pages"),
        measured("unpark", "park", "with the proof that its memory is free", "park_s", "park_all_s"),
        measured("in_turn", "unpark of three smaller models in turn, one GPU"),
        measured("clones", "a smaller model, restored", "", "one_s"),
        measured("clones", "four clones of it at once, one GPU", "the last of them", "four_at_once_s"),
        measured("transformers", "a Llama of transformers over HTTP, restored"),
        measured("pause", "pause of a live replica that is checkpointed", "", "pause_s"),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(json.loads(Path(sys.argv[1]).read_text())))

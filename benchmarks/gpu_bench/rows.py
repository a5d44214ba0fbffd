"""One function a row: what is measured, as a dictionary of medians, spreads and parts."""

from __future__ import annotations

import os
import statistics
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.gpu_bench.machine import Machine
from restore_driver.errors import DriverError
from restore_driver.weights.client import HolderClient
from restore_driver.wire.result import Result

Row = dict[str, Any]


def cold(machine: Machine, repeats: int) -> Row:
    """Process start to the first right answer: with an empty compile cache each, and with the cache that one left."""
    colds = [_start_and_end(machine, "cold", machine.scratch / f"empty-cache-{number}") for number in range(2)]
    colds.append(_start_and_end(machine, "cold", machine.scratch / "fresh-cache"))
    warms = [_start_and_end(machine, "warm", machine.scratch / "fresh-cache") for _ in range(3)]
    assert all(answer["tokens"] == colds[0]["tokens"] for answer in (*colds, *warms))
    cold, warm = (min(answers, key=lambda answer: answer["start_s"]) for answers in (colds, warms))
    return {
        "cold_cache_s": cold["start_s"],
        "cold_all_s": [answer["start_s"] for answer in colds],
        "warm_cache_s": warm["start_s"],
        "warm_all_s": [answer["start_s"] for answer in warms],
        "cold_parts": cold["start"],
        "warm_parts": warm["start"],
    }


def _start_and_end(machine: Machine, name: str, cache: Path) -> dict[str, Any]:
    replica = machine.start(name, cache=cache)
    replica.end()
    return replica.answer


def holder(machine: Machine, repeats: int) -> Row:
    """Measure the holder's copy of the whole model to the GPU, beside the same bytes copied by torch."""
    import torch

    rates = []
    client = HolderClient(machine.holder)
    for _ in range(repeats):
        token = client.load("standin", 30.0)
        rates.append(client.wait(token, 30.0)["bytes_per_s"])
        client.release(token, 30.0)
    small_buffers = client.measure()
    client.close()
    size = 12 << 30
    source = torch.empty(size, dtype=torch.uint8, pin_memory=True)
    target = torch.empty(size, dtype=torch.uint8, device="cuda")
    yardstick = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        began_s = time.perf_counter()
        target.copy_(source, non_blocking=True)
        torch.cuda.synchronize()
        yardstick.append(size / (time.perf_counter() - began_s))
    del source, target
    torch.cuda.empty_cache()
    torch._C._host_emptyCache()  # noqa: SLF001 - torch has no public call that frees its page-locked memory
    return {
        "bytes_per_s": statistics.median(rates),
        "all_bytes_per_s": rates,
        "yardstick_bytes_per_s": statistics.median(yardstick),
        "yardstick_all_bytes_per_s": yardstick,
        "yardstick_2_gib_bytes_per_s": small_buffers,
        "pinned_h2d_share": statistics.median(rates) / statistics.median(yardstick),
    }


def naive(machine: Machine, repeats: int) -> Row:
    """CRIU and CUDA alone: weights and KV cache in the image, no compaction, no huge pages, no holder."""
    replica = machine.start("naive", *machine.sizes(), "--plain", cache=machine.scratch / "fresh-cache")
    tokens = replica.answer["tokens"]
    artifact = machine.weights / "naive-artifact"
    made = machine.checkpoint(replica, artifact, end=True, model=None, compact=False)
    restored, result, took_s = machine.restore(artifact, replica.control)
    assert restored.generate()["tokens"] == tokens
    restored.end()
    machine.drop(artifact)
    return {
        "total_s": took_s,
        "image_bytes": made.answer["bytes"],
        "phases_s": phases([result]),
        "checkpoint_s": made.total_s,
    }


def restore(machine: Machine, repeats: int) -> Row:
    """Ours, from an image in memory: compacted, on huge pages, the weights by the holder meanwhile."""
    artifact, tokens, made = make_artifact(machine)
    results, times_s = [], []
    for _ in range(repeats):
        restored, result, took_s = machine.restore(artifact, machine.control / "ours.sock", restored_huge_pages=True)
        assert restored.generate()["tokens"] == tokens
        results.append(result)
        times_s.append(took_s)
        restored.end()
    copies = [result_weights(result) for result in results]
    rate = statistics.median(copy["bytes_per_s"] for copy in copies)
    compaction = details(made, "compact")
    return {
        "total_s": statistics.median(times_s),
        "all_s": times_s,
        "phases_s": phases(results),
        "agent_total_s": statistics.median(result.total_s for result in results),
        "criu": details(results[-1], "criu-restore"),
        "unaccounted_share": max(result.unaccounted_s / result.total_s for result in results),
        "image_bytes": made.answer["bytes"],
        "compaction": compaction,
        "weights_bytes": copies[0]["bytes"],
        "weights_copy_s": statistics.median(copy["copy_s"] for copy in copies),
        "weights_bytes_per_s": rate,
        "fill": details(results[-1], "fill-memory"),
        "resume": details(results[-1], "resume"),
        "checkpoint_phases_s": phases([made]),
    }


def plain(machine: Machine, repeats: int) -> Row:
    """Measure the same without huge pages for restored memory: what that switch is worth."""
    artifact, tokens, _ = make_artifact(machine)
    times_s, results = [], []
    for _ in range(3):
        restored, result, took_s = machine.restore(artifact, machine.control / "ours.sock")
        assert restored.generate()["tokens"] == tokens
        times_s.append(took_s)
        results.append(result)
        restored.end()
    return {"total_s": statistics.median(times_s), "all_s": times_s, "phases_s": phases(results)}


def small_pages(machine: Machine, repeats: int) -> Row:
    """Measure the same with the image on a tmpfs of small pages: what huge pages for images are worth."""
    artifact, tokens, _ = make_artifact(machine)
    copy = machine.weights / "artifact"
    machine.seal_copy(artifact, copy)
    times_s, results = [], []
    for _ in range(3):
        restored, result, took_s = machine.restore(copy, machine.control / "ours.sock", restored_huge_pages=True)
        assert restored.generate()["tokens"] == tokens
        times_s.append(took_s)
        results.append(result)
        restored.end()
    machine.drop(copy)
    return {"total_s": statistics.median(times_s), "all_s": times_s, "phases_s": phases(results)}


def disk(machine: Machine, repeats: int) -> Row:
    """Measure the same image on the machine's disk, with the page cache dropped before each restore."""
    artifact, tokens, _ = make_artifact(machine)
    on_disk = machine.disk / "artifact"
    machine.seal_copy(artifact, on_disk)
    times_s, results = [], []
    for _ in range(min(repeats, 5)):
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3")
        restored, result, took_s = machine.restore(on_disk, machine.control / "ours.sock", restored_huge_pages=True)
        assert restored.generate()["tokens"] == tokens
        times_s.append(took_s)
        results.append(result)
        restored.end()
    return {"total_s": statistics.median(times_s), "all_s": times_s, "phases_s": phases(results)}


def unpark(machine: Machine, repeats: int, *, huge_pages: bool = False) -> Row:
    """Park and unpark one replica, weights by the holder."""
    replica = machine.start("parked", cache=machine.scratch / "fresh-cache")
    tokens = replica.answer["tokens"]
    times_s, parks, results, freed = [], [], [], []
    for _ in range(repeats):
        parked = machine.park(replica, huge_pages=huge_pages)
        parks.append(parked)
        freed.append(details(parked, "memory-free"))
        result, took_s = machine.unpark(replica)
        assert replica.generate()["tokens"] == tokens
        times_s.append(took_s)
        results.append(result)
    return {
        "total_s": statistics.median(times_s),
        "all_s": times_s,
        "phases_s": phases(results),
        "park_s": statistics.median(park.total_s for park in parks),
        "park_all_s": [park.total_s for park in parks],
        "park_phases_s": phases(parks),
        "first_park_phases_s": phases(parks[:1]),
        "memory_proof": freed[-1],
    }


def unpark_huge(machine: Machine, repeats: int) -> Row:
    """Measure the same, parked on huge pages."""
    return unpark(machine, repeats, huge_pages=True)


def pause(machine: Machine, repeats: int) -> Row:
    """How long a live replica does not answer while it is checkpointed."""
    replica = machine.start("live", cache=machine.scratch / "fresh-cache")
    tokens = replica.answer["tokens"]
    gaps_s, results = [], []
    for number in range(3):
        stop, answered = threading.Event(), [time.monotonic()]

        def ask_on(stop: threading.Event = stop, answered: list[float] = answered) -> None:
            while not stop.is_set():
                with suppress(OSError, ValueError, DriverError):
                    if replica.generate()["tokens"] == tokens:
                        answered.append(time.monotonic())

        asking = threading.Thread(target=ask_on)
        asking.start()
        time.sleep(1.0)
        result = machine.checkpoint(
            replica, machine.images / f"live-{number}", end=False, model="standin", compact=True
        )
        time.sleep(1.0)
        stop.set()
        asking.join()
        gaps_s.append(max(later - earlier for earlier, later in pairwise(answered)))
        results.append(result)
        machine.drop(machine.images / f"live-{number}")
    return {"pause_s": statistics.median(gaps_s), "all_s": gaps_s, "phases_s": phases(results)}


def refused(machine: Machine, repeats: int) -> Row:
    """Weights that do not fit beside what is on the card: refused before anything is touched."""
    import torch

    artifact, _, _ = make_artifact(machine)
    free, _ = torch.cuda.mem_get_info()
    ballast = torch.empty(free - (6 << 30), dtype=torch.uint8, device="cuda")
    try:
        machine.restore(artifact, machine.control / "ours.sock")
    except RuntimeError as error:
        answer = str(error)
    else:
        raise RuntimeError("it was not refused")
    finally:
        del ballast
        torch.cuda.empty_cache()
    assert answer.startswith("TooLittleMemory"), answer
    return {"answer": answer}


_SIZES = {"layers": 8, "width": 2048, "hidden": 5504, "context": 1024}
SMALL = ("--model", "standin-small", *(word for name, size in _SIZES.items() for word in (f"--{name}", str(size))))


def clones(machine: Machine, repeats: int) -> Row:
    """Four clones of one snapshot of a smaller model, restored at once on one card, each answering after."""
    _make_small(machine)
    replica = machine.start("small", *SMALL, cache=machine.scratch / "fresh-cache", weights="small")
    tokens, artifact = replica.answer["tokens"], machine.images / "small"
    machine.checkpoint(replica, artifact, end=True, model="standin-small", compact=True)
    one_s = []
    for _ in range(3):
        restored, _, took_s = machine.restore(artifact, replica.control, restored_huge_pages=True)
        one_s.append(took_s)
        restored.end()
    outcomes: list[Any] = []

    def begin() -> None:
        try:
            outcomes.append(machine.restore(artifact, replica.control, restored_huge_pages=True))
        except RuntimeError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=begin) for _ in range(4)]
    began_s = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    all_s = time.monotonic() - began_s
    errors = [str(outcome) for outcome in outcomes if isinstance(outcome, RuntimeError)]
    if errors:
        raise RuntimeError(errors[0])
    assert all(restored.generate()["tokens"] == tokens for restored, _, _ in outcomes)
    machine.drop(artifact)
    return {
        "one_s": statistics.median(one_s),
        "four_at_once_s": all_s,
        "each_s": [took_s for _, _, took_s in outcomes],
        "slowest_phases_s": phases([max(outcomes, key=lambda outcome: outcome[2])[1]]),
    }


def in_turn(machine: Machine, repeats: int) -> Row:
    """Three replicas of a smaller model parked on one card, woken in turn."""
    _make_small(machine)
    replicas = []
    for number in range(3):
        replica = machine.start(f"small-{number}", *SMALL, cache=machine.scratch / "fresh-cache", weights="small")
        machine.park(replica, "standin-small")
        replicas.append(replica)
    times_s = []
    for _ in range(2):
        for replica in replicas:
            _, took_s = machine.unpark(replica)
            assert replica.generate()["tokens"] == replica.answer["tokens"]
            times_s.append(took_s)
            machine.park(replica, "standin-small")
    return {"total_s": statistics.median(times_s), "all_s": times_s}


def transformers(machine: Machine, repeats: int) -> Row:
    """Measure a Llama of Hugging Face's transformers over HTTP, restored, answering the same tokens."""
    program, weights = "benchmarks.standin.transformers_serve", machine.weights / "transformers"
    subprocess.run(["python3", "-m", program, "--make", str(weights)], check=True)
    machine.preload("transformers", "transformers")
    replica = machine.start("transformers", weights="transformers", program=program)
    tokens, artifact = replica.answer["tokens"], machine.images / "transformers"
    made = machine.checkpoint(replica, artifact, end=True, model="transformers", compact=True)
    times_s, results = [], []
    for _ in range(3):
        restored, result, took_s = machine.restore(artifact, replica.control, restored_huge_pages=True)
        assert restored.generate()["tokens"] == tokens
        times_s.append(took_s)
        results.append(result)
        restored.end()
    machine.drop(artifact)
    return {
        "total_s": statistics.median(times_s),
        "all_s": times_s,
        "start_s": replica.answer["start_s"],
        "tokens": tokens,
        "image_bytes": made.answer["bytes"],
        "phases_s": phases(results),
    }


def make_artifact(machine: Machine) -> tuple[Path, list[int], Result]:
    """Return the large replica's artifact, in memory; made once."""
    kept = getattr(machine, "large_artifact", None)
    if kept is None:
        replica = machine.start("ours", cache=machine.scratch / "fresh-cache")
        made = machine.checkpoint(replica, machine.images / "large", end=True, model="standin", compact=True)
        kept = machine.images / "large", replica.answer["tokens"], made
        machine.large_artifact = kept  # type: ignore[attr-defined]
    return kept


def phases(results: list[Result]) -> dict[str, float]:
    """Median time of each phase."""
    names = [phase.phase for phase in results[0].phases]
    return {
        name: statistics.median(phase.took_s for result in results for phase in result.phases if phase.phase == name)
        for name in names
    }


def details(result: Result, name: str) -> dict[str, Any]:
    """Return the details that a phase reports."""
    return dict(next(phase.details for phase in result.phases if phase.phase == name))


def result_weights(result: Result) -> dict[str, Any]:
    """Return what the replica's helper reports of its weights."""
    resume = details(result, "resume")
    weights: dict[str, Any] = next(iter(resume["weights"].values()))
    return weights


def _make_small(machine: Machine) -> None:
    if not (machine.weights / "small").exists():
        argv = ["python3", "-m", "benchmarks.standin.serve", "--make", str(machine.weights / "small"), *SMALL]
        subprocess.run(argv, check=True)
        machine.preload("standin-small", "small")


ROWS: dict[str, Callable[[Machine, int], Row]] = {
    "cold": cold,
    "holder": holder,
    "restore": restore,
    "unpark": unpark,
    "unpark_huge": unpark_huge,
    "pause": pause,
    "plain": plain,
    "small_pages": small_pages,
    "disk": disk,
    "transformers": transformers,
    "clones": clones,
    "in_turn": in_turn,
    "refused": refused,
    "naive": naive,
}

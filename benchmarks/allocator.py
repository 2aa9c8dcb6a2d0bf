"""Measure the simulated allocator, the snapshot and the timeline on a stream of events.

python benchmarks/allocator.py [N_EVENTS]     # medians of three runs
"""

from __future__ import annotations

import pickle
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from lmsize.tracing.allocator import AllocatorSettings, simulated
from lmsize.tracing.events import Event
from lmsize.tracing.snapshot import write_snapshot
from lmsize.tracing.timeline import write_timeline

MIB = 2**20
N_LIVE = 2000  # storages alive at a time: a model of some 80 layers in training


def stream(n_events: int) -> list[Event]:
    """Requests of 300 sizes from bytes to 128 MiB, in random order."""
    rng = random.Random(0)
    about = [100, 2048, 70_000, 600_000, 3 * MIB, 8 * MIB, 33 * MIB, 128 * MIB]
    sizes = [rng.choice(about) + rng.randrange(4096) for _ in range(300)]
    events: list[Event] = []
    live: list[Event] = []
    while len(events) < n_events:
        phase = f"{len(events) * 4 // n_events}.phase"
        if not live or (len(live) < N_LIVE and rng.random() < 0.52):
            module = f"model.layers.{rng.randrange(80)}.mlp"
            category = rng.choice(["activations", "temporaries", "gradients"])
            made = Event("alloc", len(events), rng.choice(sizes), 0, phase, category, module, "mm")
            live.append(made)
            events.append(made)
            continue
        at = rng.randrange(len(live))
        live[at], live[-1] = live[-1], live[at]
        gone = live.pop()
        events.append(
            Event("free", gone.storage_id, gone.n_bytes, 0, phase, gone.category, gone.module, "mm")
        )
    return events


def median_s(call: Callable[[], object]) -> float:
    """Median seconds of three calls."""
    spent = []
    for _ in range(3):
        started = time.perf_counter()
        call()
        spent.append(time.perf_counter() - started)
    return statistics.median(spent)


def main() -> None:
    events = stream(int(sys.argv[1]) if len(sys.argv) > 1 else 200_000)
    peak = simulated(events).peak_reserved_bytes
    collecting = AllocatorSettings(garbage_collection_threshold_frac=0.8, memory_frac=0.999)
    with tempfile.TemporaryDirectory() as folder:
        page, snapshot = Path(folder) / "step.html", Path(folder) / "step.pickle"
        reserved = simulated(events)
        rows: dict[str, Callable[[], object]] = {
            "simulated": lambda: simulated(events),
            "with expandable segments": lambda: simulated(events, expandable_segments=True),
            "at a capacity just enough": lambda: simulated(events, capacity_bytes=peak),
            "with garbage collection": lambda: simulated(
                events, capacity_bytes=peak + 512 * MIB, settings=collecting
            ),
            "snapshot written": lambda: write_snapshot(snapshot, events),
            "timeline written (.html)": lambda: write_timeline(
                page, events, label="a step", reserved=reserved
            ),
        }
        print(f"{len(events):,} events")
        for name, call in rows.items():
            print(f"{name:28} {median_s(call):6.2f} s")
        print(f"{'size of the page':28} {page.stat().st_size / 1e6:6.2f} MB")
        print(f"{'size of the snapshot':28} {snapshot.stat().st_size / 1e6:6.2f} MB")
        pickle.loads(snapshot.read_bytes())


if __name__ == "__main__":
    main()

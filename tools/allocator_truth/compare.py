"""Hold the simulated allocator against torch's own, block for block, on random streams.

    python tools/allocator_truth/compare.py FOLDER [--minutes M] [--seed N]
    python tools/allocator_truth/compare.py FOLDER --snapshot STEP.pickle
    python tools/allocator_truth/compare.py FOLDER --record tests/golden/allocator.json

torch's allocator is in ``libc10_cuda.so``, which needs a CUDA runtime but no GPU: ``device.cpp``
is a runtime that counts bytes and hands out addresses. FOLDER is where both are built, from three
wheels that are fetched into it with ``pip download`` when they are not there (0.5 GB). Needs g++.
With ``--snapshot`` the requests are those of a memory snapshot, written by lmsize or by torch; they
are served with all settings and at capacities around what they need.
With ``--record`` torch's answers are written down, for a test that needs neither.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import random
import subprocess
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import cycle
from pathlib import Path

from lmsize.tracing.allocator import Reserved, allocator_settings, simulated
from lmsize.tracing.events import Event

HERE = Path(__file__).parent
MIB = 2**20
WHEELS = ("torch===2.13.0", "nvidia-cuda-runtime==13.0.*", "nvidia-cuda-crt==13.0.*")
WANTED = (
    "torch/lib/libc10",
    "torch/include/c10/",
    "torch/include/torch/headeronly/",
    "nvidia/cu13/include/",
)
SETTINGS = (
    "",
    "expandable_segments:True",
    "max_split_size_mb:20",
    "max_split_size_mb:50,max_non_split_rounding_mb:30",
    "large_segment_size_mb:40",
    "expandable_segments:True,large_segment_size_mb:40",
    "roundup_power2_divisions:4",
    "roundup_power2_divisions:[4:2,16:8,>:1]",
    "garbage_collection_threshold:0.5",
    "garbage_collection_threshold:0.5,per_process_memory_fraction:0.99",
    "garbage_collection_threshold:0.8,max_split_size_mb:40,per_process_memory_fraction:0.7",
    "expandable_segments:True,per_process_memory_fraction:0.7,garbage_collection_threshold:0.5",
)  # fmt: skip
CAPACITIES = (62 * MIB, 150 * MIB, 402 * MIB, 1202 * MIB, 300_002 * MIB)


def built(folder: Path) -> Path:
    """The replaying program, fetched and built when it is not there."""
    program = folder / "replay"
    if program.exists():
        return program
    folder.mkdir(parents=True, exist_ok=True)
    for wheel in WHEELS:
        if not list(folder.glob(f"{wheel.split('=')[0].replace('-', '_')}-*.whl")):
            pip = [sys.executable, "-m", "pip", "download", "--no-deps", "-d", str(folder), wheel]
            subprocess.run(pip, check=True)
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder, [n for n in archive.namelist() if n.startswith(WANTED)])
    headers = ["-I", "torch/include", "-I", "nvidia/cu13/include"]
    runtime = "libcudart.so.13"
    (folder / "versions").write_text(f"{runtime} {{ global: *; }};\n")
    compiled = ["g++", "-std=c++20", "-O1", *headers]
    subprocess.run(
        [*compiled, "-fPIC", "-shared", str(HERE / "device.cpp"), "-o", runtime,
         f"-Wl,-soname,{runtime}", "-Wl,--version-script=versions"],
        cwd=folder, check=True,
    )  # fmt: skip
    subprocess.run(
        [*compiled, str(HERE / "replay.cpp"), "-o", "replay", "-Ltorch/lib", "-lc10_cuda", "-lc10",
         "-L.", f"-l:{runtime}", "-Wl,-rpath,$ORIGIN:$ORIGIN/torch/lib"],
        cwd=folder, check=True,
    )  # fmt: skip
    (folder / "libnvidia-ml.so.1").symlink_to(runtime)
    return program


def stream(rng: random.Random) -> list[Event]:
    """Many equal sizes, sizes at every edge, growth and bursts of frees."""
    edges = [1, 512, 513, MIB - 1, MIB, MIB + 1, 10 * MIB - 512, 10 * MIB, 10 * MIB + 1, 21 * MIB]
    sizes = edges + [rng.randrange(1, 3 * MIB) for _ in range(4)]
    sizes += [rng.randrange(MIB, 60 * MIB) for _ in range(6)]
    n_streams, grows = rng.randrange(1, 4), 0.6
    events: list[Event] = []
    live: list[Event] = []
    for storage_id in range(rng.randrange(10, 400)):
        if rng.random() < 0.1:
            grows = rng.choice([0.2, 0.5, 0.8])
        if not live or rng.random() < grows:
            where = (rng.choice(sizes), rng.randrange(n_streams))
            live.append(Event("alloc", storage_id, *where, "", "", "", ""))
            events.append(live[-1])
        else:
            gone = live.pop(rng.randrange(len(live)))
            events.append(Event("free", gone.storage_id, gone.n_bytes, gone.stream, "", "", "", ""))
    return events


def theirs(program: Path, events: list[Event], *, text: str, capacity_bytes: int) -> list[str]:
    """What torch's allocator says."""
    lines = [
        f"+ {e.storage_id} {e.n_bytes} {e.stream}" if e.kind == "alloc" else f"- {e.storage_id}"
        for e in events
    ]
    environment = os.environ | {
        "PYTORCH_CUDA_ALLOC_CONF": text,
        "LMSIZE_CAPACITY_BYTES": str(capacity_bytes),
        "LMSIZE_LARGE_PAGE_BYTES": str(allocator_settings(text).large_segment_bytes),
        "LD_LIBRARY_PATH": str(program.parent),
    }
    done = subprocess.run(
        [program],
        input="\n".join(lines),
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def ours(events: list[Event], *, text: str, capacity_bytes: int) -> list[str]:
    """The same lines from the simulation."""
    result = simulated(
        events,
        capacity_bytes=capacity_bytes,
        settings=allocator_settings(text),
        keeps_history=True,
    )
    lines = [
        f"{events[action.event_index].storage_id} {action.address}"
        for action in result.actions
        if action.action == "alloc"
    ]
    if result.out_of_memory_event_index is not None:
        lines.append(f"oom {events[result.out_of_memory_event_index].storage_id}")
    return lines + statistics(result)


def statistics(result: Reserved) -> list[str]:
    """As the replay prints them."""
    split = sum(
        block.n_bytes
        for segment in result.segments
        if not segment.is_expandable and len(segment.blocks) > 1
        for block in segment.blocks
        if block.event_index is None
    )
    reserved = result.reserved_steps[-1][1] if result.reserved_steps else 0
    values = {
        "reserved": reserved,
        "peak_reserved": result.peak_reserved_bytes,
        "peak_allocated": result.peak_allocated_bytes,
        "peak_requested": result.peak_requested_bytes,
        "inactive_split": split,
        "segments": result.n_segments,
        "retries": result.n_retries,
    }
    return [f"{name} {value}" for name, value in values.items()]


def requests(path: Path) -> list[Event]:
    """The requests of a snapshot, of blocks that were made while it recorded."""
    content = pickle.loads(path.read_bytes())
    (entries,) = (trace for trace in content["device_traces"] if trace)
    events: list[Event] = []
    live: dict[int, Event] = {}
    for number, entry in enumerate(entries):
        if entry["action"] == "alloc":
            made = Event("alloc", number, entry["size"], entry["stream"], "", "", "", "")
            live[entry["addr"]] = made
            events.append(made)
        elif entry["action"] == "free_completed" and entry["addr"] in live:
            gone = live.pop(entry["addr"])
            events.append(Event("free", gone.storage_id, gone.n_bytes, gone.stream, "", "", "", ""))
    return events


def around(events: list[Event]) -> Iterator[tuple[str, int]]:
    """Settings and capacities: ample, just short, and far too small."""
    needed = simulated(events).peak_reserved_bytes
    for text in SETTINGS:
        for share in (1.1, 0.97, 0.4):
            yield text, int(needed * share)


def record(program: Path, path: Path, rng: random.Random) -> None:
    """Write streams with torch's answers: two for each setting, and one that is not monotone."""
    cases = [(stream(rng), text, capacity) for text in SETTINGS for capacity in CAPACITIES[1:3]]
    sizes = {1: 12, 2: 4, 3: 20, 4: 22, 5: 4, 6: 22, 7: 12}
    order = (1, 2, 3, -3, -1, 4, 5, 6, 7)
    kinds = ("alloc", "free")
    steps = [Event(kinds[i < 0], abs(i), sizes[abs(i)] * MIB, 0, "", "", "", "") for i in order]
    cases += [(steps, "", capacity * MIB) for capacity in (62, 64, 72, 74, 96)]
    rows = [
        {
            "settings": text,
            "capacity_bytes": capacity,
            # id, bytes, stream; a free has bytes 0
            "events": [
                [e.storage_id, e.n_bytes if e.kind == "alloc" else 0, e.stream] for e in events
            ],
            "torch": theirs(program, events, text=text, capacity_bytes=capacity),
        }
        for events, text, capacity in cases
    ]
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--snapshot", type=Path)
    parser.add_argument("--record", type=Path)
    asked = parser.parse_args()
    program = built(asked.folder.resolve())
    rng = random.Random(asked.seed)
    if asked.record:
        record(program, asked.record, rng)
        return 0
    if asked.snapshot:
        events = requests(asked.snapshot)
        cases = ((events, *case) for case in around(events))
    else:
        cases = drawn(rng, ends=time.monotonic() + 60 * asked.minutes)
    return compared(program, cases)


def drawn(rng: random.Random, *, ends: float) -> Iterator[tuple[list[Event], str, int]]:
    """Random streams with every setting in turn, until the time is over."""
    for text in cycle(SETTINGS):
        if time.monotonic() > ends:
            return
        yield stream(rng), text, rng.choice(CAPACITIES)


def compared(program: Path, cases: Iterable[tuple[list[Event], str, int]]) -> int:
    """Print how many are equal; 1 at the first that is not."""
    equal: Counter[str] = Counter()
    n_blocks = n_exhausted = 0
    for events, text, capacity in cases:
        want = theirs(program, events, text=text, capacity_bytes=capacity)
        have = ours(events, text=text, capacity_bytes=capacity)
        if want != have:
            first = next((p for p in zip(want, have, strict=False) if p[0] != p[1]), ("end", "end"))
            print(f"{text!r}, capacity {capacity}: torch says {first[0]!r}, lmsize {first[1]!r}")
            return 1
        equal[text] += 1
        n_exhausted += any(line.startswith("oom") for line in want)
        n_blocks += sum(1 for line in want if line[0].isdigit())
    for text, count in equal.items():
        print(f"{count:6} equal with {text or 'the defaults'}")
    print(f"{n_blocks:,} blocks at equal addresses; memory ran out {n_exhausted} times, both alike")
    return 0


if __name__ == "__main__":
    sys.exit(main())

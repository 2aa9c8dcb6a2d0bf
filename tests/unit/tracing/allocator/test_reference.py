"""The allocator against a slow reference: plain lists, scanned anew for every request."""

import random
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmsize.tracing.allocator import AllocatorSettings, simulated
from lmsize.tracing.allocator.device import FIRST_ADDRESS
from lmsize.tracing.events import Event

MIB = 2**20
Segment = dict[str, Any]
Found = tuple[Segment, int, int]


class ListScan:
    """Segments with lists of (start, size, owner); owner None is free."""

    def __init__(self, *, expandable: bool, limit: int | None, capacity: float) -> None:
        self.expandable, self.limit, self.capacity = expandable, limit, capacity
        self.segments, self.where, self.top, self.reserved = [], {}, FIRST_ADDRESS, 0

    def alloc(self, owner: int, n_bytes: int, stream: int) -> bool:
        size = max(512, (n_bytes + 511) // 512 * 512)
        small = size <= MIB
        steps = [lambda: self.cached(size, stream, small), lambda: self.new(size, stream, small)]
        if self.limit:
            steps.append(
                lambda: self.drop_oversize(size, stream, small) and self.new(size, stream, small)
            )
        steps.append(lambda: self.release() or self.new(size, stream, small))
        found = next((found for step in steps if (found := step())), None)
        if found is None:
            return False
        segment, start, free = found
        rest = free - size
        splits = rest >= 512 if small or self.expandable else rest > MIB
        if self.limit and not small and not self.expandable and size >= self.limit:
            splits = False
        segment["live"][start] = (size if splits else free, owner, n_bytes)
        self.where[owner] = (segment, start)
        return True

    def free(self, owner: int) -> None:
        segment, start = self.where.pop(owner)
        del segment["live"][start]

    def mapped_runs(self, segment: Segment) -> list[list[int]]:
        page = segment["page"]
        pages, runs = sorted(segment["pages"]), []
        for number in pages:
            if runs and runs[-1][1] == number * page:
                runs[-1][1] += page
            else:
                runs.append([number * page, (number + 1) * page])
        return runs

    def blocks(self, segment: Segment) -> list[tuple[int, int, int | None, int]]:
        """(start, size, owner, requested) of all mapped bytes, free ones as merged as can be."""
        found = []
        for low, high in self.mapped_runs(segment):
            at = low
            for start in sorted(s for s in segment["live"] if low <= s < high):
                size, owner, requested = segment["live"][start]
                if at < start:
                    found.append((at, start - at, None, 0))
                found.append((start, size, owner, requested))
                at = start + size
            if at < high:
                found.append((at, high - at, None, 0))
        return found

    def free_blocks(self, stream: int, small: bool) -> list[tuple[int, int, int]]:
        return sorted(
            (size, start, segment["start"])
            for segment in self.segments
            if (segment["stream"], segment["small"]) == (stream, small)
            for start, size, owner, _ in self.blocks(segment)
            if owner is None
        )

    def segment_at(self, start: int) -> Segment:
        return next(segment for segment in self.segments if segment["start"] == start)

    def could_grow_to(self, size: int, start: int, segment_start: int) -> int:
        segment = self.segment_at(segment_start)
        end, page = start + size, segment["page"]
        if end // page in segment["pages"] or end in segment["live"] or end == segment["end"]:
            return size
        later = [number * page for number in segment["pages"] if number * page > end]
        return min([*later, segment["end"]]) - start

    def cached(self, size: int, stream: int, small: bool) -> Found | None:
        fits = [block for block in self.free_blocks(stream, small) if block[0] >= size]
        if not fits:
            return None
        best = fits[0]
        if self.expandable:
            for other in fits[1:]:
                if self.could_grow_to(*other) >= self.could_grow_to(*best):
                    break
                best = other
        if self.limit and not small:
            if size < self.limit <= best[0]:
                return None
            if size >= self.limit and best[0] >= size + 20 * MIB:
                return None
        return self.segment_at(best[2]), best[1], best[0]

    def add(self, n_bytes: int, stream: int, small: bool, page: int) -> Segment:
        start = (self.top + page - 1) // page * page
        self.top = start + n_bytes
        segment = {"start": start, "end": start + n_bytes, "stream": stream, "small": small}
        self.segments.append(segment | {"page": page, "pages": set(), "live": {}})
        return self.segments[-1]

    def new(self, size: int, stream: int, small: bool) -> Found | None:
        if self.expandable:
            return self.grown(size, stream, small)
        n_bytes = (
            2 * MIB if small else 20 * MIB if size < 10 * MIB else -(-size // (2 * MIB)) * 2 * MIB
        )
        if self.reserved + n_bytes > self.capacity:
            return None
        self.reserved += n_bytes
        segment = self.add(n_bytes, stream, small, 2 * MIB)
        segment["pages"] = set(range(segment["start"] // (2 * MIB), segment["end"] // (2 * MIB)))
        return segment, segment["start"], n_bytes

    def grown(self, size: int, stream: int, small: bool) -> Found | None:
        page = 2 * MIB if small else 20 * MIB
        for segment in self.segments:
            if (segment["stream"], segment["small"]) == (stream, small):
                start = self.room_in(segment, size)
                if start is not None:
                    break
        else:
            space = 2**40 if self.capacity == float("inf") else int(self.capacity) * 9 // 8
            space = -(-max(space, size) // page) * page
            segment = self.add(space, stream, small, page)
            start = segment["start"]
        at = start
        while at < start + size:
            if at // page in segment["pages"]:
                at = (at // page + 1) * page
                continue
            end = at  # of the unmapped run, as far as it is needed
            while end < start + size and end // page not in segment["pages"]:
                end += page
            if self.reserved + end - at > self.capacity:
                return None
            self.reserved += end - at
            segment["pages"] |= set(range(at // page, end // page))
            at = end
        free = next(s for t, s, owner, _ in self.blocks(segment) if t == start and owner is None)
        return segment, start, free

    def room_in(self, segment: Segment, size: int) -> int | None:
        free = {start + n: start for start, n, owner, _ in self.blocks(segment) if owner is None}
        page = segment["page"]
        edges = [segment["start"], *(high for _, high in self.mapped_runs(segment))]
        for edge in sorted(set(edges)):
            if edge // page in segment["pages"] or edge == segment["end"]:
                continue
            start = free.get(edge, edge)
            stop = min([s for s in segment["live"] if s > start], default=segment["end"])
            if stop - start >= size:
                return start
        return None

    def drop_oversize(self, size: int, stream: int, small: bool) -> bool:
        if self.expandable:
            return False
        wanted = max(size, self.limit)
        blocks = self.free_blocks(stream, small)
        enough = [block for block in blocks if block[0] >= wanted]
        if enough:
            self.drop(enough[0][2])
            return True
        released = 0
        for n_bytes, _, segment in reversed(blocks):
            if released >= wanted or n_bytes < self.limit:
                break
            released += n_bytes
            self.drop(segment)
        return released >= wanted

    def drop(self, start: int) -> None:
        segment = self.segment_at(start)
        self.segments.remove(segment)
        self.reserved -= segment["end"] - segment["start"]

    def release(self) -> None:
        for segment in list(self.segments):
            if not self.expandable:
                if not segment["live"]:
                    self.drop(segment["start"])
                continue
            page = segment["page"]
            empty = {
                number
                for number in segment["pages"]
                if not any(
                    start < (number + 1) * page and start + size > number * page
                    for start, (size, _, _) in segment["live"].items()
                )
            }
            segment["pages"] -= empty
            self.reserved -= len(empty) * page
            if empty and not segment["pages"]:
                self.segments.remove(segment)


def made(seed: int, *, n_events: int, streams: int) -> list[Event]:
    """A random stream with many equal sizes, sizes at every edge, and bursts of frees."""
    rng = random.Random(seed)
    edges = [1, 512, 513, MIB - 1, MIB, MIB + 1, 10 * MIB - 512, 10 * MIB, 10 * MIB + 1, 21 * MIB]
    sizes = edges + [rng.randrange(1, 3 * MIB) for _ in range(4)] + [0]
    sizes += [rng.randrange(MIB, 60 * MIB) for _ in range(6)]
    events, live, next_id, grows = [], [], 0, 0.6
    for _ in range(n_events):
        if rng.random() < 0.1:
            grows = rng.choice([0.2, 0.5, 0.8])
        if not live or rng.random() < grows:
            next_id += 1
            n_bytes, stream = rng.choice(sizes), rng.randrange(streams)
            live.append(Event("alloc", next_id, n_bytes, stream, "forward", "x", "", ""))
            events.append(live[-1])
        else:
            gone = live.pop(rng.randrange(len(live)))
            events.append(
                Event("free", gone.storage_id, gone.n_bytes, gone.stream, "forward", "x", "", "")
            )
    return events


def scanned(
    events: list[Event], *, expandable: bool, limit: int | None, capacity: float
) -> tuple[ListScan, list[int], int | None]:
    """Final blocks, reserved after each event, index of the event that ran out of memory."""
    scan = ListScan(expandable=expandable, limit=limit, capacity=capacity)
    reserved, sizes = [], {}
    for index, event in enumerate(events):
        if event.kind == "free":
            if sizes.pop(event.storage_id):
                scan.free(event.storage_id)
        elif event.n_bytes == 0:
            sizes[event.storage_id] = 0
        else:
            sizes[event.storage_id] = event.n_bytes
            if not scan.alloc(event.storage_id, event.n_bytes, event.stream):
                return scan, reserved, index
        reserved.append(scan.reserved)
    return scan, reserved, None


def final_blocks(scan: ListScan) -> list[tuple[int, int, int, bool]]:
    return sorted(
        (start, size, requested, owner is not None)
        for segment in scan.segments
        for start, size, owner, requested in scan.blocks(segment)
    )


@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    n_events=st.integers(1, 120),
    streams=st.integers(1, 3),
    expandable=st.booleans(),
    limit=st.sampled_from([None, None, 20 * MIB, 40 * MIB]),
    capacity=st.sampled_from([float("inf"), 60 * MIB, 151 * MIB, 400 * MIB]),
)
def test_agrees_block_for_block(
    seed: int, n_events: int, streams: int, expandable: bool, limit: int | None, capacity: float
) -> None:
    events = made(seed, n_events=n_events, streams=streams)
    scan, reserved, ran_out = scanned(events, expandable=expandable, limit=limit, capacity=capacity)
    ours = simulated(
        events,
        capacity_bytes=None if capacity == float("inf") else capacity,
        settings=AllocatorSettings(expandable_segments=expandable, max_split_bytes=limit),
    )
    assert ours.out_of_memory_event_index == ran_out
    blocks = [
        (block.address, block.n_bytes, block.requested_bytes, block.event_index is not None)
        for segment in ours.segments
        for block in segment.blocks
    ]
    assert blocks == final_blocks(scan)
    steps = dict(ours.reserved_steps)
    now, ours_reserved = 0, []
    for index in range(len(reserved)):
        now = steps.get(index, now)
        ours_reserved.append(now)
    assert ours_reserved == reserved


def test_the_reference_tells_streams_that_differ() -> None:
    """A guard on the test itself: the streams split, merge, release and run out of memory."""
    outcomes = set()
    for seed in range(30):
        events = made(seed, n_events=120, streams=2)
        result = simulated(events, capacity_bytes=151 * MIB)
        outcomes |= {("oom", result.out_of_memory_event_index is not None)}
        outcomes |= {("retried", result.n_retries > 0)}
        sizes = [b.n_bytes for s in result.segments for b in s.blocks if b.event_index is None]
        outcomes |= {("fragments", len(sizes) > 1)}
        shrinks = any(b < a for (_, a), (_, b) in pairwise(result.reserved_steps))
        outcomes |= {("released", shrinks)}
    assert {("oom", True), ("retried", True), ("fragments", True), ("released", True)} <= outcomes
    assert ("oom", False) in outcomes


@pytest.mark.parametrize("expandable", [False, True])
def test_long_stream(expandable: bool) -> None:
    events = made(7, n_events=1500, streams=2)
    capacity = 900 * MIB
    scan, _, ran_out = scanned(events, expandable=expandable, limit=None, capacity=capacity)
    ours = simulated(events, capacity_bytes=capacity, expandable_segments=expandable)
    assert ours.out_of_memory_event_index == ran_out
    assert sum(s.n_bytes for s in ours.segments) == scan.reserved

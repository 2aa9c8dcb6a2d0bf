"""Laws that hold for every stream of requests."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from lmsize.tracing.allocator import AllocatorSettings, Reserved, simulated
from lmsize.tracing.allocator.caching import CachingAllocator
from lmsize.tracing.allocator.device import Device
from lmsize.tracing.events import Event

MIB = 2**20
# Streams of dozens of draws are slow to make on a busy machine.
law = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def streams(draw: st.DrawFn, *, frees_all: bool = False) -> list[Event]:
    """Events of up to 60 storages on up to two streams, small and large."""
    size = st.one_of(st.integers(0, 4096), st.integers(1, 3 * MIB), st.integers(MIB, 80 * MIB))
    made, live = [], []
    for storage_id in range(draw(st.integers(1, 60))):
        n_bytes, stream = draw(size), draw(st.integers(0, 1))
        live.append(Event("alloc", storage_id, n_bytes, stream, "forward", "x", "", ""))
        made.append(live[-1])
        while live and draw(st.integers(0, 2)) == 0:
            made.append(freed(live.pop(draw(st.integers(0, len(live) - 1)))))
    return made + [freed(event) for event in live] if frees_all else made


def freed(event: Event) -> Event:
    return Event("free", event.storage_id, event.n_bytes, event.stream, "forward", "x", "", "")


without_fraction = st.builds(
    AllocatorSettings,
    expandable_segments=st.booleans(),
    max_split_bytes=st.sampled_from([None, 20 * MIB, 50 * MIB]),
    garbage_collection_threshold_frac=st.sampled_from([0.0, 0.5]),
    roundup_power2_divisions=st.sampled_from([(), (4,) * 16]),
)
settings_of_all_kinds = st.builds(
    replace, without_fraction, memory_frac=st.sampled_from([1.0, 0.75])
)
sizes = st.integers(20, 800).map(lambda n: n * MIB)
capacities = st.one_of(st.none(), sizes)
a_run = {"events": streams(), "capacity": capacities, "options": settings_of_all_kinds}


@law
@given(**a_run)
def test_live_blocks_do_not_overlap_and_bytes_are_conserved(
    events: list[Event], capacity: int | None, options: AllocatorSettings
) -> None:
    result = simulated(events, capacity_bytes=capacity, settings=options)
    blocks = [block for segment in result.segments for block in segment.blocks]
    for before, after in pairwise(blocks):
        assert before.address + before.n_bytes <= after.address
    for segment in result.segments:
        assert segment.address == segment.blocks[0].address
        assert all(a.address + a.n_bytes == b.address for a, b in pairwise(segment.blocks))
        assert segment.n_bytes == sum(block.n_bytes for block in segment.blocks)
    reserved = result.reserved_steps[-1][1] if result.reserved_steps else 0
    assert sum(segment.n_bytes for segment in result.segments) == reserved
    end = result.out_of_memory_event_index
    alive = {}
    for event in events[:end]:
        alive = {**alive, event.storage_id: event}
        if event.kind == "free":
            del alive[event.storage_id]
    wanted = sorted(e.n_bytes for e in alive.values() if e.n_bytes)
    assert sorted(b.requested_bytes for b in blocks if b.event_index is not None) == wanted


@law
@given(**a_run)
def test_reserved_holds_allocated_holds_requested(
    events: list[Event], capacity: int | None, options: AllocatorSettings
) -> None:
    result = simulated(events, capacity_bytes=capacity, settings=options)
    assert result.peak_reserved_bytes >= result.reserved_at_peak_bytes
    assert result.reserved_at_peak_bytes >= result.peak_allocated_bytes
    assert result.peak_allocated_bytes >= result.peak_requested_bytes
    assert result.inactive_at_peak_bytes >= result.fragmented_at_peak_bytes >= 0
    assert capacity is None or result.peak_reserved_bytes <= capacity
    assert result.peak_reserved_bytes % (2 * MIB) == 0


@law
@given(**a_run)
def test_no_two_free_neighbours(
    events: list[Event], capacity: int | None, options: AllocatorSettings
) -> None:
    result = simulated(events, capacity_bytes=capacity, settings=options)
    for segment in result.segments:
        for before, after in pairwise(segment.blocks):
            assert before.event_index is not None or after.event_index is not None


@law
@given(**a_run)
def test_the_same_twice(
    events: list[Event], capacity: int | None, options: AllocatorSettings
) -> None:
    def run() -> Reserved:
        return simulated(events, capacity_bytes=capacity, settings=options, keeps_history=True)

    assert run() == run()


@law
@given(events=streams(), options=without_fraction, spare=st.integers(0, 300))
def test_a_capacity_that_is_never_reached_changes_nothing(
    events: list[Event], options: AllocatorSettings, spare: int
) -> None:
    """What is true of capacity: above the peak without limit, every one fits, block for block."""
    free = simulated(events, settings=options)
    held = simulated(
        events, settings=options, capacity_bytes=free.peak_reserved_bytes + spare * MIB
    )
    assert held.out_of_memory_event_index is None
    assert held.n_retries == 0
    shape = [[(b.n_bytes, b.event_index) for b in s.blocks] for s in free.segments]
    assert [[(b.n_bytes, b.event_index) for b in s.blocks] for s in held.segments] == shape


@law
@given(events=streams(), options=settings_of_all_kinds, percent=st.integers(1, 99))
def test_a_capacity_below_what_is_live_never_fits(
    events: list[Event], options: AllocatorSettings, percent: int
) -> None:
    live = simulated(events, settings=options).peak_requested_bytes
    assume(live > 0)
    held = simulated(events, capacity_bytes=live * percent // 100, settings=options)
    assert held.out_of_memory_event_index is not None


@law
@given(events=streams(), capacity=sizes, options=without_fraction)
def test_runs_agree_until_the_first_release(
    events: list[Event], capacity: int, options: AllocatorSettings
) -> None:
    """Up to the request that the smaller capacity can't serve at once, both do the same."""
    small = simulated(events, capacity_bytes=capacity, settings=options)
    free = simulated(events, settings=options)
    above = [index for index, n_bytes in free.reserved_steps if n_bytes > capacity]
    first = above[0] if above else len(events)
    upto = [step for step in small.reserved_steps if step[0] < first]
    assert upto == [step for step in free.reserved_steps if step[0] < first]
    assert small.out_of_memory_event_index is None or small.out_of_memory_event_index >= first


@law
@given(events=streams(frees_all=True), options=settings_of_all_kinds)
def test_nothing_stays_after_all_is_freed_and_the_cache_emptied(
    events: list[Event], options: AllocatorSettings
) -> None:
    device = Device(capacity_bytes=None, keeps_history=False)
    allocator = CachingAllocator(settings=options, device=device)
    live = {}
    for event in events:
        if event.kind == "alloc" and event.n_bytes:
            live[event.storage_id] = allocator.allocated(event.n_bytes, event.stream)
        elif event.n_bytes:
            allocator.free(live.pop(event.storage_id))
    assert allocator.allocated_bytes == 0
    if not options.expandable_segments:
        assert allocator.held_bytes == 0
    allocator.release()
    assert device.reserved_bytes == 0
    assert all(not pool.free and not pool.held_bytes for pool in allocator.pools.values())


@law
@given(
    n_bytes=st.integers(1, 200 * MIB),
    n_times=st.integers(2, 20),
    expandable=st.booleans(),
)
def test_equal_sizes_use_the_same_memory(n_bytes: int, n_times: int, expandable: bool) -> None:
    once = [Event("alloc", 0, n_bytes, 0, "forward", "x", "", "")]
    often = [e for e in once for _ in range(n_times) for e in (once[0], freed(once[0]))]
    first = simulated(once, expandable_segments=expandable)
    again = simulated(often, expandable_segments=expandable)
    assert again.peak_reserved_bytes == first.peak_reserved_bytes
    assert len(again.reserved_steps) == len(first.reserved_steps)


@pytest.mark.parametrize("expandable", [False, True])
def test_frees_cost_no_memory(expandable: bool) -> None:
    """Reserved never rises at a free."""
    events = [Event("alloc", i, (i + 1) * MIB, 0, "forward", "x", "", "") for i in range(20)]
    events += [freed(event) for event in reversed(events)]
    result = simulated(events, expandable_segments=expandable)
    assert all(index < 20 for index, _ in result.reserved_steps)

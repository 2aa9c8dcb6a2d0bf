"""What a stage keeps, by formula, against its schedule run event by event."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmsize.layout.schedule import Schedule

Pass = tuple[int, int]


def events(*, vp: int, group: int, n_warmup: int, n_micro: int) -> Iterator[tuple[str, int, int]]:
    """Forwards and backwards of (micro-batch, part) as Megatron's interleaved schedule orders them."""
    table = [
        (micro, part)
        for start in range(0, n_micro, group)
        for part in range(vp)
        for micro in range(start, min(start + group, n_micro))
    ]
    n_warmup = min(n_warmup, len(table))
    for micro, part in table[:n_warmup]:
        yield "forward", micro, part
    for at in range(len(table)):
        if n_warmup + at < len(table):
            yield "forward", *table[n_warmup + at]
        micro, part = table[at]
        yield "backward", micro, vp - 1 - part


def most_alive(parts: list[int], runs: Iterator[tuple[str, int, int]], *, meant: int | None) -> int:
    alive: set[Pass] = set()
    most = 0
    for what, micro, part in runs:
        if what == "forward":
            alive.add((micro, part))
            if meant in (None, part):
                most = max(most, sum(parts[one] for _, one in alive))
        else:
            alive.remove((micro, part))  # nothing is undone before it ran
    assert not alive
    return most


@settings(deadline=None)
@given(
    n_stages=st.integers(2, 6), vp=st.integers(2, 4), rounds=st.integers(1, 5), data=st.data(),
    in_last=st.booleans(),
)  # fmt: skip
def test_parts_in_flight_are_those_of_the_schedule(
    n_stages: int, vp: int, rounds: int, data: st.DataObject, in_last: bool
) -> None:
    index = data.draw(st.integers(0, n_stages - 1))
    group = n_stages + data.draw(st.integers(0, 3))
    parts = data.draw(st.lists(st.integers(0, 3), min_size=vp, max_size=vp).filter(any))
    n_micro = group * rounds
    n_warmup = 2 * (n_stages - index - 1) + (vp - 1) * group
    runs = events(vp=vp, group=group, n_warmup=n_warmup, n_micro=n_micro)
    meant = vp - 1 if in_last and len(set(parts)) > 1 else None
    kept = Schedule(vp, group).in_flight(
        index=index, n_stages=n_stages, n_micro=n_micro, parts=parts, in_last=in_last
    )
    assert kept * sum(parts) == pytest.approx(most_alive(parts, runs, meant=meant))


@settings(deadline=None)
@given(n_stages=st.integers(1, 8), n_micro=st.integers(1, 30), data=st.data())
def test_a_plain_pipeline_keeps_one_for_each_stage_after(
    n_stages: int, n_micro: int, data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, n_stages - 1))
    kept = Schedule().in_flight(index=index, n_stages=n_stages, n_micro=n_micro)
    assert kept == min(n_micro, n_stages - index)


def test_a_larger_group_keeps_more() -> None:
    kept = [Schedule(3, g).in_flight(index=3, n_stages=4, n_micro=20) for g in (4, 5, 10)]
    assert kept == [9 / 3, 11 / 3, 21 / 3]

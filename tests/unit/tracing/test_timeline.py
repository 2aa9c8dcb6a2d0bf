"""The timeline: what is kept of the curve, and files that stand on their own."""

import json
import re
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmsize.errors import ExtraError, InputError
from lmsize.tracing.allocator import simulated
from lmsize.tracing.events import Event
from lmsize.tracing.timeline import write_timeline
from lmsize.tracing.timeline.colours import COLOURS, colours, in_order
from lmsize.tracing.timeline.curve import curve
from lmsize.tracing.timeline.plot import ticks

MIB = 2**20
CATEGORIES = (*COLOURS, "other")


def events_of(steps: list[int], *, phases: int = 1, name: str = "layer") -> list[Event]:
    """A positive number makes a storage of so many bytes, 0 lets the oldest go."""
    events, live = [], []
    for i, step in enumerate(steps):
        phase = f"{i * phases // len(steps)}.phase"
        if step > 0:
            category = CATEGORIES[step % len(CATEGORIES)]
            live.append(Event("alloc", i, step, 0, phase, category, f"{name}.{i}", "aten.mm"))
            events.append(live[-1])
        elif live:
            gone = live.pop(0)
            events.append(
                Event(
                    "free", gone.storage_id, gone.n_bytes, 0, phase,
                    gone.category, gone.module, gone.op,
                )
            )  # fmt: skip
    return events


steps = st.lists(st.one_of(st.just(0), st.integers(1, 1000)), min_size=1, max_size=300).filter(any)


def totals(events: list[Event]) -> list[int]:
    now, result = 0, []
    for event in events:
        now += event.n_bytes if event.kind == "alloc" else -event.n_bytes
        result.append(now)
    return result


@settings(max_examples=60, deadline=None)
@given(steps=steps, phases=st.integers(1, 6), n_bins=st.integers(24, 60))
def test_peaks_stay_exactly(steps: list[int], phases: int, n_bins: int) -> None:
    events = events_of(steps, phases=phases)
    drawn = curve(events, n_bins=n_bins)
    truth = totals(events)
    kept = {moment.event_index: moment.total_bytes for moment in drawn.moments}
    assert all(truth[index] == n_bytes for index, n_bytes in kept.items())
    assert drawn.peak.total_bytes == max(truth)
    for phase in drawn.phases:
        inside = [n for index, n in kept.items() if phase.start <= index < phase.end]
        assert max(inside) == max(truth[phase.start : phase.end])
        assert min(inside) == min(truth[phase.start : phase.end])
    assert len(kept) <= 2 * (n_bins + len(events) // n_bins + len(drawn.phases) + 2) + n_bins


@settings(max_examples=60, deadline=None)
@given(steps=steps)
def test_every_local_maximum_is_within_a_bin_of_one_as_high(steps: list[int]) -> None:
    events = events_of(steps)
    n_bins = 24
    drawn, truth = curve(events, n_bins=n_bins), totals(events)
    width = max(1, len(events) // n_bins)
    for index, n_bytes in enumerate(truth):
        near = [m.total_bytes for m in drawn.moments if abs(m.event_index - index) < width]
        assert near
        assert max(near) >= n_bytes


def test_a_short_stream_is_kept_whole() -> None:
    events = events_of([5, 6, 0, 7, 0, 0])
    drawn = curve(events)
    assert [moment.event_index for moment in drawn.moments] == list(range(6))
    assert [moment.total_bytes for moment in drawn.moments] == totals(events)
    assert [event.n_bytes for event in drawn.largest] == [7, 6]


def test_categories_are_stacked_as_people_think_of_them() -> None:
    assert in_order(["zzz", "activations", "weights", "aaa"]) == (
        "weights", "activations", "aaa", "zzz",
    )  # fmt: skip
    given = colours(["weights", "aaa", "zzz"])
    assert len({given["weights"], given["aaa"], given["zzz"]}) == 3


@pytest.mark.parametrize("top", [1, 700, 5000, 3 * MIB, 66 * 2**30, 990 * 2**30, 3 * 2**40])
def test_ticks_are_few_and_within(top: float) -> None:
    marks = ticks(top)
    assert marks[0] == 0
    assert marks == sorted(set(marks))
    assert 2 <= len(marks) <= 7
    assert marks[-1] <= top


# -- the page -------------------------------------------------------------------------------------

NASTY = "</script><script>alert('x')</script>&amp;\"'<b>$label"


def page_of(tmp_path: Path, events: list[Event], **options: Any) -> str:
    path = tmp_path / "step.html"
    write_timeline(path, events, **{"label": "a model", **options})
    return path.read_text(encoding="utf-8")


def test_names_cannot_break_out(tmp_path: Path) -> None:
    event = Event("alloc", 0, 5 * MIB, 0, NASTY, NASTY, NASTY, NASTY)
    text = page_of(tmp_path, [event], label=NASTY)
    assert "<script>alert" not in text
    assert "<b>" not in text
    assert text.count("</script>") == 2  # the data and the code
    assert script_data(text)["names"] == [NASTY]


def script_data(text: str) -> dict[str, Any]:
    found = re.search(r'<script id="data"[^>]*>(.*?)</script>', text, re.DOTALL)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_the_page_stands_alone(tmp_path: Path) -> None:
    events = events_of([3 * MIB, 5 * MIB, 0, MIB], phases=2)
    text = page_of(tmp_path, events, reserved=simulated(events), capacity_bytes=10 * MIB)
    assert not re.search(r"https?:|src=|@import|url\((?!#)|<link", text)
    picture = ET.fromstring(re.search(r"<svg.*?</svg>", text, re.DOTALL)[0])  # type: ignore[index]
    said = ["".join(element.itertext()) for element in picture.iter("text")]
    assert {"peak 8.0 MiB", "capacity 10.0 MiB", "0.phase", "1.phase"} <= set(said)
    assert "Peak 8.0 MiB in 0.phase, at event 2 of 4." in text
    assert "reserves up to 22.0 MiB" in text


def test_a_capacity_far_above_is_said_and_not_drawn(tmp_path: Path) -> None:
    text = page_of(tmp_path, events_of([MIB]), capacity_bytes=80 * 2**30)
    assert "The accelerator has 80.0 GiB." in text
    assert 'class="capacity"' not in text


def test_the_pointer_sees_what_is_drawn(tmp_path: Path) -> None:
    events = events_of([3 * MIB, 5 * MIB, 0, MIB], phases=2)
    data = script_data(page_of(tmp_path, events, reserved=simulated(events)))
    assert data["at"] == [0, 1, 2, 3]
    assert [sum(column) for column in zip(*data["live"], strict=True)] == totals(events)
    assert data["phases"] == [[0, "0.phase"], [2, "1.phase"]]
    assert data["reserved"] == [20 * MIB] * 3 + [22 * MIB]
    assert [data["names"][i] for i in data["module"]] == [event.module for event in events]


def test_many_events_stay_under_a_megabyte(tmp_path: Path) -> None:
    """The worst case: all changes all the time, names are long and differ. Bins bound the size."""
    name = "model.decoder.layers.with.a.very.long.path.to.the.module.that.made.it"
    sizes = [(i * 7919) % 999_983 * 1000 + 1 if i % 5 < 3 else 0 for i in range(100_000)]
    events = events_of(sizes, phases=8, name=name)
    text = page_of(tmp_path, events)
    assert len(text.encode()) < 1_000_000
    assert f"Peak {max(totals(events)) / 2**40:.1f} TiB" in text


# -- images ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("suffix", "starts"), [(".png", b"\x89PNG"), (".SVG", b"<?xml")])
def test_images(tmp_path: Path, suffix: str, starts: bytes) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / f"step{suffix}"
    events = [Event("alloc", 0, MIB, 0, "$phase", "$\\frac{category", "m", "op")]
    write_timeline(path, events, label="$\\broken{", reserved=simulated(events), capacity_bytes=MIB)
    assert path.read_bytes().startswith(starts)


def test_without_matplotlib_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ExtraError, match=r"step\.png needs matplotlib.*'lmsize\[plot\]'"):
        write_timeline(tmp_path / "step.png", events_of([5]), label="a model")
    assert not list(tmp_path.iterdir())


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ends in \.html, \.png, \.svg"):
        write_timeline(tmp_path / "step.pdf", events_of([5]), label="a model")
    with pytest.raises(InputError, match="at least one byte"):
        write_timeline(tmp_path / "step.html", [], label="a model")

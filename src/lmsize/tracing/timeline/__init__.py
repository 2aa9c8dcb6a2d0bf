"""The step as a picture: live bytes by category along its events, and what stands at the peak."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lmsize.errors import InputError
from lmsize.tracing.allocator import Reserved
from lmsize.tracing.events import Event
from lmsize.tracing.timeline.curve import curve

SUFFIXES = (".html", ".png", ".svg")


def write_timeline(
    path: Path,
    events: Sequence[Event],
    *,
    label: str,
    reserved: Reserved | None = None,
    capacity_bytes: int | None = None,
) -> None:
    """Write the picture as a page (``.html``) or an image (``.png``, ``.svg``).

    Args:
        label: its title: the model and what is run.
        reserved: the allocator's answer for the same events, drawn as a line.
        capacity_bytes: of the accelerator, drawn as a line where it is near.

    Raises:
        InputError: there is nothing to draw, the suffix is another one, or an image is asked for
            and matplotlib (the extra ``plot``) is not installed.
        OSError: the file cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError("--timeline", str(path), f"a file that ends in {', '.join(SUFFIXES)}")
    if not any(event.n_bytes > 0 for event in events):
        raise InputError("--timeline", str(path), "a step that holds at least one byte")
    drawn = curve(events, reserved_steps=() if reserved is None else reserved.reserved_steps)
    if suffix == ".html":
        from lmsize.tracing.timeline.page import page

        path.write_text(page(drawn, label=label, capacity_bytes=capacity_bytes), encoding="utf-8")
        return
    from lmsize.tracing.timeline.image import write_image

    write_image(path, drawn, label=label, capacity_bytes=capacity_bytes)

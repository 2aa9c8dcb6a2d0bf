"""Memory against capacity as a bar of components."""

from __future__ import annotations

from rich.text import Text

from lmsize.estimate.answer import Memory
from lmsize.quantity import format_bytes

N_CELLS = 56
COLOURS = ("blue", "cyan", "magenta", "yellow", "green", "bright_blue", "bright_magenta")


def capacity_bar(memory: Memory) -> Text | None:
    """One line of cells, a colour a component, with a mark where the capacity ends."""
    if memory.capacity_bytes is None or not memory.peak_allocated_bytes:
        return None
    used = memory.peak_device_bytes or memory.peak_allocated_bytes
    parts = [(name, value) for name, value in memory.components.items() if value]
    parts.append(("allocator and driver", used - sum(value for _, value in parts)))
    whole = max(used, memory.capacity_bytes)
    edge = round(N_CELLS * memory.capacity_bytes / whole)
    cells = _cells(parts, whole)
    bar = Text()
    for at in range(N_CELLS):
        if at == edge:
            bar.append("|", "bold red")
        bar.append("█" if cells[at] else "·", cells[at] or "dim")
    if edge == N_CELLS:
        bar.append("|", "bold")
    share = used / memory.capacity_bytes
    bar.append(f" {share:.0%} of {format_bytes(memory.capacity_bytes)}\n")
    for (name, _), colour in zip(parts, COLOURS, strict=False):
        bar.append("█\N{NO-BREAK SPACE}", colour)
        bar.append(f"{name.replace('_', ' ')}  ".replace(" ", "\N{NO-BREAK SPACE}").rstrip() + "  ")
    return bar


def _cells(parts: list[tuple[str, int]], whole: int) -> list[str]:
    """The colour of each cell; "" for free ones."""
    ends = []
    total = 0
    for (_, value), colour in zip(parts, COLOURS, strict=False):
        total += value
        ends.append((total, colour))
    middle = [(at + 0.5) * whole / N_CELLS for at in range(N_CELLS)]
    return [next((colour for end, colour in ends if place < end), "") for place in middle]

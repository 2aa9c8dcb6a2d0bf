"""Order and colours of the categories, bottom first.

Colours are those of Okabe and Ito, which people who are blind to some colours can tell apart
(https://jfly.uni-koeln.de/color/), with greys for what is small.
"""

from __future__ import annotations

from collections.abc import Iterable

COLOURS = {
    "weights": "#0072b2",
    "adapter_weights": "#56b4e9",
    "buffers": "#6b6b6b",
    "optimizer_states": "#009e73",
    "gradients": "#e69f00",
    "inputs": "#a0a0a0",
    "activations": "#cc79a7",
    "temporaries": "#d55e00",
}
OTHERS = ("#f0e442", "#7a5195", "#8c6d31", "#3d405b")


def in_order(categories: Iterable[str]) -> tuple[str, ...]:
    """Categories as they are stacked: the known ones as above, then others by name."""
    present = set(categories)
    return (*(c for c in COLOURS if c in present), *sorted(present - COLOURS.keys()))


def colours(categories: Iterable[str]) -> dict[str, str]:
    """A colour for each, the same in every picture for those that are known."""
    others = [c for c in categories if c not in COLOURS]
    return COLOURS | {c: OTHERS[i % len(OTHERS)] for i, c in enumerate(others)}

"""The range of addresses, beside the simulation of torch's allocator with expandable segments."""

from __future__ import annotations

import random

import numpy as np
import pytest

from lmsize.tape.heap import SMALL, Requests
from lmsize.tracing.allocator import allocator_settings, simulated
from lmsize.tracing.events import Event

PAGE = 20 * 2**20  # by which an expandable segment of the large pool grows
GIB = 2**30


def drawn(seed: int) -> list[tuple[int, int | None]]:
    """Blocks that are taken, and let go of (None), most of them large."""
    rng = random.Random(seed)
    live: list[int] = []
    found: list[tuple[int, int | None]] = []
    for key in range(rng.randint(5, 60)):
        found.append((key, rng.choice([rng.randint(1, 100) * PAGE, rng.randint(1, SMALL)])))
        live.append(key)
        while live and rng.random() < 0.45:
            found.append((live.pop(rng.randrange(len(live))), None))
    return found


def simulated_bytes(stream: list[tuple[int, int | None]]) -> int:
    """What the large pool reserves at most."""
    sizes = {key: n for key, n in stream if n is not None}
    events = [
        Event("free" if n is None else "alloc", key, sizes[key], 0, "", "", "", "")
        for key, n in stream
        if sizes[key] > SMALL
    ]
    settings = allocator_settings("expandable_segments:True")
    return simulated(events, settings=settings).peak_reserved_bytes


def asked(stream: list[tuple[int, int | None]], scale: object = 1) -> Requests:
    requests = Requests()
    for key, n in stream:
        if n is None:
            requests.let_go(key)
        else:
            requests.take(key, n * scale)
    return requests


@pytest.mark.parametrize("seed", range(60))
def test_it_grows_as_torchs_allocator_does(seed: int) -> None:
    stream = drawn(seed)
    assert asked(stream).room_bytes == simulated_bytes(stream)


def test_what_is_let_go_of_serves_nothing_larger() -> None:
    """bf16 logits, their fp32 copy and log-probabilities; two gradients of that size after the first are gone."""
    n = GIB
    requests = Requests()
    requests.take("logits", 2 * n)
    requests.take("raised", 4 * n)
    requests.take("log-probabilities", 4 * n)
    requests.let_go("raised")
    requests.let_go("logits")
    requests.take("gradient", 4 * n)
    requests.take("gradient of the other", 4 * n)
    assert requests.room_bytes == 14 * n


def test_candidates_are_laid_out_each_for_itself() -> None:
    stream = drawn(7)
    scales = np.array([[1, 2], [3, 4]])
    found = asked(stream, scales).room_bytes
    assert found.shape == scales.shape
    for at in np.ndindex(scales.shape):
        assert found[at] == asked(stream, int(scales[at])).room_bytes


def test_a_block_that_was_never_taken_lies_elsewhere() -> None:
    requests = Requests()
    requests.take("a", GIB)
    requests.let_go("b")
    requests.need(GIB)
    assert requests.room_bytes == 2 * GIB

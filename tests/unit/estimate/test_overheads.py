"""What the allocator holds and the driver reports beside live tensors."""

from __future__ import annotations

from dataclasses import replace

from lmsize.api.training import opened
from lmsize.estimate.overheads import Holdings, device_bytes

GIB = 2**30


def test_segments_that_grow_by_pages_keep_nothing_of_other_lengths() -> None:
    catalogue = opened(None)
    card, _ = catalogue.accelerator("h100-80gb")
    equal = Holdings(20 * GIB, passes=20 * GIB, is_expandable=True)
    varied = replace(equal, varied=5 * GIB)
    assert device_bytes(varied, card, catalogue) == device_bytes(equal, card, catalogue)
    reserved, _, stated = device_bytes(replace(varied, is_expandable=False), card, catalogue)
    assert reserved > 25 * GIB
    assert "reserved-varied" in {one.code for one in stated}


def test_buffers_of_nccl_say_when_they_are_there() -> None:
    catalogue = opened(None)
    _, device, stated = device_bytes(Holdings(GIB, n_groups=2), None, catalogue)
    text = next(one.text for one in stated if one.code == "communicators")
    assert "before 2.22" in text
    assert device > device_bytes(Holdings(GIB), None, catalogue)[1]

"""A deep model's log made of a short one's, against the deep model traced whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

CASES = [
    ("cuda", {"precision": "bf16"}),
    ("cuda", {"recompute": "full"}),
    ("cuda", {"method": "lora"}),
    ("cpu", {"attention": "eager"}),
    # Adapters on either side of 4096 numbers, above which states are in 8 bits.
    ("cuda", {"method": "qlora", "lora_rank": 32, "optimizer": "adamw8bit", "recompute": "full"}),
]


def told(log: Any) -> list[tuple[Any, ...]]:
    """Everything about a log's entries, with storages numbered as they come."""
    numbers: dict[int, int] = {}
    return [
        (
            e.is_alloc,
            numbers.setdefault(id(s), len(numbers)),
            s.n_bytes,
            e.phase,
            e.layer,
            s.module,
            s.op,
            s.category,
            s.phase,
        )
        for e in log.entries
        for s in [e.storage]
    ]


def in_steady_state(sums: Any) -> float:
    """Of the second step."""
    return float(sum(n for (phase, _), n in sums.items() if phase.startswith("2.")))


@pytest.mark.parametrize(("device", "options"), CASES)
def test_replicated_is_whole(
    device: str, options: dict[str, Any], filled: Callable[..., Any], llama: dict[str, Any]
) -> None:
    from lmsize.step.model import built_model
    from lmsize.step.training import step_of
    from lmsize.tracing.replication import N_CHECK, N_UNITS, growth_by_depth, replicated
    from lmsize.tracing.running import Device, traced
    from lmsize.tracing.stacks import shortened, stacks

    config, spec = {**llama, "num_hidden_layers": 8}, filled(**options)
    found: list[Any] = []

    def logged(n_units: int | None) -> Any:
        def build() -> Any:
            model = built_model(config, spec, device=device)
            found[:] = stacks(model, n_at_least=N_UNITS)
            for stack in found if n_units else []:
                shortened(model, stack, n_units=n_units or 0)
            return step_of(model, config, spec, device=device, clip_grad_norm=1.0)

        return traced(build, Device(device))

    whole, short, check = logged(None), logged(N_UNITS), logged(N_CHECK)
    (stack,) = found
    assert stack.n_units == 8
    as_traced = replace(stack, n_units=N_UNITS)
    growth = growth_by_depth(short, check, [as_traced])
    repeated = replicated(short, as_traced, n_units=8, growth=growth)
    assert told(repeated) == told(whole)
    for sums, expected in ((repeated.n_flops, whole.n_flops), (repeated.n_moved, whole.n_moved)):
        assert in_steady_state(sums) == pytest.approx(in_steady_state(expected), rel=1e-4)

"""The judge: what the real allocator of the CPU reports of a real step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lmsize.workload.training import TrainSpec, with_defaults

LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64,
    "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 503, "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}  # fmt: skip


def filled(**options: Any) -> TrainSpec:
    """A small question with its defaults."""
    small = {"micro_batch": 2, "seq_len": 48}
    spec, _ = with_defaults(TrainSpec(**{**small, **options}), max_positions=None)
    return spec


def held_bytes(step: Any) -> int:
    """Bytes of everything that lives on between steps, each storage once."""
    import torch

    def tensors(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            yield value
        elif hasattr(value, "values"):
            for member in value.values():
                yield from tensors(member)
        elif isinstance(value, list | tuple):
            for member in value:
                yield from tensors(member)

    lasting = [*step.model.parameters(), *step.model.buffers(), *scales(step.model)]
    lasting += [*tensors(step.optimizer.state), *tensors(list(step.micro_batches))]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in lasting}
    return sum(storages.values())


def scales(model: Any) -> Iterator[Any]:
    """What bitsandbytes reads weights of few bits by: its layers keep it as no parameter or buffer."""
    for module in model.modules():
        state = getattr(module, "quant_state", None)
        if state is not None:
            yield from (state.absmax, state.code)
            if state.nested:
                yield from (state.offset, state.state2.absmax, state.state2.code)
        elif hasattr(getattr(module, "state", None), "SCB"):
            yield module.state.SCB


def real_peak_bytes(build: Callable[[], Any]) -> int:
    """The peak of the second real step, by the events that the allocator tells the profiler."""
    from torch.profiler import ProfilerActivity, profile

    step = build()
    step.run()
    held = held_bytes(step)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step.run()
    found = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    found.sort(key=lambda event: event.start_ns())
    live = highest = 0
    for event in found:
        live += event.nbytes()
        highest = max(highest, live)
    return held + highest


@pytest.fixture(scope="session")
def real_peak() -> Callable[[Callable[[], Any]], int]:
    return real_peak_bytes


@pytest.fixture(scope="session", name="filled")
def filled_fixture() -> Callable[..., TrainSpec]:
    return filled


@pytest.fixture(scope="session")
def llama() -> dict[str, Any]:
    return LLAMA


def titan_layer(*, width: int, n_heads: int, n_kv_heads: int, inner: int) -> Any:
    """A Llama layer as torchtitan writes it: complex rotary positions, keys and values repeated."""
    import torch
    from torch.nn import functional

    head_dim = width // n_heads

    def turned(x: Any, table: Any) -> Any:
        pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * table).flatten(3).type_as(x)

    class Layer(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            keys = n_kv_heads * head_dim
            sizes = {
                "q": (width, width), "k": (width, keys), "v": (width, keys), "o": (width, width),
                "gate": (width, inner), "up": (width, inner), "down": (inner, width),
            }  # fmt: skip
            linears = {k: torch.nn.Linear(*s, bias=False) for k, s in sizes.items()}
            self.of = torch.nn.ModuleDict(linears)
            self.first, self.second = torch.nn.RMSNorm(width), torch.nn.RMSNorm(width)

        def forward(self, x: Any, table: Any) -> Any:
            out = self.attended(self.first(x), table)
            x = x + self.of["o"](out.transpose(1, 2).reshape(x.shape))
            return x + self.mlp(self.second(x))

        def mlp(self, y: Any) -> Any:
            return self.of["down"](functional.silu(self.of["gate"](y)) * self.of["up"](y))

        def attended(self, y: Any, table: Any) -> Any:
            q, k, v = (self.of[name](y).view(*y.shape[:2], -1, head_dim) for name in "qkv")
            q, k = turned(q, table), turned(k, table)
            k, v = (t.repeat_interleave(n_heads // n_kv_heads, dim=2) for t in (k, v))
            return functional.scaled_dot_product_attention(
                q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True
            )

    return Layer()


def every_second_product(attention: Any) -> Any:
    """torchtitan's policy: that attention and every second product are kept."""
    import torch
    from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

    counts: dict[bool, int] = defaultdict(int)

    def policy(context: Any, op: Any, *_args: Any, **_more: Any) -> Any:
        is_product = op == torch.ops.aten.mm.default
        counts[context.is_recompute] += is_product
        kept = op == attention or (is_product and counts[context.is_recompute] % 2)
        return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE

    return create_selective_checkpoint_contexts(policy)


@pytest.fixture(scope="session", name="titan_layer")
def titan_layer_fixture() -> Callable[..., Any]:
    return titan_layer


@pytest.fixture(scope="session", name="every_second_product")
def every_second_product_fixture() -> Callable[[Any], Any]:
    return every_second_product

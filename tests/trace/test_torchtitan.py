"""torchtitan's own step, eager, as one rank of eight: what the tape says beside its trace.

Its layers, its selective recomputation and its FSDP2 units are written here in plain torch, before August 2025
(``together``: the table, the last norm and the head are the root's) and since.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

import lmsize

torch = pytest.importorskip("torch")

nn, functional = torch.nn, torch.nn.functional
WIDTH, HEADS, KV_HEADS, INNER, VOCAB = 1024, 8, 2, 3584, 128256
LAYERS, LENGTH, BATCH, RANKS = 4, 4096, 4, 8
HEAD = WIDTH // HEADS
CONFIG = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": WIDTH,
    "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "intermediate_size": INNER,
    "num_hidden_layers": LAYERS, "vocab_size": VOCAB, "max_position_embeddings": LENGTH,
    "tie_word_embeddings": False,
}  # fmt: skip


class Decoder(nn.Module):  # type: ignore[misc, name-defined]
    def __init__(self, layers: list[Any]) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCAB, WIDTH)
        self.layers = nn.ModuleDict({str(i): layer for i, layer in enumerate(layers)})
        self.norm, self.output = nn.RMSNorm(WIDTH), nn.Linear(WIDTH, VOCAB, bias=False)
        turns = torch.empty(1, LENGTH, 1, HEAD // 2, dtype=torch.complex64)
        self.register_buffer("turns", turns)

    def forward(self, ids: Any) -> Any:
        x = self.table(ids)
        for layer in self.layers.values():
            x = layer(x, self.turns)
        return self.output(self.norm(x))


def spread(model: Any, mesh: Any, *, together: bool, how: dict[str, Any]) -> None:
    """FSDP2's units, and layers that run again (`how`)."""
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    types = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    ours: dict[str, Any] = {"mesh": mesh, "mp_policy": types}
    for name, layer in list(model.layers.items()):
        model.layers[name] = checkpoint_wrapper(layer, preserve_rng_state=False, **how)
    if not together:
        fully_shard(model.table, **ours)
        fully_shard([model.norm, model.output], **ours, reshard_after_forward=False)
    for name, layer in model.layers.items():
        stays = together and int(name) == LAYERS - 1
        fully_shard(layer, **ours, reshard_after_forward=not stays)
    fully_shard(model, **ours)


class Step:
    """As train.py has it: the logits go before the backward."""

    on_phase: Callable[[str, int], None]

    def __init__(self, model: Any) -> None:
        self.model, self.on_phase = model, lambda _phase, _at: None
        ids = torch.zeros(BATCH, LENGTH, dtype=torch.long, device="cuda")
        self.micro_batches = [{"ids": ids, "labels": ids.clone()}]
        self.optimizer = torch.optim.AdamW(model.parameters(), foreach=True)

    def run(self) -> None:
        batch = self.micro_batches[0]
        self.on_phase("zero_grad", -1)
        self.optimizer.zero_grad()
        self.on_phase("forward", 0)
        logits = self.model(batch["ids"])
        loss = functional.cross_entropy(logits.flatten(0, 1).float(), batch["labels"].flatten(0, 1))
        del logits
        self.on_phase("backward", 0)
        loss.backward()
        self.on_phase("optimizer", -1)
        self.optimizer.step()
        self.on_phase("end", -1)


@pytest.mark.parametrize(("together", "selective"), [(True, True), (True, False), (False, True)])
def test_the_allocator_holds_what_the_tape_says(
    together: bool, selective: bool, titan_layer: Callable[..., Any],
    every_second_product: Callable[[Any], Any],
) -> None:  # fmt: skip
    from lmsize.tracing.allocator import allocator_settings, simulated
    from lmsize.tracing.ranks import mesh_of_ranks
    from lmsize.tracing.running import Device, logged, on_fake_tensors

    device = Device()
    with on_fake_tensors(device), mesh_of_ranks("cuda", n_shards=RANKS, tp=1) as mesh:
        with torch.device("cuda"):
            shape = {"width": WIDTH, "n_heads": HEADS, "n_kv_heads": KV_HEADS, "inner": INNER}
            model = Decoder([titan_layer(**shape) for _ in range(LAYERS)])
        attention = torch.ops.aten._scaled_dot_product_flash_attention.default
        how = {"context_fn": partial(every_second_product, attention)} if selective else {}
        spread(model, mesh["fsdp"], together=together, how=how)
        with nn.attention.sdpa_kernel(nn.attention.SDPBackend.FLASH_ATTENTION):
            log = logged(Step(model), device)
    seen = simulated(list(log.events()), settings=allocator_settings("expandable_segments:True"))
    said = lmsize.train(
        CONFIG, stack="torchtitan", precision="amp-bf16", zero=3, accelerators=RANKS,
        micro_batch=BATCH, seq_len=LENGTH, recompute="selective" if selective else "full",
        stack_options="no-compile" + (",ends-in-root" if together else ""),
        accelerator="h100-80gb", search=False, calibration=False,
    ).memory  # fmt: skip
    assert said.peak_allocated_bytes == pytest.approx(seen.peak_allocated_bytes, rel=0.002)
    assert said.peak_reserved_bytes == pytest.approx(seen.peak_reserved_bytes, rel=0.006)

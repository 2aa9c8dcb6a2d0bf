"""What torch's partitioner keeps of a compiled block, beside the tape's torchtitan."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest

from lmsize.memory.blocks import STYLES
from lmsize.model.read import read_config
from lmsize.stacks import torchtitan
from lmsize.stacks.layer import layer_program
from lmsize.stacks.setting import Setting
from lmsize.tape.pieces import piece

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own
WIDTH, HEADS, KV_HEADS, INNER, LENGTH, BATCH = 256, 8, 2, 896, 128, 2
HEAD = WIDTH // HEADS
STREAM = BATCH * LENGTH * WIDTH * 2
CONFIG = {
    "model_type": "llama", "hidden_size": WIDTH, "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS, "intermediate_size": INNER, "num_hidden_layers": 2, "vocab_size": 1000,
}  # fmt: skip


def taped(*, selective: bool, style: Any = STYLES["torchtitan"]) -> float:
    model = read_config(CONFIG, name="small")
    block = next(run.block for _, run in model.runs() if run.block.role == "layer")
    setting = Setting(
        micro_batch=BATCH, seq_len=LENGTH, weight_itemsize=2, conduct=model.conduct, head_dim=HEAD
    )
    program = layer_program(block, setting, style, width=WIDTH, itemsize=2, needs_grad=True)
    keeps = torchtitan.keeps if selective else None
    return float(piece(program, checkpointed=selective, keeps=keeps).saved / STREAM)


def block() -> Any:
    """A Llama layer as torchtitan writes it: complex rotary positions, keys and values repeated."""
    nn, functional = torch.nn, torch.nn.functional

    def turned(x: Any, table: Any) -> Any:
        pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * table).flatten(3).type_as(x)

    class Layer(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            sizes = {
                "q": (WIDTH, WIDTH), "k": (WIDTH, KV_HEADS * HEAD), "v": (WIDTH, KV_HEADS * HEAD),
                "o": (WIDTH, WIDTH), "gate": (WIDTH, INNER), "up": (WIDTH, INNER), "down": (INNER, WIDTH),
            }  # fmt: skip
            self.of = nn.ModuleDict({k: nn.Linear(*s, bias=False) for k, s in sizes.items()})
            self.first, self.second = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)

        def forward(self, x: Any, table: Any) -> Any:
            y = self.first(x)
            q, k, v = (self.of[name](y).view(BATCH, LENGTH, -1, HEAD) for name in "qkv")
            q, k = turned(q, table), turned(k, table)
            k, v = (t.repeat_interleave(HEADS // KV_HEADS, dim=2) for t in (k, v))
            out = functional.scaled_dot_product_attention(
                q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True
            )
            x = x + self.of["o"](out.transpose(1, 2).reshape(BATCH, LENGTH, WIDTH))
            y = self.second(x)
            gated = functional.silu(self.of["gate"](y)) * self.of["up"](y)
            return x + self.of["down"](gated)

    return Layer().bfloat16()


def every_second_product() -> Any:
    """torchtitan's policy: attention and every second product are kept."""
    from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

    aten = torch.ops.aten
    attention = aten._scaled_dot_product_flash_attention_for_cpu.default
    counts: dict[bool, int] = defaultdict(int)

    def policy(context: Any, op: Any, *_args: Any, **_more: Any) -> Any:
        is_product = op == aten.mm.default
        counts[context.is_recompute] += is_product
        kept = op == attention or (is_product and counts[context.is_recompute] % 2)
        return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE

    return create_selective_checkpoint_contexts(policy)


def compiled(*, selective: bool) -> float:
    """Streams of the input's size that the compiled layer saves, parameters left out."""
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    layer = block()
    own = {p.data_ptr() for p in layer.parameters()}
    if selective:
        layer = checkpoint_wrapper(layer, context_fn=every_second_product, preserve_rng_state=False)
    layer = torch.compile(layer, backend="aot_eager_decomp_partition", fullgraph=True)
    x = torch.randn(BATCH, LENGTH, WIDTH, dtype=torch.bfloat16, requires_grad=True)
    table = torch.polar(torch.ones(LENGTH, HEAD // 2), torch.rand(LENGTH, HEAD // 2))
    table = table.view(1, LENGTH, 1, HEAD // 2)
    own.add(table.data_ptr())
    found: dict[int, int] = {}

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(x, table)
    return sum(found.values()) / STREAM


@pytest.mark.parametrize("selective", [False, True])
def test_a_compiled_layer_keeps_what_the_tape_says(selective: bool) -> None:
    torch.compiler.reset()
    assert taped(selective=selective) == pytest.approx(compiled(selective=selective), rel=0.01)


def test_without_a_compiler_the_last_product_is_kept_too() -> None:
    assert taped(selective=True, style=torchtitan.EAGER) == taped(selective=True) + 1

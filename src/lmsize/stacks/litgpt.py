"""litgpt: one projection for queries, keys and values, norms in fp32, adapters in the base's type.

Read off litgpt's `model.py`, `lora.py`, `finetune/` and `utils.py` of 2023 to 2025, and Fabric's
precision plugins: a model that runs in 16 bits hands its outputs over in fp32. The loss is taken
128 tokens at a time; its list of logits lives until the backward is over.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

from lmsize.model.parts import AttentionCore, Linear, Norm
from lmsize.model.spec import Block, ModelSpec, Run, Tower
from lmsize.stacks import transformers
from lmsize.stacks.linears import base_product
from lmsize.stacks.sections import Section
from lmsize.stacks.setting import QKV, Adapting, Setting, Style, parameter
from lmsize.tape import kernels, ops
from lmsize.tape.program import Gradient, Op, Program, Tensor

FP32 = 4
CHUNK = 128  # tokens whose loss is taken at once (chunked_cross_entropy)
DROPOUT = 0.05  # lora_dropout of the scripts and of the configurations that come with them


def norm(program: Program, x: Tensor, part: Norm, setting: Setting, *, n_rows: Any) -> Tensor:
    """``RMSNorm``: in fp32 from the first cast to the last, its weight too; LayerNorm is torch's."""
    if part.has_means or not part.weight:
        return transformers.norm(program, x, part, setting, n_rows=n_rows)
    weight = parameter(program, f"{part.name}.weight", part.width, setting)
    raised = ops.cast(program, x, FP32, name="norm input in fp32")
    square = ops.mul(program, raised, raised, name="square")
    spread = ops.pointwise(program, ops.mean(program, square, numel=n_rows), name="plus epsilon")
    root = ops.pointwise(program, spread, name="rsqrt", saves="output")
    scaled = ops.mul(program, raised, root, small=root, name="normed")
    scale = ops.cast(program, weight, FP32)
    made = ops.cast(program, ops.mul(program, scaled, scale, small=scale), x.itemsize)
    program.hold(raised, scaled)
    return made


def qkv(
    program: Program, x: Tensor, section: Section, core: AttentionCore, setting: Setting
) -> QKV:
    """One product, and one pair of adapter matrices for those of the three that are adapted."""
    t = setting.n_tokens
    widths = (
        core.n_heads * core.head_dim, core.n_kv_heads * core.head_dim,
        core.n_kv_heads * core.v_head_dim,
    )  # fmt: skip
    first = section.linears[0]
    whole = replace(first, name="attn.qkv", n_out=sum(widths))
    made = base_product(program, x, whole, setting)
    n_adapted, rank = _adapted_width(section.linears, widths, setting)
    if rank:
        made = _padded_adapter(
            program, x, made, whole, n_adapted=n_adapted, rank=rank, setting=setting
        )
    q, k, v = ops.split(program, made, tuple(t * width for width in widths))
    return q, k, v


def _adapted_width(
    linears: list[Linear], widths: tuple[int, int, int], setting: Setting
) -> tuple[int, int]:
    """Outputs that adapters add to, and the sum of their ranks.

    Where the architecture itself has one projection for the three and only it is adapted, litgpt's
    defaults hold: queries and values.
    """
    ranks = [setting.rank(linear.name) or 0 for linear in linears]
    if len(linears) == 1:
        alone = len(setting.ranks) == 1
        return (widths[0] + widths[2] if alone else sum(widths)), ranks[0] * (2 if alone else 3)
    pairs = zip(widths, ranks, strict=True)
    return sum(width for width, rank in pairs if rank), sum(ranks)


def _padded_adapter(
    program: Program, x: Tensor, base: Tensor, linear: Linear, *, n_adapted: int, rank: int,
    setting: Setting,
) -> Tensor:  # fmt: skip
    """``LoRAQKVLinear``: its output is copied into zeros of the width of all three (`zero_pad`).

    ``index_copy`` saves what it copies, for the shape of its gradient.
    """
    itemsize = setting.adapting.itemsize or setting.weight_itemsize
    down = program.parameter("lora_A", linear.n_in * rank, itemsize, trained=True)
    up = program.parameter("lora_B", rank * n_adapted, itemsize, trained=True)
    dropped = ops.dropout(program, x, setting.adapting.dropout)
    inner = ops.linear(program, dropped, down, n_in=linear.n_in, n_out=rank, name="lora_A")
    outer = ops.linear(program, inner, up, n_in=rank, n_out=n_adapted, name="lora_B")
    if n_adapted != linear.n_out:
        source = ops.copy(program, outer, name="adapter's output, tokens first")
        program.hold(outer)
        zeros = Tensor("zeros", base.numel, base.itemsize).n_bytes
        made = Tensor("padded adapter", base.numel, base.itemsize)
        outer = program.record(
            "index_copy", [source], made, saves=[source], gradients=[Gradient(source)],
            forward_bytes=zeros,
        )  # fmt: skip
    scaled = ops.pointwise(program, outer, name="scaled")
    program.hold(dropped, outer)
    return ops.add(program, base, scaled)


def rotary(program: Program, x: Tensor, setting: Setting) -> Tensor:
    """The turned part of each head, in fp32 as its table is, put together with the rest."""
    table = Tensor("rotary table", 0, FP32, kind="given")
    turned_numel = transformers.round_half(x.numel * setting.conduct.rotary_frac)
    part = ops.narrow(program, x, numel=turned_numel)
    rest = ops.narrow(program, x, numel=x.numel - turned_numel)
    half = ops.narrow(program, part, numel=turned_numel // 2)
    rotated = ops.cat(program, [ops.pointwise(program, half, name="negative"), half])
    straight = ops.mul(program, part, table)
    turned = ops.cast(
        program, ops.add(program, straight, ops.mul(program, rotated, table)), x.itemsize
    )
    return ops.cat(program, [turned, rest])


def core(program: Program, qkv: QKV, part: AttentionCore, setting: Setting) -> Tensor:
    """Torch's kernel over keys and values repeated for every query head; scores if capped."""
    if setting.conduct.attention_softcap or setting.attention == "eager":
        return transformers.core(program, qkv, part, replace(setting, attention="eager"))
    q, k, v = qkv
    if part.n_kv_heads != part.n_heads:
        k = ops.copy(program, k, numel=setting.n_tokens * part.n_heads * part.head_dim)
        v = ops.copy(program, v, numel=setting.n_tokens * part.n_heads * part.v_head_dim)
    out = kernels.fused_attention(
        program, q, k, v, numel=setting.n_tokens * part.n_heads * part.v_head_dim,
        n_log_sums=setting.n_tokens * part.n_heads,
    )  # fmt: skip
    # The 16-bit kernels lay their output out as the query lies, which cat has put head by head.
    return ops.copy(program, out) if setting.compute_itemsize < FP32 else out


def activation(program: Program, x: Tensor, kind: str) -> Tensor:
    """One kernel, whichever approximation of GELU is asked for."""
    return ops.pointwise(program, x, name=kind, saves="output" if kind == "relu" else "input")


def handed_over(program: Program, logits: Tensor) -> Tensor:
    """What Fabric's model returns: in fp32, and named, with the graph, until the next are there."""
    raised = ops.cast(program, logits, FP32, name="logits in fp32")
    program.ops.append(Op("named by the script", (), (), saves=(raised,), clings=(raised,)))
    program.returns_at = len(program.ops)
    return raised


def loss(program: Program, logits: Tensor, *, upcasts: bool, n_tokens: Any) -> Tensor:
    """Log-probabilities of all tokens, made and undone chunk by chunk, beside the fp32 logits.

    Gradients of all chunks are there before the first reaches the head: the losses are the younger
    part of the graph.
    """
    del upcasts
    vocab = logits.numel // n_tokens
    raised = handed_over(program, logits)
    probs = Tensor("log-probabilities", raised.numel, FP32)
    made = Tensor("loss", 1, FP32)
    program.record(
        "chunked cross-entropy", [raised], made, saves=[probs], gradients=[Gradient(raised, "saved")],
        side=[probs], backward_bytes=2 * CHUNK * vocab * FP32,
    )  # fmt: skip
    return made


@lru_cache(maxsize=256)
def built(model: ModelSpec) -> ModelSpec:
    """The model as litgpt has it: a head with a matrix of its own, a linear like all others."""

    def part_of(part: Any) -> Any:
        is_head = isinstance(part, Linear) and part.name == "lm_head"
        return replace(part, tied=False, adaptable=True) if is_head else part

    def run_of(run: Run) -> Run:
        block = run.block
        if block.role != "head":
            return run
        return replace(run, block=Block(block.name, tuple(map(part_of, block.parts)), block.role))

    towers = (Tower(t.name, tuple(map(run_of, t.runs)), t.stream) for t in model.towers)
    return replace(model, towers=tuple(towers))


# Fabric quantises weights cast to fp16: they come back in it, and are cast to bf16 for the product.
ADAPTING = Adapting(itemsize=None, dropout=DROPOUT, casts=False, keeps_inputs=True, n_dequantised=2)
STYLE = Style(
    norm, rotary, core, activation, loss, upcasts=transformers.upcasts_logits, adapting=ADAPTING,
    qkv=qkv, built=built,
)  # fmt: skip

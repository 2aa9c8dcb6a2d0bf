"""DeepSeek-V4: hyper-connections, one key-value head, compressed entries beside the window.

transformers 5.23, ``modeling_deepseek_v4.py``. What an indexer computes on its way is never undone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lmsize.model.parts import Experts, Linear, Norm
from lmsize.model.spec import Block
from lmsize.stacks.classes.hyper import collapsed, ending, opened, root_of_squares, spread, tables
from lmsize.stacks.mlp import dense_mlp
from lmsize.stacks.named import Modules
from lmsize.stacks.own import Own
from lmsize.stacks.setting import Setting, Style
from lmsize.tape import ops
from lmsize.tape.program import Op, Program, Tensor

FP32, INT64, BOOL = 4, 8, 1
SINKHORN_ITERATIONS = 20  # of a config that does not say


def layer(program: Program, stream: Tensor, block: Block, setting: Setting, style: Style) -> Tensor:
    """Attention and experts, each between two mixings of the streams."""
    modules = Modules.of(program, block, setting, style)
    for name, norm, branch in (
        ("attn_hc", "input_layernorm", _attention), ("ffn_hc", "post_attention_layernorm", _experts),
    ):  # fmt: skip
        after, mixing, x = _mixed(modules, name, stream)
        out = branch(modules, modules.norm(norm, x))
        after = ops.cast(program, after, stream.itemsize)
        mixing = ops.cast(program, mixing, stream.itemsize)
        wide = spread(program, after, out, setting)
        kept = ops.matmul(program, mixing, stream, numel=stream.numel, name="mixed streams")
        stream = ops.add(program, wide, kept)
        program.hold(after, mixing, x, out)
    return stream


def _mixed(modules: Modules, name: str, stream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights of what a branch adds, how streams mix, and the branch's input."""
    program, n = modules.program, modules.setting.conduct.n_streams
    t = modules.setting.n_stream_tokens
    raised = ops.cast(program, stream, FP32)
    root = root_of_squares(program, raised, n_rows=t)
    logits = modules.raised_linear(f"{name}.fn", ops.mul(program, raised, root, small=root))
    before, after, mixing = ops.split(program, logits, (t * n, t * n, t * n * n))
    base, scale = modules.plain(f"{name}.base"), modules.plain(f"{name}.scale")
    weights = ops.pointwise(program, opened(program, before, scale, base), name="plus epsilon")
    after = ops.pointwise(program, opened(program, after, scale, base), name="twice")
    mixing = opened(program, mixing, scale, base, kind="softmax")
    mixing = _balanced(
        program, ops.pointwise(program, mixing, name="plus epsilon"), modules.setting
    )
    return after, mixing, collapsed(program, weights, stream, modules.setting)


def _balanced(program: Program, x: Tensor, setting: Setting) -> Tensor:
    """Rows and columns in turn divided by their sums (Sinkhorn-Knopp): each time both are saved."""
    n_divisions = 2 * setting.conduct.number("hc_sinkhorn_iters", SINKHORN_ITERATIONS) - 1
    for _ in range(n_divisions):
        sums = ops.total(program, x, numel=x.numel // setting.conduct.n_streams)
        sums = ops.pointwise(program, sums, name="plus epsilon")
        x = ops.mul(program, x, sums, small=sums, name="balanced")
    return x


def _attention(modules: Modules, x: Tensor) -> Tensor:
    """Keys are values too: turned by their positions, so that what comes out is turned back."""
    program, setting, core, style = modules.program, modules.setting, modules.core, modules.style
    t = setting.n_tokens
    bottleneck = modules.norm("q_a_norm", modules.linear("q_a_proj", x))
    q = modules.linear("q_b_proj", bottleneck)
    root = root_of_squares(program, q, n_rows=t * core.n_heads)
    root = ops.cast(program, root, q.itemsize)
    q = turned(program, ops.mul(program, q, root, small=root), setting, n_rows=setting.seq_len)
    kv = modules.norm("self_attn.kv_norm", modules.linear("self_attn.kv_proj", x))
    kv = turned(program, kv, setting, n_rows=setting.seq_len)
    n_keys = setting.seq_len
    names = [bottleneck, q, kv]
    if modules.has("compressor.kv_proj"):
        entries = _compressed(modules, "self_attn.compressor", x, core.head_dim)
        if modules.has("indexer.kv_proj"):
            _picked(modules, x, bottleneck)
        n_entries = entries.numel // core.head_dim // setting.micro_batch
        n_keys = n_keys + n_entries
        names += _masks(program, n_entries, n_keys, setting, n_more=modules.has("indexer.kv_proj"))
        kv = ops.cat(program, [kv, entries], name="keys and entries")
    out = style.core(program, (q, kv, kv), core, replace(setting, n_keys=n_keys))
    out = turned(program, out, setting, n_rows=setting.seq_len)
    made = _grouped(modules, ops.copy(program, out, numel=out.numel))
    program.hold(*names, kv)
    return made


def turned(program: Program, x: Tensor, setting: Setting, *, n_rows: Any) -> Tensor:
    """Pairs of the last numbers of each head, by tables that each call lays out anew, in fp32."""
    head_dim = setting.head_dim
    n_turned = setting.conduct.number(
        "qk_rope_head_dim", int(head_dim * setting.conduct.rotary_frac)
    )
    cosines, sines = (
        Tensor(n, n_rows * n_turned, setting.weight_itemsize) for n in ("cosines", "sines")
    )
    program.record("rotary tables", [], cosines, side=[sines])
    part = ops.narrow(program, x, numel=x.numel // head_dim * n_turned)
    rest = ops.narrow(program, x, numel=x.numel - part.numel)
    straight = ops.mul(program, ops.cast(program, part, FP32), cosines)
    first, second = (ops.narrow(program, part, numel=part.numel // 2) for _ in range(2))
    half = ops.cat(program, [ops.pointwise(program, second, name="negative"), first])
    both = ops.add(program, straight, ops.mul(program, ops.cast(program, half, FP32), sines))
    return ops.cat(program, [rest, ops.cast(program, both, x.itemsize)], name="turned")


def _compressed(modules: Modules, prefix: str, x: Tensor, head_dim: int) -> Tensor:
    """One entry for so many tokens: a sum of theirs, weighted by a softmax over them.

    The sparse kind's overlap: of two halves of each token, one is for the entry after its own.
    """
    program, setting = modules.program, modules.setting
    entries, gate = (modules.linear(f"{prefix}.{leaf}_proj", x) for leaf in ("kv", "gate"))
    bias, part = modules.plain(f"{prefix}.position_bias"), modules.find(f"{prefix}.kv_proj")
    assert isinstance(part, Linear)
    rate = bias.numel // part.n_out
    n_entries = setting.micro_batch * (setting.seq_len // rate)
    overlaps = part.n_out != head_dim
    usable = n_entries * rate * part.n_out
    entries, gate = (ops.narrow(program, y, numel=usable) for y in (entries, gate))
    gate = ops.add(program, gate, bias, is_row=True)
    if overlaps:
        entries, gate = (
            ops.copy(program, y, numel=usable, name="windows") for y in (entries, gate)
        )
    weights = ops.cast(program, ops.softmax(program, gate, itemsize=FP32), entries.itemsize)
    summed = ops.total(program, ops.mul(program, entries, weights), numel=n_entries * head_dim)
    made = modules.norm(f"{prefix}.kv_norm", summed, n_rows=n_entries)
    program.hold(entries, gate)
    return turned(program, made, replace(setting, head_dim=head_dim), n_rows=n_entries)


def _picked(modules: Modules, x: Tensor, bottleneck: Tensor) -> None:
    """The indexer scores every entry for every token and head, in fp32; its graph goes when it returns."""
    program, setting = modules.program, modules.setting
    index, scorer = "indexer.q_b_proj", "indexer.scorer.weights_proj"
    norm, heads = modules.find("indexer.kv_norm"), modules.find(scorer)
    assert isinstance(norm, Norm)
    assert isinstance(heads, Linear)
    learns, program.learns = program.learns, False
    entries = _compressed(modules, "self_attn.compressor.indexer", x, norm.width)
    q = turned(program, modules.linear(index, bottleneck), replace(setting, head_dim=norm.width),
               n_rows=setting.seq_len)  # fmt: skip
    pairs = setting.n_tokens * (entries.numel // norm.width // setting.micro_batch)
    read = [ops.lowered(program, ops.cast(program, y, FP32)) for y in (q, entries)]
    keys = read[1]
    if bool(setting.micro_batch > 1):
        keys = ops.copy(program, keys, numel=pairs * norm.width, name="entries of every query")
    scores = ops.matmul(program, read[0], keys, numel=pairs * heads.n_out, name="index scores")
    relu = ops.pointwise(program, scores, name="relu")
    scaled = ops.pointwise(program, relu, name="scaled scores")
    shares = ops.cast(program, modules.linear(scorer, x), FP32)
    shares = ops.pointwise(program, shares, name="scaled")
    weighted = ops.mul(program, scaled, shares, small=shares)
    sums = ops.total(program, weighted, numel=pairs)
    program.hold(*read, keys, relu, scaled, shares, q, entries, sums)
    program.learns = learns


def _masks(
    program: Program, n_entries: Any, n_keys: Any, setting: Setting, *, n_more: bool
) -> list[Tensor]:  # fmt: skip
    """What a layer lays out of masks for itself: of entries, and of all keys."""
    t, itemsize = setting.n_tokens, setting.weight_itemsize
    made = [Tensor("entries' mask", t * (n_entries + n_more), itemsize)]
    made.append(Tensor("mask of all keys", t * n_keys, itemsize))
    program.ops.append(Op("masks", (), tuple(made)))
    return made


def _grouped(modules: Modules, x: Tensor) -> Tensor:
    """The output projection in two steps, the first a product for each group of heads."""
    program, setting = modules.program, modules.setting
    part = modules.find("o_a_proj")
    assert isinstance(part, Linear)
    weight = ops.lowered(program, modules.plain("o_a_proj"))
    numel = setting.n_tokens * part.n_out
    made = ops.grouped_linear(
        program, ops.lowered(program, x), weight, numel=numel, name="o_a_proj"
    )
    return modules.linear("o_b_proj", ops.copy(program, made, numel=numel))


def _experts(modules: Modules, x: Tensor) -> Tensor:
    """Scores are a root of a softplus; routed experts come before the shared one."""
    program, setting, t = modules.program, modules.setting, modules.setting.n_stream_tokens
    bank, router = modules.find("mlp.experts"), modules.find("mlp.gate")
    assert isinstance(bank, Experts)
    assert isinstance(router, Linear)
    n_rows = t * bank.top_k
    logits = modules.linear("mlp.gate", x)
    soft = ops.pointwise(program, logits, name="softplus", saves="input")
    scores = ops.pointwise(program, soft, name="sqrt", saves="output")
    chosen = ops.gather(program, scores, numel=n_rows, n_rows=n_rows)
    total = ops.pointwise(program, ops.total(program, chosen, numel=t), name="plus epsilon")
    weights = ops.pointwise(program, ops.mul(program, chosen, total, small=total), name="scaled")
    program.hold(logits, scores)
    routed = modules.experts("mlp.experts", x, weights)
    shared = [p for p in modules.parts if isinstance(p, Linear) and ".shared_experts." in p.name]
    return ops.add(program, routed, dense_mlp(program, x, shared, setting, modules.style))


OWN: Mapping[str, Own] = {"deepseek_v4": Own(layer=layer, tables=tables, ending=ending)}

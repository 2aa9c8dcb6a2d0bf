"""The columns that describe an architecture, read off the parts that lmsize counts."""

from __future__ import annotations

from lmsize.model.count import n_params
from lmsize.model.parts import AttentionCore, Experts, Linear
from lmsize.model.spec import ModelSpec


def architecture_columns(model: ModelSpec) -> dict[str, object]:
    """Sizes of a model by column; what the model does not have is left out."""
    parts = [
        part for _, run in model.runs() if run.block.role == "layer" for part in run.block.parts
    ]
    found: dict[str, object] = {
        "params_b": float(f"{n_params(model) / 1e9:.6g}"), "hidden": model.width,
        "layers": _depth(model), "heads": model.n_heads, "vocab": model.vocab_size,
    }  # fmt: skip
    core = next((part for part in parts if isinstance(part, AttentionCore)), None)
    if core is not None:
        found |= {"kv_heads": core.n_kv_heads, "head_dim": core.head_dim}
    ffn = _mlp_width(model)
    if ffn is not None:
        found["ffn"] = ffn
    experts = next((part for part in parts if isinstance(part, Experts)), None)
    if experts is not None:
        found |= {
            "moe_experts": experts.n_experts, "moe_topk": experts.top_k,
            "moe_ffn": experts.matrices[-1][1],
        }  # fmt: skip
        found.setdefault("ffn", experts.matrices[-1][1])  # as configs of mixtures alone have it
    return found


def _depth(model: ModelSpec) -> int:
    """Layers as a config counts them: of an encoder-decoder, those of the encoder."""
    if not model.is_encoder_decoder:
        return model.n_layers
    return sum(run.n_layers for run in model.towers[0].runs if run.block.role == "layer")


def _mlp_width(model: ModelSpec) -> int | None:
    """Width of the first dense MLP: what its last linear reads, back to the model's width."""
    for _, run in model.runs():
        parts = run.block.parts
        cores = [at for at, part in enumerate(parts) if isinstance(part, AttentionCore)]
        if run.block.role != "layer" or not cores:
            continue
        linears = [part for part in parts[cores[-1] + 1 :] if isinstance(part, Linear)]
        if len(linears) > 1 and linears[-1].n_out == model.width:  # the first leaves attention
            return linears[-1].n_in
    return None

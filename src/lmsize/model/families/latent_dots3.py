"""dots.3 Note: latent attention whose sliding layers have dimensions of their own."""

from __future__ import annotations

from lmsize.model.config import Config
from lmsize.model.families.moe_shared import dense_mlp
from lmsize.model.family import family
from lmsize.model.latent_blocks import (
    Latent,
    assume_dense,
    bottleneck,
    indexer,
    latent_attention,
    latent_shape,
    read_latent,
)
from lmsize.model.mixture_blocks import (
    Shape,
    built,
    int_list,
    kinds_by_layer,
    mixture_decoder,
    nullable_int,
    pre_norm_layer,
    shared_mlp,
    sparse_layers,
    sparse_mlp,
)
from lmsize.model.parts import Linear, Norm, Part
from lmsize.model.spec import Block, ModelSpec

NOTE_KINDS = ("full_attention", "indexed_attention", "sliding_attention")


@family("dots3_note_text")
def dots3_note_text(config: Config) -> ModelSpec:
    """dots.3 Note: sliding layers with latent dimensions of their own, the others indexed."""
    shape = latent_shape(config)
    width, biased = shape.width, config.flag("attention_bias")
    window = nullable_int(config, "sliding_window") or config.int("sliding_window_size", 512)

    def layer(kind: tuple[str, bool, Latent]) -> Block:
        slides, sparse, dims = kind[0] == "sliding_attention", kind[1], kind[2]
        attn: tuple[Part, ...] = (
            *latent_attention(width, dims, bias=biased, window=window if slides else None),
            Norm("self_attn.k_rope_only_layernorm", dims.rope),
            Linear("self_attn.g_proj", width, dims.n_heads, False, "column", dims.n_heads),
        )
        if kind[0] == "indexed_attention":
            assume_dense(config)
            attn += indexer(config, width, bottleneck(config, dims))
        mlp = _note_experts(config, width) if sparse else dense_mlp(config, shape)
        return pre_norm_layer(width, attn, mlp, sparse=sparse)

    kinds = _note_kinds(config, shape.n_layers)
    plan = zip(
        kinds, _note_sparse(config, shape.n_layers), _note_dims(config, shape, kinds), strict=True
    )
    return mixture_decoder(config, shape, built(plan, layer))


def _note_experts(config: Config, width: int) -> tuple[Part, ...]:
    own = config.int("shared_experts_intermediate_size", least=0)
    ffn = config.int("moe_shared_expert_intermediate_size", own, least=0)
    shared = shared_mlp(width, ffn * config.int("n_shared_experts"))
    return (*sparse_mlp(config, width, n_key="n_routed_experts"), *shared)


def _note_dims(config: Config, shape: Shape, kinds: list[str]) -> list[Latent]:
    """Latent dimensions of each layer: transformers' overrides by layer, or the Hub's keys."""
    full, layers = read_latent(config, shape.n_heads), config.section("per_layer_config")
    if layers is None:
        local = _note_sliding(config) if "sliding_attention" in kinds else full
        return [local if kind == "sliding_attention" else full for kind in kinds]
    dims = []
    for i in range(len(kinds)):
        own = layers.section(str(i))
        if own is not None:  # it holds only what differs
            own = Config({**config.raw, **own.raw}, config.model_type, path=own.path)
        dims.append(read_latent(own, own.int("num_attention_heads")) if own else full)
    return dims


def _note_sliding(config: Config) -> Latent:
    nope, head_dim = config.int("swa_qk_nope_head_dim", 192), config.int("swa_head_dim", 256)
    return Latent(
        n_heads=config.int("swa_num_attention_heads", 64),
        q_rank=config.int("swa_q_lora_rank", 1024), kv_rank=config.int("swa_kv_lora_rank", 1024),
        nope=nope, rope=config.int("swa_qk_rope_head_dim", max(head_dim - nope, 0), least=0),
        v=config.int("swa_v_head_dim", 128),
    )  # fmt: skip


def _note_kinds(config: Config, n_layers: int) -> list[str]:
    """Kinds of attention; ``use_dsa`` renames full layers to indexed ones, or back."""
    use_index = config.given("use_dsa")
    if use_index is None and not config.has("per_layer_config"):
        use_index = True
    whole = NOTE_KINDS[0] if use_index is False else NOTE_KINDS[1]
    slides = config.flag("use_sliding_window", True)
    kinds = kinds_by_layer(
        config, "layer_types", n_layers, NOTE_KINDS,
        lambda i: whole if not slides or i < 2 or i % 4 == 1 else "sliding_attention",
    )  # fmt: skip
    if use_index is None:
        return kinds
    return [kind if kind == "sliding_attention" else whole for kind in kinds]


def _note_sparse(config: Config, n_layers: int) -> list[bool]:
    n_dense = config.int("first_k_dense_replace", 1, least=0)
    if not isinstance(config.given("moe_layer_freq"), list):
        return sparse_layers(config, n_layers, n_dense, config.int("moe_layer_freq", 1))
    freq = int_list(config, "moe_layer_freq") or []
    if len(freq) < n_layers:
        raise config.error("moe_layer_freq", freq, f"{n_layers} entries")
    listed = config.per_layer("mlp_layer_types", n_layers, ("dense", "sparse"))
    if listed is not None:
        return [kind == "sparse" for kind in listed]
    return [i >= n_dense and freq[i] > 0 for i in range(n_layers)]

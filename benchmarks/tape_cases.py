"""Random training cases over every family that the tape covers; always the same for a seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Case = dict[str, Any]
Shape = dict[str, int]
VOCABULARIES = (1000, 2048, 8000, 32_000, 50_257, 65_024, 100_277, 128_256, 151_936, 256_000)
LENGTHS = (64, 128, 256, 512, 777, 1024, 2048, 4096)
MOST_TOKENS = 16_384  # of a micro-batch
OPTIMIZERS = (
    "adamw", "adamw", "adamw", "adamw-fused", "sgd", "sgd-momentum", "adafactor", "adafactor-torch",
    "adamw8bit", "lion8bit", "paged-adamw", "paged-adamw8bit", "rmsprop", "adamax",
)  # fmt: skip

# Families whose configs are in the usual words: class, and the kinds of what their config adds.
USUAL = {
    "llama": ("LlamaForCausalLM", "dropout"), "mistral": ("MistralForCausalLM", "window dropout"),
    "qwen2": ("Qwen2ForCausalLM", ""), "qwen3": ("Qwen3ForCausalLM", ""),
    "gemma": ("GemmaForCausalLM", ""), "gemma2": ("Gemma2ForCausalLM", "window"),
    "gemma3_text": ("Gemma3ForCausalLM", "window"), "phi3": ("Phi3ForCausalLM", "dropout"),
    "olmo": ("OlmoForCausalLM", ""), "olmo2": ("Olmo2ForCausalLM", ""),
    "cohere": ("CohereForCausalLM", ""), "cohere2": ("Cohere2ForCausalLM", "window"),
    "stablelm": ("StableLmForCausalLM", "parallel"), "starcoder2": ("Starcoder2ForCausalLM", ""),
    "granite": ("GraniteForCausalLM", ""), "smollm3": ("SmolLM3ForCausalLM", ""),
    "glm4": ("Glm4ForCausalLM", ""), "gpt_neox": ("GPTNeoXForCausalLM", "dropout"),
    "falcon": ("FalconForCausalLM", "falcon"), "bloom": ("BloomForCausalLM", "bloom dropout"),
    "phi": ("PhiForCausalLM", "dropout"), "opt": ("OPTForCausalLM", "opt"),
    "bert": ("BertForMaskedLM", "dropout"), "roberta": ("RobertaForMaskedLM", "dropout"),
    "electra": ("ElectraForMaskedLM", "dropout"), "albert": ("AlbertForMaskedLM", "small"),
    "modernbert": ("ModernBertForMaskedLM", "modernbert"),
    "mixtral": ("MixtralForCausalLM", "experts"), "qwen2_moe": ("Qwen2MoeForCausalLM", "experts"),
    "qwen3_moe": ("Qwen3MoeForCausalLM", "experts"), "olmoe": ("OlmoeForCausalLM", "experts"),
    "gpt_oss": ("GptOssForCausalLM", "experts window"), "phimoe": ("PhimoeForCausalLM", "experts"),
    "deepseek_v2": ("DeepseekV2ForCausalLM", "latent experts"),
    "deepseek_v3": ("DeepseekV3ForCausalLM", "latent experts"),
    "glm4_moe": ("Glm4MoeForCausalLM", "experts"),
}  # fmt: skip
# Families with words of their own: class, and own word -> usual one.
BART = {
    "d_model": "hidden_size", "encoder_layers": "num_hidden_layers",
    "decoder_layers": "num_hidden_layers", "encoder_attention_heads": "num_attention_heads",
    "decoder_attention_heads": "num_attention_heads", "encoder_ffn_dim": "intermediate_size",
    "decoder_ffn_dim": "intermediate_size", "max_position_embeddings": "max_position_embeddings",
}  # fmt: skip
T5 = {
    "d_model": "hidden_size", "d_kv": "head_dim", "d_ff": "intermediate_size",
    "num_layers": "num_hidden_layers", "num_decoder_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
}  # fmt: skip
GPT = {
    "n_embd": "hidden_size", "n_layer": "num_hidden_layers", "n_head": "num_attention_heads",
    "n_inner": "intermediate_size", "n_positions": "max_position_embeddings",
}  # fmt: skip
OWN: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "gpt2": ("GPT2LMHeadModel", GPT), "gptj": ("GPTJForCausalLM", GPT),
    "t5": ("T5ForConditionalGeneration", T5), "mt5": ("MT5ForConditionalGeneration", T5),
    "bart": ("BartForConditionalGeneration", BART),
    "mbart": ("MBartForConditionalGeneration", BART),
    "pegasus": ("PegasusForConditionalGeneration", BART),
    "distilbert": ("DistilBertForMaskedLM", {
        "dim": "hidden_size", "hidden_dim": "intermediate_size", "n_layers": "num_hidden_layers",
        "n_heads": "num_attention_heads", "max_position_embeddings": "max_position_embeddings",
    }),
    "mpt": ("MptForCausalLM", {
        "d_model": "hidden_size", "n_heads": "num_attention_heads", "n_layers": "num_hidden_layers",
        "max_seq_len": "max_position_embeddings",
    }),
}  # fmt: skip
EAGER_ONLY = ("bloom", "mpt", "gpt_oss")
ONE_KV_HEAD_EACH = ("phi", "gpt_neox", "bloom", "opt", "deepseek_v2", "deepseek_v3")
NO_CHECKPOINTS = ("mpt",)
DROPOUTS = {
    "bert": ("hidden_dropout_prob", "attention_probs_dropout_prob"),
    "roberta": ("hidden_dropout_prob", "attention_probs_dropout_prob"),
    "electra": ("hidden_dropout_prob", "attention_probs_dropout_prob"),
    "bloom": ("hidden_dropout", "attention_dropout"), "phi3": ("resid_pdrop", "attention_dropout"),
    "phi": ("resid_pdrop", "embd_pdrop", "attention_dropout"),
    "gpt_neox": ("hidden_dropout", "attention_dropout"),
    "gpt2": ("resid_pdrop", "embd_pdrop", "attn_pdrop"),
    "gptj": ("resid_pdrop", "embd_pdrop", "attn_pdrop"), "t5": ("dropout_rate",),
    "mt5": ("dropout_rate",), "bart": ("dropout", "attention_dropout", "activation_dropout"),
    "opt": ("dropout", "attention_dropout"), "distilbert": ("dropout", "attention_dropout"),
    "mbart": ("dropout", "attention_dropout"), "pegasus": ("dropout", "activation_dropout"),
}  # fmt: skip


def drawn(seed: int, number: int) -> Iterator[Case]:
    """`number` cases; every family comes as often as the others."""
    rng = random.Random(seed)
    families = sorted({**USUAL, **OWN})
    order: list[str] = []
    for at in range(number):
        if not order:
            order = rng.sample(families, len(families))
        family = order.pop()
        config = _config(rng, family)
        yield {"id": f"{seed}-{at}-{family}", "config": config, "options": _options(rng, family)}


def _shape(rng: random.Random) -> Shape:
    head_dim, n_heads = rng.choice([32, 64, 80, 128]), rng.choice([4, 8, 12, 16])
    width = head_dim * n_heads
    return {
        "hidden_size": width, "intermediate_size": rng.choice([2, 3, 4]) * width,
        "num_hidden_layers": rng.randint(2, 4), "num_attention_heads": n_heads,
        "num_key_value_heads": rng.choice([k for k in (1, 2, 4, n_heads) if n_heads % k == 0]),
        "head_dim": head_dim, "vocab_size": rng.choice(VOCABULARIES), "max_position_embeddings": 4100,
    }  # fmt: skip


def _config(rng: random.Random, family: str) -> Case:
    shape = _shape(rng)
    usual = {"model_type": family, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    if family in OWN:
        cls, words = OWN[family]
        own = {mine: shape[theirs] for mine, theirs in words.items()}
        config = usual | own | {"architectures": [cls], "vocab_size": shape["vocab_size"]}
        return config | _own_words(rng, family) | _dropouts(rng, family)
    cls, kinds = USUAL[family]
    if family in ONE_KV_HEAD_EACH:
        shape["num_key_value_heads"] = shape["num_attention_heads"]
    config = usual | shape | {"architectures": [cls], "tie_word_embeddings": rng.random() < 0.4}
    for kind in kinds.split():
        config |= KINDS[kind](rng, family, shape)
    return config


def _own_words(rng: random.Random, family: str) -> Case:
    if family in ("t5", "mt5"):
        return {
            "feed_forward_proj": rng.choice(["relu", "gated-gelu"]), "decoder_start_token_id": 0,
            "tie_word_embeddings": family == "t5" or rng.random() < 0.5,
        }  # fmt: skip
    if family in ("bart", "mbart", "pegasus"):
        return {"decoder_start_token_id": 2}
    return {"rotary_dim": 32} if family == "gptj" else {}


def _dropouts(rng: random.Random, family: str, _shape: Shape | None = None) -> Case:
    rate = rng.choice([0.0, 0.1])
    return dict.fromkeys(DROPOUTS.get(family, ("attention_dropout",)), rate)


def _experts(rng: random.Random, family: str, shape: Shape) -> Case:
    n_experts, top_k = rng.choice([4, 8]), rng.choice([1, 2])
    name = {
        "mixtral": "num_local_experts", "gpt_oss": "num_local_experts", "phimoe": "num_local_experts",
        "deepseek_v2": "n_routed_experts", "deepseek_v3": "n_routed_experts",
        "glm4_moe": "n_routed_experts",
    }.get(family, "num_experts")  # fmt: skip
    extra: Case = {name: n_experts, "num_experts_per_tok": 2 if family == "phimoe" else top_k}
    if family not in ("mixtral", "gpt_oss", "phimoe", "olmoe"):
        extra["moe_intermediate_size"] = shape["intermediate_size"] // 4
    if family == "qwen2_moe":
        extra["shared_expert_intermediate_size"] = shape["intermediate_size"] // 2
    if name == "n_routed_experts":
        extra |= {"n_shared_experts": 1, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1}
    return extra


def _latent(rng: random.Random, _family: str, shape: Shape) -> Case:
    return {
        "q_lora_rank": rng.choice([None, 192]), "kv_lora_rank": rng.choice([64, 128]),
        "qk_nope_head_dim": shape["head_dim"], "qk_rope_head_dim": 32,
        "v_head_dim": rng.choice([shape["head_dim"], 64]), "head_dim": 32,
    }  # fmt: skip


def _window(rng: random.Random, _family: str, _shape: Shape) -> Case:
    return {"sliding_window": rng.choice([128, 1024])}


def _falcon(_rng: random.Random, _family: str, shape: Shape) -> Case:
    return {"new_decoder_architecture": True, "num_kv_heads": shape["num_key_value_heads"]}


KINDS: Mapping[str, Callable[[random.Random, str, Shape], Case]] = {
    "dropout": _dropouts, "experts": _experts, "latent": _latent, "window": _window,
    "falcon": _falcon,
    "parallel": lambda rng, _f, _s: {"use_parallel_residual": rng.random() < 0.5},
    "bloom": lambda _r, _f, s: {
        "n_layer": s["num_hidden_layers"], "n_head": s["num_attention_heads"],
    },
    "opt": lambda rng, f, s: {
        "ffn_dim": s["intermediate_size"], "word_embed_proj_dim": s["hidden_size"],
        **_dropouts(rng, f),
    },
    "small": lambda _r, _f, _s: {"embedding_size": 128},
    "modernbert": lambda rng, _f, _s: {
        "local_attention": 128, "global_attn_every_n_layers": rng.choice([1, 3]),
        "cls_token_id": 1, "sep_token_id": 2,
    },
}  # fmt: skip


def _options(rng: random.Random, family: str) -> Case:
    method = rng.choices(["full", "lora", "qlora"], [3, 1, 1])[0]
    kinds = USUAL.get(family, ("", ""))[1].split()
    if method == "qlora" and "experts" in kinds:  # said by the assumption experts-quantised
        method = "lora"
    adapter = {"lora_rank": rng.choice([4, 16, 64]),
               "lora_targets": rng.choice(["all-linear", "attention"])}  # fmt: skip
    seq_len = rng.choice(LENGTHS)
    most = max(1, MOST_TOKENS // seq_len)
    return {
        "method": method, **(adapter if method != "full" else {}),
        "quant": rng.choice(["nf4", "nf4", "int4", "int8"]) if method == "qlora" else None,
        "precision": rng.choice(["fp32", "bf16", "amp-bf16", "amp-fp16"]),
        "attention": "eager" if family in EAGER_ONLY else rng.choice(["sdpa", "sdpa", "eager"]),
        "recompute": "none" if family in NO_CHECKPOINTS else rng.choice(["none", "none", "full"]),
        "micro_batch": min(most, rng.choice([1, 2, 3, 4, 8, 16])), "seq_len": seq_len,
        "grad_accum": rng.choice([1, 1, 1, 1, 1, 2]), "optimizer": rng.choice(OPTIMIZERS),
    }  # fmt: skip

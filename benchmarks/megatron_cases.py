"""The cases in which the tape is beside Megatron core's own layers, and what lmsize says of each."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import lmsize

TOKENS, SMALL_VOCAB, VOCAB = 4096, 1024, 128256
DENSE = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
    "num_key_value_heads": 8, "num_hidden_layers": 4,
}  # fmt: skip
GROUPED = {
    "model_type": "qwen3_moe", "hidden_size": 2048, "intermediate_size": 6144, "moe_intermediate_size": 768,
    "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "num_hidden_layers": 4,
    "num_experts": 128, "num_experts_per_tok": 8, "decoder_sparse_step": 1, "mlp_only_layers": [],
    "norm_topk_prob": True,
}  # fmt: skip
LATENT = {
    "model_type": "deepseek_v2", "hidden_size": 5120, "intermediate_size": 12288,
    "moe_intermediate_size": 1536, "num_attention_heads": 128, "num_key_value_heads": 128,
    "num_hidden_layers": 4, "first_k_dense_replace": 1, "n_routed_experts": 160, "n_shared_experts": 2,
    "num_experts_per_tok": 6, "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64, "v_head_dim": 128,
}  # fmt: skip
CONFIGS = {"dense": DENSE, "grouped": GROUPED, "latent": LATENT}
SWITCHES = {
    "dense": (),
    "grouped": ("permute-fusion", "router-dtype=fp32", "capacity-factor=1", "pads-to-capacity"),
    "latent": ("permute-fusion", "router-score=pre-softmax", "capacity-factor=1", "pads-to-capacity",
               "no-rope-fusion"),
}  # fmt: skip
RANKS = {"dense": 1, "grouped": 8, "latent": 4}  # of experts
FINE = ("moe_act", "layernorm", "mla_up_proj", "mlp")


class Case(NamedTuple):
    """A rank's model and how it runs.

    Attributes:
        stage: ``whole``, or the ``first`` or ``last`` of a pipeline.
        tp: ranks of tensor and sequence parallelism; `etp` those that share each expert.
        loss: how it is taken.
        few: recipe of products in 8 bits; empty for none.
    """

    model: str
    stage: str
    recompute: str
    tp: int = 1
    vocab: int = SMALL_VOCAB
    loss: str = "eager"
    few: str = ""
    etp: int = 1


def _alone() -> Iterator[Case]:
    """One tensor-parallel rank, every way to run again, both ends of a pipeline."""
    for kind, how in product(CONFIGS, ("none", "core_attn", "mlp", "full 1", "full 2")):
        yield Case(kind, "whole", how)
    for kind, how in product(("grouped", "latent"), ("moe_act", "layernorm", "moe")):
        yield Case(kind, "whole", how)
    for how in ("mla_up_proj", "shared_experts", "+".join(FINE), "block 2"):
        yield Case("latent", "whole", how)
    yield Case("dense", "whole", "block 2")
    for kind, stage, how in product(("dense", "latent"), ("first", "last"), ("none", "full 1")):
        yield Case(kind, stage, how)


def _together() -> Iterator[Case]:
    """Two tensor-parallel ranks that share the sequence; losses of a vocabulary as large as they are."""
    for kind, how in product(CONFIGS, ("none", "full 1")):
        yield Case(kind, "whole", how, tp=2)
    for kind, how in (("dense", "core_attn"), ("dense", "mlp"), ("grouped", "moe"),
                      ("latent", "mla_up_proj"), ("latent", "+".join(FINE))):  # fmt: skip
        yield Case(kind, "whole", how, tp=2)
    for tp, loss in product((1, 2), ("eager", "te")):
        yield Case("dense", "last", "none", tp, VOCAB, loss)


def _in_few_bits() -> Iterator[Case]:
    """Products in 8 bits."""
    for few, kind, tp in product(("delayed", "tensorwise", "blockwise", "mxfp8"), CONFIGS, (1, 2)):
        yield Case(kind, "whole", "none", tp, few=few)
    for kind, how in (("dense", "core_attn"), ("grouped", "moe_act+layernorm"),
                      ("latent", "+".join(FINE))):  # fmt: skip
        yield from (Case(kind, "whole", how, few=few) for few in ("tensorwise", "blockwise"))
    yield from (Case(kind, "whole", "full 1", few="blockwise") for kind in CONFIGS)


def _shared() -> Iterator[Case]:
    """Experts that two ranks share."""
    for kind, how in product(("grouped", "latent"), ("none", "full 1", "moe")):
        yield Case(kind, "whole", how, tp=2, etp=2)
    yield Case("latent", "whole", "+".join(FINE), tp=2, etp=2)
    yield Case("latent", "whole", "none", tp=2, few="tensorwise", etp=2)


CASES = [*_alone(), *_together(), *_in_few_bits(), *_shared()]


def recomputed(how: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is said to Megatron, and to lmsize."""
    kind, _, n = how.partition(" ")
    if kind == "none":
        return {}, {}
    if kind in ("full", "block"):
        method, switch = ("uniform", "chunk") if kind == "full" else ("block", "layers")
        said = {
            "recompute_granularity": "full",
            "recompute_method": method,
            "recompute_num_layers": int(n),
        }
        return said, {"recompute": "full", "switch": f"recompute-{switch}={n}"}
    said = {"recompute_granularity": "selective", "recompute_modules": how.split("+")}
    return said, {"recompute": "selective", "switch": f"recompute-modules={how}"}


def taped_bytes(case: Case) -> int:
    """What the tape says of a case."""
    _, asked = recomputed(case.recompute)
    switches = [*SWITCHES[case.model], *([asked.pop("switch")] if asked else [])]
    switches += [] if case.loss == "eager" else [f"cross-entropy={case.loss}"]
    switches += [f"fp8-recipe={case.few}"] if case.few else []
    is_whole = case.stage == "whole"
    piped = {} if is_whole else {"pp": 2, "grad_accum": 8}
    config: dict[str, Any] = CONFIGS[case.model] | {"vocab_size": case.vocab}
    if piped and case.model == "dense":
        config["num_hidden_layers"] = 8
    n_ranks = max(RANKS[case.model] * case.etp, case.tp)
    memory = lmsize.train(
        config, stack="megatron", accelerator="b200", search=False, calibration=False, seq_len=TOKENS,
        accelerators=n_ranks * (1 if is_whole else 2), ep=RANKS[case.model], etp=case.etp, zero=1,
        tp=case.tp, sequence_parallel=case.tp > 1, pipeline_stage="worst" if is_whole else case.stage,
        precision="fp8" if case.few else "bf16", **piped, **asked, **({"stack_options": ",".join(switches)} if switches else {}),
    ).memory  # fmt: skip
    return max(_passing(moment) for moment in _moments(memory.tree))


def _moments(term: Any) -> Iterator[Any]:
    for child in term.children:
        yield from _moments(child) if child.label.startswith("peak") else (child,)


def _passing(moment: Any) -> int:
    """Activations and temporaries, and what Megatron's own code keeps of them from step to step."""
    found = 0
    for part in moment.children:
        if part.label in ("activations", "temporaries"):
            found += part.value
        if part.label == "workspaces":
            own = (one for one in part.children if one.label.startswith(("routing", "Global")))
            found += sum(one.value for one in own)
    return int(found)

"""Fake tensors against real steps on the CPU: random small models of every family of transformers.

::

    python benchmarks/zoo.py run --seed 1 [--number 100] [--only FAMILY ...]
    python benchmarks/zoo.py summary

A case is a family with odd shapes and a random choice of attention, precision, recomputation, adapters,
optimizer and batch; a seed always gives the same ones. The real peak is what ``lmsize measure`` reads:
the allocator's events of the second step. Each case is a process of its own; the rows are in
``benchmarks/traced/zoo.csv``; ``at_first`` is the error (or what was said) when a case was drawn, before
anything was mended for it. What cannot be run for real (a shape the family does not take) is no case.
"""

from __future__ import annotations

import argparse
import inspect
import json
import random
import sys
import warnings
import zlib
from typing import Any

from kept import Row, Table, apart, import_all

COLUMNS = ("case", "family", "options", "real_bytes", "traced_bytes", "error", "at_first", "said")
TABLE = Table("zoo.csv", COLUMNS, key=("case",))
LIMIT = 2e-4
LONGEST_S = 240
# Families whose smallest sensible model is not small, or which take no plain token ids and labels.
LEFT_OUT = (
    "reformer",
    "perceiver",
    "tapas",
    "whisper",
    "mllama",
    "moshi",
    "musicgen",
    "encoder-decoder",
)
OPTIMIZERS = (
    "adamw", "adamw", "adamw-foreach", "adamw-fused", "sgd-momentum", "adafactor", "adagrad", "rmsprop",
)  # fmt: skip


def families() -> dict[str, str]:
    """Class by model_type: of causal, then masked and sequence-to-sequence language models."""
    from transformers.models.auto import modeling_auto as auto

    found: dict[str, str] = {}
    for table in (
        auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES, auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    ):  # fmt: skip
        for name, cls in table.items():
            if not name.startswith(LEFT_OUT):
                found.setdefault(name, cls if isinstance(cls, str) else cls[0])
    return dict(sorted(found.items()))


def shape(rng: random.Random) -> Row:
    """Sizes under every name that a config has for them."""
    head_dim, heads = rng.choice((8, 12, 16, 18, 24, 32)), rng.choice((2, 4, 6))
    kv = rng.choice([n for n in (1, 2, heads) if heads % n == 0])
    width, ffn, layers = heads * head_dim, rng.choice((52, 96, 100, 164)), rng.choice((2, 2, 3))
    vocab = rng.choice((211, 509, 997))
    experts = rng.choice((3, 4, 5))
    sizes: Row = {"head_dim": head_dim, "vocab_size": vocab, "decoder_vocab_size": vocab}
    for value, names in (
        (width, "hidden_size d_model n_embd dim embedding_size emb_dim attention_hidden_size lru_width"),
        (ffn, ("intermediate_size ffn_dim d_ff n_inner encoder_ffn_dim decoder_ffn_dim hidden_dim "
              "ffn_hidden_size dense_intermediate_size intermediate_size_mlp shared_intermediate_size")),
        (layers, ("num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers "
                 "num_decoder_layers num_encoder_layers")),
        (heads, ("num_attention_heads n_head n_heads num_heads encoder_attention_heads "
                "decoder_attention_heads")),
        (kv, "num_key_value_heads num_kv_heads"),
        (experts, "num_experts num_local_experts n_routed_experts moe_num_experts"),
        (2, "num_experts_per_tok num_experts_per_token moe_k moe_topk"),
        (ffn // 2, "moe_intermediate_size shared_expert_intermediate_size expert_ffn_size"),
        (head_dim, "kv_channels d_kv v_head_dim qk_nope_head_dim attention_head_dim"),
        (8, "qk_rope_head_dim rotary_dim mamba_d_state state_size"),
        (24, "q_lora_rank"), (16, "kv_lora_rank chunk_size mamba_chunk_size"),
        (1, "n_group topk_group n_shared_experts first_k_dense_replace"),
        (64, "sliding_window attention_window local_attention"),
        (256, "max_position_embeddings n_positions max_seq_len n_ctx max_sequence_length"),
        (1, "pad_token_id"), (2, "eos_token_id"), (0, "bos_token_id"), (2, "decoder_start_token_id"),
    ):  # fmt: skip
        sizes |= dict.fromkeys(names.split(), value)
    if rng.random() < 0.5:
        names = "dropout attention_dropout hidden_dropout_prob attention_probs_dropout_prob resid_pdrop embd_pdrop attn_pdrop"
        sizes |= dict.fromkeys(names.split(), rng.choice((0.1, 0.2)))
    # A real step that leaves a layer out by chance is no comparison.
    sizes |= dict.fromkeys(["layerdrop", "encoder_layerdrop", "decoder_layerdrop"], 1e-9)
    return sizes


def options(rng: random.Random) -> Row:
    """How the step is run."""
    how: Row = {
        "precision": rng.choice(("fp32", "bf16", "amp-bf16", "amp-bf16", "amp-fp16")),
        "attention": rng.choice(("eager", "sdpa", "sdpa")),
        "checkpointing": rng.choice(("", "", "non-reentrant", "reentrant")),
        "lora": rng.random() < 0.25,
        "optimizer": rng.choice(OPTIMIZERS),
        "batch": [rng.choice((1, 2, 3, 5)), rng.choice((17, 33, 64, 90))],
        "n_micro": rng.choice((1, 1, 2)),
        "clip": rng.random() < 0.3,
        "ignored": rng.random() < 0.3,
        "padded": rng.random() < 0.15,
    }
    if rng.random() < 0.1:
        how["precision"] = "fp16"
    how["packed"] = rng.random() < 0.15 and not how["padded"]
    return how


def _aligned(key: str, value: Any, sizes: Row) -> Any:
    """A width as a multiple of 16; heads are of 16 then."""
    head_dim = sizes["head_dim"]
    if not isinstance(value, int) or key.startswith(("vocab", "decoder_vocab")):
        return value
    if value in (head_dim, head_dim * sizes["num_heads"]):
        return value // head_dim * 16
    return -(-value // 16) * 16 if key.endswith(("_size", "_dim", "d_ff", "n_inner")) else value


def configured(family: str, sizes: Row) -> Any:
    """A small config of a family: of the sizes, those that it has."""
    from transformers import CONFIG_MAPPING

    cls = CONFIG_MAPPING[family]
    usual = cls().to_dict()
    if any("expert" in key for key in usual):  # grouped products want rows of 16 bytes
        sizes = {key: _aligned(key, value, sizes) for key, value in sizes.items()}
    own = {key: value for key, value in sizes.items() if key in usual or key in cls.attribute_map}
    for key in ("text_config", "decoder", "encoder"):
        if isinstance(usual.get(key), dict):
            inner = usual[key]
            own[key] = {
                "model_type": inner.get("model_type"), **{k: v for k, v in sizes.items() if k in inner}
            }  # fmt: skip
    if "kv_lora_rank" in own and "num_key_value_heads" in own:
        own["num_key_value_heads"] = own["num_attention_heads"]  # latent attention has no groups
    if family in ("mamba2", "codestral_mamba"):
        own |= {"num_heads": 2 * sizes["num_heads"], "n_groups": 2}
    for heads, size in (("mamba_n_heads", "mamba_d_head"), ("n_mamba_heads", "mamba_headdim")):
        if heads in usual:
            own |= {heads: 2 * sizes["num_heads"], size: sizes["head_dim"]}
    config = cls(**own)
    if config.is_encoder_decoder:
        config.decoder_start_token_id = sizes["decoder_start_token_id"]
    return config


def model_of(family: str, config: Any, how: Row) -> Any:
    """The model ready to train."""
    import torch
    import transformers

    weights = {"bf16": torch.bfloat16, "fp16": torch.float16}
    dtype = weights.get(how["precision"], torch.float32)
    cls = getattr(transformers, families()[family])
    try:
        model = cls._from_config(config, attn_implementation=how["attention"], dtype=dtype)
    except (ValueError, ImportError):
        model = cls._from_config(config, attn_implementation="eager", dtype=dtype)
    model.config.use_cache = False
    if how["lora"]:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(
            model, LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.1)
        )
    if how["checkpointing"] and model.supports_gradient_checkpointing:
        reentrant = how["checkpointing"] == "reentrant"
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        if how["lora"]:
            model.enable_input_require_grads()
    return model.train()


def optimizer_of(name: str, params: list[Any]) -> Any:
    """By its name here."""
    import torch
    from transformers import Adafactor

    optim = torch.optim
    made = {
        "adamw": lambda: optim.AdamW(params, foreach=False),
        "adamw-foreach": lambda: optim.AdamW(params, foreach=True),
        "adamw-fused": lambda: optim.AdamW(params, fused=True),
        "sgd-momentum": lambda: optim.SGD(params, lr=1e-3, momentum=0.9, foreach=True),
        "adafactor": lambda: Adafactor(params),
        "adagrad": lambda: optim.Adagrad(params, foreach=False),
        "rmsprop": lambda: optim.RMSprop(params, momentum=0.9, foreach=False),
    }  # fmt: skip
    return made[name]()


def batches(model: Any, config: Any, how: Row) -> list[Row]:
    """Micro-batches of token ids and labels; packed in one row where the model takes positions."""
    import torch

    n, length = how["batch"]
    base = model.get_base_model() if how["lora"] else model
    packed = how["packed"] and "position_ids" in inspect.signature(base.forward).parameters
    text = config.get_text_config()
    found = []
    for _ in range(how["n_micro"]):
        ids = torch.randint(3, min(text.vocab_size, 200), (n, length))
        labels = ids.clone()
        if how["ignored"]:
            labels[:, : length // 3] = -100
        one = {"input_ids": ids, "labels": labels}
        if how["padded"]:
            mask = torch.ones(n, length, dtype=torch.long)
            mask[:, -4:] = 0
            one["attention_mask"] = mask
        if packed:
            one = {name: ids.view(1, -1) for name, ids in one.items()}
            one["position_ids"] = torch.arange(n * length).remainder(length)[None]
        found.append(one)
    return found


def step_of(family: str, config: Any, how: Row) -> Any:
    """The step as lmsize runs it."""
    import torch

    from lmsize.step.training import TrainingStep

    model = model_of(family, config, how)
    autocast = {"amp-bf16": torch.bfloat16, "amp-fp16": torch.float16}.get(how["precision"])
    params = [p for p in model.parameters() if p.requires_grad]
    return TrainingStep(
        model, optimizer_of(how["optimizer"], params), batches(model, config, how), "cpu",
        autocast=autocast, clip_grad_norm=1.0 if how["clip"] else None,
    )  # fmt: skip


def traced_bytes(family: str, sizes: Row, how: Row) -> int:
    """The peak of the second step on fake tensors."""
    from lmsize.tracing.faults import explained
    from lmsize.tracing.peaks import as_requested, peaks
    from lmsize.tracing.pretence import weights_left_blank
    from lmsize.tracing.running import Device, logged, on_fake_tensors
    from lmsize.tracing.values import Noting

    device = Device("cpu")
    with explained(family), on_fake_tensors(device):
        with weights_left_blank(), Noting():
            made = step_of(family, configured(family, sizes), how)
        log = logged(made, device)
    found = peaks(log.entries, as_requested)
    return max(p.n_bytes for p in found if p.phase.startswith("2."))


def checked(family: str, sizes: Row, how: Row) -> Row:
    """Both peaks."""
    import torch

    from lmsize.measuring.meters import cpu_reading

    torch.manual_seed(0)
    try:
        config = configured(family, sizes)
        step = lambda: step_of(family, config, how)  # noqa: E731
        real = cpu_reading(step, n_warmup=1, n_steps=0, tell=lambda _: None).peaks[0].n_bytes
    except Exception as error:  # noqa: BLE001  # no case
        return {"said": f"not run: {type(error).__name__}: {' '.join(str(error).split())}"[:200]}
    said = traced_bytes(family, sizes, how)
    return {"real_bytes": real, "traced_bytes": said, "error": f"{said / real - 1:+.6f}"}


def case_of(family: str, seed: int) -> tuple[str, Row, Row]:
    """The case of a family for a seed."""
    rng = random.Random(zlib.crc32(f"{family} {seed}".encode()))
    return family, shape(rng), options(rng)


def run(given: argparse.Namespace) -> None:
    """Check what is asked for and not there yet."""
    import torch
    import transformers

    import_all()
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    case = case_of("llama", 0)
    traced_bytes("llama", case[1], case[2] | {"lora": True, "checkpointing": "non-reentrant"})
    names = list(families())
    random.Random(given.seed).shuffle(names)
    for family in given.only or names[: given.number]:
        label = f"{family} {given.seed}"
        known = TABLE.rows().get((label,))
        if known is not None and not known["said"] and not given.again:
            continue
        case = case_of(family, given.seed)
        found = apart(checked, *case, limit_s=LONGEST_S)
        row = {"case": label, "family": family, "options": json.dumps(case[2]), **found}
        row["at_first"] = (
            (known or {}).get("at_first")
            or row.get("error")
            or row.get("said", "").partition(":")[0]
        )
        print(json.dumps(row), flush=True)
        if row.get("status") != "too slow" and not row.get("said", "").startswith("not run"):
            TABLE.add(row)


def summary() -> None:
    """How many are within the limit, and those that are not."""
    found = list(TABLE.rows().values())
    done = [row for row in found if row["error"]]
    off = [row for row in done if abs(float(row["error"])) > LIMIT]
    exact = sum(float(row["error"]) == 0 for row in done)
    n = len({row["family"] for row in done})
    worst = max(abs(float(row["error"])) for row in done)
    print(f"{len(done)} cases of {n} families, {exact} equal to the byte, worst {worst:.4%}")
    for row in [*off, *(row for row in found if row["said"])]:
        print(f"{row['case']}: {row['error'] or row['said']} {row['options']}")
    sys.exit(bool(off))


def main() -> None:
    """Run or sum up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("run", "summary"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--number", type=int, default=10**6)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--again", action="store_true")
    given = parser.parse_args()
    if given.what == "run":
        run(given)
    else:
        summary()


if __name__ == "__main__":
    main()

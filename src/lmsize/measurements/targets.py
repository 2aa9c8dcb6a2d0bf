"""Which modules LoRA adapts: the many names of the same few projections."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from lmsize.measurements.words import REMARK, read
from lmsize.model.parts import Embedding, Linear
from lmsize.model.spec import ModelSpec

# Roles of the projections of a layer, by the ends of names that frameworks give their modules.
ROLES: Mapping[str, frozenset[str]] = {
    name: frozenset(roles.split())
    for names, roles in {
        "q q_proj query wq linear_q q_lin q_attn": "q",
        "k k_proj key wk linear_k k_lin": "k",
        "v v_proj value wv linear_v v_lin": "v",
        "c_attn qkv qkv_proj linear_qkv query_key_value wqkv w_pack in_proj attn.attn": "q k v",
        "o o_proj out_proj attn.c_proj projection linear_proj attention.dense wo dense attn.proj "
        "out_lin proj": "o",
        "gate gate_proj": "gate",
        "up up_proj": "up",
        "w1 w2": "gate up",  # as Qwen's own code names them; w3 beside them makes them Llama's
        "w3": "up",
        "down down_proj mlp.c_proj linear_fc2 fc2 dense_4h_to_h fc_out lin2": "down",
        "c_proj": "o down",  # the end of two names, GPT-2's and Qwen's: peft adapts both
        "linear_fc1 fc1 c_fc fc_in dense_h_to_4h gate_up_proj lin1": "gate up",
        "mlp": "gate up down",
        "head lm_head output output_layer": "head",
        "attention attn self_attn self_attention": "q k v o",
    }.items()
    for name in names.split()
}
LLAMA_W = {"w1": frozenset({"gate"}), "w2": frozenset({"down"}), "w3": frozenset({"up"})}
TRAINED = re.compile(r"[+,;]\s*([\w., ]+?)\s+(?:trained|saved)\b", re.IGNORECASE)
TABLES = frozenset(("wte", "embed_tokens", "word_embeddings", "tok_embeddings", "embed_in"))
SEPARATOR = re.compile(r"[,;+|/\s]+")


def roles(names: Iterable[str]) -> frozenset[str]:
    """The roles that module names stand for; unknown names add none."""
    listed = [name.strip("'\"`[](){}").lower() for name in names]
    table = {**ROLES, **LLAMA_W} if {"w1", "w2", "w3"} <= set(listed) else ROLES
    found: frozenset[str] = frozenset()
    for name in listed:
        path = name.split(".")
        ends = (".".join(path[at:]) for at in range(len(path)))
        found |= next((table[end] for end in ends if end in table), frozenset())
    return found


def lora_targets(cell: str, model: ModelSpec) -> str | None:
    """The value of ``--lora-targets`` for a cell: a known word, or the model's own module names.

    None if nothing in the cell is known, or the model has no such module.
    """
    if not cell:
        return None
    cell = TRAINED.sub(" ", cell)
    bare = REMARK.sub(" ", cell)
    whole = read("targets", bare)
    if whole.meaning is not None and not whole.unknown:
        return whole.meaning
    if whole.meaning == "all-linear":
        return whole.meaning
    wanted = roles(SEPARATOR.split(bare)) or roles(SEPARATOR.split(cell))
    if not wanted:
        return None
    names = sorted({name for name in _linears(model) if roles([name]) & wanted})
    return ",".join(names) or None


def saved_modules(cell: str, model: ModelSpec) -> str | None:
    """The value of ``--modules-to-save`` for a cell ("q,v + wte,lm_head trained"); None for none."""
    said = TRAINED.search(cell)
    if said is None:
        return None
    wanted = [word.lower() for word in SEPARATOR.split(said[1]) if word]
    tables, is_head_wanted = bool(TABLES & set(wanted)), "head" in roles(wanted)
    parts = [part for _, run in model.runs() for part in run.block.parts]
    names = [p.name for p in parts if isinstance(p, Embedding) and p.is_vocabulary and tables]
    heads = (p.name for p in parts if isinstance(p, Linear) and roles([p.name]) == {"head"})
    names += heads if is_head_wanted else ()
    return ",".join(dict.fromkeys(names)) or None


def _linears(model: ModelSpec) -> Iterable[str]:
    """Short names of the adaptable linears: the last word, two where one would be ambiguous."""
    full = {
        part.name for _, run in model.runs() for part in run.block.parts
        if isinstance(part, Linear) and part.adaptable
    }  # fmt: skip
    for name in full:
        yield ".".join(name.split(".")[-2:])

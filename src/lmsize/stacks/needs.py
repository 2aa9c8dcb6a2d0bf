"""What a switch needs beside it: without that it changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmsize.errors import InputError
from lmsize.stacks.options import WHAT, shown

FP8, FULL, SELECTIVE = "--precision fp8", "--recompute full", "--recompute selective"
MUON = "--optimizer muon and --zero 1"
DECODER = "a model with an encoder and a decoder"
NEEDS = {
    "fp8_recipe": FP8, "fp8_param_gather": FP8, "fp8_all_gather": FP8, "bf16_first_layers": FP8, "bf16_last_layers": FP8,
    "recompute_layers": FULL, "recompute_chunk": FULL, "recompute_modules": SELECTIVE,
    "decoder_seq_length": DECODER, "deferral_limit": "deferred-head",
    "exp_avg_dtype": "precision-aware", "exp_avg_sq_dtype": "precision-aware",
    "pads_to_capacity": "capacity-factor", "router_padding": FP8, "whole_tensors": MUON,
}  # fmt: skip


def is_shared_muon(optimizer: str | None, zero: int | None) -> bool:
    """Whether ranks share states that are Muon's, whatever an optimizer is called."""
    return "muon" in (optimizer or "").lower() and zero == 1


def without_effect(
    named: Mapping[str, Any], *, precision: str | None, recompute: str | None, has_decoder: bool,
    shares_muon: bool = False,
) -> dict[str, str]:  # fmt: skip
    """The named switches that change nothing in this run, with what each needs.

    Args:
        named: fields of the stack's switches that were set.
        has_decoder: whether the model has an encoder and a decoder.
        shares_muon: whether ranks share states that are Muon's.
    """
    is_there = {
        FP8: precision == "fp8", FULL: recompute == "full", SELECTIVE: recompute == "selective",
        DECODER: has_decoder, MUON: shares_muon,
    }  # fmt: skip
    return {
        key: need
        for key, need in NEEDS.items()
        if named.get(key) and not is_there.get(need, named.get(need.replace("-", "_")))
    }


def refuse_without_effect(
    named: Mapping[str, Any], *, precision: str | None, recompute: str | None, has_decoder: bool,
    shares_muon: bool = False,
) -> None:  # fmt: skip
    """Refuse the first switch that changes nothing.

    Raises:
        InputError: it names the switch and what has to be beside it.
    """
    idle = without_effect(
        named, precision=precision, recompute=recompute, has_decoder=has_decoder,
        shares_muon=shares_muon,
    )  # fmt: skip
    for key, need in idle.items():
        value = named[key]
        said = "+".join(map(str, value)) if isinstance(value, tuple) else value
        asked = shown(key) if value is True else f"{shown(key)}={said}"
        near = {DECODER: ["--seq-len"], MUON: ["--optimizer muon"]}.get(need, [need])
        raise InputError(WHAT, asked, f"{need}, without which it has no effect", nearest=near)

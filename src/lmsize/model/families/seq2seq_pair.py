"""A pair of models of other families, one to encode and one to decode."""

from __future__ import annotations

import re
from dataclasses import replace

from lmsize.model.blocks import layer_norm
from lmsize.model.config import Config, class_defaults
from lmsize.model.family import family, readers
from lmsize.model.parts import AttentionCore, Linear, Part
from lmsize.model.spec import Block, ModelSpec, Run, Tower


@family("encoder-decoder")
def encoder_decoder_pair(config: Config) -> ModelSpec:
    """The bare model of `encoder`, the causal one of `decoder`, a projection if widths differ."""
    encoder = _read(config, "encoder", bare=True)
    decoder = _read(config, "decoder", bare=False)
    towers = [replace(tower, name=f"encoder.{tower.name}") for tower in encoder.towers]
    section = config.section("decoder")
    bridge = section.optional_int("cross_attention_hidden_size") if section else None
    if encoder.width != decoder.width and bridge is None:
        linear = Linear("enc_to_dec_proj", encoder.width, decoder.width, True)
        run = Run(Block("projection", (linear,), "head"))
        towers[-1] = replace(towers[-1], runs=(*towers[-1].runs, run))
    for tower in decoder.towers:
        stream = "labels" if tower.stream == "input" else tower.stream
        towers.append(replace(tower, name=f"decoder.{tower.name}", stream=stream))
    return replace(
        encoder, model_type=config.model_type, architecture=config.architecture,
        vocab_size=decoder.vocab_size, towers=tuple(towers),
    )  # fmt: skip


def _read(config: Config, key: str, *, bare: bool) -> ModelSpec:
    """The model of a section, whatever class the section itself names."""
    section = config.section(key)
    if section is None:
        raise config.error(key, None, "an object")
    kind, known = section.model_type, readers()
    if kind not in known or kind == config.model_type:
        raise config.error(f"{key}.model_type", kind, "the model type of one known model")
    classes = class_defaults().get(kind, {}).get("classes", {})
    causal = str(classes.get("causal", ""))
    prefix = re.split(r"For[A-Z]|LMHead|Generation", causal or next(iter(classes.values()), ""))[0]
    name = f"{prefix}Model" if bare else causal
    if not name:
        raise config.error(f"{key}.model_type", kind, "a model that transformers can decode with")
    spec = known[kind](section.replacing({"architectures": [name]}))
    wants_cross = not bare and kind == "gpt2" and section.flag("add_cross_attention")
    return _with_cross_attention(spec) if wants_cross else spec


def _with_cross_attention(spec: ModelSpec) -> ModelSpec:
    """GPT-2's layers with the attention to an encoder that only a pair gives them."""
    width, n_heads = spec.width, spec.n_heads
    split = width // n_heads
    parts: tuple[Part, ...] = (
        layer_norm("ln_cross_attn", width),
        Linear("crossattention.c_attn", width, 2 * width, True, "column", n_heads),
        Linear("crossattention.q_attn", width, width, True, "column", n_heads),
        AttentionCore(n_heads, n_heads, split, split, causal=False, cross=True),
        Linear("crossattention.c_proj", width, width, True, "row", n_heads),
    )

    def widened(tower: Tower) -> Tower:
        runs = (
            replace(run, block=replace(run.block, parts=(*run.block.parts, *parts)))
            if run.block.role == "layer"
            else run
            for run in tower.runs
        )
        return replace(tower, runs=tuple(runs))

    held = any(
        isinstance(part, AttentionCore) and part.cross
        for _, run in spec.runs()
        for part in run.block.parts
    )
    return spec if held else replace(spec, towers=tuple(widened(t) for t in spec.towers))

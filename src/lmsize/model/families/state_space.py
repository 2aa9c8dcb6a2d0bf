"""Models of state-space layers alone: Mamba, Falcon-Mamba, Mamba-2."""

from __future__ import annotations

from lmsize.model.blocks import rms_norm
from lmsize.model.config import Config
from lmsize.model.family import family
from lmsize.model.mixture_blocks import Shape, mixture_decoder
from lmsize.model.parts import Part
from lmsize.model.spec import Block, ModelSpec
from lmsize.model.state_space_blocks import inner_width, mamba2_mixer, mamba_mixer, step_rank


@family("mamba", "falcon_mamba")
def mamba(config: Config) -> ModelSpec:
    """Mamba; Falcon-Mamba normalises B, C and time steps, without parameters."""
    width, n_layers, vocab = config.require("hidden_size", "num_hidden_layers", "vocab_size")
    inner = config.optional_int("intermediate_size") or inner_width(config, "expand", width)
    mixer = mamba_mixer(
        width=width, inner=inner, state=config.int("state_size"),
        rank=step_rank(config, "time_step_rank", width), kernel=config.int("conv_kernel"),
        bias=config.flag("use_bias"), conv_bias=config.flag("use_conv_bias"),
    )  # fmt: skip
    return _of_mixers(config, Shape(width, n_layers, 1, vocab, 1, width), mixer)


@family("mamba2")
def mamba2(config: Config) -> ModelSpec:
    """Mamba-2."""
    width, n_layers, n_heads, vocab = config.require(
        "hidden_size", "num_hidden_layers", "num_heads", "vocab_size"
    )
    mixer = mamba2_mixer(
        width=width, inner=inner_width(config, "expand", width), n_heads=n_heads,
        n_groups=config.int("n_groups"), state=config.int("state_size"),
        kernel=config.int("conv_kernel"), bias=config.flag("use_bias"),
        conv_bias=config.flag("use_conv_bias"), chunk=config.optional_int("chunk_size") or 256,
    )  # fmt: skip
    shape = Shape(width, n_layers, n_heads, vocab, n_heads, config.int("head_dim"))
    return _of_mixers(config, shape, mixer)


def _of_mixers(config: Config, shape: Shape, mixer: tuple[Part, ...]) -> ModelSpec:
    layer = Block("layer", (rms_norm("norm", shape.width), *mixer))
    return mixture_decoder(
        config, shape, [layer] * shape.n_layers, embedding="embeddings",
        norm=rms_norm("norm_f", shape.width),
    )  # fmt: skip

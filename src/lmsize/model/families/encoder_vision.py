"""ModernVBERT and UltraVBERT: ModernBERT and Ultrabert that also read images."""

from __future__ import annotations

from dataclasses import replace

from lmsize.model.blocks import lm_head, rms_norm
from lmsize.model.config import Config
from lmsize.model.families.encoder_llama import ultrabert
from lmsize.model.families.encoder_modern import modernbert, modernbert_transform
from lmsize.model.family import Reader, family
from lmsize.model.head_blocks import Heads, label_head, lm_tasks, task_head
from lmsize.model.multimodal_blocks import section_of
from lmsize.model.parts import Linear, Part
from lmsize.model.siglip_blocks import siglip
from lmsize.model.spec import ModelSpec, Run


def _seeing(
    config: Config, text: Config, read: Reader, bare: str, heads: Heads, *,
    norm: tuple[Part, ...] = (), pools: bool = True,
) -> ModelSpec:  # fmt: skip
    """The encoder of the text section behind SigLIP, under the head of the whole.

    `bare` is the class of the text section without a head; `norm` follows the projection of the
    images; `pools` is whether a SigLIP that the config says nothing of has a pooling head.
    """
    inner = read(text.replacing({"architectures": [bare]}))
    vision = section_of(config, "vision_config", "siglip_vision_model")
    if not config.has("vision_config"):
        vision = vision.replacing({"vision_use_head": pools})
    n_joined = config.int("pixel_shuffle_factor", 4) ** 2
    width = vision.int("hidden_size", 768)
    connector = (
        Linear("connector.modality_projection", n_joined * width, inner.width),
        *norm,
    )
    (tower,) = inner.towers
    *body, last = tower.runs
    head = task_head(config, heads, usual="MaskedLM", final=last.block.parts)
    return replace(
        inner, model_type=config.model_type, architecture=config.architecture,
        towers=(siglip(vision, connector), replace(tower, runs=(*body, Run(head)))),
    )  # fmt: skip


@family("modernvbert")
def modernvbert(config: Config) -> ModelSpec:
    """ModernBERT under its own head, tied by the key of the whole."""
    text = section_of(config, "text_config", "modernbert")
    width, vocab = text.require("hidden_size", "vocab_size")
    labels, before = config.n_labels, modernbert_transform(text, width)
    lm = lm_head(
        width=width, vocab=vocab, tied=config.flag("tie_word_embeddings"),
        bias=text.flag("decoder_bias"),
    )  # fmt: skip
    heads = {
        **lm_tasks((*modernbert_transform(text, width, "projection_head"), lm)),
        "Model": (),
        "SequenceClassification": (*before, label_head(width, labels)),
        "TokenClassification": (*before, label_head(width, labels, per_token=1.0)),
    }
    return _seeing(config, text, modernbert, "ModernBertModel", heads)


@family("ultravbert")
def ultravbert(config: Config) -> ModelSpec:
    """Ultrabert with SigLIP; one norm after the projection of the images."""
    text = section_of(config, "text_config", "ultrabert")
    width, vocab = text.require("hidden_size", "vocab_size")
    labels, narrow = config.n_labels, text.int("prediction_head_size")
    heads: dict[str, tuple[Part, ...]] = {
        **lm_tasks((
            Linear("projection_head.linear1", width, narrow),
            Linear("projection_head.linear2", narrow, width),
            lm_head(width=width, vocab=vocab, tied=config.flag("tie_word_embeddings")),
        )),
        "Model": (),
        "SequenceClassification": (label_head(width, labels),),
        "TokenClassification": (label_head(width, labels, per_token=1.0),),
    }  # fmt: skip
    norm = (rms_norm("connector.norm", width),)
    return _seeing(config, text, ultrabert, "UltrabertModel", heads, norm=norm, pools=False)

"""Programs of what single families of transformers write for themselves, one module for those alike."""

from __future__ import annotations

from lmsize.stacks.classes import (
    attention,
    bert_convolved,
    bitnet,
    deepseek_v4,
    gemma_mobile,
    hy_v4,
    longt5,
    mobilebert,
    recurrent_gemma,
    rwkv,
    short_conv,
)
from lmsize.stacks.own import USUAL, Own

MODULES = (
    attention,
    bert_convolved,
    bitnet,
    deepseek_v4,
    gemma_mobile,
    hy_v4,
    longt5,
    mobilebert,
    recurrent_gemma,
    rwkv,
    short_conv,
)
OWN: dict[str, Own] = {
    model_type: written for module in MODULES for model_type, written in module.OWN.items()
}


def own(model_type: str) -> Own:
    """What the classes of a model type write for themselves."""
    return OWN.get(model_type, USUAL)

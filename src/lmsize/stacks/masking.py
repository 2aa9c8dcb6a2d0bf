"""What is done to scores before their softmax so that a token sees only what it may.

transformers 5.23: ``eager_attention_forward`` of most classes, ``Attention._attn``
(``models/openai/modeling_openai.py``), ``XGLMAttention.forward`` (``models/xglm/modeling_xglm.py``).
"""

from __future__ import annotations

from lmsize.model.parts import AttentionCore
from lmsize.stacks import habits
from lmsize.stacks.sdpa import is_masked
from lmsize.stacks.setting import Setting
from lmsize.tape import ops
from lmsize.tape.program import Program, Tensor

BOOL = 1


def masked(program: Program, scores: Tensor, part: AttentionCore, setting: Setting) -> Tensor:
    """Scores with the mask added, or multiplied by a triangle of ones and lowered beside it."""
    kind = setting.conduct.model_type
    if kind in habits.MASKS_BY_PRODUCT:
        kept = Tensor("lower triangle", 0, setting.weight_itemsize, kind="given")
        made = ops.add(program, ops.mul(program, scores, kept), kept)
        program.hold(scores)
        return made
    if not (part.causal or is_masked(part, setting)):
        return scores
    mask = Tensor("mask", 0, setting.weight_itemsize, kind="given")
    scores = ops.add(program, scores, mask)
    return _bounded(program, scores) if kind in habits.BOUNDS_SCORES else scores


def _bounded(program: Program, scores: Tensor) -> Tensor:
    """The larger of each score and the least number of its type.

    Its backward halves the gradient and holds two masks of booleans beside it.
    """
    comparison = Tensor("comparison", scores.numel, BOOL)
    scratch_bytes = scores.n_bytes + 2 * comparison.n_bytes
    return ops.pointwise(
        program, scores, name="maximum", saves="input", scratch_bytes=scratch_bytes
    )

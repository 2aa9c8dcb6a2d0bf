"""What a fake tensor answers when the program asks for its value.

It has none. Where only one answer leads on as in an ordinary step, it is given; elsewhere what the
program does next depends on data, and the trace stops with the place.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from lmsize.errors import LmsizeError

_MASKS = "transformers.masking_utils"  # asks whether anything is padded or packed
_OWN = "lmsize.tracing."
# Read from the device in any ordinary step: whether gradients overflowed, and their norm.
_HARMLESS = ("torch.amp.grad_scaler", "torch.nn.utils.clip_grad")


class DataDependenceError(LmsizeError):
    """The model decides by values that a trace does not have."""


def answer(tensor: Any, phase: str, known: Callable[[Any], Any]) -> Any:
    """The value of a fake scalar, where it is known or the step leaves no choice.

    Args:
        known: the number that a fake tensor stands for; None if it is not known.

    Raises:
        DataDependenceError: the program reads a value that decides what it does.
    """
    frame = _asking()
    value = known(tensor)
    if value is not None:
        return value
    if frame.f_globals.get("__name__") == _MASKS:
        return True  # nothing is padded, nothing is packed
    if phase.endswith(("optimizer", "clip")) or _is_harmless():
        return 0.0  # no overflow was found, the norm is small
    where = f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
    raise DataDependenceError(
        f"the model reads a value of a {tuple(tensor.shape)} {tensor.dtype} tensor, at {where}: what "
        "it does next depends on data, which a trace does not have. Give the module another path "
        "for the trace (masks and shapes from Python numbers), or measure a real step"
    )


def _is_harmless() -> bool:
    """Whether torch's own scaling or clipping asks."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name in _HARMLESS:
            return True
        if not name.startswith((_OWN, "torch.")) and name != "torch":
            return False
        frame = frame.f_back
    return False


def _asking() -> FrameType:
    """The frame that asks: the innermost that is neither torch's nor this package's."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if not name.startswith((_OWN, "torch.")) and name != "torch":
            return frame
        frame = frame.f_back
    return sys._getframe(1)

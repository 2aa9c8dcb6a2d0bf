"""lmsize: what a language model needs, before anything is rented or launched.

The public names are imported when they are first used, so that ``lmsize --help`` starts fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lmsize.api.comparing import compare
    from lmsize.api.factory import trace
    from lmsize.api.measuring import measure
    from lmsize.api.serving import infer
    from lmsize.api.sweeping import sweep
    from lmsize.api.training import train
    from lmsize.catalogue import Catalogue
    from lmsize.errors import InputError, LmsizeError
    from lmsize.estimate.answer import Estimate
    from lmsize.validation.calibrating import calibrate
    from lmsize.validation.public import validate

_WHERE = {
    "Catalogue": "lmsize.catalogue",
    "Estimate": "lmsize.estimate.answer",
    "InputError": "lmsize.errors",
    "LmsizeError": "lmsize.errors",
    "calibrate": "lmsize.validation.calibrating",
    "compare": "lmsize.api.comparing",
    "infer": "lmsize.api.serving",
    "measure": "lmsize.api.measuring",
    "sweep": "lmsize.api.sweeping",
    "trace": "lmsize.api.factory",
    "train": "lmsize.api.training",
    "validate": "lmsize.validation.public",
}

__all__ = [
    "Catalogue",
    "Estimate",
    "InputError",
    "LmsizeError",
    "calibrate",
    "compare",
    "infer",
    "measure",
    "sweep",
    "trace",
    "train",
    "validate",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'lmsize' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)

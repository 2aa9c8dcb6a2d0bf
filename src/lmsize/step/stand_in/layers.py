"""peft's own LoRA layers around linears of few bits, with bitsandbytes or without it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from functools import cache
from types import ModuleType
from typing import Any
from unittest import mock

from lmsize.step.stand_in.linears import Linear4bit, Linear8bitLt


@cache
def lora_layers() -> Mapping[type, type]:
    """By the linear that stands in: the class that peft wraps its original in.

    peft defines them only beside bitsandbytes, whose classes its code names but a step does not use:
    a copy of its module is run where an empty one of that name seems to be there.
    """
    spec = importlib.util.find_spec("peft.tuners.lora.bnb")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    present: Any = mock.Mock(return_value=True)
    with (
        mock.patch.dict(sys.modules, {"bitsandbytes": ModuleType("bitsandbytes")}),
        mock.patch("peft.import_utils.is_bnb_available", present),
        mock.patch("peft.import_utils.is_bnb_4bit_available", present),
    ):
        spec.loader.exec_module(module)
    return {Linear4bit: module.Linear4bit, Linear8bitLt: module.Linear8bitLt}

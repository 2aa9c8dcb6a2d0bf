"""``--stack-options``: the text of the switches that a stack's run sets."""

from __future__ import annotations

from typing import Any

from lmsize.errors import InputError
from lmsize.stacks.deepspeed_switches import DeepspeedSwitches
from lmsize.stacks.megatron_switches import MegatronSwitches
from lmsize.stacks.options import WHAT, options_of, read_one, shown
from lmsize.stacks.switches import Switches
from lmsize.stacks.torch_switches import LitgptSwitches, TorchSwitches
from lmsize.stacks.torchtitan_switches import TorchtitanSwitches

SWITCHES: dict[str, type[Switches]] = {
    "megatron": MegatronSwitches, "torchtitan": TorchtitanSwitches, "deepspeed": DeepspeedSwitches,
    "transformers": TorchSwitches, "litgpt": LitgptSwitches,
}  # fmt: skip
OPTIONS = {stack: options_of(switches) for stack, switches in SWITCHES.items()}


def read_switches(text: str | None, stack: str | None) -> Switches:
    """``attention-backend=flash,deterministic,no-gradient-fusion`` as switches.

    Raises:
        InputError: a name or a value that is not known, or that the stack does not have.
    """
    return SWITCHES.get(stack or "", Switches)(**named_switches(text, stack))


def named_switches(text: str | None, stack: str | None) -> dict[str, Any]:
    """The switches that a text names, as the fields of the stack's own class.

    Raises:
        InputError: as :func:`read_switches`; or one that is named twice, differently.
    """
    options = OPTIONS.get(stack or "", {})
    if text and not options:
        some = f"no value with --stack {stack}: only {', '.join(SWITCHES)} have switches"
        raise InputError(WHAT, text, some)
    found: dict[str, Any] = {}
    for item in text.split(",") if text else ():
        name, read = read_one(item, options)
        if found.setdefault(name, read) != read:
            raise InputError(WHAT, text, f"{shown(name)} once, or the same both times")
    return found

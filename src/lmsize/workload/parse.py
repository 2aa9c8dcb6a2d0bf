"""Options as people give them -> the specs: one table for the command line and for Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from lmsize.errors import InputError, nearest_names
from lmsize.quantity import parse_bytes_range, parse_count, parse_duration_s, parse_positive

Spec = TypeVar("Spec")
Parser = Callable[[Any, str], Any]
LEAST_FRACTION = 1e-6
LEAST_PERCENTAGE = 2.0  # a number from here on was meant in hundredths
TEXTBOOK = "textbook"


def count(*, least: int = 1, most: int = 10**18) -> Parser:
    """A whole number with the suffixes of counts."""
    return lambda value, what: parse_count(str(value), what=what, least=least, most=most)


def positive(*, least: float = 1.0, most: float = 1e30) -> Parser:
    """A number above zero."""
    return lambda value, what: parse_positive(str(value), what=what, least=least, most=most)


def fraction(value: Any, what: str) -> float:
    """A share of 1, from a millionth; a percentage is refused, the share that it is offered."""
    expected = f"a number from {LEAST_FRACTION:g} to 1"
    try:
        found = parse_positive(str(value), what=what, least=LEAST_FRACTION)
    except InputError:
        raise InputError(what, value, expected) from None
    if found > 1:
        near = [found / 100] if LEAST_PERCENTAGE <= found <= 100 else []
        raise InputError(what, value, expected, nearest=near)
    return found


def duration(value: Any, what: str) -> float:
    """Seconds, from text with a suffix or from a number of seconds."""
    return parse_duration_s(value if isinstance(value, str) else f"{value}s", what=what)


def bytes_range(value: Any, what: str) -> tuple[int, int] | str:
    """Bytes or a range of bytes; a pair of numbers is taken as its ends; ``textbook`` as it is."""
    if isinstance(value, str) and value.strip().lower() == TEXTBOOK:
        return TEXTBOOK
    text = "..".join(str(v) for v in value) if isinstance(value, tuple | list) else str(value)
    return parse_bytes_range(text, what=what)


def word(value: Any, what: str) -> str:
    """A word; choices are checked where the choice is made."""
    if not isinstance(value, str) or not value.strip():
        raise InputError(what, value, "a word")
    return value.strip().lower()


def text(value: Any, what: str) -> str:
    """Text as it stands."""
    if not isinstance(value, str) or not value.strip():
        raise InputError(what, value, "a text")
    return value.strip()


def flag(value: Any, what: str) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise InputError(what, value, "True or False")
    return value


DEGREE = count(most=2**20)
LENGTH = count(most=2**31)

PARSERS: Mapping[str, Parser] = {
    "method": word, "precision": word, "quant": word, "optimizer": word, "recompute": word,
    "attention": word, "stack": word, "loss": word, "kv_precision": word, "state_precision": word,
    "leave_out": word, "pipeline_stage": word, "lengths": word, "adapter": word, "lora_targets": text,
    "modules_to_save": text, "stack_options": text, "lora_experts": flag, "sequence_parallel": flag,
    "lora_rank": LENGTH, "micro_batch": LENGTH, "global_batch": LENGTH, "grad_accum": LENGTH,
    "seq_len": LENGTH, "context": LENGTH, "concurrency": LENGTH, "prompt": LENGTH,
    "output": LENGTH, "prefill_chunk": LENGTH, "prompt_logits": flag, "eager": flag, "steps": count(), "tokens": count(), "dataset_tokens": count(),
    "epochs": positive(least=1e-6, most=1e6), "deadline": duration, "accelerators": count(most=10**8),
    "tp": DEGREE, "pp": DEGREE, "cp": DEGREE, "ep": DEGREE, "etp": DEGREE, "vp": DEGREE, "zero": count(least=0, most=3),
    "mfu": fraction, "efficiency": fraction, "adapter_fraction": fraction, "params": count(),
    "activation_bytes": bytes_range, "flops_per_sequence": positive(), "peak_flops": positive(),
}  # fmt: skip


def is_endless(value: Any) -> bool:
    """Whether it is an integer too long for Python to write in digits."""
    return isinstance(value, int) and value.bit_length() > 4096


def option_name(key: str) -> str:
    """A field's name as the long option that sets it."""
    return f"--{key.replace('_', '-')}"


def parsed(options: Mapping[str, Any], *, allowed: set[str]) -> dict[str, Any]:
    """Options that were given, as values; None is "not given".

    Raises:
        InputError: an unknown option (the nearest is offered), or a value that makes no sense.
    """
    values = {}
    for key, value in options.items():
        if key not in allowed:
            near = [option_name(n) for n in nearest_names(key, allowed)]
            raise InputError("option", key, "an option that this question takes", nearest=near)
        if value is None:
            continue
        numeric = PARSERS[key] not in (word, text, flag)
        if numeric and (isinstance(value, bool) or is_endless(value)):
            raise InputError(option_name(key), value, "a number below 1e30")
        values[key] = PARSERS[key](value, option_name(key))
    return values

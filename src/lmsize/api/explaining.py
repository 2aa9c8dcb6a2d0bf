"""``lmsize explain``: formulas, components of an answer and assumptions, from where they are."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import textwrap
from dataclasses import dataclass
from functools import cache
from typing import Any

from lmsize.codes import CODES, meaning
from lmsize.errors import InputError, nearest_names
from lmsize.formula import Formula, registry

# Where a term of the report comes from, and the formulas behind it.
COMPONENTS: dict[str, tuple[str, ...]] = {
    "weights": ("stored_bytes", "scale_bytes"),
    "gradients": ("stored_bytes", "made_gradient_bytes"),
    "main_weights": ("stored_bytes",),
    "adapter_weights": ("stored_bytes",),
    "optimizer_states": ("stored_bytes", "scale_bytes"),
    "activations": ("kept_bytes",),
    "temporaries": ("stored_bytes", "passing_bytes", "working_bytes"),
    "inputs": ("input_bytes",),
    "buffers": ("table_bytes",),
    "gathers": ("shared_bytes",),
    "main_gradients": ("stored_bytes",),
    "gathered_weights": ("stored_bytes",),
    "gradient_buckets": ("stored_bytes",),
    "deferred": ("deferred_bytes",),
    "workspaces": (
        "workspace_bytes",
        "buffer_bytes",
        "score_bytes",
        "routing_bytes",
        "dummy_gradient_bytes",
        "mask_bytes",
    ),
    "kv_cache": ("kv_cache_bytes", "cached_tokens", "state_cache_bytes"),
    "peak_reserved_bytes": ("reserved_bytes",),
    "peak_device_bytes": ("driver_bytes",),
    "model_flops_per_step": ("matmul_flops", "attention_flops", "attention_pairs", "scan_flops"),
    "step_time": ("utilised_s",),
    "mfu": ("mfu_frac",),
    "total_s": ("run_s",),
    "needed_for_deadline": ("accelerators_for_deadline",),
    "usd": ("cost_usd", "accelerator_h"),
    "energy": ("energy_kwh",),
    "co2e": ("co2e_kg",),
}
LAYERS = ("memory", "compute", "timing", "estimate")


@dataclass(frozen=True, slots=True)
class Page:
    """The explanation of one formula or assumption."""

    name: str
    unit: str | None
    formula: str | None
    text: str
    source: str | None
    used_by: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The page as plain data."""
        return {
            "name": self.name, "unit": self.unit, "formula": self.formula, "text": self.text,
            "source": self.source, "used_by": list(self.used_by),
        }  # fmt: skip

    def as_text(self) -> str:
        """The page for a person."""
        head = f"{self.name}  [{self.unit}]" if self.unit else self.name
        lines = [head]
        if self.formula:
            lines.append(f"  = {self.formula}")
        lines += ["", textwrap.indent(self.text, "  ")]
        if self.source:
            lines += ["", f"  Source: {self.source}"]
        if self.used_by:
            lines.append(f"  Used for: {', '.join(self.used_by)}")
        return "\n".join(lines)


@cache
def formulas() -> dict[str, Formula]:
    """Every registered formula; imports the layers that hold them."""
    for layer in LAYERS:
        package = importlib.import_module(f"lmsize.{layer}")
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"lmsize.{layer}.{module.name}")
    return dict(registry())


def terms() -> dict[str, str]:
    """Everything that can be explained, with a line about each."""
    made = {name: f"component: {', '.join(used)}" for name, used in COMPONENTS.items()}
    made |= {name: f.summary for name, f in formulas().items()}
    return made | {code: f"assumption: {text}" for code, text in CODES.items()}


def explained(term: str) -> list[Page]:
    """The pages that explain a term.

    Raises:
        InputError: nothing of that name; the nearest are offered.
    """
    key = term.strip().lower().replace(" ", "_")
    known = formulas()
    for name in (key, key.replace("-", "_")):
        if name in known:
            return [_formula_page(known[name])]
        if name in COMPONENTS:
            return [_formula_page(known[used]) for used in COMPONENTS[name]]
    code = key.replace("_", "-")
    found = meaning(code)
    if found is None:
        known_words = "a formula, a component or an assumption"
        raise InputError("TERM", term, known_words, nearest=nearest_names(term, terms()))
    return [Page(code, None, None, found, None)]


def _formula_page(formula: Formula) -> Page:
    used_by = tuple(name for name, used in COMPONENTS.items() if formula.name in used)
    text = inspect.cleandoc(formula.__doc__ or "")
    return Page(formula.name, formula.unit, formula.text, text, str(formula.source), used_by)

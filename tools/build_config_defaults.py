"""Write src/lmsize/model/data/config_defaults.json from transformers' config classes.

What a config.json leaves out, transformers takes from the class. Those defaults are facts that
the reader needs without transformers being there. Needs transformers (the `test` extra):

    python tools/build_config_defaults.py
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import transformers
from transformers import PreTrainedConfig
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

OUT = Path(__file__).parents[1] / "src/lmsize/model/data/config_defaults.json"
BASE = {f.name for f in dataclasses.fields(PreTrainedConfig)} - {"tie_word_embeddings"}
# Presentation, sampling, token ids and numerics: nothing that is sized by them.
SKIP_ENDINGS = (
    "_token_id",
    "_token_index",
    "_eps",
    "_epsilon",
    "_range",
    "_std",
    "_coef",
    "_factor",
)
CLASSES = {
    "causal": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "masked": modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    "seq2seq": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    "image_text": modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
}


def plain(value: Any) -> bool:
    """Whether a default can stand in JSON as it is and is small enough to be worth it."""
    if isinstance(value, dict):
        return len(value) <= 8 and all(plain(v) for v in value.values())
    if isinstance(value, (list, tuple)):
        return len(value) <= 64 and all(plain(v) for v in value)
    return value is None or isinstance(value, (bool, int, float, str))


def default_of(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def entry(model_type: str) -> dict[str, Any] | None:
    config = CONFIG_MAPPING[model_type]
    defaults = {
        f.name: value
        for f in dataclasses.fields(config)
        if f.name not in BASE
        and not f.name.endswith(SKIP_ENDINGS)
        and plain(value := default_of(f))
    }
    sections = {
        name: cls.model_type
        for name, cls in (config.sub_configs or {}).items()
        if getattr(cls, "model_type", "")
    }
    classes = {kind: names[model_type] for kind, names in CLASSES.items() if model_type in names}
    found = {
        "defaults": defaults,
        "aliases": dict(config.attribute_map or {}),
        "sections": sections,
        "classes": classes,
    }
    return {key: value for key, value in found.items() if value}


def main() -> None:
    roots = sorted({m for names in CLASSES.values() for m in names})
    wanted, todo = set(), list(roots)
    while todo:
        name = todo.pop()
        if name in wanted or name not in CONFIG_MAPPING:
            continue
        wanted.add(name)
        config = CONFIG_MAPPING[name]
        todo += [getattr(c, "model_type", "") for c in (config.sub_configs or {}).values()]
    table = {name: entry(name) for name in sorted(wanted)}
    OUT.parent.mkdir(parents=True, exist_ok=True)
    head = {"_source": f"transformers {transformers.__version__}, fields of its config classes"}
    lines = [f'"{k}": {json.dumps(v, sort_keys=True)}' for k, v in (head | table).items()]
    OUT.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"{OUT.name}: {len(table)} model types, {OUT.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()

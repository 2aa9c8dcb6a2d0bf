"""Batches as DESIGN fixes them: token ids and labels, no mask."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lmsize.model.read import read_config


def batch(
    config: Mapping[str, Any], *, micro_batch: int, seq_len: int, device: Any = "cpu"
) -> dict[str, Any]:
    """One micro-batch: ``input_ids`` and ``labels``, int64, each (micro_batch, seq_len).

    Ids are random over the vocabulary without the special tokens, which some models look for
    (images, padding). The labels of a decoder are its inputs; of an encoder-decoder, as many
    others.
    """
    architecture = read_config(config, name="config")
    special = {value for value in special_ids(config) if value < architecture.vocab_size}
    first = _first_plain_id(special)

    def drawn() -> Any:
        import torch

        ids = torch.randint(architecture.vocab_size, (micro_batch, seq_len), device=device)
        for value in special:
            ids = torch.where(ids == value, first, ids)
        return ids

    ids = drawn()
    return {"input_ids": ids, "labels": drawn() if architecture.is_encoder_decoder else ids.clone()}


def special_ids(config: Mapping[str, Any]) -> Iterator[int]:
    """Every ``*_token_id`` and ``*_token_index`` of a config and its sections."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from special_ids(value)
        elif key.endswith(("_token_id", "_token_index")) and isinstance(value, int):
            yield value


def _first_plain_id(special: set[int]) -> int:
    value = 0
    while value in special:
        value += 1
    return value

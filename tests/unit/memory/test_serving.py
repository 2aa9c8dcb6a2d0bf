"""The working memory of a prefill, by hand."""

from __future__ import annotations

import pytest

import lmsize
from lmsize.errors import LmsizeError

# llama-3.1-8b: width 4096, MLP width 14336, vocabulary 128256.
ONE_TOKEN = (2 * 4096 + 2 * 14336) * 2


def working(**options: object) -> int:
    found = lmsize.infer("llama-3.1-8b", precision="bf16", prompt=20_000, output=1, **options)
    return found.memory.components["temporaries"] or 0


def test_prompts_are_prefilled_in_chunks() -> None:
    logits = 128256 * 2
    assert working() == 8192 * ONE_TOKEN + logits
    assert working(prefill_chunk=2048) == 2048 * ONE_TOKEN + logits
    assert working(prefill_chunk=100_000) == 20_000 * ONE_TOKEN + logits
    assert working(prefill_chunk=100_000, concurrency=2) == 40_000 * ONE_TOKEN + 2 * logits


def test_logits_of_a_whole_prompt_have_a_copy_in_fp32() -> None:
    assert working(prompt_logits=True) == 8192 * (ONE_TOKEN + 128256 * (2 + 4))


def test_only_the_last_stage_makes_logits_of_prompts() -> None:
    one, two = (
        lmsize.infer("llama-3.1-8b", precision="bf16", prompt=8000, output=1, pp=pp,
                     prompt_logits=True).memory
        for pp in (1, 2)
    )  # fmt: skip
    assert one.components["temporaries"] == two.components["temporaries"]


def test_a_chunk_that_is_said_is_no_assumption() -> None:
    codes = [
        {one.code for one in lmsize.infer("gpt2", prefill_chunk=chunk).assumptions}
        for chunk in (None, 512)
    ]
    assert "prefill-chunk" in codes[0]
    assert "prefill-chunk" not in codes[1]


@pytest.mark.parametrize("value", [0, -1, "many", True])
def test_a_chunk_is_a_number_of_tokens(value: object) -> None:
    with pytest.raises(LmsizeError, match="prefill-chunk"):
        lmsize.infer("gpt2", prefill_chunk=value)

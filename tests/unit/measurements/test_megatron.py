"""Launch arguments of Megatron: the model that they build, the switches that they set."""

from __future__ import annotations

from lmsize.measurements.settings import question
from lmsize.measurements.switches import stage_layers
from lmsize.model.count import n_params

ROW = {
    "id": "one", "model": "GPT test", "hidden": "512", "layers": "12", "heads": "8", "seq_len": "1024",
    "micro_batch": "4", "n_gpus": "8", "tp": "2", "pp": "1", "framework": "Megatron-LM", "precision": "bf16",
}  # fmt: skip


def asked(extra: str) -> dict[str, str]:
    return ROW | {"extra_config": f"--transformer-impl transformer_engine {extra}"}


def test_the_default_is_the_gpt_of_its_tests() -> None:
    model = question(asked("")).model
    layer = 12 * 512 * 512 + 13 * 512
    assert n_params(model) == 50432 * 512 + 1024 * 512 + 12 * layer + 2 * 512


def test_gates_norms_and_positions_are_read() -> None:
    model = question(asked(
        "--swiglu True --normalization RMSNorm --disable-bias-linear True --group-query-attention True "
        "--num-query-groups 2 --position-embedding-type rope --untie-embeddings-and-output-weights True"
    )).model  # fmt: skip
    attention = 512 * (512 + 2 * 128) + 512 * 512
    layer = attention + 3 * 512 * 1344 + 2 * 512
    assert n_params(model) == 2 * 50432 * 512 + 12 * layer + 512
    assert model.conduct.rotary


def test_experts_are_read() -> None:
    model = question(asked(
        "--disable-bias-linear True --num-experts 4 --moe-ffn-hidden-size 256 --moe-layer-freq ([0]*4+[1]*8) "
        "--moe-shared-expert-intermediate-size 128"
    )).model  # fmt: skip
    attention, norms = 4 * 512 * 512, 4 * 512
    sparse = 512 * 4 + 4 * 2 * 512 * 256 + 2 * 512 * 128
    expected = 12 * (attention + norms) + 4 * 8 * 512 * 512 + 8 * sparse
    assert n_params(model) == expected + 50432 * 512 + 1024 * 512 + 2 * 512


def test_switches_are_set() -> None:
    options = question(asked(
        "--deterministic-mode True --attention-backend unfused --cross-entropy-loss-fusion True "
        "--cross-entropy-fusion-impl te --recompute-granularity selective --recompute-modules [moe_act mlp] "
        "--num-distributed-optimizer-instances 2 --no-gradient-accumulation-fusion True"
    )).options  # fmt: skip
    assert set(options["stack_options"].split(",")) == {
        "deterministic", "attention-backend=unfused", "cross-entropy=te", "recompute-modules=moe_act+mlp",
        "optimizer-instances=2", "no-gradient-fusion",
    }  # fmt: skip


def test_a_layout_of_stages_is_read_layer_by_layer() -> None:
    assert stage_layers("Et*3|(tt|)*6tmL") == (3, 2, 2, 2, 2, 2, 2, 1)
    assert stage_layers("E|tt|tL") == (0, 2, 1)
    assert stage_layers("") == stage_layers("x*3|") == ()


def test_a_t5_has_two_towers_and_a_length_for_each() -> None:
    row = ROW | {
        "model": "T5 test",
        "hidden": "768",
        "heads": "12",
        "ffn": "3072",
        "seq_len": "512",
    }
    posed = question(row | {"extra_config": (
        "--encoder-num-layers 12 --decoder-num-layers 12 --encoder-seq-length 512 --decoder-seq-length 128 "
        "--vocab-extra-ids 100"
    )})  # fmt: skip
    h = 768
    encoder, decoder = 12 * h * h + 13 * h, 16 * h * h + 19 * h
    tables = (29184 + 512) * h
    expected = tables + 12 * (encoder + decoder) + 2 * 2 * h + 29184
    assert n_params(posed.model) == expected
    assert "decoder-seq-length=128" in posed.options["stack_options"]

"""What layers share: T5's bias of relative positions, ALBERT's weights, an encoder's output."""

from __future__ import annotations

from typing import Any

from lmsize.model.read import read_config
from lmsize.model.spec import Block, ModelSpec
from lmsize.stacks import transformers
from lmsize.stacks.layer import layer_program
from lmsize.stacks.setting import Setting
from lmsize.tape.liveness import forward
from lmsize.tape.pieces import Piece, piece
from lmsize.tape.undoing import backward

B, S, H, A = 4, 512, 256, 8
BIAS = A * S * S * 4
T5 = read_config({
    "model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "d_model": H, "d_kv": H // A,
    "d_ff": 2 * H, "num_layers": 3, "num_heads": A, "vocab_size": 1000,
}, name="t5")  # fmt: skip
ALBERT = read_config({
    "model_type": "albert", "architectures": ["AlbertForMaskedLM"], "hidden_size": H,
    "intermediate_size": 2 * H, "num_hidden_layers": 3, "num_attention_heads": A, "vocab_size": 1000,
    "embedding_size": 128,
}, name="albert")  # fmt: skip


def layers(model: ModelSpec) -> list[Block]:
    return [run.block for run in model.towers[0].runs if run.block.role == "layer"]


def made(block: Block, model: ModelSpec, *, checkpointed: bool = False, **options: Any) -> Piece:
    setting = Setting(
        micro_batch=B, seq_len=S, conduct=model.conduct, weight_itemsize=4,
        recompute="full" if checkpointed else "none", **options,
    )  # fmt: skip
    program = layer_program(
        block, setting, transformers.STYLE, width=H, itemsize=4, needs_grad=True
    )
    return piece(program, checkpointed=checkpointed)


def test_the_first_layer_of_t5_makes_the_bias_and_hands_it_on() -> None:
    first, rest = layers(T5)
    maker, reader = made(first, T5, bias="made"), made(rest, T5, bias="read")
    assert maker.handed == BIAS
    assert reader.handed == 0
    # Beside what a reader saves (a copy laid out by heads too): the bucket of every pair, in int64.
    assert maker.saved - reader.saved == 8 * S * S


def test_readers_hold_the_bias_gradient_but_the_last_begins_it() -> None:
    _, rest = layers(T5)
    inner, last = (made(rest, T5, bias="read", is_last=is_last) for is_last in (False, True))
    assert inner.backward_peak - last.backward_peak == BIAS


def test_the_gradient_of_the_bias_is_one_for_each_sequence_before_it_is_summed() -> None:
    _, rest = layers(T5)
    trained = made(rest, T5, bias="read", is_last=True)
    frozen = made(rest, T5, bias="read", is_last=True, trains_base=False, ranks=())
    assert trained.largest == frozen.largest  # in the forward there is but one
    peak = trained.backward_peak - trained.peak_saved - trained.peak_gradients
    assert B * BIAS < peak < (B + 2) * BIAS


def test_checkpointed_readers_keep_the_bias_as_their_input() -> None:
    first, _ = layers(T5)
    plain, again = (made(first, T5, bias="made", checkpointed=c) for c in (False, True))
    stream = B * S * H * 4
    assert again.handed == 0
    assert again.saved == stream + BIAS
    assert plain.saved > again.saved


def test_shared_weights_have_one_gradient_which_the_last_layer_makes() -> None:
    (block,) = layers(ALBERT)
    own = made(block, ALBERT)
    inner = made(block, ALBERT, weights="read")
    last = made(block, ALBERT, weights="read", is_last=True)
    assert inner.gradients == 0
    assert last.gradients == own.gradients
    assert inner.saved == last.saved == own.saved


def test_autocast_casts_shared_weights_once_and_their_gradients_at_the_end() -> None:
    (block,) = layers(ALBERT)
    own, first, inner = (
        made(block, ALBERT, autocast=2, weights=weights) for weights in ("", "made", "read")
    )
    cast = sum(p.n_params for p in block.parameters() if "norm" not in p.name.lower()) * 2
    assert first.saved == own.saved
    assert abs(own.saved - inner.saved - cast) < 512 * 12  # biases' blocks, rounded
    assert first.gradients > 0.9 * own.gradients  # all but the norms', which are never cast
    assert inner.gradients == 0


def test_cuda_softmax_reads_fp16_scores_as_they_are() -> None:
    bert = read_config({
        "model_type": "bert", "architectures": ["BertForMaskedLM"], "hidden_size": H,
        "intermediate_size": 2 * H, "num_hidden_layers": 1, "num_attention_heads": A,
        "vocab_size": 1000, "attention_probs_dropout_prob": 0.0,
    }, name="bert")  # fmt: skip
    (block,) = layers(bert)
    options: dict[str, Any] = {"autocast": 2, "attention": "eager"}
    half, brain = (made(block, bert, is_half=is_half, **options) for is_half in (True, False))
    assert half.saved == brain.saved
    scores = B * A * S * S
    for name in ("forward_peak", "backward_peak"):  # a copy in fp32, its gradient in fp32
        more = getattr(brain, name) - getattr(half, name)
        assert 0.9 * scores * 2 < more <= scores * 4


def test_a_decoder_makes_the_gradient_of_what_it_reads_of_an_encoder_in_its_last_layer() -> None:
    decoder = [run.block for run in T5.towers[1].runs if run.block.role == "layer"][1]
    peaks = {}
    for is_last in (False, True):
        setting = Setting(
            micro_batch=B, seq_len=S, conduct=T5.conduct, weight_itemsize=4, is_last=is_last
        )
        program = layer_program(
            decoder, setting, transformers.STYLE, width=H, itemsize=4, needs_grad=True,
            reads_encoder=True, encoder_needs_grad=True,
        )  # fmt: skip
        peaks[is_last] = backward(program).peak
        assert forward(program).handed == 0
    assert peaks[False] - peaks[True] == B * S * H * 4

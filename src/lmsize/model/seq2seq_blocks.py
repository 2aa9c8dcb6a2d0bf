"""What encoder-decoders share: their token tables, their heads, their two towers.

transformers holds one table of tokens (``shared``) that both towers and the head borrow. It is
counted where the encoder first uses it; a tower that borrows it runs it with no copy of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from lmsize.model.config import Config
from lmsize.model.parts import AttentionCore, Embedding, Linear, Part
from lmsize.model.spec import Block, ModelSpec, Run, Stream, Tower, stacked

SEQ2SEQ = "ConditionalGeneration"
# Classes of older releases of transformers that hold the same parameters.
_OLDER = {"LMHead": SEQ2SEQ, "MaskedLM": SEQ2SEQ}


@dataclass(frozen=True, slots=True)
class Stack:
    """One tower: a token table, what follows it, the layers, the norm behind them.

    Attributes:
        vocab: rows of the token table; 0 for a tower that does not read tokens (audio).
        before: positions, norms: whatever lies between the table and the first layer.
        width: where it is not the model's.
    """

    vocab: int
    layers: tuple[Block, ...]
    before: tuple[Part, ...] = ()
    after: tuple[Part, ...] = ()
    table: str = "embed_tokens"
    width: int | None = None


def head_class(config: Config, supported: Collection[str]) -> str:
    """What the class in the config holds: its task, or ``Encoder`` for a lone encoder.

    A class that the family does not have is read as its usual one, and said so.
    """
    name = config.architecture
    if name.endswith(("EncoderModel", "Encoder")):
        task = "Encoder"
    else:
        task = SEQ2SEQ if name.endswith("MTModel") else _OLDER.get(config.task, config.task)
    if task in supported:
        return task
    config.assume(
        "unknown-architecture",
        f"architecture {name!r} is not known for {config.model_type!r}: counted as its usual class",
    )
    return SEQ2SEQ


def head_dim(config: Config, key: str, n_heads: int, width: int) -> int:
    """Width of a head where `width` is divided among `n_heads`."""
    if width % n_heads:
        raise config.error(key, n_heads, f"a divisor of the width {width}")
    return width // n_heads


def task_head(
    task: str, *, width: int, lm: Part, n_labels: int, n_answers: int = 2
) -> tuple[Part, ...]:
    """What follows the last layer. The sentence head sees one token of a sequence."""
    heads: dict[str, tuple[Part, ...]] = {
        "Model": (),
        "Encoder": (),
        "SequenceClassification": (
            Linear("classification_head.dense", width, width, True, per_token=0.0),
            Linear("classification_head.out_proj", width, n_labels, True, per_token=0.0),
        ),
        "TokenClassification": (Linear("classifier", width, n_labels, True, adaptable=False),),
        "QuestionAnswering": (Linear("qa_outputs", width, n_answers, True, adaptable=False),),
    }
    return heads.get(task, (lm,))


def without_encoder(parts: Iterable[Part]) -> tuple[Part, ...]:
    """Cross-attention of a decoder that is used alone: its parameters are held, never run."""
    return tuple(
        replace(part, per_token=0.0) if isinstance(part, Linear) else part
        for part in parts
        if not isinstance(part, AttentionCore)
    )


def encoder_decoder(
    config: Config, *, width: int, n_heads: int, encoder: Stack | None, decoder: Stack | None,
    head: Iterable[Part], shares_table: bool = True, spare_rows: int = 0,
    max_positions: int | None = None, learned_positions: bool = False, architecture: str = "",
) -> ModelSpec:  # fmt: skip
    """A model of two towers, or of one where the class has only that.

    Args:
        head: follows the last tower.
        shares_table: whether the decoder borrows the encoder's token table.
        spare_rows: rows of one more token table that the class holds and never reads
            (``shared``, where nothing is tied to it).
    """
    main = encoder or decoder
    assert main is not None
    towers: list[Tower] = []
    if spare_rows:
        table = Embedding("shared", spare_rows, width, is_vocabulary=True)
        towers.append(Tower("shared", (Run(Block("embedding", (table,), "embedding")),), "idle"))
    if encoder is not None:
        tail = () if decoder is not None else tuple(head)
        towers.append(_tower("encoder", encoder, width, "input", tail))
    if decoder is not None and encoder is None:
        decoder, crossing = _alone(decoder)
        towers += crossing
    if decoder is not None:
        borrows = shares_table and encoder is not None
        stream: Stream = "input" if encoder is None else "labels"
        towers.append(_tower("decoder", decoder, width, stream, tuple(head), borrows=borrows))
    return ModelSpec(
        name="", model_type=config.model_type, architecture=architecture or config.architecture,
        width=width, n_layers=len(main.layers), n_heads=n_heads,
        vocab_size=(decoder or main).vocab, max_positions=max_positions,
        learned_positions=learned_positions, towers=tuple(towers),
    )  # fmt: skip


def _alone(decoder: Stack) -> tuple[Stack, list[Tower]]:
    """A decoder without its attention to an encoder, which stands idle beside it."""
    layers = [
        tuple(
            replace(block, parts=tuple(p for p in block.parts if _crosses(p) == crosses))
            for block in decoder.layers
        )
        for crosses in (False, True)
    ]
    is_bare = not any(block.parts for block in layers[1])
    idle = [] if is_bare else [Tower("cross attention", stacked(layers[1]), "idle")]
    return replace(decoder, layers=layers[0]), idle


def _crosses(part: Part) -> bool:
    return getattr(part, "name", "").startswith("encoder_attn")


def _tower(
    name: str, stack: Stack, width: int, stream: Stream, head: tuple[Part, ...], *,
    borrows: bool = False,
) -> Tower:  # fmt: skip
    """One tower; where its token table is another's, the table runs with no copy."""
    table: tuple[Part, ...] = ()
    if stack.vocab:
        rows = Embedding(stack.table, stack.vocab, stack.width or width, is_vocabulary=True)
        table = (rows,)
    runs: list[Run] = []
    if borrows:
        runs.append(Run(Block("embedding", table, "embedding"), 1, 0))
        table = ()
    if table or stack.before:
        label = "embedding" if table else "positions"
        runs.append(Run(Block(label, (*table, *stack.before), "embedding")))
    runs.extend(stacked(stack.layers))
    if stack.after or head:
        label = "head" if head else "final norm"
        runs.append(Run(Block(label, (*stack.after, *head), "head")))
    return Tower(name, tuple(runs), stream)

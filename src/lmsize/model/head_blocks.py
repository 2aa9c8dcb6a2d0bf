"""What follows the last layer, by the class that the config names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lmsize.model.blocks import layer_norm, lm_head
from lmsize.model.config import Config
from lmsize.model.parts import Linear, Part, Plain
from lmsize.model.spec import Block

Heads = Mapping[str, tuple[Part, ...]]
LM_TASKS = ("MaskedLM", "CausalLM", "LMHead")

# Classes whose names do not end in what Config.task looks for.
ODD_CLASSES = {
    "DoubleHeadsModel": "DoubleHeads",
    "ModelWithLMHead": "LMHead",
    "GenerationDecoder": "LMHead",
    "FunnelBaseModel": "BaseModel",
    "RoFormerModel": "Model",
}


@dataclass(frozen=True, slots=True)
class LmNames:
    """Module names of a language-model head with a transform before the projection."""

    dense: str
    norm: str
    decoder: str
    bias: str


BERT_LM = LmNames(
    "cls.predictions.transform.dense",
    "cls.predictions.transform.LayerNorm",
    "cls.predictions.decoder",
    "cls.predictions.bias",
)
ROBERTA_LM = LmNames("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", "lm_head.bias")


def task_of(config: Config) -> str:
    """As ``Config.task``, and for the few classes that are named otherwise."""
    name = config.architecture
    odd = (task for ending, task in ODD_CLASSES.items() if name.endswith(ending))
    return next(odd, config.task)


def task_head(config: Config, heads: Heads, *, usual: str, final: Iterable[Part] = ()) -> Block:
    """The head of the class in the config; a class that is not known gets the `usual` one.

    `heads` map tasks to parts; `final` is what every class has after the last layer (a norm).
    """
    task = task_of(config)
    if task not in heads:
        if config.architecture:
            text = f"class {config.architecture} is not known here: its head is that of {usual}"
            config.assume("unknown-architecture", text)
        task = usual
    return Block("head", (*final, *heads[task]), "head")


def lm_tasks(parts: Iterable[Part]) -> dict[str, tuple[Part, ...]]:
    """One language-model head for every class that has it."""
    return dict.fromkeys(LM_TASKS, tuple(parts))


def lm_transform(
    names: LmNames, *, width: int, vocab: int, tied: bool, embedding: int | None = None
) -> tuple[Part, ...]:
    """Dense, norm, projection to the vocabulary (BERT and most after it).

    The head keeps its bias under two names, which are one parameter only while tied.
    """
    to = embedding or width
    second_bias = () if tied else (Plain(names.bias, (vocab,)),)
    return (
        Linear(names.dense, width, to, True),
        layer_norm(names.norm, to),
        lm_head(width=to, vocab=vocab, tied=tied, bias=True, name=names.decoder),
        *second_bias,
    )


def pooler(width: int, name: str = "pooler.dense") -> Linear:
    """A dense layer on the first token of each sequence."""
    return Linear(name, width, width, True, per_token=0.0)


def label_head(
    width: int, n_labels: int, *, name: str = "classifier", bias: bool = True,
    per_token: float = 0.0,
) -> Linear:  # fmt: skip
    """The projection to labels; LoRA and quantisation leave it alone."""
    return Linear(name, width, n_labels, bias, adaptable=False, per_token=per_token)


def dense_classifier(
    width: int, n_labels: int, *, middle: int | None = None, prefix: str = "classifier",
    names: tuple[str, str] = ("dense", "out_proj"),
) -> tuple[Part, ...]:  # fmt: skip
    """A classifier of two layers on the first token (RoBERTa)."""
    inner = middle or width
    return (
        Linear(f"{prefix}.{names[0]}", width, inner, True, per_token=0.0),
        Linear(f"{prefix}.{names[1]}", inner, n_labels, True, per_token=0.0),
    )


def without(heads: Heads, part: Part) -> dict[str, tuple[Part, ...]]:
    """The same heads, bare of this part (a pooler that every class has, or none)."""
    return {task: tuple(p for p in parts if p != part) for task, parts in heads.items()}


def token_heads(config: Config, width: int) -> dict[str, tuple[Part, ...]]:
    """Heads that look at every token: labels of tokens, start and end of an answer."""
    labels = config.n_labels
    return {
        "TokenClassification": (label_head(width, labels, per_token=1.0),),
        "QuestionAnswering": answer_head(width, labels),
    }


def answer_head(width: int, n: int = 2) -> tuple[Part, ...]:
    """Start and end of an answer: two labels, whatever the config says of others."""
    return (label_head(width, n, name="qa_outputs", per_token=1.0),)


def generic_heads(config: Config, width: int, lm: Iterable[Part]) -> dict[str, tuple[Part, ...]]:
    """Heads of a decoder: its own for language modelling, transformers' generic others."""
    labels = config.n_labels
    return {
        **lm_tasks(lm),
        "Model": (),
        "SequenceClassification": (label_head(width, labels, name="score", bias=False),),
        "TokenClassification": (label_head(width, labels, per_token=1.0),),
        "QuestionAnswering": answer_head(width),
    }


def sequence_summary(
    config: Config, width: int, n_labels: int, *, name: str = "sequence_summary.summary"
) -> tuple[Part, ...]:
    """The generic projection of one vector a sequence, if the config asks for it."""
    if not config.flag("summary_use_proj"):
        return ()
    n_out = n_labels if config.flag("summary_proj_to_labels") else width
    return (Linear(name, width, n_out, True, per_token=0.0),)


def discriminator_head(width: int, prefix: str = "discriminator_predictions") -> tuple[Part, ...]:
    """Whether a token was replaced (ELECTRA's pre-training)."""
    return (
        Linear(f"{prefix}.dense", width, width, True),
        Linear(f"{prefix}.dense_prediction", width, 1, True),
    )


def beam_answer_head(width: int, prefix: str = "") -> tuple[Part, ...]:
    """Start, then end given the start, then whether there is an answer (XLNet, XLM)."""
    return (
        Linear(f"{prefix}start_logits.dense", width, 1, True),
        Linear(f"{prefix}end_logits.dense_0", 2 * width, width, True),
        layer_norm(f"{prefix}end_logits.LayerNorm", width),
        Linear(f"{prefix}end_logits.dense_1", width, 1, True),
        Linear(f"{prefix}answer_class.dense_0", 2 * width, width, True, per_token=0.0),
        Linear(f"{prefix}answer_class.dense_1", width, 1, per_token=0.0),
    )

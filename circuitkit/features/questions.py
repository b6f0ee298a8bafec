"""What is asked of a prompt: which logits a graph explains, and their gradient in the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuitkit.data.examples import Example
from circuitkit.data.prompts import Prompt
from circuitkit.data.tokens import tokenise, view
from circuitkit.engine.inspection import Inspectable
from circuitkit.engine.model import Context
from circuitkit.engine.numerics import wide
from circuitkit.errors import DataError
from circuitkit.features.nodes import GraphNode
from circuitkit.features.pulls import Pulled, linked, written

__all__ = ["Asked", "MOST_LOGITS", "Question", "ask", "live_gradients"]

MOST_LOGITS = 10
SHOWN = 3  # answers that are cited
Asked: TypeAlias = str | Prompt | Example
Row: TypeAlias = tuple[list[GraphNode], Float[Tensor, "n vocab"], str]


@dataclass(frozen=True)
class Question:
    """A prompt in tokens and what is to be explained of it: ``rows`` are weighted sums of logits
    [n, vocab], which count with their ``weights`` in the target."""

    text: str
    ids: Int[Tensor, " p"]
    pieces: tuple[str, ...]
    logits: tuple[GraphNode, ...]
    rows: Float[Tensor, "n vocab"]
    target: str
    correct: tuple[int, ...] = ()
    wrong: tuple[int, ...] = ()
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def direction(self) -> Float[Tensor, " vocab"]:
        """The target, as one weighted sum of logits."""
        weights = self.rows.new_tensor([node.weight for node in self.logits])
        return weights @ self.rows


def ask(
    model: Inspectable,
    prompt: Asked,
    probability: float = 0.95,
    most: int = MOST_LOGITS,
) -> tuple[Question, Context]:
    """What is asked of a prompt.

    Of a prompt with answers it is the mean logit of the correct ones less that of the wrong ones
    (without wrong ones: of all tokens). Else it is the fewest tokens, at most ``most``, that have
    together this probability to come next, each less the mean logit of all tokens. Raises DataError
    for a prompt without tokens, or answers that are not one token.
    """
    ids, correct, wrong, text, spans = _in_tokens(model, prompt)
    if not ids:
        raise DataError("the prompt has no tokens; give a text")
    tokens = torch.tensor(ids, dtype=torch.long)
    context = model.start(tokens[None], torch.ones(1, len(ids), dtype=torch.bool))
    if correct:
        logits, rows, target = _contrast(model, correct, wrong)
    else:
        logits, rows, target = _likely(model, context, probability, most)
    nodes = tuple(
        node._replace(layer=model.wiring.layers, position=len(ids) - 1) for node in logits
    )
    pieces = _pieces(model, ids)
    found = Question(
        text or "".join(pieces), tokens, pieces, nodes, rows.to(model.device), target, correct,
        wrong, spans,
    )  # fmt: skip
    return found, context


def _in_tokens(
    model: Inspectable, prompt: Asked
) -> tuple[Sequence[int], tuple[int, ...], tuple[int, ...], str, Mapping[str, tuple[int, int]]]:
    """A prompt's tokens, correct and wrong answers, its text, and its spans."""
    if isinstance(prompt, Example):
        return prompt.clean, prompt.correct, prompt.wrong, "", prompt.spans
    given, words = Prompt(prompt) if isinstance(prompt, str) else prompt, view(model)
    if given.correct:
        (example,) = tokenise([given], words)
        return example.clean, example.correct, example.wrong, given.clean, example.spans
    return words.ids([words.whole(given.clean)])[0], (), (), given.clean, {}


def _pieces(model: Inspectable, ids: Sequence[int]) -> tuple[str, ...]:
    """The text of each token; its number where the model has no tokenizer."""
    return tuple(map(str, ids) if model.tokenizer is None else view(model).pieces(ids))


def _contrast(model: Inspectable, correct: Sequence[int], wrong: Sequence[int]) -> Row:
    """One row: the correct answers less the wrong ones."""
    row = torch.zeros(1, model.d_vocab, dtype=model.dtype)
    row[0, list(correct)] += 1 / len(correct)
    if wrong:
        row[0, list(wrong)] -= 1 / len(wrong)
    else:
        row -= 1 / model.d_vocab
    right, other = (_several(model, own) for own in (correct, wrong))
    target = f"logit of {right} less {f'that of {other}' if other else 'the mean of all tokens'}"
    node = GraphNode("logit", weight=1.0, label=f"{right} − {other or 'mean'}")
    return [node], row, target


def _several(model: Inspectable, ids: Sequence[int]) -> str:
    """Some tokens, as messages cite them; empty for none."""
    more = ["…"] if len(ids) > SHOWN else []
    return " / ".join([*(_named(model, one) for one in ids[:SHOWN]), *more])


def _named(model: Inspectable, token: int) -> str:
    """A token, as messages cite it."""
    (piece,) = _pieces(model, [token])
    return repr(piece)


@torch.no_grad()
def _likely(model: Inspectable, context: Context, probability: float, most: int) -> Row:
    """A row for each of the likeliest tokens."""
    if not 0 < probability <= 1 or most < 1:
        raise DataError(
            f"logits that have the probability {probability!r}, at most {most!r}: give a share of "
            "1 and a number from 1"
        )
    _, final = linked(model, context, lambda stage, read: written(model, context, stage, read))
    chances = wide(model.unembed(final[:, -1])[0]).softmax(-1)
    best = chances.sort(descending=True)
    number = int((best.values.cumsum(0) < probability).sum()) + 1
    ids = best.indices[: min(number, most)]
    rows = torch.zeros(len(ids), model.d_vocab, dtype=model.dtype) - 1 / model.d_vocab
    rows[torch.arange(len(ids)), ids.cpu()] += 1
    nodes = [
        GraphNode("logit", number=one, weight=float(chances[one]), label=_pieces(model, [one])[0])
        for one in ids.tolist()
    ]
    target = "logits of the likeliest tokens, less the mean of all, weighted by their probability"
    return nodes, rows, target


def live_gradients(model: Inspectable, context: Context, question: Question) -> Pulled:
    """The gradient of the target in what was written, in the model itself: norms and attention
    patterns answer, and MLPs do."""
    with torch.enable_grad():
        sources, final = linked(
            model, context, lambda stage, read: written(model, context, stage, read)
        )
        value = wide(model.unembed(final[:, -1])[0]) @ wide(question.direction)
        found = torch.autograd.grad(value, [*sources.values()])
    return dict(zip(sources, found, strict=True))

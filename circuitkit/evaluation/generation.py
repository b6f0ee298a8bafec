"""Text continued by a circuit alone, by the whole model, and by the model without the circuit.

Every token is chosen after a full run over all tokens so far: nothing is cached between tokens,
which is slow and leaves no doubt about what was run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from circuitkit.data.batches import Batch, Dataset
from circuitkit.data.examples import Example
from circuitkit.data.framing import framing
from circuitkit.data.prompts import Prompt
from circuitkit.data.tokens import Tokenizer, TokenizerView, tokenise
from circuitkit.engine.inputs import (
    CorruptionLike,
    Data,
    as_corruption,
    as_data,
    as_found,
    refuse,
    require_model,
)
from circuitkit.engine.metric import Corruption
from circuitkit.engine.model import Activations, Context, Model
from circuitkit.engine.numerics import exact
from circuitkit.engine.record import answer, record
from circuitkit.engine.run import run
from circuitkit.errors import DataError
from circuitkit.evaluation.masks import CircuitLike, as_mask
from circuitkit.graph.types import Mask
from circuitkit.registry import name_of
from circuitkit.util.json_values import Json
from circuitkit.util.options import Bounds, Count, Seed, checked
from circuitkit.util.tables import as_text, to_frame
from circuitkit.util.templates import render

if TYPE_CHECKING:
    import pandas

__all__ = ["Continuation", "Generation", "generate"]

SAME = 1e-4  # relative difference of what is carried at the same tokens of a longer text


# -- results ---------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Continuation:
    """The tokens by which a run continues a text: their ids, their texts, and the probability that
    the run gave to each when it was chosen. ``ended``: the last one ends the text."""

    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    probabilities: tuple[float, ...]
    ended: bool

    @property
    def text(self) -> str:
        """The tokens as one text, without the one that ends it."""
        return "".join(self.tokens[:-1] if self.ended else self.tokens)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Generation:
    """How a prompt goes on: by the whole model, with the circuit alone, and by all edges but the
    circuit's (both None where there was no circuit). ``settings`` say how it was made."""

    prompt: str
    whole_model: Continuation
    with_circuit: Continuation | None = None
    without_circuit: Continuation | None = None
    settings: Mapping[str, Json] = field(default_factory=dict)

    def _named(self) -> list[tuple[str, Continuation]]:
        three = (self.whole_model, self.with_circuit, self.without_circuit)
        names = ("whole model", "with circuit", "without circuit")
        return [(name, own) for name, own in zip(names, three, strict=True) if own is not None]

    def to_frame(self) -> pandas.DataFrame:
        """A row for each token: ``run`` (``whole model``, ``with circuit``, ``without circuit``),
        ``step``, ``token``, ``id`` and ``probability``."""
        return to_frame(
            {"run": name, "step": step, "token": token, "id": own.ids[step],
             "probability": own.probabilities[step]}
            for name, own in self._named() for step, token in enumerate(own.tokens)
        )  # fmt: skip

    def _how(self) -> str:
        """The settings as a sentence."""
        heat = self.settings.get("temperature", 0)
        chosen = (
            f"at temperature {heat:g} with seed {self.settings['seed']}" if heat else "greedily"
        )
        cut = self.settings.get("corruption")
        others = f"; {self.settings['edges']:,} edges live, the others carry {cut}" if cut else ""
        return f"{self.settings.get('model', 'a model')}, {chosen}{others}."

    def __str__(self) -> str:
        lines = [f"  {name:<17}{own.text!r}" for name, own in self._named()]
        return "\n".join([self.prompt, *lines])

    def __repr__(self) -> str:
        rows = [
            {"step": step, **{name: _shown(own, step) for name, own in self._named()}}
            for step in range(max(len(own.ids) for _, own in self._named()))
        ]
        return f"{self}\n  {self._how()}\n\n{as_text(rows, indent=2)}"

    def _repr_html_(self) -> str:
        rows = [
            (name, list(zip(own.tokens, own.probabilities, strict=True)))
            for name, own in self._named()
        ]
        return render(
            "evaluation/generation.html.jinja", prompt=self.prompt, rows=rows, settings=self._how()
        )


def _shown(own: Continuation, step: int) -> str | None:
    """A token with its probability; None behind the last."""
    if step >= len(own.ids):
        return None
    return f"{own.probabilities[step]:.3f} {own.tokens[step]!r}"


# -- the verb --------------------------------------------------------------------------------------
@checked
@torch.no_grad()
def generate(
    model: Model,
    circuit: CircuitLike | None,
    prompt: str | Prompt | Sequence[int],
    corruption: CorruptionLike | None = None,
    *,
    corrupt: str | Sequence[int] | None = None,
    data: Data | None = None,
    max_new_tokens: Count = 20,
    temperature: Annotated[float, Bounds(0)] = 0.0,
    seed: Seed = 0,
) -> Generation:
    """Continue a text with only the circuit live, with the whole model, and without the circuit.

    Without the circuit all other edges are live; with ``circuit=None`` only the whole model is run.
    ``prompt`` is a text, its token ids, or a ``Prompt`` (``task[0]``), which brings its corrupted
    text. The next token is the most probable one, or with a ``temperature`` above 0 drawn from the
    softmax of logits / temperature by a generator of that ``seed``. A text ends after
    ``max_new_tokens``, or with the tokenizer's end-of-text token.

    The first token's logits are those of ``run`` on the prompt. The tokens that a run has chosen
    follow the prompt and the corrupted text alike. By default cut edges carry ``counterfactual``
    where there is a ``corrupt`` text (of as many tokens), else ``mean`` over the clean prompts of
    ``data``, and with neither ``zero``: under it the circuit's components read nothing but each
    other, as they never do, so give a corrupted text where there is one.

    Raises ArgumentError for numbers out of their bounds; DataError for texts of different lengths,
    or longer than the model's positions; for a corruption that lacks its texts or data, has several
    draws, or (``noise``) changes what earlier tokens carry as the text grows; CircuitError for a
    circuit of another model.

    Example:
        >>> print(ck.generate(model, circuit, task[3], max_new_tokens=2))
        When Louis and Maria went to the church, Maria gave a drink to
          whole model      ' Louis Louis'
          with circuit     ' Louis Louis'
          without circuit  ' Maria Maria'
    """
    require_model(model)
    mask = None if circuit is None else as_mask(circuit, model.wiring)
    model = as_found(model, circuit)
    example = _example(model, prompt, corrupt)
    _require(model, example, max_new_tokens)
    text = _text(model.tokenizer, prompt, example.clean)
    decoding = _Decoding(model.tokenizer, example, max_new_tokens, temperature, seed)
    whole = decoding.continued(partial(_whole, model))
    framed = framing(model.tokenizer)
    made = Generation(text, whole, settings={"model": model.name, **framed, **decoding.settings()})
    if mask is None:
        return made
    chosen = _corruption(corruption, example, data)
    kept, rest = map(decoding.continued, _sides(model, mask, chosen, data))
    other = _text(model.tokenizer, corrupt, example.corrupt) if _differs(example) else None
    how = {"corruption": name_of(chosen), "corrupt": other, "edges": int((mask != 0).sum())}
    settings = {**made.settings, **how}
    return replace(made, with_circuit=kept, without_circuit=rest, settings=settings)


# -- what is given ---------------------------------------------------------------------------------
class _NoData(Dataset):
    """No data: a corruption that reads it is told to ask for some."""

    def __init__(self, corruption: str) -> None:
        object.__setattr__(self, "asked", corruption)

    @property
    def examples(self) -> tuple[Example, ...]:
        """Refused, in a sentence."""
        raise DataError(
            f"{self.__dict__['asked']} is taken from prompts; give them as data=, or "
            "give a corrupted text as corrupt="
        )


def _example(
    model: Model, prompt: str | Prompt | Sequence[int], corrupt: str | Sequence[int] | None
) -> Example:
    """The prompt in tokens; without a corrupted text, it is used for that as well."""
    if isinstance(prompt, Prompt):
        (found,) = tokenise([prompt], TokenizerView(_tokenizer(model)))
        return (
            found
            if corrupt is None
            else replace(found, corrupt=_ids(model, corrupt), corruptions={})
        )
    clean = _ids(model, prompt)
    other = clean if corrupt is None else _ids(model, corrupt)
    if not clean or len(clean) != len(other):
        raise DataError(
            f"the prompt has {len(clean)} tokens and the corrupted text has {len(other)}; make "
            "them equally long, and at least one token"
        )
    return Example(clean, other, (), (), {"end": (len(clean) - 1, len(clean))})


def _tokenizer(model: Model) -> Tokenizer:
    if model.tokenizer is None:
        raise DataError(f"{model.name!r} has no tokenizer; give the prompt as token ids")
    return model.tokenizer


def _ids(model: Model, text: str | Sequence[int]) -> tuple[int, ...]:
    if isinstance(text, str):
        words = TokenizerView(_tokenizer(model))
        return tuple(words.ids([words.whole(text)])[0])
    try:
        ids = tuple(int(one) for one in text)
    except (TypeError, ValueError, RuntimeError):  # tensors raise the last
        refuse("the prompt", text, "a text, its token ids, or a Prompt such as task[0]")
    if not all(0 <= one < model.d_vocab for one in ids):
        raise DataError(
            f"the token ids go from {min(ids)} to {max(ids)}, and {model.name!r} has tokens 0 to "
            f"{model.d_vocab - 1}; give ids of this model"
        )
    return ids


def _text(tokenizer: Tokenizer | None, given: object, ids: tuple[int, ...]) -> str:
    """A text as it was given, else as its tokens say."""
    if isinstance(given, str):
        return given
    if isinstance(given, Prompt):
        return given.clean
    return " ".join(map(str, ids)) if tokenizer is None else tokenizer.decode(list(ids))


def _require(model: Model, example: Example, max_new_tokens: int) -> None:
    """Raise DataError for a text that outgrows the model."""
    whole = torch.tensor([example.clean + example.clean[-1:] * (max_new_tokens - 1)])
    model.start(whole, torch.ones_like(whole, dtype=torch.bool))


def _corruption(
    corruption: CorruptionLike | None, example: Example, data: Data | None
) -> Corruption:
    """The corruption as a function; without one, what fits what was given."""
    default = "counterfactual" if _differs(example) else "zero" if data is None else "mean"
    return as_corruption(default if corruption is None else corruption)


def _differs(example: Example) -> bool:
    return example.corrupt != example.clean


# -- a run -----------------------------------------------------------------------------------------
Logits: TypeAlias = Callable[[Example], Tensor]  # of the token after a text


def _batch(model: Model, example: Example) -> tuple[Batch, Context]:
    """The text as a batch of one."""
    alone = replace(example, sequences=None)
    batch = next(iter(Dataset((alone,), device=str(model.device))))
    return batch, model.start(batch.clean, batch.mask)


def _whole(model: Model, example: Example) -> Float[Tensor, " vocab"]:
    """The whole model's logits."""
    batch, context = _batch(model, example)
    return answer(model, batch, record(model, context).final)[0]


class _Masked:
    """The logits under a mask, for a text that grows: what is carried at the tokens so far has to
    stay as it is."""

    def __init__(
        self, model: Model, mask: Mask, carry: Callable[[Batch], list[Activations]], name: str
    ) -> None:
        self.model, self.mask, self.carry, self.name = model, mask, carry, name
        self.before: Tensor | None = None

    def __call__(self, example: Example) -> Float[Tensor, " vocab"]:
        """The logits of the token after the text."""
        batch, context = _batch(self.model, example)
        carried = self._carried(batch, context)
        return run(self.model, batch, context, carried, self.mask)[0]

    def _carried(self, batch: Batch, context: Context) -> Activations:
        draws = self.carry(batch)
        if len(draws) != 1:
            raise DataError(
                f"{self.name} makes {len(draws)} draws, and a text has one continuation; give "
                "draws=1"
            )
        (found,) = draws
        if found.consistent and torch.equal(found.embed, context.embed):
            raise DataError(
                f"{self.name} changes nothing of this prompt, so that the cut edges would carry "
                "what they carry in the whole model; give a text of as many tokens as corrupt="
            )
        if self.before is not None:
            change = (found.embed[:, : self.before.shape[1]] - self.before).abs().max()
            if change > SAME * self.before.abs().max():
                raise DataError(
                    f"{self.name} draws anew what it carries when the text grows, so that there is "
                    "no one text that goes on; give max_new_tokens=1, or another corruption"
                )
        self.before = found.embed
        return found


def _sides(
    model: Model, mask: Mask, corruption: Corruption, data: Data | None
) -> tuple[_Masked, _Masked]:
    """The run with the circuit alone, and the one without it."""
    name = name_of(corruption)
    carry = corruption(model, _NoData(name) if data is None else as_data(model, data))
    others: Mask = model.wiring.legal & (mask == 0)
    return _Masked(model, mask, carry, name), _Masked(model, others, carry, name)


# -- a text ----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Decoding:
    """How a text is continued, whoever does it."""

    tokenizer: Tokenizer | None
    example: Example
    max_new_tokens: int
    temperature: float
    seed: int

    def settings(self) -> dict[str, Json]:
        """The settings, as a result says them."""
        return {
            "max_new_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "seed": self.seed,
        }

    def continued(self, logits: Logits) -> Continuation:
        """The text as one run continues it."""
        end = getattr(self.tokenizer, "eos_token_id", None)
        generator = torch.Generator().manual_seed(self.seed)
        new: list[int] = []
        probabilities: list[float] = []
        while len(new) < self.max_new_tokens and not (new and new[-1] == end):
            values = exact(logits(_longer(self.example, new))).cpu()
            new.append(_chosen(values, self.temperature, generator))
            probabilities.append(float(values.softmax(-1)[new[-1]]))
        tokens = tuple(_pieces(self.tokenizer, self.example.clean, new))
        return Continuation(tuple(new), tokens, tuple(probabilities), new[-1] == end)


def _longer(example: Example, new: Sequence[int]) -> Example:
    """The example with more tokens, the same in every text of it."""
    more = tuple(new)
    texts = {name: text + more for name, text in example.corruptions.items()}
    return replace(
        example, clean=example.clean + more, corrupt=example.corrupt + more, corruptions=texts
    )


def _chosen(logits: Float[Tensor, " vocab"], temperature: float, generator: torch.Generator) -> int:
    """The next token."""
    if not temperature:
        return int(logits.argmax())
    return int(torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator))


def _pieces(
    tokenizer: Tokenizer | None, prompt: tuple[int, ...], new: Sequence[int]
) -> Iterator[str]:
    """The text that each new token adds."""
    if tokenizer is None:
        yield from (f" {one}" for one in new)
        return
    before = tokenizer.decode(list(prompt))
    for count, one in enumerate(new, 1):
        after = tokenizer.decode([*prompt, *new[:count]])
        yield after[len(before) :] if after.startswith(before) else tokenizer.decode([one])
        before = after

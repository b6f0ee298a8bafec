"""A causal model: what each part computes from which others, with any of its edges cut.

It is a ``rasp`` expression in which some operations are *parts*, each to be computed by a component
of its own: an Aggregate by a head, which reads by its ports q, k and v, and any other by an MLP.
Operations that are not parts are computed by whoever reads them. The logits read the parts that
vote.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitkit.errors import ModelError
from circuitkit.graph.nodes import INPUT, LOGITS
from circuitkit.models.decoder import SPECIAL
from circuitkit.truth.rasp.language import Aggregate, Op, Space, expression, tokens
from circuitkit.truth.trained.tables import CLASH, Codes, Tables

__all__ = ["Causal", "Link"]

Values: TypeAlias = Mapping[str, Codes]
Cut: TypeAlias = Bool[Tensor, "b links"]


class Link(NamedTuple):
    """An edge of a causal model: a part, or the input, is read by a port of a part, or by the
    logits (whose port is empty, as an MLP's is)."""

    writer: str
    reader: str
    port: str


@dataclass(frozen=True, eq=False)
class Causal:
    """What is computed from what, and for which prompts.

    Attributes:
        name: The name.
        vocabulary: The words that prompts are made of.
        draw: A random prompt; all have the same number of words.
        parts: The operations that components compute, by name, inputs before their readers.
        votes: How many logits, in units, each of these parts gives to the word of its value.
        source: Where the idea comes from.

    Raises ModelError where a part is not categorical, reads an attention that is not a part, or
    where a voting part does not exist.

    Example:
        >>> from random import Random
        >>> from circuitkit.truth.trained import Causal
        >>> at = ck.rasp.indices
        >>> last = ck.rasp.Select(at, at, lambda key, query: key == query - 1)
        >>> before = ck.rasp.Aggregate(last, ck.rasp.tokens)
        >>> model = Causal("before", "ab", lambda r: r.choices("ab", k=3), {"before": before},
        ...                {"before": 1})
        >>> [str(link) for link in model.links][0]
        "Link(writer='input', reader='before', port='q')"
    """

    name: str
    vocabulary: Sequence[str]
    draw: Callable[[Random], Sequence[str]]
    parts: Mapping[str, Op]
    votes: Mapping[str, float]
    source: str = ""

    def __post_init__(self) -> None:
        wrong = [name for name in self.votes if name not in self.parts]
        if wrong or not self.votes:
            raise ModelError(
                f"{self.name!r} has votes of {', '.join(self.votes) or 'nothing'}, and its parts "
                f"are {', '.join(self.parts)}; give votes of parts"
            )
        _ = self.tables, self.links

    def __repr__(self) -> str:
        return f"{self.name}: {len(self.parts)} parts, {len(self.links)} edges"

    # -- what it is --------------------------------------------------------------------------------
    @cached_property
    def length(self) -> int:
        """How many words each prompt has."""
        return len(self.draw(Random(0)))

    @cached_property
    def tables(self) -> Tables:
        """Its operations as tables."""
        return Tables.of(self.parts.values(), Space(tuple(self.vocabulary), self.length))

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The vocabulary of a model of it: the first word, those of prompts, and the answers."""
        answers = [str(v) for name in self.votes for v in self.tables.domain[self.parts[name]]]
        return tuple(dict.fromkeys([*SPECIAL, *self.vocabulary, *answers]))

    def is_head(self, part: str) -> bool:
        """Whether attention computes a part; otherwise an MLP does."""
        return isinstance(self.parts[part], Aggregate)

    @cached_property
    def _named(self) -> dict[Op, str]:
        return {op: name for name, op in self.parts.items()}

    @cached_property
    def links(self) -> tuple[Link, ...]:
        """The edges, part by part; then those into the logits."""
        found = [
            Link(writer, name, port)
            for name, op in self.parts.items()
            for port, one in zip(_ports(op), op.inputs, strict=True)
            for writer in self._writers(one)
        ]
        return tuple(dict.fromkeys([*found, *(Link(name, LOGITS, "") for name in self.votes)]))

    def _writers(self, op: Op) -> Iterator[str]:
        """The parts that an operation is computed from where it is read, and the input."""
        if op in self._named:
            yield self._named[op]
            return
        if isinstance(op, Aggregate):
            raise ModelError(
                f"{self.name!r} reads the attention {op.name!r}, which is not a part; name it"
            )
        if not op.inputs:
            yield INPUT
        for one in op.inputs:
            yield from self._writers(one)

    @cached_property
    def constant(self) -> frozenset[Link]:
        """The edges through which the same is read in every prompt: positions alone."""
        found = set(self.links)
        for name, op in self.parts.items():
            for port, one in zip(_ports(op), op.inputs, strict=True):
                if tokens in expression(one):
                    found -= {link for link in self.links if link[1:] == (name, port)}
        return frozenset(link for link in found if link.reader != LOGITS)

    # -- what it computes --------------------------------------------------------------------------
    def prompts(self, n: int, rng: Random) -> Codes:
        """Random prompts as numbers of words, counted from the first of the vocabulary."""
        number = {word: i for i, word in enumerate(self.vocabulary)}
        return torch.tensor([[number[word] for word in self.draw(rng)] for _ in range(n)])

    def values(
        self, prompts: Codes, source: Values | None = None, cut: Cut | None = None
    ) -> dict[str, Codes]:
        """The value of each part at every word, and of the input; a cut edge carries the values of
        the source (what this gave for other prompts)."""
        found: dict[str, Codes] = {INPUT: prompts}

        def read(op: Op, reader: str, port: str) -> Codes:
            name = INPUT if op is tokens else self._named.get(op)
            if name is not None:
                return self._heard(found, Link(name, reader, port), source, cut)
            if not op.inputs:
                return torch.arange(self.length).expand_as(prompts)
            return self.tables.value(op, [read(one, reader, port) for one in op.inputs])

        for name, op in self.parts.items():
            own = zip(_ports(op), op.inputs, strict=True)
            found[name] = self.tables.value(op, [read(one, name, port) for port, one in own])
        return found

    def _heard(self, found: Values, link: Link, source: Values | None, cut: Cut | None) -> Codes:
        """What an edge carries."""
        if source is None or cut is None:
            return found[link.writer]
        here = cut[:, self.links.index(link), None]
        return torch.where(here, source[link.writer], found[link.writer])

    def answers(
        self, found: Values, source: Values | None = None, cut: Cut | None = None
    ) -> Float[Tensor, "b p vocab"]:
        """The votes for each word at each token; nan where there is no answer."""
        number = {word: i for i, word in enumerate(self.words)}
        total = torch.zeros(*found[INPUT].shape, len(self.words))
        for name, weight in self.votes.items():
            heard = self._heard(found, Link(name, LOGITS, ""), source, cut)
            domain = self.tables.domain[self.parts[name]]
            rows = torch.zeros(len(domain) + 2, len(self.words))
            rows[range(len(domain)), [number[str(value)] for value in domain]] = weight
            rows[CLASH] = torch.nan
            total = total + rows[heard]
        return torch.where((total == 0).all(-1, keepdim=True), torch.nan, total)


def _ports(op: Op) -> tuple[str, ...]:
    """The port by which each input of an operation is read."""
    return ("k", "q", "v") if isinstance(op, Aggregate) else ("",) * len(op.inputs)

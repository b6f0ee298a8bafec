"""A program's expression as the weights of a decoder (after Lindner et al. 2023, Tracr).

Each value of a categorical operation has its own direction of the residual stream, and a numeric
operation has one direction; the opening token has one, and all other tokens share one, ``ONE``. An
aggregate is a head: q · k is ``sharpness`` if the predicate holds, and half of that at the opening
token, to which a head attends that finds nothing. Maps are neurons: a table for one-hot inputs, a
sum of steps for numbers. The width d of a selector is read from the attention 1 / (1 + d) that the
opening token gets besides all selected tokens.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise, product
from typing import Any, TypeAlias

import torch
from torch import Tensor

from circuitkit.models.decoder import Decoder
from circuitkit.truth.rasp.language import (
    Aggregate,
    Map,
    Op,
    Otherwise,
    Select,
    SelectorWidth,
    SequenceMap,
    Value,
    domains,
    expression,
    indices,
    tokens,
)
from circuitkit.truth.rasp.program import NUMERIC, Program

__all__ = ["compile_program"]

OPENING, ONE = 0, 1  # directions
Sparse: TypeAlias = dict[int, float]
Unit: TypeAlias = tuple[Sparse, Sparse]  # what a neuron reads, and what it writes


def compile_program(program: Program, *, sharpness: float = 100.0) -> Decoder:
    """The program as a transformer, whose logits at the last token are the program's value there.

    The logit of the value's word is 1 and all others are 0, up to rounding and e^(−sharpness / 2).
    The model has as few layers as the depth of the expression allows, and in each as many heads as
    are needed at once.

    Args:
        program: The program, such as ``ck.rasp.named("reverse")``.
        sharpness: The attention score of a selected token.

    Returns:
        A ``Decoder``, which every function takes as a model.

    Raises:
        ModelError: if the expression cannot be compiled.

    Source: after Lindner et al. 2023 (Tracr).

    Example:
        >>> ck.rasp.compile_program(ck.rasp.named("reverse"))
        reverse: 2 layers × 1 heads, d_model 48, 23 edges, float32 on cpu
    """
    return _Compiler(program, sharpness).decoder().to(torch.float32)


def _halves(ops: Sequence[Op]) -> dict[Op, int]:
    """After which half of a layer each operation is available: attention is even, MLPs are odd; −1
    is the embedding."""
    done: dict[Op, int] = {}
    for op in ops:
        after = max((done[one] for one in op.inputs), default=-2) + 1
        if op in (tokens, indices):
            done[op] = -1
        elif isinstance(op, (Aggregate, SelectorWidth)):
            done[op] = after + after % 2 + isinstance(op, SelectorWidth)
        else:
            done[op] = after + 1 - after % 2
    return done


@dataclass(frozen=True)
class _Head:
    """One head: the selector, how it scores the opening token, and what it moves where."""

    op: Op
    selector: Select
    opening: float
    moves: tuple[tuple[int, int], ...]


class _Compiler:
    """The directions, heads and neurons of a program, and then its weights."""

    def __init__(self, program: Program, sharpness: float) -> None:
        self.program, self.sharpness = program, sharpness
        self.ops = expression(program.output)
        self.domains = domains(program.output, program.space)
        self.done = _halves(self.ops)
        self.width = 2
        self.at: dict[Op, dict[Value, int]] = {}
        self.aside: dict[Op, int] = {}
        for op in self.ops:
            names = [None] if op.is_numeric else list(self.domains[op])
            self.at[op] = {name: self.width + i for i, name in enumerate(names)}
            self.width += len(names)
            if isinstance(op, SelectorWidth):
                self.aside[op] = self.width
                self.width += 1

    # -- heads -------------------------------------------------------------------------------------
    def heads(self) -> dict[int, list[_Head]]:
        """The heads of each layer."""
        found: dict[int, list[_Head]] = defaultdict(list)
        for op in self.ops:
            if isinstance(op, Aggregate):
                moves = tuple(zip(self.at[op.of].values(), self.at[op].values(), strict=True))
                head = _Head(op, op.selector, self.sharpness / 2, moves)
                found[self.done[op] // 2].append(head)
            elif isinstance(op, SelectorWidth):
                moves = ((OPENING, self.aside[op]),)
                found[self.done[op] // 2].append(_Head(op, op.selector, self.sharpness, moves))
        return found

    def scores(self, head: _Head) -> tuple[list[Sparse], list[Sparse]]:
        """The directions that the channels of q and of k read: one for each key, one for the
        opening token."""
        keys, queries = self.at[head.selector.keys], self.at[head.selector.queries]
        q = [
            {at: self.sharpness for query, at in queries.items() if head.selector.holds(key, query)}
            for key in keys
        ]
        k: list[Sparse] = [{at: 1.0} for at in keys.values()]
        return [*q, {ONE: head.opening}], [*k, {OPENING: 1.0}]

    # -- neurons -----------------------------------------------------------------------------------
    def units(self, op: Op) -> Iterator[Unit]:
        """The neurons of an operation that is computed by an MLP."""
        if isinstance(op, SelectorWidth):
            points = [(Fraction(1, 1 + n), self._out(op, n)) for n in self.domains[op]]
            yield from _steps(self.aside[op], points)
        elif isinstance(op, Map) and op.of.is_numeric:
            points = [(Fraction(value), self._out(op, op.row((), [value])[0]))
                      for value in self.domains[op.of]]  # fmt: skip
            yield from _steps(self.at[op.of][None], points)
        elif isinstance(op, Map):
            for value, at in self.at[op.of].items():
                yield {at: 1.0}, self._out(op, op.row((), [value])[0])
        elif isinstance(op, SequenceMap):
            for (one, i), (two, j) in product(self.at[op.one].items(), self.at[op.two].items()):
                reads = Counter({i: 1.0}) + Counter({j: 1.0})
                yield {**reads, ONE: -1.0}, self._out(op, op.function(one, two))
        elif isinstance(op, Otherwise):
            for value, at in self.at[op.one].items():
                yield {at: 1.0}, self._out(op, value)
            absent = dict.fromkeys(self.at[op.one].values(), -1.0)
            for value, at in self.at[op.two].items():
                yield {**absent, at: 1.0}, self._out(op, value)

    def _out(self, op: Op, value: Value) -> Sparse:
        """The directions that mean that an operation has this value."""
        if value is None:
            return {}
        if op.is_numeric:
            return {self.at[op][None]: float(value)}
        return {self.at[op][value]: 1.0}

    # -- weights -----------------------------------------------------------------------------------
    def decoder(self) -> Decoder:
        """The weights, in double precision."""
        heads, layers = self.heads(), max(0, *self.done.values()) // 2 + 1
        hidden = [
            [unit for op in self.ops if self.done[op] == 2 * layer + 1 for unit in self.units(op)]
            for layer in range(layers)
        ]
        weights: dict[str, Any] = {**self._attention(layers, heads), **self._mlps(hidden)}
        embedding, positions = self._embedding()
        return Decoder(
            self.program.name, self.program.words, embedding, positions, **weights,
            unembedding=self._unembedding(), roles=self._roles(heads),
        )  # fmt: skip

    def _embedding(self) -> tuple[Tensor, Tensor]:
        words = self.program.words
        embedding = _zeros(len(words), self.width)
        embedding[0, OPENING], embedding[1:, ONE] = 1, 1
        for word, at in self.at.get(tokens, {}).items():
            embedding[words.index(str(word)), at] = 1
        positions = _zeros(self.program.length + 1, self.width)
        for place, at in self.at.get(indices, {}).items():
            positions[int(place) + 1, at] = 1
        return embedding, positions

    def _attention(self, layers: int, heads: Mapping[int, Sequence[_Head]]) -> dict[str, Tensor]:
        most = max(map(len, heads.values()), default=1)
        inner = max(
            (
                max(len(self.scores(one)[0]), len(one.moves))
                for own in heads.values()
                for one in own
            ),
            default=1,
        )
        shape = layers, most, self.width, inner
        q, k, v, o = (_zeros(*shape) for _ in "qkvo")
        for layer, own in heads.items():
            for i, head in enumerate(own):
                for weights, channels in zip((q, k), self.scores(head), strict=True):
                    _fill(weights[layer, i].T, channels)
                for channel, (source, target) in enumerate(head.moves):
                    v[layer, i, source, channel] = o[layer, i, target, channel] = 1
        return {"q": q, "k": k, "v": v, "o": o.transpose(-1, -2)}

    def _mlps(self, hidden: Sequence[Sequence[Unit]]) -> dict[str, Tensor]:
        shape = len(hidden), max(1, *map(len, hidden)), self.width
        w_in, w_out = _zeros(*shape), _zeros(*shape)
        for layer, units in enumerate(hidden):
            _fill(w_in[layer], [reads for reads, _ in units])
            _fill(w_out[layer], [writes for _, writes in units])
        return {"w_in": w_in.transpose(-1, -2), "w_out": w_out}

    def _unembedding(self) -> Tensor:
        output, words = self.program.output, self.program.words
        unembedding = _zeros(self.width, len(words))
        for value, at in self.at[output].items():
            word = NUMERIC[0] if output.is_numeric else str(value)
            unembedding[at, words.index(word)] = 1
        return unembedding

    def _roles(self, heads: Mapping[int, Sequence[_Head]]) -> dict[str, str]:
        """What each head and MLP computes, in the names of the operations."""
        roles = {
            f"a{layer}.h{i}": _called(head.op)
            for layer, own in heads.items()
            for i, head in enumerate(own)
        }
        for op in self.ops:
            if self.done[op] % 2 and op not in (tokens, indices):
                name = f"m{self.done[op] // 2}"
                roles[name] = ", ".join([*([roles[name]] if name in roles else []), _called(op)])
        return roles


def _called(op: Op) -> str:
    return op.name or type(op).__name__


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float64)


def _fill(rows: Tensor, sparse: Sequence[Sparse]) -> None:
    for row, values in zip(rows, sparse, strict=False):
        for at, value in values.items():
            row[at] = value


def _steps(source: int, points: Sequence[tuple[Fraction, Sparse]]) -> Iterator[Unit]:
    """The neurons of a step function of one number, which writes what the nearest point writes. A
    step takes a quarter of the smallest distance of points. At the opening token, which does not
    have ONE, the two neurons of a step are the same, so that nothing is written."""
    ordered = sorted(points, key=lambda point: point[0])
    gaps = [float(b[0] - a[0]) for a, b in pairwise(ordered)]
    slope = 4 / min(gaps, default=4.0)
    yield {ONE: 1.0}, ordered[0][1]
    for (x, before), (y, after) in pairwise(ordered):
        change = {at: after.get(at, 0.0) - before.get(at, 0.0) for at in {*before, *after}}
        middle = slope * float(x + y) / 2
        for shift, sign in ((0.5, 1.0), (-0.5, -1.0)):
            reads = {source: slope, ONE: shift - middle}
            yield reads, {at: sign * value for at, value in change.items() if value}

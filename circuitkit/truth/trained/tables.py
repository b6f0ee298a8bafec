"""Expressions over many prompts at once: each categorical operation as a table of whole numbers.

A value is its number in the operation's domain. ``NONE`` means no value, and ``CLASH`` is what an
Aggregate has that selects different values: nothing is said where it is read. As the last numbers
of a table, which Python counts from its end, both are looked up like any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from circuitkit.errors import ModelError
from circuitkit.truth.rasp.language import (
    Aggregate,
    Map,
    Op,
    Otherwise,
    SequenceMap,
    Space,
    Value,
    domains,
    expression,
)

__all__ = ["CLASH", "NONE", "Codes", "Tables"]

NONE = -1
CLASH = -2
Codes = Int[Tensor, "b p"]


@dataclass(frozen=True, eq=False)
class Tables:
    """The operations of expressions as tables; ``domain`` are the values that each may have."""

    domain: Mapping[Op, tuple[Value, ...]]
    _tables: Mapping[Op, Tensor]

    @classmethod
    def of(cls, outputs: Iterable[Op], space: Space) -> Tables:
        """Those of all operations that the outputs read.

        Raises ModelError for a numeric operation, and for one that is neither an Aggregate, a Map,
        a SequenceMap nor an Otherwise.
        """
        domain: dict[Op, tuple[Value, ...]] = {}
        for output in outputs:
            for op in expression(output):
                known = not op.inputs or isinstance(op, Aggregate | Map | Otherwise | SequenceMap)
                if op.is_numeric or not known:
                    raise ModelError(
                        f"{op.name or type(op).__name__} cannot be trained for: use categorical "
                        "operations, each an Aggregate, a Map, a SequenceMap or an Otherwise"
                    )
            domain |= domains(output, space)
        return cls(domain, {op: _table(op, domain) for op in domain if op.inputs})

    def value(self, op: Op, inputs: Sequence[Codes]) -> Codes:
        """An operation of the values of its inputs, in their order."""
        table = self._tables[op]
        if isinstance(op, Aggregate):
            keys, queries, values = inputs
            return _aggregated(table[keys[:, None, :], queries[:, :, None]], keys, queries, values)
        found: Tensor = table[tuple(inputs)]
        return found


def _table(op: Op, domain: Mapping[Op, tuple[Value, ...]]) -> Tensor:
    """The function of an operation, or what its Select holds for, by the numbers of the inputs;
    then the entries of CLASH and NONE."""
    if isinstance(op, Aggregate):
        own = (domain[op.selector.keys], domain[op.selector.queries])
        held = torch.zeros(len(own[0]) + 2, len(own[1]) + 2, dtype=torch.bool)
        for i, j in product(*(range(len(one)) for one in own)):
            held[i, j] = op.selector.holds(own[0][i], own[1][j])
        return held
    number = {value: i for i, value in enumerate(domain[op])} | {None: NONE}
    values = [(*domain[one], "clash", None) for one in op.inputs]
    table = torch.full([len(own) for own in values], NONE)
    for at in product(*(range(len(own)) for own in values)):
        if any(i == len(own) - 2 for i, own in zip(at, values, strict=True)):
            table[at] = CLASH
            continue
        row = op.row((), *([own[i]] for i, own in zip(at, values, strict=True)))
        table[at] = number[row[0]]
    return table


def _aggregated(held: Bool[Tensor, "b p p"], keys: Codes, queries: Codes, values: Codes) -> Codes:
    """The value that all selected tokens have: NONE without any, CLASH where two differ or where
    it is not known which are selected."""
    earlier = torch.ones(held.shape[1:], dtype=torch.bool).tril()
    chosen = held & earlier
    first = values.gather(1, chosen.long().argmax(-1))
    differs = (chosen & (values[:, None, :] != first[..., None])).any(-1)
    unknown = (earlier & (keys == CLASH)[:, None, :]).any(-1) | (queries == CLASH)
    found = torch.where(chosen.any(-1), first, NONE)
    return torch.where(differs | unknown, CLASH, found)

"""Which span each token of some prompts belongs to.

Every token belongs to exactly one span. The spans that prompts name are given (``S2``); the first
token is ``start`` and the last one, at which the model answers, ``end``, unless a named span is
there; the tokens between are named by the span that they precede (``before S2``), whatever the
order of the spans in a prompt; and where answers have several tokens, those are ``answer``. So the
list of names alone says where the tokens of a prompt belong, also of one that was not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from circuitkit.data.examples import Example
from circuitkit.errors import DataError
from circuitkit.registry import nearest

__all__ = [
    "ANSWER",
    "END",
    "NAMED",
    "START",
    "TOKENS",
    "Ranges",
    "candidates",
    "numbered",
    "span_names",
]

NAMED = "named"  # the spans that prompts name, except those within another one
TOKENS = "tokens"  # every position by itself
START = "start"
END = "end"
ANSWER = "answer"
BEFORE = "before "
OWN = (START, END, ANSWER)  # what is a span whatever prompts name


def span_names(at: str | Sequence[str]) -> tuple[str, ...]:
    """The names of tokens in ``at``, which may be a single one."""
    return (at,) if isinstance(at, str) else tuple(at)


@dataclass(frozen=True)
class Ranges:
    """The named spans of some prompts, as tensors.

    Attributes:
        mask: True at tokens, False at padding.
        prompts: True at the tokens of prompts, False at those of answers and at padding.
        spans: Ranges of positions [start, stop) by name; (-1, -1) where a prompt lacks the span.
        name: What messages call a prompt, by its row.
    """

    mask: Bool[Tensor, "batch pos"]
    prompts: Bool[Tensor, "batch pos"]
    spans: Mapping[str, Int[Tensor, "batch 2"]]
    name: Callable[[int], str]


def candidates(examples: Sequence[Example], spans: str | Sequence[str]) -> tuple[str, ...]:
    """The named spans that are asked for, and all that tokens beside them may belong to. Raises
    DataError where there are none, for an unknown name and for one that is taken."""
    known = list(dict.fromkeys(name for e in examples for name in e.spans if name != END))
    given = _outer(examples, known) if spans == NAMED else list(dict.fromkeys(span_names(spans)))
    if not given:
        raise DataError(
            "the prompts name no spans; take every position for one (--spans tokens), or name "
            "spans in the file of prompts (span_NAME)"
        )
    chosen = [name for name in given if name in known]
    unknown = [name for name in given if name not in known and not _is_own(name, known)]
    if unknown:
        near = nearest(unknown[0], known)
        raise DataError(
            f"{unknown[0]!r} is not a span of these prompts; they have "
            f"{', '.join([*known, END])}" + (f" (did you mean {near!r}?)" if near else "")
        )
    _require_free(examples, chosen)
    ranges = {name: [(e.spans.get(name), len(e.clean)) for e in examples] for name in chosen}
    at_start = any(all(own == (0, 1) for own, _ in each) for each in ranges.values())
    at_end = any(all(own and own[1] == n for own, n in each) for each in ranges.values())
    opening = [] if at_start and START not in given else [START]
    closing = [] if at_end and END not in given else [END]
    own = list(dict.fromkeys([*opening, *chosen, *closing]))
    rests = [BEFORE + name for name in own if name != START and BEFORE + name not in own]
    several = any(len(one) > 1 for e in examples for kind in e.sequences or () for one in kind)
    return (*own, *rests, *([ANSWER] if several else []))


def numbered(batch: Ranges, spans: Sequence[str]) -> Int[Tensor, "batch pos"]:
    """The number, in the list of names, of the span that each token belongs to; -1 on padding.

    Raises DataError where an example lacks one of the named spans, where two have a token in
    common, and for a token that belongs to none of the list.
    """
    place = batch.mask.long().cumsum(-1) - 1
    if _are_positions(spans):
        if int(place.max()) >= len(spans):
            raise DataError(
                f"a prompt has {int(place.max()) + 1} tokens, and there are places for "
                f"{len(spans)}; give prompts of that length"
            )
        return place.masked_fill(~batch.mask, -1)
    found = _named(batch, spans, place)
    at = torch.arange(place.shape[1], device=place.device).expand_as(place)
    nothing = place.shape[1]
    follows = torch.where(found < 0, nothing, at).flip(-1).cummin(-1).values.flip(-1)
    span = torch.nn.functional.pad(found, (0, 1), value=-1).gather(1, follows)
    number = {name: n for n, name in enumerate(spans) if name not in batch.spans}
    before = [number.get(BEFORE + name, -1) for name in spans] + [-1]  # the last: before nothing
    rest = torch.tensor(before, device=place.device)[span]
    found = torch.where((found < 0) & batch.prompts, rest, found)
    _require_all(batch, spans, found, span)
    if START not in spans:
        _require_alone(batch, spans, found)
    return found


# -- the names -------------------------------------------------------------------------------------
def _outer(examples: Sequence[Example], names: Sequence[str]) -> list[str]:
    """Those that do not lie within another one in every prompt; of two that are the same, the
    first."""

    def within(one: str, other: str) -> bool:
        each = [(e.spans[one], e.spans.get(other)) for e in examples if one in e.spans]
        return all(there and there[0] <= own[0] and own[1] <= there[1] for own, there in each)

    return [
        name
        for n, name in enumerate(names)
        if not any(
            within(name, other) and (m < n or not within(other, name))
            for m, other in enumerate(names)
            if m != n
        )
    ]


def _are_positions(spans: Sequence[str]) -> bool:
    return tuple(spans) == tuple(map(str, range(len(spans))))


def _is_own(name: str, known: Sequence[str]) -> bool:
    """Whether tokens may have this name though no prompt gives it."""
    return name in OWN or name.removeprefix(BEFORE) in (END, *known)


def _require_free(examples: Sequence[Example], chosen: Sequence[str]) -> None:
    """Raise DataError for a name that is taken."""
    several = any(e.sequences for e in examples)
    for name in chosen:
        starts = all(e.spans.get(name) == (0, 1) for e in examples)
        taken = {START: "the first token", ANSWER: "an answer of several tokens"}
        if (name == START and not starts) or (name == ANSWER and several):
            raise DataError(f"the span {name!r} has the name of {taken[name]}; give it another")
        if name.isdigit():
            raise DataError(f"the span {name!r} has the name of a position; give it another")


# -- the tokens ------------------------------------------------------------------------------------
def _named(
    batch: Ranges, spans: Sequence[str], place: Int[Tensor, "batch pos"]
) -> Int[Tensor, "batch pos"]:
    """The number of the span at each token that has one by name, by being the first or the last, or
    by belonging to an answer; -1 elsewhere."""
    given = [n for n, name in enumerate(spans) if name in batch.spans and name not in OWN]
    there = [n for n, name in enumerate(spans) if name in OWN]
    absent = [s for s in spans if not (s in OWN or s in batch.spans or s.startswith(BEFORE))]
    if absent:
        known = ", ".join(batch.spans) or "none"
        raise DataError(f"{batch.name(0)} has no span {absent[0]!r}; the spans are {known}")
    prompts = batch.prompts
    last = prompts & (place == prompts.sum(-1, keepdim=True) - 1)
    own = {START: batch.mask & (place == 0), END: last, ANSWER: batch.mask & ~prompts}
    at = torch.arange(place.shape[1], device=place.device)
    held = [own[spans[n]] for n in there]
    wrong = torch.zeros(len(batch.mask), dtype=torch.bool, device=place.device)
    for n in given:
        start, stop = batch.spans[spans[n]].unbind(-1)
        inside = (at >= start[:, None]) & (at < stop[:, None])
        wrong |= (start < 0) | (start >= stop) | ((inside & prompts).sum(-1) != stop - start)
        held.append(inside)
    table = torch.stack(held, 1)
    if bool((wrong | (table.sum(1) > 1).any(-1)).any()):
        _refuse(batch, [spans[n] for n in there + given], table, prompts)
    number = torch.tensor(there + given, device=place.device)
    return torch.where(table.any(1), number[table.int().argmax(1)], -1)


def _refuse(
    batch: Ranges,
    names: Sequence[str],
    table: Bool[Tensor, "batch spans pos"],
    prompts: Bool[Tensor, "batch pos"],
) -> NoReturn:
    """Raise DataError: a span is missing or beyond the prompt, or has a token of another one."""
    for row in range(len(batch.mask)):
        for name in (name for name in names if name not in OWN):
            start, stop = batch.spans[name][row].tolist()
            if start < 0:
                raise DataError(
                    f"{batch.name(row)} has no span {name!r}; give every prompt the same spans, or "
                    "choose those that all have (--spans)"
                )
            if (
                start >= stop
                or not bool(prompts[row, start:stop].all())
                or stop > len(prompts[row])
            ):
                raise DataError(
                    f"the span {name!r} of {batch.name(row)} goes from {start} to {stop}, beyond "
                    "its tokens; give a range of at least one of them"
                )
        twice = (table[row].sum(0) > 1).nonzero()
        if len(twice):
            one, two = (names[n] for n in table[row, :, int(twice[0])].nonzero()[:2, 0].tolist())
            rest = ",".join(name for name in names if name not in (two, *OWN))
            raise DataError(f"{batch.name(row)} has {one!r} and {two!r} {_common(one, two, rest)}")
    raise DataError(f"the spans {', '.join(names)} do not fit the prompts")


def _common(one: str, two: str, rest: str) -> str:
    """Where two spans have a token in common, and what to do."""
    if one == START and two == END:
        return "in its single token; give longer prompts"
    if one == START:
        return (
            "at its first token, which is a span of its own; begin prompts with a BOS token "
            "(bos=True, --bos), or choose other spans (--spans)"
        )
    such = f", such as --spans {rest}" if rest and " " not in rest else " (--spans)"
    return f"at one token; choose spans that have no token in common{such}"


def _require_all(
    batch: Ranges,
    spans: Sequence[str],
    found: Int[Tensor, "batch pos"],
    follows: Int[Tensor, "batch pos"],
) -> None:
    """Raise DataError for a token that belongs to no span."""
    missing = (found < 0) & batch.mask
    if bool(missing.any()):
        row, at = missing.nonzero()[0].tolist()
        after = int(follows[row, at])
        where = f"before {spans[after]!r}" if after >= 0 else "behind the last span"
        raise DataError(
            f"{batch.name(row)} has a token {where}, which none of the spans {', '.join(spans)} "
            "holds; the prompts that they are from have none there"
        )


def _require_alone(batch: Ranges, spans: Sequence[str], found: Int[Tensor, "batch pos"]) -> None:
    """Raise DataError where the span of the first token has another one."""
    own = found == found.gather(1, batch.mask.long().argmax(-1, keepdim=True))
    several = own.sum(-1) > 1
    if bool(several.any()):
        row = int(several.nonzero()[0])
        name = spans[int(found[row][own[row]][0])]
        raise DataError(
            f"the span {name!r} of {batch.name(row)} goes on after the first token, which is a "
            f"span of its own; find places on prompts with a span {START!r}"
        )

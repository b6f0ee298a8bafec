"""Circuits as sets of edges: what unions, intersections, differences and consensuses are made of.

Weights follow the order of fuzzy sets (Zadeh 1965), by magnitude, so that the laws of sets hold of
them too: an edge that at least k circuits hold has the k-th largest of its weights, in a union the
largest, in an intersection the smallest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from circuitkit.util.json_values import Json

__all__ = [
    "CONSENSUS", "DIFFERENCE", "INTERSECTION", "SIGNS", "UNION", "Edges", "described", "held",
    "is_made", "listed", "made", "without", "shared",
]  # fmt: skip

UNION = "union"
INTERSECTION = "intersection"
DIFFERENCE = "difference"
CONSENSUS = "consensus"
SIGNS = {UNION: "|", INTERSECTION: "&", DIFFERENCE: "-", CONSENSUS: ""}
Edges: TypeAlias = Mapping[tuple[str, str], Mapping[str, Json]]  # what is said of each edge

_SHARED = ("model", "weights", "task", "answers", "align", "metric", "corruption", "seed",
           "experts", "bos", "chat")  # fmt: skip
_OF_PARTS = ("reference", "model", "weights", "task", "metric", "corruption", "method", "seed")
_LISTED = {"model": "on", "metric": "metric", "corruption": "corruption", "seed": "seed",
           "weights": "weights", "digest": "digest"}  # fmt: skip
_LONGEST = 8  # signs of a digest
_SHOWN = 4  # parts that a description names
_MARK = 8  # the digits of a prompt's fingerprint


def held(parts: Sequence[Edges], k: int) -> dict[tuple[str, str], Mapping[str, Json]]:
    """The edges that at least k of the parts hold, each with what the part says that has the k-th
    largest weight."""
    found = {}
    for pair in dict.fromkeys(pair for part in parts for pair in part):
        own = [part[pair] for part in parts if pair in part]
        if len(own) >= k:
            found[pair] = sorted(own, key=_strength, reverse=True)[k - 1]
    return found


def without(left: Edges, right: Edges) -> dict[tuple[str, str], Mapping[str, Json]]:
    """The edges of the left that the right one lacks."""
    return {pair: said for pair, said in left.items() if pair not in right}


def _strength(said: Mapping[str, Json]) -> tuple[float, float]:
    weight = float(said["weight"])
    return abs(weight), weight


# -- what is said of the whole ---------------------------------------------------------------------
def shared(abouts: Sequence[Mapping[str, Json]]) -> dict[str, Json]:
    """The attributes on which all circuits agree, and every prompt that any of them has seen."""
    first = abouts[0]
    found = {
        key: first[key] for key in _SHARED
        if key in first and all(key in about and about[key] == first[key] for about in abouts)
    }  # fmt: skip
    seen = dict.fromkeys(mark for about in abouts for mark in _marks(about.get("seen")))
    return {**found, **({"seen": "".join(seen)} if seen else {})}


def _marks(seen: Json) -> list[str]:
    text = seen if isinstance(seen, str) else ""
    return [text[i : i + _MARK] for i in range(0, len(text), _MARK)]


def made(
    operation: str,
    parts: Sequence[tuple[Mapping[str, Json], int, str | None]],
    k: int | None = None,
) -> dict[str, Json]:
    """The provenance: the operation, and of each part (its attributes, number of edges and digest)
    what it says of itself, or what it was made of in turn; a union of unions is one union."""
    found: list[dict[str, Json]] = []
    for about, edges, digest in parts:
        own: Json = about.get("made_of")
        if is_made(own) and own["operation"] == operation and operation in (UNION, INTERSECTION):
            found += own["parts"]
            continue
        said = dict(own) if is_made(own) else {x: about[x] for x in _OF_PARTS if x in about}
        found.append({**said, "edges": edges, **({"digest": digest} if digest else {})})
    return {"operation": operation, **({} if k is None else {"k": k}), "parts": found}


def is_made(value: Json) -> bool:
    """Whether this is a provenance, as ``made`` gives it."""
    return (
        isinstance(value, Mapping)
        and isinstance(value.get("operation"), str)
        and value["operation"] in SIGNS
        and isinstance(value.get("parts"), list)
        and len(value["parts"]) > 0
        and type(value.get("k", 1)) is int
        and all(map(_is_part, value["parts"]))
    )


def _is_part(part: Json) -> bool:
    if not isinstance(part, Mapping) or type(part.get("edges")) is not int:
        return False
    return is_made(part) if "operation" in part else True


# -- in words --------------------------------------------------------------------------------------
def described(provenance: Json) -> str:
    """The provenance on one line, with the signs of the operators: ``A | B``."""
    parts, k = provenance["parts"], provenance.get("k")
    names = [f"({described(p)})" if "operation" in p else _named(p) for p in parts[:_SHOWN]]
    names += [f"{len(parts) - _SHOWN} more"] * (len(parts) > _SHOWN)
    if k is not None:
        return f"at least {k} of {len(parts)}: {', '.join(names)}"
    return f" {SIGNS[provenance['operation']]} ".join(names)


def listed(provenance: Json, depth: int = 0) -> Iterator[str]:
    """The provenance as lines: the operation, and each part below it, with all that is known."""
    k = provenance.get("k")
    of = f" of at least {k} of {len(provenance['parts'])} circuits" if k is not None else " of"
    yield f"{'  ' * depth}{provenance['operation']}{of}"
    for part in provenance["parts"]:
        if "operation" in part:
            yield from listed(part, depth + 1)
            continue
        said = [_named(part)]
        for key, words in _LISTED.items():
            said += [f"{words} {_short(key, part[key])}"] if key in part else []
        yield f"{'  ' * (depth + 1)}{', '.join(said)}"


def _short(key: str, value: Json) -> str:
    return str(value)[:_LONGEST] if key in ("weights", "digest") else str(value)


def _named(part: Mapping[str, Json]) -> str:
    """``ioi by eap_ig (30 edges)``."""
    name = part.get("reference") or part.get("task") or "a circuit"
    by = f" by {part['method']}" if "method" in part and "reference" not in part else ""
    return f"{name}{by} ({part['edges']:,} edges)"

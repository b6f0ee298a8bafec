"""Supernodes: groups of features that do the same thing, proposed by where they are active and
what they give to what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from circuitkit.errors import DataError
from circuitkit.features.graphs import AttributionGraph
from circuitkit.util.tables import to_csv

__all__ = ["ALIKE", "Given", "Key", "given_by", "places", "propose", "supernodes", "table"]

ALIKE = 0.9  # cosine of features of one group
MOST = 150  # features that are compared: those with the largest influence
Key = tuple[str, str, str]  # where the feature is active; the layer and the place that it gives to


@dataclass(frozen=True)
class Given:
    """What a feature gives in one graph: its ``influence``, and how much ``to`` which layer at
    which place from which place, as a vector of length 1."""

    influence: float
    to: Mapping[Key, float]


def places(graph: AttributionGraph) -> tuple[str, ...]:
    """The place of each token: the span that the prompt names (``S2``), and between
    spans ``before S2``; of a prompt without spans the position itself."""
    spans = graph.about.get("spans")
    if not isinstance(spans, Mapping) or not spans:
        return tuple(map(str, range(len(graph.tokens))))
    named = {at: name for name, (start, stop) in spans.items() for at in range(start, stop)}
    found, behind = [], "end"
    for at in reversed(range(len(graph.tokens))):
        if at in named:
            behind = f"before {named[at]}"
        found.append(named.get(at, behind))
    return tuple(reversed(found))


def given_by(graph: AttributionGraph) -> dict[str, Given]:
    """What each feature gives, by name (``m3.f417``), over all tokens at which it is active.

    Readers count by their layer and place with the |weight| of the edge, since which single
    features read depends on the words of a prompt; the target counts with its sign.
    """
    from scipy.sparse import csr_array

    at = places(graph)
    logit = graph.of_kind("logit")
    keys = [("logits" if node.kind == "logit" else f"m{node.layer}", at[node.position])
            for node in graph.nodes]  # fmt: skip
    numbers = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    rows = np.array([numbers[key] for key in keys])
    weights = graph.weights.tocoo()
    to, start = weights.coords
    sizes = np.where(logit[to], graph.shares[to] * weights.data, np.abs(weights.data))
    given = csr_array((sizes, (start, rows[to])), shape=(len(graph), len(numbers)))
    influence: dict[str, float] = {}
    found: dict[str, dict[Key, float]] = {}
    known = [*numbers]
    for i in np.flatnonzero(graph.of_kind("feature")):
        node = graph.nodes[i]
        name = node.name.partition("@")[0]
        influence[name] = influence.get(name, 0.0) + float(graph.influence[i])
        own = found.setdefault(name, {})
        part = slice(given.indptr[i], given.indptr[i + 1])
        pairs = zip(given.indices[part].tolist(), given.data[part].tolist(), strict=True)
        for column, value in pairs:
            key = (at[node.position], *known[column])
            own[key] = own.get(key, 0.0) + value
    return {name: Given(influence[name], _unit(own)) for name, own in found.items()}


def _unit(vector: Mapping[Key, float]) -> dict[Key, float]:
    size = sum(value * value for value in vector.values()) ** 0.5
    return {key: value / size for key, value in vector.items()} if size else {}


def supernodes(
    graphs: Iterable[AttributionGraph], *, alike: float = ALIKE, most: int = MOST
) -> dict[str, tuple[str, ...]]:
    """Groups of features that do the same thing in these graphs, strongest first, by their names.

    What a feature does is a vector: how much it gives, from which place of the prompt (its spans;
    without, the position), to features of which layer at which place, and to the target, with its
    sign; made to length 1 in each graph and averaged over those in which the feature is active. The
    ``most`` features with the largest influence are joined (average linkage) while the mean cosine
    is at least ``alike``; of one group are at least two. Give the graphs of several prompts: a
    feature that stands for some names is active in few. Raises DataError where ``alike`` is not
    from 0 to 1.

    Example:
        >>> from circuitkit.features.supernodes import supernodes
        >>> groups = supernodes([graph], alike=0.8)
        >>> all(len(group) > 1 for group in groups.values())
        True
    """
    return propose([given_by(graph) for graph in graphs], alike=alike, most=most)


def propose(
    given: Sequence[Mapping[str, Given]], *, alike: float = ALIKE, most: int = MOST
) -> dict[str, tuple[str, ...]]:
    """The same of what ``given_by`` says of each graph."""
    from scipy.cluster.hierarchy import fcluster, linkage

    if not 0 <= alike <= 1:
        raise DataError(f"alike={alike!r} is not a cosine; give one from 0 to 1")
    influence: dict[str, float] = {}
    total: dict[str, dict[Key, float]] = {}
    for one in given:
        for name, own in one.items():
            influence[name] = influence.get(name, 0.0) + own.influence
            sums = total.setdefault(name, {})
            for key, value in own.to.items():
                sums[key] = sums.get(key, 0.0) + value
    total = {name: _unit(own) for name, own in total.items()}
    strongest = sorted((name for name in total if total[name]), key=lambda n: -influence[n])[:most]
    if len(strongest) < 2:
        return {}
    joined = linkage(_vectors([total[name] for name in strongest]), "average", "cosine")
    numbers = fcluster(joined, 1 - alike + 1e-12, "distance").tolist()
    groups: dict[int, list[str]] = {}
    for name, number in zip(strongest, numbers, strict=True):
        groups.setdefault(number, []).append(name)
    several = [own for own in groups.values() if len(own) > 1]
    several.sort(key=lambda own: -sum(influence[name] for name in own))
    return _called(several, total)


def _vectors(rows: Sequence[Mapping[Key, float]]) -> Float[np.ndarray, "n keys"]:
    columns = {key: i for i, key in enumerate(dict.fromkeys(key for row in rows for key in row))}
    found = np.zeros((len(rows), len(columns)))
    for i, row in enumerate(rows):
        for key, value in row.items():
            found[i, columns[key]] = value
    return found


def _called(
    groups: Sequence[Sequence[str]], total: Mapping[str, Mapping[Key, float]]
) -> dict[str, tuple[str, ...]]:
    """The groups by a name that says in which layers and where they are active: ``m0 at S2``."""
    found: dict[str, tuple[str, ...]] = {}
    for group in groups:
        layers = sorted({name.partition(".")[0] for name in group}, key=lambda own: int(own[1:]))
        at: dict[str, float] = {}
        for name in group:
            for (place, *_), value in total[name].items():
                at[place] = at.get(place, 0.0) + abs(value)
        most = max(at, key=lambda place: at[place])
        where = most if most.startswith(("before ", "elsewhere")) else f"at {most}"
        first = name = " ".join(["+".join(layers), *[where] * bool(most)])
        number = 1
        while name in found:
            number += 1
            name = f"{first} ({number})"
        found[name] = tuple(group)
    return found


def table(
    groups: Mapping[str, Sequence[str]], labels: Mapping[str, Mapping[str, str]] | None = None
) -> str:
    """The groups as the CSV that ``read_labels`` and ``trace --labels`` read, for editing."""
    known = labels or {}
    return to_csv([
        {"feature": name, "label": known.get(name, {}).get("label", ""), "supernode": group}
        for group, names in groups.items() for name in names
    ], ["feature", "label", "supernode"])  # fmt: skip

"""Submissions to the circuit track of MIB (Mueller et al. 2025): a folder for each task and model.

``TASK_MODEL/`` (``ioi_gpt2``, ``arc-easy_llama3``) holds either one file with the scores of all
edges, or nine circuits, of no more than 0.1, 0.2, 0.5, 1, 2, 5, 10, 20 and 50 % of all edges; the
files are EAP-IG's graphs, in which each head has keys and values of its own: there edges are
counted. The leaderboard asks for at least two tasks and two models; here one will do. This is what
its instructions say: its automatic checker was not seen, and the names of the nine files are ours,
for the instructions give none.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from circuitkit.errors import CircuitError, OutputError, ScoresError
from circuitkit.formats.interchange._tables import (
    Tables,
    counted,
    folded,
    require_described,
    spread,
    ungrouped,
)
from circuitkit.formats.interchange.eap_ig import (
    SUFFIXES,
    read_counted,
    read_eap_scores,
    write_eap,
)
from circuitkit.graph.circuit import Circuit, mask, wiring_of
from circuitkit.graph.scores import RULES, Scores
from circuitkit.graph.types import Graph, Mask
from circuitkit.graph.wiring import Wiring

__all__ = ["LIMITS", "Entry", "mib_circuits", "read_mib", "write_mib"]

LIMITS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)  # of all edges
Entry: TypeAlias = Scores | tuple[Circuit, ...]


# -- reading ---------------------------------------------------------------------------------------
def read_mib(
    folder: str | os.PathLike[str],
    wirings: Mapping[str, Wiring] | None = None,
    *,
    sign: int = 1,
) -> dict[tuple[str, str], Entry]:
    """Read a submission to MIB: by (task, model) the scores of all edges, or nine circuits.

    Circuits come the smallest first; ``wirings`` says by the name of a model what its graphs must
    be of, and which of its heads share keys and values. ``sign=-1`` turns all scores around: see
    ``read_eap_scores``.

    Raises CircuitError, naming the folder, where it holds no folder TASK_MODEL, where one holds
    neither one file nor nine, where a circuit is too large for its place, where a file is not a
    graph, and where two graphs of one model differ in size.

    Example:
        >>> width = {"mini": model.d_model}
        >>> _ = ck.write_mib({("ioi", "mini"): scores}, "submission", d_model=width)
        >>> list(ck.read_mib("submission"))
        [('ioi', 'mini')]
    """
    try:
        places = sorted(p for p in Path(folder).iterdir() if p.is_dir() and p.name[0] != ".")
    except OSError as error:
        raise CircuitError(f"{os.fspath(folder)!r} is not a folder that can be read") from error
    if not places:
        raise CircuitError(
            f"{os.fspath(folder)!r} holds no folder TASK_MODEL, such as ioi_gpt2, with graphs"
        )
    known = dict(wirings or {})
    found: dict[tuple[str, str], Entry] = {}
    for place in places:
        task, model = _task_and_model(place)
        found[task, model] = entry = _read_entry(place, known.get(model), sign)
        known[model] = entry.wiring if isinstance(entry, Scores) else wiring_of(entry[0])
    return found


def _task_and_model(place: Path) -> tuple[str, str]:
    task, _, model = place.name.partition("_")
    if not task or not model or "_" in model:
        raise CircuitError(
            f"{str(place)!r} is not called TASK_MODEL, as ioi_gpt2 or arc-easy_llama3 is; rename it"
        )
    return task, model


def _read_entry(place: Path, wiring: Wiring | None, sign: int) -> Entry:
    try:
        files = sorted(path for path in place.iterdir() if path.suffix.lower() in SUFFIXES)
    except OSError as error:
        raise CircuitError(f"{str(place)!r} is not a folder that can be read") from error
    if len(files) == 1:
        return read_eap_scores(files[0], wiring, sign=sign)
    if len(files) != len(LIMITS):
        raise CircuitError(
            f"{str(place)!r} holds {len(files)} graphs; give one with scores, or "
            f"{len(LIMITS)} circuits"
        )
    sized: list[tuple[int, Circuit]] = []
    for path in files:
        circuit, size = read_counted(path, wiring, empty=True, sign=sign)
        wiring = wiring_of(circuit)
        sized.append((size, circuit))
    sized.sort(key=lambda own: own[0])
    _require_limits(sized, str(place))
    return tuple(circuit for _, circuit in sized)


def _sized(circuits: Iterable[Graph]) -> list[tuple[int, Graph]]:
    """The circuits with their numbers of edges as MIB counts them, the smallest first."""
    found = [(counted(wiring_of(one), mask(one)), one) for one in circuits]
    return sorted(found, key=lambda own: own[0])


def _require_limits(sized: Sequence[tuple[int, Graph]], what: str) -> None:
    """Raise CircuitError where these are not nine circuits, each small enough for its place."""
    if len(sized) != len(LIMITS):
        raise CircuitError(f"{what!r} has {len(sized)} circuits; give {len(LIMITS)}")
    if len({wiring_of(circuit) for _, circuit in sized}) > 1:
        raise CircuitError(f"the circuits of {what!r} are of different models; give those of one")
    total = ungrouped(wiring_of(sized[0][1])).n_edges
    for at, ((size, _), limit) in enumerate(zip(sized, LIMITS, strict=True), start=1):
        if size > int(limit * total):
            raise CircuitError(
                f"circuit {at} of {what!r}, by size, has {size:,} edges, and no more than "
                f"{int(limit * total):,} are {limit:.1%} of {total:,}; leave some out"
            )


# -- nine circuits of scores -----------------------------------------------------------------------
def mib_circuits(scores: Scores, rule: str = "mib") -> tuple[Circuit, ...]:
    """The nine circuits of these scores that MIB asks for, the smallest first.

    They have no more than 0.1, 0.2, 0.5, 1, 2, 5, 10, 20 and 50 % of all edges. Each says by which
    ``rule`` it was chosen, and its ``limit``. By the rule ``mib`` it is what MIB's own code
    chooses: of so many edges of largest magnitude what is left without dead ends, which in small
    circuits may be nothing. By ours (``abs``, and ``signed`` and ``greedy``: see ``Scores.top``) it
    has as many edges, and all of them hang together. Where heads share keys and values, edges are
    counted as in EAP-IG's graphs, where each head has its own: a group's edge counts as often as it
    has heads.

    Raises ScoresError for a rule that is not known and where all scores are zero, and CircuitError
    for a model that EAP-IG's graphs cannot describe.

    Example:
        >>> small = ck.mib_circuits(scores)[4]  # 2 % of 479 edges are 9
        >>> small.graph["limit"], len(small.to_frame()) <= 9
        (0.02, True)
    """
    if rule not in RULES:
        raise ScoresError(f"the rule {rule!r} is not known; choose from {', '.join(RULES)}")
    wiring = scores.wiring
    require_described(wiring)
    total = ungrouped(wiring).n_edges
    sizes = [int(limit * total) for limit in LIMITS]
    keeps = _as_mib(scores, sizes) if rule == "mib" else [_at_most(scores, n, rule) for n in sizes]
    return tuple(
        scores.circuit(keep, rule=rule, limit=limit)
        for keep, limit in zip(keeps, LIMITS, strict=True)
    )


def _as_mib(scores: Scores, sizes: Sequence[int]) -> list[Mask]:
    """What MIB's code chooses of the file that ``write_eap`` writes; of a group's edge that it
    keeps for some heads alone, nothing."""
    wiring, theirs = scores.wiring, ungrouped(scores.wiring)
    legal = np.where(wiring.legal, scores.values, 0)
    values, _ = spread(wiring, legal, wiring.legal)
    ranking = Scores(theirs, values).ranking("mib")
    scores.require_some()
    found = []
    for n in sizes:
        keep = np.zeros(theirs.shape, dtype=bool)
        keep.flat[ranking[:n]] = True
        whole, _ = folded(Tables(theirs, None, ~keep & theirs.legal), wiring)
        cut = np.zeros(wiring.shape, dtype=bool) if whole.keep is None else whole.keep
        found.append(wiring.alive(wiring.legal & ~cut))
    return found


def _at_most(scores: Scores, most: int, rule: str) -> Mask:
    """The best circuit of at most so many edges as MIB counts them; fewer where heads share."""
    n = most
    while n:
        (keep,) = scores.masks([n], rule)
        size = counted(scores.wiring, keep)
        if size <= most:
            return keep
        n = min(n - 1, n * most // size)
    scores.require_some()
    return np.zeros(scores.wiring.shape, dtype=bool)


# -- writing ---------------------------------------------------------------------------------------
def write_mib(
    entries: Mapping[tuple[str, str], Scores | Sequence[Graph]],
    folder: str | os.PathLike[str],
    *,
    d_model: Mapping[str, int],
    suffix: str = ".json",
    rule: str | None = None,
) -> list[Path]:
    """Write a submission to MIB, and return its files; ``d_model`` is each model's width.

    The entries are by (task, model), as ``read_mib`` gives them; underscores in a task's name
    become hyphens. Scores are written as one file, or with a ``rule`` as the nine circuits that
    ``mib_circuits`` chooses by it, in files named after it (``0.1-mib.json``). Every entry is
    checked before anything is written.

    Raises CircuitError for a name that does not make a folder, a model without width or that
    EAP-IG's graphs cannot describe, and circuits that are not nine or too large; OutputError for
    another suffix, and where the place cannot be written.

    Example:
        >>> width = {"mini": model.d_model}
        >>> files = ck.write_mib({("ioi", "mini"): scores}, "submission", d_model=width)
        >>> [path.as_posix() for path in files]
        ['submission/ioi_mini/importances.json']
    """
    if suffix not in SUFFIXES:
        raise OutputError(f"MIB has no {suffix!r} files; choose from {', '.join(SUFFIXES)}")
    files: list[tuple[Scores | Graph, Path, int]] = []
    for (task, model), entry in entries.items():
        place = Path(folder) / f"{task.replace('_', '-')}_{model}"
        if "/" in task + model or _task_and_model(place)[1] != model:
            raise CircuitError(
                f"{task!r} and {model!r} do not make a folder TASK_MODEL; rename them"
            )
        if model not in d_model:
            raise CircuitError(f"the width of {model} is not known; add it to d_model")
        named = _named(entry, str(place), rule)
        files += [(item, place / f"{name}{suffix}", d_model[model]) for name, item in named]
    return [write_eap(item, path, d_model=width) for item, path, width in files]


def _named(
    entry: Scores | Sequence[Graph], what: str, rule: str | None
) -> list[tuple[str, Scores | Graph]]:
    """The graphs of an entry by the name of their file; raises CircuitError where it is unsound."""
    by = ""
    if isinstance(entry, Scores):
        require_described(entry.wiring)
        if rule is None:
            return [("importances", entry)]
        entry, by = mib_circuits(entry, rule), f"-{rule}"
    sized = _sized(entry)
    _require_limits(sized, what)
    require_described(wiring_of(sized[0][1]))
    return [(f"{limit * 100:g}{by}", c) for limit, (_, c) in zip(LIMITS, sized, strict=True)]

"""Submissions to the circuit track of MIB (Mueller et al. 2025): a folder for each task and model.

``TASK_MODEL/`` (``ioi_gpt2``, ``arc-easy_llama3``) holds either one file with the scores of all
edges, or nine circuits, of no more than 0.1, 0.2, 0.5, 1, 2, 5, 10, 20 and 50 % of all edges; the
files are EAP-IG's graphs. The leaderboard asks for at least two tasks and two models; here one will
do. This is what its instructions say: its automatic checker was not seen, and the names of the nine
files are ours, for the instructions give none.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from circuitkit.errors import CircuitError, OutputError
from circuitkit.formats.interchange._tables import require_ungrouped
from circuitkit.formats.interchange.eap_ig import (
    SUFFIXES,
    read_eap_circuit,
    read_eap_scores,
    write_eap,
)
from circuitkit.graph.circuit import Circuit, edges, wiring_of
from circuitkit.graph.scores import Scores
from circuitkit.graph.types import Graph
from circuitkit.graph.wiring import Wiring

__all__ = ["LIMITS", "Entry", "read_mib", "write_mib"]

LIMITS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)  # of all edges
Entry: TypeAlias = Scores | tuple[Circuit, ...]


# -- reading ---------------------------------------------------------------------------------------
def read_mib(
    folder: str | os.PathLike[str], wirings: Mapping[str, Wiring] | None = None
) -> dict[tuple[str, str], Entry]:
    """Read a submission to MIB: by (task, model) the scores of all edges, or nine circuits.

    Circuits come the smallest first; ``wirings`` says by the name of a model what its graphs must
    be of.

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
        found[task, model] = entry = _read_entry(place, known.get(model))
        known[model] = entry.wiring if isinstance(entry, Scores) else wiring_of(entry[0])
    return found


def _task_and_model(place: Path) -> tuple[str, str]:
    task, _, model = place.name.partition("_")
    if not task or not model or "_" in model:
        raise CircuitError(
            f"{str(place)!r} is not called TASK_MODEL, as ioi_gpt2 or arc-easy_llama3 is; rename it"
        )
    return task, model


def _read_entry(place: Path, wiring: Wiring | None) -> Entry:
    try:
        files = sorted(path for path in place.iterdir() if path.suffix.lower() in SUFFIXES)
    except OSError as error:
        raise CircuitError(f"{str(place)!r} is not a folder that can be read") from error
    if len(files) == 1:
        return read_eap_scores(files[0], wiring)
    if len(files) != len(LIMITS):
        raise CircuitError(
            f"{str(place)!r} holds {len(files)} graphs; give one with scores, or "
            f"{len(LIMITS)} circuits"
        )
    circuits = []
    for path in files:
        circuits.append(read_eap_circuit(path, wiring, empty=True))
        wiring = wiring_of(circuits[-1])
    circuits.sort(key=_edges)
    _require_limits(circuits, str(place))
    return tuple(circuits)


def _edges(circuit: Graph) -> int:
    return sum(1 for _ in edges(circuit))


def _require_limits(circuits: Sequence[Graph], what: str) -> None:
    """Raise CircuitError where these are not nine circuits, each small enough for its place."""
    if len(circuits) != len(LIMITS):
        raise CircuitError(f"{what!r} has {len(circuits)} circuits; give {len(LIMITS)}")
    if len({wiring_of(circuit) for circuit in circuits}) > 1:
        raise CircuitError(f"the circuits of {what!r} are of different models; give those of one")
    total = wiring_of(circuits[0]).n_edges
    for at, (circuit, limit) in enumerate(zip(circuits, LIMITS, strict=True), start=1):
        if _edges(circuit) > int(limit * total):
            raise CircuitError(
                f"circuit {at} of {what!r}, by size, has {_edges(circuit):,} edges, and no more "
                f"than {int(limit * total):,} are {limit:.1%} of {total:,}; leave some out"
            )


# -- writing ---------------------------------------------------------------------------------------
def write_mib(
    entries: Mapping[tuple[str, str], Scores | Sequence[Graph]],
    folder: str | os.PathLike[str],
    *,
    d_model: Mapping[str, int],
    suffix: str = ".json",
) -> list[Path]:
    """Write a submission to MIB, and return its files; ``d_model`` is each model's width.

    The entries are by (task, model), as ``read_mib`` gives them; underscores in a task's name
    become hyphens. Every entry is checked before anything is written.

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
        named = _named(entry, str(place))
        files += [(item, place / f"{name}{suffix}", d_model[model]) for name, item in named]
    return [write_eap(item, path, d_model=width) for item, path, width in files]


def _named(entry: Scores | Sequence[Graph], what: str) -> list[tuple[str, Scores | Graph]]:
    """The graphs of an entry by the name of their file; raises CircuitError where it is unsound."""
    if isinstance(entry, Scores):
        require_ungrouped(entry.wiring)
        return [("importances", entry)]
    circuits = sorted(entry, key=_edges)
    _require_limits(circuits, what)
    require_ungrouped(wiring_of(circuits[0]))
    return [(f"{limit * 100:g}", c) for limit, c in zip(LIMITS, circuits, strict=True)]

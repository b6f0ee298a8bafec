"""Circuits of one model side by side: what all of them have, and what only one of them shows."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from circuitkit.errors import ArgumentError, CircuitError
from circuitkit.evaluation.results import TableResult
from circuitkit.graph.by_place import held_places
from circuitkit.graph.circuit import Circuit, edges, is_placed, places_of, shared_space
from circuitkit.graph.compare import Comparison, PlacedComparison, compare
from circuitkit.graph.nodes import Node, edge_name
from circuitkit.graph.published import CircuitLike, opened
from circuitkit.util.atomic import write_whole
from circuitkit.util.json_values import Json, nan_to_none
from circuitkit.util.tables import as_text, cell, heading, to_csv, to_frame
from circuitkit.util.versions import versions
from circuitkit.viz.circuits.choice import Asked
from circuitkit.viz.circuits.panels import panels
from circuitkit.viz.figures.suffixes import require_suffix
from circuitkit.viz.painting import painted
from circuitkit.viz.shapes import Scene
from circuitkit.viz.svg import document
from circuitkit.viz.viewer.paged import paged
from circuitkit.workflows.folders import RUNS, filled, legal
from circuitkit.workflows.measured import Measured
from circuitkit.workflows.reports import Picture, Report, Said, Section, Table, table_of, written

if TYPE_CHECKING:
    import pandas

__all__ = ["FILES", "SideBySide", "folder_name", "side_by_side"]

FILES = RUNS["comparison"]
COLUMNS = ("edge", "circuits", "component")  # of the tables, beside the circuits
LONGEST = 100  # signs of a folder's name
DRAWN = (
    "Each circuit's strongest edges; those that no other circuit has, and components that none "
    "other has, are coloured."
)
SHARES = ("faithfulness", "low", "high", "jaccard", "by_chance", "places_jaccard",
          "random_jaccard")  # fmt: skip
SHOWN = 20  # rows of a table in the terminal
CAPTIONS = {
    "circuits": "Each circuit: its edges, its faithfulness with a 95 % bootstrap interval, and how "
                "many of its edges all have, or it alone.",
    "overlap": "Pairs of circuits: shared edges and places, and what random ones of these sizes "
               "share.",
    "places": "At which spans of the prompt each head and MLP writes.",
    "edges": "Every edge of any circuit, with its weight in each (metric units per example); those "
             "in most circuits first.",
}  # fmt: skip
_Found: TypeAlias = "CircuitLike | Measured"


@dataclass(frozen=True, repr=False)
class SideBySide(TableResult):
    """Circuits of one model side by side, by name.

    ``found`` are those of them that are results of a discovery, which ``save`` writes too.

    Example:
        >>> texts = {text: f"counterfactual(text='{text}')" for text in ("S2", "names")}
        >>> found = {name: ck.discover(model, "ioi", corruption=own, edges=20, examples=8)
        ...          for name, own in texts.items()}
        >>> both = ck.side_by_side(found)
        >>> both.to_frame().columns.tolist()
        ['edge', 'circuits', 'S2', 'names']
    """

    circuits: Mapping[str, Circuit]
    found: Mapping[str, Measured]

    @property
    def placed(self) -> bool:
        """Whether the edges are between places of the prompt."""
        return is_placed(next(iter(self.circuits.values())))

    @cached_property
    def _weights(self) -> dict[str, dict[tuple[Node, Node], float]]:
        return {name: {(w, r): x for w, r, x in edges(c)} for name, c in self.circuits.items()}

    @cached_property
    def _times(self) -> Counter[tuple[Node, Node]]:
        """In how many circuits each edge is."""
        return Counter(pair for own in self._weights.values() for pair in own)

    @cached_property
    def pairs(self) -> dict[tuple[str, str], Comparison]:
        """How much each pair of circuits shares, as ``ck.compare`` says it."""
        return {(a, b): compare(self.circuits[a], self.circuits[b])
                for a, b in combinations(self.circuits, 2)}  # fmt: skip

    # -- tables --------------------------------------------------------------------------------
    def to_frame(self) -> pandas.DataFrame:
        """A row for each edge of any circuit: ``edge``, ``circuits`` (in how many it is), and a
        column for each circuit with its weight there, in metric units per example; nan where it is
        not in it. Those in most circuits come first, then the strongest."""
        return to_frame(self.rows())

    def rows(self) -> list[dict[str, Json]]:
        """The same as rows."""
        weights = self._weights
        largest = {name: max(map(abs, own.values()), default=1.0) or 1.0
                   for name, own in weights.items()}  # fmt: skip

        def first(pair: tuple[Node, Node]) -> tuple[Any, ...]:
            share = max(abs(own.get(pair, 0.0)) / largest[name] for name, own in weights.items())
            return -self._times[pair], -share, pair

        return [
            {"edge": edge_name(*pair), "circuits": self._times[pair]}
            | {name: own.get(pair, nan) for name, own in weights.items()}
            for pair in sorted(self._times, key=first)
        ]

    def sizes(self) -> list[dict[str, Json]]:
        """A row for each circuit: its edges (between places of both kinds), its faithfulness with
        its interval, and how many of its edges all circuits have, and it alone."""
        rows: list[dict[str, Json]] = []
        for name, own in self._weights.items():
            attention = sum(writer.port is not None for writer, _ in own)
            kinds = {"residual": len(own) - attention, "attention": attention}
            said = self.circuits[name].graph.get("faithfulness")
            known = said if isinstance(said, Mapping) else {"value": said}
            rows.append({
                "circuit": name, **(kinds if self.placed else {"edges": len(own)}),
                "faithfulness": _number(known.get("value")), "low": _number(known.get("low")),
                "high": _number(known.get("high")),
                "in_all": sum(self._times[pair] == len(self.circuits) for pair in own),
                "only_here": sum(self._times[pair] == 1 for pair in own),
            })  # fmt: skip
        return rows

    def overlap(self) -> list[dict[str, Json]]:
        """A row for each pair of circuits: the edges that both have, the Jaccard index and that of
        random sets of edges of these sizes; and between places how many places, the index, and that
        of random circuits."""
        rows: list[dict[str, Json]] = []
        for (left, right), pair in self.pairs.items():
            shared = pair.edges
            row: dict[str, Json] = {
                "left": left, "right": right, "shared": shared.both, "jaccard": shared.jaccard,
                "by_chance": shared.expected_jaccard,
            }  # fmt: skip
            if isinstance(pair, PlacedComparison):
                row |= {"places": pair.places.both, "places_jaccard": pair.places.jaccard,
                        "random_jaccard": pair.random}  # fmt: skip
            rows.append(row)
        return rows

    def places(self) -> list[dict[str, Json]]:
        """A row for each head and MLP of any circuit, in the model's order: the spans at which it
        writes in each; nothing for circuits without places."""
        if not self.placed:
            return []
        space = places_of(next(iter(self.circuits.values())))
        held = {name: held_places(circuit) for name, circuit in self.circuits.items()}
        writers = [str(w) for w in space.wiring.writers]
        here = {component for own in held.values() for component, _ in own}
        return [
            {"component": one}
            | {name: ", ".join(span for span in space.spans if (one, span) in own)
               for name, own in held.items()}
            for one in sorted(here, key=writers.index)
        ]  # fmt: skip

    def to_dict(self) -> dict[str, Json]:
        """All tables, for machines; what is undefined is None."""
        names = [*self.circuits]
        return {
            "circuits": nan_to_none(self.sizes()),
            "overlap": nan_to_none(self.overlap()),
            "places": [
                {"component": row["component"],
                 "spans": {name: [s for s in row[name].split(", ") if s] for name in names}}
                for row in self.places()
            ],
            "edges": [
                {"edge": row["edge"], "circuits": row["circuits"],
                 "weights": {name: nan_to_none(row[name]) for name in names}}
                for row in self.rows()
            ],
        }  # fmt: skip

    # -- pictures and files --------------------------------------------------------------------
    def draw(self, path: str | os.PathLike[str], *, edges: Asked = None) -> Path:
        """Draw all circuits in one ``.svg``, ``.pdf`` or ``.png``, of each at most so many of its
        strongest edges (40, or ``"all"``): what only it has in a colour of its own. Those between
        places stand below each other. Returns the path; raises OutputError for another suffix, and
        where it cannot be drawn or written."""
        suffix = require_suffix(path)
        scene = self._scene(edges)
        return write_whole(path, document(scene) if suffix == "svg" else painted(scene, suffix))

    def _scene(self, edges: Asked = None) -> Scene:
        titles = {}
        for row in self.sizes():
            value = row["faithfulness"]
            known = "" if value != value else f": faithfulness {value:.2f}"
            titles[str(row["circuit"])] = f"{row['circuit']}{known}"
        return panels(self.circuits, titles, edges)

    def report(self) -> str:
        """One HTML page with the picture and the tables, which needs no network."""
        return self._page("")

    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> list[Path]:
        """Write the page (``comparison.html``), a page of the first two circuits one over the other
        to look into (``circuits.html``), the picture (``circuits.svg``) and the tables as CSV into
        a folder, and the files of each discovery into a folder within it; returns the files. Raises
        OutputError where they cannot be written, or, without ``overwrite``, where the folder holds
        another run."""
        place, own = Path(folder), {name: folder_name(name) for name in self.found}
        tables = {"sizes.csv": self.sizes(), "overlap.csv": self.overlap(),
                  "places.csv": self.places(), "edges.csv": self.rows()}  # fmt: skip
        texts = {FILES[0]: self._page("circuits.html"), "circuits.html": self._viewed(),
                 "circuits.svg": document(self._scene())}  # fmt: skip
        texts |= {name: to_csv(rows) for name, rows in tables.items() if rows}
        earlier = _earlier(place)
        with filled(folder, "comparison", overwrite) as new:
            inner = [path for name, found in self.found.items()
                     for path in found.save(place / own[name], overwrite=overwrite)]  # fmt: skip
            for name, text in texts.items():
                write_whole(new / name, text)
        for old in earlier - {*own.values()}:
            _remove(place / old)
        return [*(place / name for name in texts), *inner]

    def _viewed(self) -> str:
        first, second = (_labelled(*pair) for pair in [*self.circuits.items()][:2])
        return paged(first, beside=second)

    def _page(self, beside: str) -> str:
        rows = {"circuits": self.sizes(), "overlap": self.overlap(), "places": self.places(),
                "edges": self.rows()}  # fmt: skip
        picture = Picture("circuits", "The circuits", document(self._scene()), DRAWN)
        pair = " and ".join([*self.circuits][:2])
        linked = (beside, f"{pair}, one over the other, to look into") if beside else None
        tables = {name: self._table(name, own) for name, own in rows.items() if own}
        sections = [
            Section("circuits", "The circuits", [], [picture], tables=[tables["circuits"]],
                    file=linked),
            Section("overlap", "What they share", [],
                    tables=[tables[name] for name in ("overlap", "places") if name in tables]),
            Section("edges", "All edges", [], tables=[tables["edges"]]),
        ]  # fmt: skip
        about = next(iter(self.circuits.values())).graph
        known = [str(about[key]) for key in ("task", "model") if about.get(key)]
        foot = ", ".join(f"{name} {version}" for name, version in versions().items())
        return written(Report(
            title=f"{' on '.join(known) or 'Circuits'}: {len(self.circuits)} circuits side by side",
            about=", ".join(self.circuits), sections=sections,
            summary=[Said(text, ("circuits",)) for text in self._sentences()],
            foot=f"{foot} · one file; it loads nothing",
        ))  # fmt: skip

    def _table(self, name: str, rows: list[dict[str, Json]]) -> Table:
        file = "sizes.csv" if name == "circuits" else f"{name}.csv"
        return table_of(name, rows, CAPTIONS[name], text=lambda _, value: cell(value), file=file,
                        headings=self._heading)  # fmt: skip

    def _heading(self, column: str) -> str:
        return column if column in self.circuits else heading(column)

    # -- displays ------------------------------------------------------------------------------
    def _sentences(self) -> Iterator[str]:
        """What is shared, and what only one shows."""
        every = len(self.circuits)
        shared = sum(times == every for times in self._times.values())
        whom = "both" if every == 2 else f"all {every}"
        yield f"{shared:,} of {len(self._times):,} edges are in {whom}."
        for row in self.sizes():
            name, total = row["circuit"], len(self._weights[str(row["circuit"])])
            said = f"{row['only_here']:,} of the {total:,} edges of {name} are in no other"
            more = ", ".join(self._only(str(name)))
            yield f"{said}; only it has components at {more}." if more else f"{said}."

    def _only(self, name: str) -> list[str]:
        """The spans at which components of this circuit write, and of no other."""
        if not self.placed:
            return []
        held = {one: {span for _, span in held_places(c)} for one, c in self.circuits.items()}
        others = {span for one, own in held.items() if one != name for span in own}
        spans = places_of(self.circuits[name]).spans
        return [span for span in spans if span in held[name] - others]

    def __str__(self) -> str:
        return f"{len(self.circuits)} circuits side by side: {next(self._sentences())}"

    def __repr__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield str(self)
        formats = dict.fromkeys(SHARES, ".3f")
        yield f"\n{as_text(self.sizes(), formats=formats)}"
        yield f"\n{as_text(self.overlap(), formats=formats)}\n"
        yield from [*self._sentences()][1:]
        headings = {name: name for name in self.circuits}
        tables = ("components at spans", self.places()), ("edges", self.rows())
        for title, rows in tables:
            if rows:
                formats = dict.fromkeys(self.circuits, "+.3f") if title == "edges" else {}
                yield f"\n{title}\n{as_text(rows[:SHOWN], formats=formats, headings=headings)}"
            if len(rows) > SHOWN:
                yield f"… and {len(rows) - SHOWN:,} more"


def side_by_side(circuits: Mapping[str, _Found]) -> SideBySide:
    """Put circuits of one model side by side, as those that several corruptions give.

    ``circuits`` are at least two, by name: results of ``ck.discover`` or ``ck.discover_positions``,
    or whatever ``ck.compare`` takes. Under a corruption that changes one word nothing before it can
    be in a circuit; the circuits of several corruptions show what each of them can.

    Returns a SideBySide: tables, a picture and a page of what is shared, and what only one shows.
    Raises CircuitError for fewer than two, for circuits of different models or places, and for one
    without edges; ArgumentError for names that cannot be told apart as folders.

    Example:
        >>> circuits = {"eap": scores.top(20), "fewer": scores.top(10)}
        >>> print(ck.side_by_side(circuits))
        2 circuits side by side: ... edges are in both.
    """
    named = {str(name): _opened(one) for name, one in circuits.items()}
    if len(named) < 2:
        raise CircuitError(f"{len(named)} circuits have nothing beside them; give at least two")
    shared_space([*named.values()], "compare")
    for name, circuit in named.items():
        if not next(edges(circuit), None):
            raise CircuitError(f"the circuit {name!r} has no edges to compare; leave it out")
    _require_apart(named)
    found = {str(name): one for name, one in circuits.items() if isinstance(one, Measured)}
    return SideBySide(named, found)


def folder_name(name: str) -> str:
    """The folder of a circuit of this name: ``counterfactual-text-names``."""
    return legal(name)[:LONGEST]


def _labelled(name: str, circuit: Circuit) -> Circuit:
    """The circuit as the viewer names it; itself it stays as it is."""
    own: Circuit = circuit.copy()
    own.graph["label"] = name
    return own


def _opened(one: _Found) -> Circuit:
    return one.circuit if isinstance(one, Measured) else opened(one)


def _require_apart(named: Mapping[str, Circuit]) -> None:
    """Raise ArgumentError where the folders of two circuits would be one, or a table's column."""
    folders: dict[str, str] = {}
    for name in named:
        own = folder_name(name)
        if not own or name in COLUMNS or own in folders:
            beside = f" beside {folders[own]!r}" if own in folders else ""
            raise ArgumentError(
                f"{name!r}{beside} does not tell circuits, their folders and the columns of tables "
                "apart; give another name"
            )
        folders[own] = name


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else nan


def _earlier(place: Path) -> set[str]:
    """The folders of circuits that an earlier run has left in a place, by its page."""
    if not (place / FILES[0]).is_file():
        return set()
    return {path.parent.name for path in place.glob(f"*/{RUNS['discovery'][0]}")}


def _remove(folder: Path) -> None:
    """Remove the files of a circuit; whatever else is in its folder stays."""
    with contextlib.suppress(OSError):
        for name in RUNS["discovery"]:
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()

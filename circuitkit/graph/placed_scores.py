"""One number for each edge between places, and the circuits that can be selected from them.

Edges of the residual stream are chosen first, with attention free (every edge of attention is
alive beside them), because the two kinds of score do not compare: one key that is cut among rivals
distorts the softmax, so that attention's edges are better pruned afterwards, by their exact effect.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from circuitkit.errors import CircuitError, ScoresError
from circuitkit.graph.attributes import checked, written
from circuitkit.graph.circuit import Circuit, build_placed
from circuitkit.graph.digests import digest, require_digest
from circuitkit.graph.frames import edge_frame
from circuitkit.graph.nodes import edge_name, parse_edge
from circuitkit.graph.places import Edge, PlacedMask, Places
from circuitkit.graph.scores import OF_NODES, Scores, _loaded, _require_names, _table_of
from circuitkit.graph.wiring import Wiring
from circuitkit.util.atomic import write_whole
from circuitkit.util.json_values import Json, plain
from circuitkit.util.notes import in_one_note, notes_of

if TYPE_CHECKING:
    import pandas

__all__ = ["PlacedScores"]

FORMAT = "circuitkit.placed_scores"
VERSION = "1"


@dataclass(frozen=True, eq=False)
class PlacedScores:
    """The score of every edge of the residual stream in every span, and of every edge of attention
    between spans; in metric units per example, and positive where the edge helps the clean
    behaviour.

    The scores of an edge of the residual stream sum over its spans to its plain score. Those of
    attention's edges out of a key or value port sum to what that port carries, which is not the sum
    of the plain edges into it (a norm lies between). ``groups`` are the scores of groups of
    examples, where the method was asked for them: of each group those of the residual stream in the
    order of the table, then those of attention, and of what is an edge alone (``Places.legal``);
    ``error`` is then the standard error of the mean. Raises ScoresError for tables of another
    shape, and for scores that are not finite.

    ``scores["a0.h2@S2->m3@S2"]`` and ``scores["a7.g1.v@S2->a7.h3@end"]`` look one up.
    """

    places: Places
    residual: Float[np.ndarray, "writers readers spans"]
    attention: Float[np.ndarray, "heads 2 source destination"]
    about: Mapping[str, Json] = field(default_factory=dict)
    groups: Float[np.ndarray, "groups edges"] | None = None
    error: PlacedMask | None = None

    def __post_init__(self) -> None:
        legal = self.places.legal
        for name, table, own in (
            ("edges of the residual stream", self.residual, legal.residual),
            ("edges of attention", self.attention, legal.attention),
        ):
            if table.shape != own.shape:
                raise ScoresError(
                    f"the scores of the {name} have the shape {table.shape}, and the places "
                    f"{own.shape}"
                )
            if not np.isfinite(table).all(where=own):
                raise ScoresError(
                    f"some scores of the {name} are not finite; check the metric, or use float32"
                )

    def collapse(self) -> Scores:
        """The plain scores: those of the residual stream, summed over the spans."""
        return Scores(self.places.wiring, self.residual.sum(2), self.about)

    # -- as a mapping of edges -------------------------------------------------------------------
    def __len__(self) -> int:
        """How many edges have a score, of both kinds."""
        return sum(self.places.n_edges)

    def __getitem__(self, edge: str | tuple[str, str]) -> float:
        """The score of an edge, by its name or its two nodes. Raises NodeNameError and CircuitError
        where this is not an edge between these places."""
        pair = edge if isinstance(edge, tuple) and len(edge) == 2 else parse_edge(edge)
        return self._at(self.places.index(*pair))

    def _at(self, index: Edge) -> float:
        return float((self.residual if len(index) == 3 else self.attention)[index])

    def strongest(self, n: int) -> list[tuple[str, float]]:
        """The n edges of largest magnitude, of both kinds, each with its score."""
        found: list[tuple[float, Edge]] = []
        legal = self.places.legal
        for table, own in ((self.residual, legal.residual), (self.attention, legal.attention)):
            flat = np.flatnonzero(own)
            order = np.argsort(-np.abs(table.flat[flat]), kind="stable")[:n]
            indices = np.stack(np.unravel_index(flat[order], table.shape), 1)
            each: list[Any] = [tuple(map(int, index)) for index in indices]
            found += [(self._at(index), index) for index in each]
        found.sort(key=lambda own: -abs(own[0]))
        return [(edge_name(*self.places.edge(index)), value) for value, index in found[:n]]

    def to_frame(self) -> pandas.DataFrame:
        """All edges as a pandas table, the strongest first, with the columns of a circuit between
        places: ``writer``, ``reader``, ``weight``, ``exact``, ``kind``, ``source`` and
        ``destination``."""
        legal, spans = self.places.legal, np.array(self.places.spans, object)
        rows, columns, at = np.nonzero(legal.residual)
        heads, ports, sources, ends = np.nonzero(legal.attention)
        writers, readers = (
            np.array([*map(str, nodes)], object)
            for nodes in (self.places.wiring.writers, self.places.wiring.readers)
        )
        left = np.concatenate([writers[rows], readers[self.places.ports[heads, ports]]])
        right = np.concatenate([readers[columns], writers[self.places.heads[heads]]])
        source = np.concatenate([spans[at], spans[sources]])
        destination = np.concatenate([spans[at], spans[ends]])
        values = np.concatenate([self.residual[legal.residual], self.attention[legal.attention]])
        frame = edge_frame(left + "@" + source, right + "@" + destination, values, None)
        kinds = ["residual"] * len(rows) + ["attention"] * len(heads)
        frame["kind"], frame["source"], frame["destination"] = kinds, source, destination
        order = np.argsort(-np.abs(values), kind="stable")
        return frame.iloc[order].reset_index(drop=True)

    # -- displays --------------------------------------------------------------------------------
    def __str__(self) -> str:
        residual, attention = self.places.n_edges
        known = [str(self.about[k]) for k in ("method", "task", "model") if k in self.about]
        origin = f" ({', '.join(known)})" if known else ""
        return (
            f"{residual:,} scores of residual edges and {attention:,} of attention's, at "
            f"{len(self.places.spans)} spans{origin}"
        )

    def __repr__(self) -> str:
        lines = [f"{self}; the strongest:"]
        lines += [f"{value:+12.4g}  {name}" for name, value in self.strongest(8)]
        return "\n".join(lines)

    # -- selection -------------------------------------------------------------------------------
    def ranking(self, rule: str = "abs") -> Int[np.ndarray, " edges"]:
        """The flat indices of all edges of the residual stream, the best first: by magnitude
        (``abs``), or ``signed``. Raises ScoresError for another rule."""
        if rule not in OF_NODES:
            raise ScoresError(f"the rule {rule!r} is not known here; choose abs or signed")
        flat = np.flatnonzero(self.places.legal.residual)
        values = self.residual.flat[flat]
        keys = np.abs(values) if rule == "abs" else values
        found: np.ndarray = flat[np.argsort(-keys, kind="stable")]
        return found

    def best(self, n: int, rule: str = "abs", *, joint: bool = False) -> PlacedMask:
        """The best n edges of the residual stream that hang together, with attention free: of the
        longest head of the ranking of which no more than n are alive, those, and every edge of
        attention that is alive beside them. ``joint`` is as in ``Places.alive``. Raises ScoresError
        where n < 1, and where no circuit is that small."""
        return self.masks([n], rule, joint=joint)[0]

    def masks(
        self, sizes: Iterable[int], rule: str = "abs", *, joint: bool = False
    ) -> list[PlacedMask]:
        """The best circuits of these numbers of residual edges, as ``best`` gives each, ranked
        once."""
        ranking = self.ranking(rule)
        needed = self.places.needed(ranking, joint=joint)
        found = []
        for n in sizes:
            if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
                raise ScoresError(f"n is {n!r}; give a whole number of edges, from 1 on")
            keep = self.places.chosen(needed, len(ranking), int(n), joint=joint)
            if not keep.residual.any():
                raise ScoresError(
                    f"no {n:,} edges at the head of the ranking hold a path from the input to the "
                    "logits; ask for more"
                )
            found.append(keep)
        return found

    def top(self, n: int, rule: str = "abs", *, joint: bool = False) -> Circuit:
        """The circuit of ``best``."""
        return self.circuit(self.best(n, rule, joint=joint), rule=rule)

    def circuit(self, keep: PlacedMask, **about: object) -> Circuit:
        """The circuit of the kept edges of both kinds, each with its score as ``weight``. Raises
        ScoresError where the mask is of other places."""
        places = self.places
        if keep.places != places:
            raise ScoresError("the mask is of other places than the scores; give one of these")
        weights: dict[tuple[str, str], float] = {}
        legal = places.legal
        kept = np.asarray(keep.residual) != 0, np.asarray(keep.attention) != 0
        for table, own in zip(kept, (legal.residual, legal.attention), strict=True):
            for index in np.argwhere(table & own):
                found: Any = tuple(map(int, index))
                weights[places.edge(found)] = self._at(found)
        built = build_placed(places, weights)
        own_keys = {key: built.graph[key] for key in ("wiring", "places")}
        built.graph.update({**self.about, **about, **own_keys})
        return built

    # -- files -----------------------------------------------------------------------------------
    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a safetensors file, in single precision, atomically, without the scores of groups
        of examples; ``load`` reads it. Raises OutputError where the place cannot be written, and
        ScoresError where the file could not be read again."""
        from safetensors.numpy import save

        legal = self.places.legal
        tables: dict[str, Any] = {}
        for name, own in (("residual", legal.residual), ("attention", legal.attention)):
            with np.errstate(over="ignore"):  # the check below finds it
                table = np.where(own, getattr(self, name), 0).astype(np.float32)
            tables[name] = np.ascontiguousarray(table)
        PlacedScores(self.places, **tables)
        try:
            about = written(self.about, "what is said about the scores")
        except CircuitError as error:
            raise ScoresError(str(error)) from error
        wiring = plain(self.places.wiring.to_dict(), "wiring")
        said = {"wiring": wiring, "places": self.places.to_dict(), "about": about}
        head = {"format": FORMAT, "version": VERSION, "digest": digest(said, tables), **said}
        return write_whole(path, save(tables, metadata=in_one_note(head)))

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, force: bool = False) -> PlacedScores:
        """The scores in a file that ``save`` wrote; raises ScoresError where there are none, and,
        unless it is read by ``force``, where they are not those that were written."""
        return _loaded(path, lambda file: cls._read(file, force), "scores between places")

    @classmethod
    def _read(cls, file: Any, force: bool) -> PlacedScores:
        """The scores in an open safetensors file; a table is read when its type and shape are
        known to be right."""
        notes = notes_of(file.metadata() or {})
        if (notes.get("format"), notes.get("version")) != (FORMAT, VERSION):
            raise ScoresError(f"it is not a file of {FORMAT}, version {VERSION}")
        _require_names("note", notes, ("format", "version", "wiring", "places", "about"), "digest")
        _require_names("table", file.keys(), ("residual", "attention"))
        said = {key: notes[key] for key in ("wiring", "places", "about")}
        for key in ("wiring", "places"):
            if not isinstance(said[key], dict):
                raise ScoresError(f"its {key!r} is not an object")
        places = Places.of(Wiring.from_dict(said["wiring"]), said["places"])
        about = checked(said["about"], "'about'")
        n = len(places.spans)
        shapes = {"residual": places.shape, "attention": (len(places.heads), 2, n, n)}
        tables = {
            name: _table_of(file, name, shape, whose="places") for name, shape in shapes.items()
        }
        if "digest" in notes:
            require_digest(notes["digest"], digest(said, tables), force)
        return cls(places, tables["residual"], tables["attention"], about)

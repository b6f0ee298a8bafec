"""One number per edge, and the circuits that can be selected from them.

A score is in metric units per example, and positive when the edge helps the clean behaviour. A full
graph stays an array; only what is selected becomes a graph. Dead ends never count: a selected edge
lies on a kept path from the embedding to the logits.
"""

from __future__ import annotations

import heapq
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from jaxtyping import Float, Int

from circuitkit.errors import CircuitError, CircuitkitError, ScoresError
from circuitkit.graph import by_node
from circuitkit.graph import circuit as circuits
from circuitkit.graph.attributes import checked, written
from circuitkit.graph.circuit import Circuit
from circuitkit.graph.digests import digest, require_digest
from circuitkit.graph.filling import fill
from circuitkit.graph.frames import edge_frame
from circuitkit.graph.nodes import edge_name, parse_edge
from circuitkit.graph.types import Mask
from circuitkit.graph.wiring import Wiring
from circuitkit.util.atomic import write_whole
from circuitkit.util.json_values import Json, plain
from circuitkit.util.notes import NOTE, in_one_note, notes_of
from circuitkit.util.reading import parse_json, require_file
from circuitkit.util.tables import as_html, to_frame

if TYPE_CHECKING:
    import pandas

__all__ = ["OF_NODES", "RULES", "Scores", "ScoresWarning"]

FORMAT = "circuitkit.scores"
VERSION = "1"
RULES = ("abs", "signed", "greedy", "mib")
OF_NODES = RULES[:2]  # the rules that nodes can be ranked by
_Read = TypeVar("_Read")
_FLOATING, _BOOLEAN = ("F64", "F32", "F16"), ("BOOL",)  # as safetensors calls them


class ScoresWarning(UserWarning):
    """Scores that say little, or edges that are chosen although theirs says nothing."""


@dataclass(frozen=True)
class Scores:
    """The score of every edge; ``about`` records the model, the method, and so on.

    ``exact`` says which scores were measured rather than estimated; None where the method does not
    mix the two. ``groups`` are the scores of groups of examples (of each example, or of resamples;
    the edges in the order of iteration), and ``error`` is the standard error of the mean over the
    examples (nan: not known), where the method was asked for groups. A method that chooses a
    circuit itself says so by ``about["chosen"] = True``: then a score of exactly 0 means that it
    dropped the edge.

    ``scores["a0.h1->logits"]`` and ``scores["a0.h1", "logits"]`` look one up; ``len``, ``in`` and
    iteration go over the model's edges by their names, chosen or not. Raises ScoresError for tables
    of another shape or type, and for scores that are not finite.

    Example:
        >>> len(scores), scores.values.shape  # edges; writers × readers
        (479, (21, 53))
        >>> scores["a0.h1->logits"] == scores["a0.h1", "logits"]
        True
        >>> circuit = scores.top(20)
        >>> len(circuit.to_frame())
        20
    """

    wiring: Wiring
    values: Float[np.ndarray, "writers readers"]
    about: Mapping[str, Json] = field(default_factory=dict)
    exact: Mask | None = None
    groups: Float[np.ndarray, "groups edges"] | None = None
    error: Float[np.ndarray, "writers readers"] | None = None

    def __post_init__(self) -> None:
        special = isinstance(self.values, np.ma.MaskedArray | np.matrix)
        if special or not isinstance(self.values, np.ndarray) or self.values.dtype.kind != "f":
            kind = getattr(self.values, "dtype", "") if not special else ""
            kind = kind or type(self.values).__name__
            raise ScoresError(f"the scores are of type {kind}; give a NumPy array of floats")
        tables = {"scores have": self.values, "mask 'exact' has": self.exact,
                  "standard errors have": self.error}  # fmt: skip
        for name, table in tables.items():
            if table is not None and table.shape != self.wiring.shape:
                raise ScoresError(
                    f"the {name} the shape {table.shape}, and the wiring {self.wiring.shape}"
                )
        if self.groups is not None and self.groups.shape[1:] != (self.wiring.n_edges,):
            raise ScoresError(
                f"the groups' scores have the shape {self.groups.shape}, and the wiring "
                f"{self.wiring.n_edges} edges"
            )
        if self.exact is not None and self.exact.dtype != bool:
            raise ScoresError(f"'exact' is a mask of {self.exact.dtype}; give one of bool")
        wrong = ~np.isfinite(self.values) & self.wiring.legal
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            name = edge_name(self.wiring.writers[row], self.wiring.readers[column])
            raise ScoresError(
                f"{int(wrong.sum()):,} scores are not finite, the first that of {name}; "
                "check the metric, or use float32"
            )

    # -- as a mapping of edges -------------------------------------------------------------------
    def __len__(self) -> int:
        """How many edges have a score: all of the model's."""
        return self.wiring.n_edges

    def __getitem__(self, edge: str | tuple[str, str]) -> float:
        """The score of an edge, by its name or its two nodes. Raises NodeNameError and CircuitError
        where this is not an edge of the model."""
        pair = edge if isinstance(edge, tuple) and len(edge) == 2 else parse_edge(edge)
        return float(self.values[self.wiring.index(*pair)])

    def __contains__(self, edge: object) -> bool:
        """Whether this is an edge of the model, by its name or its two nodes."""
        try:
            self[edge]  # type: ignore[index]
        except (CircuitkitError, TypeError):
            return False
        return True

    def __iter__(self) -> Iterator[str]:
        """The names of all edges, in the order of the wiring."""
        w = self.wiring
        for row, column in zip(*np.nonzero(w.legal), strict=True):
            yield edge_name(w.writers[row], w.readers[column])

    def to_frame(self) -> pandas.DataFrame:
        """All edges as a pandas table, the strongest first.

        Columns: ``writer`` and ``reader`` (names), ``weight`` (the score, in metric units per
        example), ``exact`` (whether it was measured rather than estimated; missing where the
        method does not mix the two).

        Example:
            >>> frame = scores.to_frame()
            >>> len(frame), list(frame.columns)
            (479, ['writer', 'reader', 'weight', 'exact'])
        """
        w = self.wiring
        flat = np.flatnonzero(w.legal)
        flat = flat[np.argsort(-np.abs(self.values.flat[flat]), kind="stable")]
        rows, columns = np.divmod(flat, w.shape[1])
        writers, readers = (np.array([*map(str, n)], object) for n in (w.writers, w.readers))
        exact = None if self.exact is None else self.exact.flat[flat]
        return edge_frame(writers[rows], readers[columns], self.values.flat[flat], exact)

    # -- displays --------------------------------------------------------------------------------
    def __str__(self) -> str:
        return f"{len(self):,} scores{self._origin()}"

    def _repr_html_(self) -> str:
        rows = [{"edge": name, "weight": value} for name, value in self.strongest(8)]
        return as_html(to_frame(rows), f"{self}; the strongest:")

    def __repr__(self) -> str:
        lines = [f"{self}; the strongest:"]
        lines += [f"{value:+12.4g}  {name}" for name, value in self.strongest(8)]
        return "\n".join(lines)

    def _origin(self) -> str:
        known = [str(self.about[k]) for k in ("method", "task", "model") if k in self.about]
        return f" ({', '.join(known)})" if known else ""

    def strongest(self, n: int) -> list[tuple[str, float]]:
        """The edges of largest magnitude, each with its score."""
        w = self.wiring
        found = []
        for flat in self.ranking()[:n]:
            row, column = divmod(int(flat), w.shape[1])
            name = edge_name(w.writers[row], w.readers[column])
            found.append((name, float(self.values[row, column])))
        return found

    # -- of nodes --------------------------------------------------------------------------------
    @property
    def level(self) -> str:
        """What circuits are made of: ``edge`` or ``node``."""
        return "node" if self.about.get("level") == "node" else "edge"

    def by_node(self, **about: Json) -> Scores:
        """The scores of nodes instead of edges: a head's, MLP's or expert's is the sum of those of
        its out-edges.

        A circuit of n then is one of n nodes: all edges between them, the embedding and the logits
        (``mask``, ``top``, ``ck.smallest``). Each edge has the score of its weaker end, so that the
        edges above a threshold are those between the nodes above it. The scores of each example are
        left out.

        Example:
            >>> nodes = scores.by_node()
            >>> len(nodes.nodes), nodes.level
            (20, 'node')
            >>> len(nodes.top(3).heads) + len(nodes.top(3).mlps)
            3
        """
        if self.level == "node":
            return self
        sums = by_node.of_nodes(np.where(self.wiring.legal, self.values, 0))
        return Scores.of_nodes(self.wiring, sums, {**self.about, **about})

    @classmethod
    def of_nodes(
        cls, wiring: Wiring, nodes: Float[np.ndarray, " writers"], about: Mapping[str, Json]
    ) -> Scores:
        """The scores of nodes with these values, in the order of the writers; that of the embedding
        does not count."""
        table = by_node.spread(wiring, nodes.astype(np.float64))
        return cls(wiring, table.astype(np.float32), {**about, "level": "node"})

    @property
    def nodes(self) -> dict[str, float]:
        """The score of each head, MLP and expert, the strongest first."""
        own = self.values if self.level == "node" else self.by_node().values
        order = np.argsort(-np.abs(own[1:, -1]), kind="stable") + 1
        return {str(self.wiring.writers[row]): float(own[row, -1]) for row in order}

    @property
    def units(self) -> int:
        """The size of the largest circuit: the number of ranked edges, or of nodes."""
        return len(self._rows("abs") if self.level == "node" else self.ranking())

    def _rows(self, rule: str) -> Int[np.ndarray, " nodes"]:
        """The rows of the nodes, the best first; those that a choosing method dropped are left
        out. Raises ScoresError for a rule that ranks edges only."""
        keys = _key(rule, OF_NODES)(self.values[1:, -1])
        rows = np.argsort(-keys, kind="stable") + 1
        found: np.ndarray = rows[self.values[rows, -1] != 0] if self.about.get("chosen") else rows
        return found

    # -- selection -------------------------------------------------------------------------------
    def ranking(self, rule: str = "abs") -> Int[np.ndarray, " edges"]:
        """The flat indices of all edges, the best first: by magnitude (``abs``, ``mib``), or
        ``signed``; ``greedy`` in the order in which edges are reached from the logits, the
        strongest in-edge of a reached node first (Hanna et al. 2024). Edges that a choosing method
        dropped are left out."""
        if rule == "greedy":
            ranked = self._greedy()
        else:
            flat = np.flatnonzero(self.wiring.legal)
            ranked = flat[np.argsort(-self._strengths(rule).flat[flat], kind="stable")]
        return ranked[self.values.flat[ranked] != 0] if self.about.get("chosen") else ranked

    @property
    def chosen(self) -> Mask | None:
        """The circuit that the method chose itself, without dead ends; None where it chose none."""
        if not self.about.get("chosen"):
            return None
        return self.wiring.alive((self.values != 0) & self.wiring.legal)

    def _greedy(self) -> Int[np.ndarray, " edges"]:
        w, order = self.wiring, []
        heap: list[tuple[float, int]] = []
        reached: set[int] = set()

        def reach(column: int) -> None:
            if column not in reached:
                reached.add(column)
                for row in range(int(w.since[column]), int(w.upstream[column])):
                    key = -abs(float(self.values[row, column]))
                    heapq.heappush(heap, (key, row * w.shape[1] + column))

        reach(w.shape[1] - 1)
        while heap:
            flat = heapq.heappop(heap)[1]
            order.append(flat)
            for column in w.feeds(flat // w.shape[1]):
                reach(column)
        return np.array(order)

    def _strengths(self, rule: str) -> Float[np.ndarray, "writers readers"]:
        """What edges are ranked by: the magnitudes, or by ``signed`` the scores themselves."""
        keys = _key("abs" if rule in ("greedy", "mib") else rule, RULES)
        found: np.ndarray = keys(self.values)
        return found

    def mask(self, n: int, rule: str = "abs") -> Mask:
        """The best n connected edges, as ``top`` selects them: a mask of bool [writers, readers].
        Raises ScoresError where n < 1, where all scores are zero, and where no circuit is that
        small (by the rule ``mib``, or of edges that a method chose)."""
        return self._some(n, rule)[0]

    def _some(self, n: int, rule: str) -> tuple[Mask, int]:
        """``filled``; raises ScoresError where that is empty."""
        keep, filled = self.filled(n, rule)
        if not keep.any():
            remedy = "more, or choose the rule abs" if rule == "mib" else "more"
            raise ScoresError(
                f"no {n:,} edges by the rule {rule} hold a path from the input to the logits, so "
                f"that nothing would be left of them; ask for {remedy}"
            )
        return keep, filled

    def filled(self, n: int, rule: str = "abs") -> tuple[Mask, int]:
        """The mask of the best n edges (of nodes: of all between the best n), as ``mask`` gives it,
        and how many of these were filled in where the ranking's next edge needs more others than
        there is room for; empty where no circuit is that small. Raises ScoresError where n < 1, and
        where all scores are zero.

        Example:
            >>> keep, filled = scores.filled(60)
            >>> int(keep.sum()), filled
            (60, 2)
        """
        (found,) = self._cut([n], rule)
        return found

    def masks(self, sizes: Iterable[int], rule: str = "abs") -> list[Mask]:
        """The best circuits of these numbers of edges, as ``filled`` gives each, ranked once.

        Example:
            >>> [int(keep.sum()) for keep in scores.masks([10, 20])]
            [10, 20]
        """
        return [keep for keep, _ in self._cut(sizes, rule)]

    def _cut(self, sizes: Iterable[int], rule: str) -> Iterator[tuple[Mask, int]]:
        """``filled`` of each size."""
        self.require_some()
        of_nodes = self.level == "node"
        ranking = self._rows(rule) if of_nodes else self.ranking(rule)
        strengths = self._strengths(rule)
        for n in sizes:
            if isinstance(n, bool) or not isinstance(n, Integral):
                raise ScoresError(f"n is {n!r}; give a whole number of {self.level}s")
            if n < 1:
                raise ScoresError(f"{n} {self.level}s do not make a circuit; ask for at least 1")
            if of_nodes:
                yield self.wiring.between(ranking[:n]), 0
            elif rule == "mib":
                keep = np.zeros(self.wiring.shape, dtype=bool)
                keep.flat[ranking[:n]] = True
                yield self.wiring.alive(keep), 0
            else:
                yield fill(self.wiring, ranking, strengths, int(n))

    def require_some(self) -> None:
        """Raise ScoresError, with the likely cause, where all scores are zero: none is better."""
        if self.values[self.wiring.legal].any():
            return
        if self.about.get("chosen"):
            raise ScoresError(
                f"{self.about.get('method', 'the method')} has dropped every edge, so that none is "
                "left to choose; loosen its settings"
            )
        raise ScoresError(
            "all scores are zero, so no edge is better than another: the metric does not depend on "
            "the edges, or the corrupted prompts equal the clean ones; use another metric or "
            "corruption"
        )

    def warn_of_zeros(self, keep: Mask) -> None:
        """Warn (ScoresWarning) if edges with a score of zero are chosen because there are too few
        others."""
        zeros = int((keep & (self.values == 0)).sum())
        if zeros and not keep[self.wiring.legal].all():
            others, chosen = np.count_nonzero(self.values[self.wiring.legal]), int(keep.sum())
            why = "they fill it up, as no other path fits; ask for more"
            if others < chosen:
                why = f"only {others:,} of {len(self):,} edges have another; ask for fewer"
            warnings.warn(
                f"{zeros:,} of the {chosen:,} edges that are chosen have a score of zero: {why}",
                ScoresWarning,
                stacklevel=3,
            )

    def top(self, n: int, rule: str = "abs") -> Circuit:
        """The circuit of the best n connected edges: the longest head of the ranking that has no
        more than n edges without its dead ends, filled up to n edges.

        Filled in are, one after the other, the strongest edge between components of the circuit, or
        the path through others that fits and whose mean strength is larger; where the head holds
        no path from the input to the logits, the first one is that whose weakest edge is strongest.
        ``circuit.graph["filled"]`` says how many edges that were, if any. Scores of a method that
        chose a circuit itself have no more edges than that.

        Rules: ``abs`` (magnitude), ``signed``, ``greedy`` (Hanna et al. 2024: from the logits
        down), and ``mib`` (Mueller et al. 2025: of the n edges of largest magnitude what is left
        without dead ends, fewer than n). Raises ScoresError where n < 1, for a rule that is not
        known, where all scores are zero and where nothing is left; warns (ScoresWarning) where
        edges with a score of zero are chosen.

        Example:
            >>> print(scores.top(50))  # doctest: +ELLIPSIS
            50 of 479 edges, ... of 16 heads, ... of 4 MLPs
        """
        keep, filled = self._some(n, rule)
        self.warn_of_zeros(keep)
        return self.circuit(keep, rule=rule, **({"filled": filled} if filled else {}))

    def above(self, threshold: float, rule: str = "abs") -> Circuit:
        """The circuit of the edges whose score (by ``abs``: its magnitude) exceeds a threshold, in
        metric units per example, without dead ends; the rule is ``abs`` or ``signed``. Raises
        ScoresError where all scores are zero.

        Example:
            >>> circuit = scores.above(0.01)
            >>> bool((circuit.to_frame()["weight"].abs() > 0.01).all())
            True
        """
        self.require_some()
        keep = (_key(rule, RULES[:2])(self.values) > threshold) & self.wiring.legal
        return self.circuit(self.wiring.alive(keep), rule=rule, threshold=threshold)

    def circuit(self, keep: Mask, **about: object) -> Circuit:
        """The circuit of the kept edges, each with its score as ``weight``; where estimated and
        measured scores are mixed, ``exact`` says of each edge which it is. Of nodes' scores each
        node has its own as ``score``."""
        w = self.wiring
        keep = _as_mask(keep, w)
        weights: dict[tuple[str, str], float] = {}
        extra: dict[tuple[str, str], dict[str, bool]] = {}
        for row, column in np.argwhere(keep & w.legal):
            edge = w.writers[row], w.readers[column]
            weights[edge] = float(self.values[row, column])
            if self.exact is not None:
                extra[edge] = {"exact": bool(self.exact[row, column])}
        built = circuits.build(w, weights, edge_attributes=extra)
        built.graph.update({**self.about, **about, "wiring": built.graph["wiring"]})
        if self.level == "node":
            for name, score in self.nodes.items():
                if name in built:
                    built.nodes[name]["score"] = score
        return built

    def graph(self) -> Circuit:
        """All edges as a graph: large (1.6 million edges for an 8B model); prefer ``top``."""
        return self.circuit(self.wiring.legal)

    # -- files -----------------------------------------------------------------------------------
    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a safetensors file, in single precision, atomically; ``load`` reads it.

        Raises OutputError where the place cannot be written, and ScoresError where the file could
        not be read again.

        Example:
            >>> path = scores.save("scores.safetensors")
            >>> len(ck.Scores.load(path))
            479
        """
        from safetensors.numpy import save

        values = np.where(self.wiring.legal, self.values, 0)
        with np.errstate(over="ignore"):  # the check below names the edge
            single = Scores(self.wiring, np.ascontiguousarray(values, np.float32))
        tables = {"scores": single.values}
        if self.exact is not None:
            tables["exact"] = np.ascontiguousarray(self.exact & self.wiring.legal)
        for key in ("groups", "error"):
            if (table := getattr(self, key)) is not None:
                tables[key] = np.ascontiguousarray(table, np.float32)
        try:
            about = written(self.about, "what is said about the scores")
        except CircuitError as error:
            raise ScoresError(str(error)) from error
        said = {"wiring": plain(self.wiring.to_dict(), "wiring"), "about": about}
        head = {"format": FORMAT, "version": VERSION, "digest": digest(said, tables), **said}
        return write_whole(path, save(tables, metadata=in_one_note(head)))

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, force: bool = False) -> Scores:
        """The scores in a file that ``save`` wrote; raises ScoresError where there are none, and,
        unless it is read by ``force``, where they are not those that were written: the digest is
        wrong.

        Example:
            >>> path = scores.save("scores.safetensors")
            >>> ck.Scores.load(path)["m3->logits"] == scores["m3->logits"]
            True
        """
        return _loaded(path, lambda file: cls._read(file, force), "scores")

    @classmethod
    def _read(cls, file: Any, force: bool) -> Scores:
        """The scores in an open safetensors file; a table is read when its type and shape are
        known to be right."""
        notes = _notes(file.metadata() or {})
        _require_names("table", file.keys(), ("scores",), "exact", "groups", "error")
        said = {key: notes[key] for key in ("wiring", "about")}
        if not isinstance(said["wiring"], dict):
            raise ScoresError("its 'wiring' is not an object")
        wiring, about = Wiring.from_dict(said["wiring"]), checked(said["about"], "'about'")
        tables = {name: _table(file, name, wiring) for name in file.keys()}  # noqa: SIM118
        if "digest" in notes:
            require_digest(notes["digest"], digest(said, tables), force)
        exact = tables.get("exact")
        if exact is not None and (exact & ~wiring.legal).any():
            raise ScoresError("its mask 'exact' has places that are not edges")
        return cls(
            wiring, tables["scores"], about, exact, tables.get("groups"), tables.get("error")
        )


def _loaded(path: str | os.PathLike[str], read: Callable[[Any], _Read], what: str) -> _Read:
    """What is read from a safetensors file; raises ScoresError where it is not there."""
    name = repr(os.fspath(path))
    try:
        require_file(path)
        with _opened(path) as file:
            return read(file)
    except FileNotFoundError as error:
        raise ScoresError(f"there is no file {name}") from error
    except (CircuitkitError, OSError, TypeError, ValueError) as error:
        raise ScoresError(f"{name} holds no {what}: {error}") from error


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Any]:
    """An open safetensors file, of which no table is read yet."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(os.fspath(path), framework="np") as file:
            yield file
    except SafetensorError as error:
        raise ScoresError(str(error)) from error


def _notes(written: Mapping[str, str]) -> dict[str, Json]:
    """What a file says of itself: in one note, or in several, as versions before 0.3 wrote."""
    held = notes_of(written)
    if (held.get("format"), held.get("version")) != (FORMAT, VERSION):
        raise ScoresError(f"it is not a file of {FORMAT}, version {VERSION}")
    _require_names("note", held, ("format", "version", "wiring", "about"), "digest")
    if set(written) == {NOTE}:
        return held
    return {**held, **{key: parse_json(str(held[key])) for key in ("wiring", "about")}}


def _require_names(kind: str, found: Iterable[str], needed: Sequence[str], *further: str) -> None:
    """Raise ScoresError where one of the names is missing, or there is another one."""
    names = set(found)
    for name in needed:
        if name not in names:
            raise ScoresError(f"it has no {kind} {name!r}")
    for name in sorted(names - {*needed, *further}):
        raise ScoresError(f"it has a {kind} {name[:80]!r}, which files of scores do not have")


def _table(file: Any, name: str, wiring: Wiring) -> np.ndarray:
    """A table of the file, whose type and shape are looked at first."""
    shape = wiring.shape
    if name == "groups":
        shape = (*file.get_slice(name).get_shape()[:1], wiring.n_edges)
    return _table_of(file, name, shape, _BOOLEAN if name == "exact" else _FLOATING)


def _table_of(
    file: Any,
    name: str,
    wanted: tuple[int, ...],
    kinds: tuple[str, ...] = _FLOATING,
    whose: str = "wiring",
) -> np.ndarray:
    """A table of an open safetensors file, whose type and shape are looked at before it is read.
    Raises ScoresError where these are not those of the wiring, or of what else ``whose`` names."""
    there = file.get_slice(name)
    shape = tuple(there.get_shape())
    if shape != wanted:
        raise ScoresError(f"{name!r} has the shape {shape}, and the {whose} {wanted}")
    if there.get_dtype() not in kinds:
        raise ScoresError(
            f"{name!r} is of type {there.get_dtype()}; it must be {' or '.join(kinds)}"
        )
    table = np.asarray(file.get_tensor(name))
    if table.dtype == bool and (table.view(np.uint8) > 1).any():
        raise ScoresError(f"{name!r} has other bytes than 0 and 1")
    return table


def _as_mask(keep: object, wiring: Wiring) -> Mask:
    """The mask, of bool; raises ScoresError for what is not one over this wiring."""
    try:
        table = np.asarray(keep)
    except (TypeError, ValueError, RuntimeError) as error:  # a tensor that is not like an array
        raise ScoresError(
            f"the mask is of type {type(keep).__name__}, which is not an array; give one of bool"
        ) from error
    if table.shape != wiring.shape:
        raise ScoresError(f"the mask has the shape {table.shape}, and the wiring {wiring.shape}")
    if table.dtype != bool and (table.dtype.kind not in "iuf" or not np.isin(table, (0, 1)).all()):
        raise ScoresError(
            f"the mask is of {table.dtype} and holds more than 0 and 1; give one of bool"
        )
    return table.astype(bool)


def _key(rule: str, known: tuple[str, ...]) -> Callable[[Any], Any]:
    """How a rule turns scores into keys; raises ScoresError for a rule that is not known."""
    if rule not in ("abs", "signed"):
        raise ScoresError(f"the rule {rule!r} is not known here; choose from {', '.join(known)}")
    return np.abs if rule == "abs" else np.asarray

"""A track: what was found on every model of it, and the ways to look at it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import isnan, nan
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from circuitkit.evaluation.results import PictureResult
from circuitkit.graph.circuit import Circuit, wiring_of
from circuitkit.graph.separation import BEYOND, smallest_p
from circuitkit.util.atomic import write_whole
from circuitkit.util.json_values import Json, nan_to_none
from circuitkit.util.statistics import interval_text
from circuitkit.util.tables import as_text, to_csv, to_frame
from circuitkit.viz.figures import Heatmap, Lines, Panels
from circuitkit.workflows.folders import filled
from circuitkit.workflows.study.floor import surely_beyond
from circuitkit.workflows.track import files

if TYPE_CHECKING:
    import pandas

__all__ = ["Beside", "Track", "Tracked"]

ENDS = ("first", "last")
MOST = 40  # components that the figure shows


@dataclass(frozen=True)
class Beside:
    """How far a model's circuit overlaps with that of the first or the last, in edges (Jaccard), at
    the size of the latter: on the ``same`` prompts, on two disjoint samples of them (``apart``),
    and the ``floor``: the mean of each model's own circuits on two samples. ``p`` is the
    permutation p of the hypothesis that the model makes no difference. What is not known is nan,
    and so is the p of that model itself."""

    same: float = nan
    apart: float = nan
    floor: float = nan
    p: float = nan


@dataclass(frozen=True)
class Tracked:
    """One model of a track: its label, its accuracy on the prompts of the discovery, its circuit
    with the faithfulness on other prompts (and the interval and mean of random circuits of that
    size), and the overlaps with the first and the last circuit. ``present`` is, of each component,
    the share of samples whose circuit of that size holds it. Without a circuit ``note`` says
    why."""

    label: str
    model: str
    weights: str | None
    accuracy: float
    circuit: Circuit | None = None
    faithfulness: float = nan
    low: float = nan
    high: float = nan
    random: float = nan
    present: Mapping[str, float] = field(default_factory=dict)
    first: Beside = Beside()
    last: Beside = Beside()
    note: str = ""

    @property
    def edges(self) -> int | None:
        """How many edges its circuit has."""
        return None if self.circuit is None else int(self.circuit.mask().sum())


@dataclass(frozen=True, repr=False)
class Track(PictureResult):
    """A circuit followed over models of one wiring, in the order in which they were given.

    ``print(found)`` says it in a line, ``found`` (or ``repr``) in full, and a notebook shows the
    figure too. ``steps`` are the models; ``about`` says what was asked for. Overlaps are Jaccard
    indices of edges. Those on disjoint samples are compared with the noise floor: circuits of one
    model on two samples of the prompts overlap so far.

    Example:
        >>> pair = {"before": model, "after": model}
        >>> found = ck.track(pair, "ioi", method="eap", edges=20, examples=4)
        >>> print(found)
        ioi over 2 models: 20 edges, faithfulness ...; overlap of first and last ... (noise ...)
        >>> found.to_frame()[["model", "edges", "with_last"]].values.tolist()
        [['before', 20, 1.0], ['after', 20, 1.0]]
        >>> ck.Track.load(found.save("track")[2]).to_frame().equals(found.to_frame())
        True
    """

    about: Mapping[str, Json]
    steps: tuple[Tracked, ...]

    # -- what is found -----------------------------------------------------------------------------
    @property
    def circuits(self) -> dict[str, Circuit]:
        """The circuit of each model that has one, by its label."""
        return {one.label: one.circuit for one in self.steps if one.circuit is not None}

    @cached_property
    def moves(self) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
        """Of each model the components that enter the circuit there, and those that leave it.

        A component is in where the circuits of all samples of the prompts hold it, and out where
        none does; where they disagree it stays what it was.
        """
        inside: dict[str, bool] = {}
        found = {}
        for one in self.steps:
            sure = {
                name: share == 1 for name in self.components
                if (share := one.present.get(name, 0.0)) in (0, 1) and one.circuit is not None
            }  # fmt: skip
            moved = [name for name, now in sure.items() if inside.get(name, now) != now]
            entered = tuple(name for name in moved if sure[name])
            found[one.label] = entered, tuple(name for name in moved if not sure[name])
            inside |= sure
        return found

    @cached_property
    def components(self) -> tuple[str, ...]:
        """The heads and MLPs that a circuit of any model on any sample holds, in the model's
        order."""
        there = {name for one in self.steps for name, share in one.present.items() if share}
        every = next(iter(self.circuits.values()), None)
        writers = wiring_of(every).writers if every is not None else ()
        return tuple(str(node) for node in writers if str(node) in there)

    @property
    def samples(self) -> int:
        """On how many disjoint samples of the prompts each model's circuit was found."""
        return len(self.about["samples"])

    def differ(self, end: str) -> list[str]:
        """The models whose circuits differ from the ``first`` or the ``last`` beyond what other
        prompts change (false discovery rate below 0.05); none where there are fewer than four
        samples, which cannot show it."""
        if not smallest_p(self.samples) < BEYOND:
            return []
        beyond = surely_beyond([getattr(one, end).p for one in self.steps])
        return [one.label for one, own in zip(self.steps, beyond, strict=True) if own]

    # -- tables ------------------------------------------------------------------------------------
    def rows(self) -> list[dict[str, Json]]:
        """A row for each model, as ``to_frame`` gives it."""
        return [
            {
                "model": one.label, "accuracy": one.accuracy, "edges": one.edges,
                "heads": None if one.circuit is None else len(one.circuit.heads),
                "mlps": None if one.circuit is None else len(one.circuit.mlps),
                "faithfulness": one.faithfulness, "low": one.low, "high": one.high,
                "random": one.random, **self._overlaps(one),
                "entered": " ".join(self.moves[one.label][0]),
                "left": " ".join(self.moves[one.label][1]), "note": one.note,
            }
            for one in self.steps
        ]  # fmt: skip

    def _overlaps(self, one: Tracked) -> dict[str, float]:
        """The overlaps as the table names them; p where so many samples can show anything."""
        found: dict[str, float] = {}
        for end, own in (("first", one.first), ("last", one.last)):
            found |= {f"with_{end}": own.same, f"{end}_apart": own.apart, f"{end}_floor": own.floor}
            found[f"{end}_p"] = own.p if smallest_p(self.samples) < BEYOND else nan
        return found

    def to_frame(self) -> pandas.DataFrame:
        """A row for each model.

        Columns: ``model`` (its label), ``accuracy``, ``edges``, ``heads`` and ``mlps`` of its
        circuit, ``faithfulness`` with its interval (``low``, ``high``) and the mean of ``random``
        circuits of that size; ``with_first`` (the overlap with the first circuit on the same
        prompts, Jaccard), ``first_apart`` (on disjoint samples of them), ``first_floor`` (that of
        one model's circuits on two samples) and ``first_p``, the same of the last; ``entered`` and
        ``left`` (components), and ``note`` (why there is no circuit). What is not known is nan.
        """
        return to_frame(self.rows())

    def to_dict(self) -> dict[str, Json]:
        """All numbers, for machines; what is not known is None."""
        present = {
            name: [
                None if one.circuit is None else one.present.get(name, 0.0) for one in self.steps
            ]
            for name in self.components
        }
        rows = [nan_to_none(row) for row in self.rows()]
        return {"about": dict(self.about), "models": rows, "present": present,
                "differ": {end: self.differ(end) for end in ENDS}}  # fmt: skip

    # -- figures -----------------------------------------------------------------------------------
    def plot(self) -> Panels:
        """The sizes, the faithfulness, the overlaps with both ends on different prompts beside
        the noise floor, and which components are in the circuits."""
        own = self.steps
        found: list[Lines | Heatmap] = [
            self._lines("Faithfulness", "", {
                "circuit": [one.faithfulness for one in own],
                "random": [one.random for one in own],
                "accuracy": [one.accuracy for one in own],
            }, {"circuit": ([one.low for one in own], [one.high for one in own])}),
        ]  # fmt: skip
        if self.circuits:
            sizes = [nan if one.edges is None else one.edges for one in own]
            found.insert(0, self._lines("Size", "edges", {"edges": sizes}))
            found.append(self._overlap_lines())
        if self.components:
            found.append(self._heatmap())
        return Panels(found, columns=2, title=f"{self.about['task']} over {len(own)} models")

    def _overlap_lines(self) -> Lines:
        """The overlaps with both ends on different prompts, each beside its floor; with one sample
        alone, those on the same prompts."""
        series, apart = {}, len(self.about["samples"]) > 1
        for end in ENDS:
            every = [getattr(one, end) for one in self.steps]
            series[f"with the {end}"] = [one.apart if apart else one.same for one in every]
            series[f"floor of the {end}"] = [one.floor for one in every]
        title = f"Overlap on {'different' if apart else 'the same'} prompts"
        return self._lines(title, "Jaccard index of edges", series)

    def _lines(
        self, title: str, name: str, series: Mapping[str, Sequence[float]],
        bands: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None,
    ) -> Lines:  # fmt: skip
        """Curves over the models; a series without any value is left out."""
        known = {key: own for key, own in series.items() if not all(map(isnan, own))}
        own = {key: band for key, band in (bands or {}).items() if key in known}
        labels = [one.label for one in self.steps]
        return Lines(labels, known, own, title=title, y_name=name)

    def _heatmap(self) -> Heatmap:
        """Of each component, the share of samples whose circuit holds it; of many, those that
        change most."""
        table = np.array([
            [nan if one.circuit is None else one.present.get(name, 0.0) for one in self.steps]
            for name in self.components
        ])  # fmt: skip
        change = np.nanmax(table, axis=1) - np.nanmin(table, axis=1)
        shown = np.sort(np.argsort(-change, kind="stable")[:MOST])
        of = f", the {MOST} that change most" if len(shown) < len(table) else ""
        return Heatmap(
            table[shown], [self.components[i] for i in shown], [one.label for one in self.steps],
            title=f"Heads and MLPs of the circuits{of}", unit="share of samples", diverging=False,
            limit=1.0,
        )  # fmt: skip

    # -- text --------------------------------------------------------------------------------------
    def __str__(self) -> str:
        about, own = self.about, [one for one in self.steps if one.circuit is not None]
        title = f"{about['task']} over {len(self.steps)} models"
        if not own:
            return f"{title}: no circuit of any"
        sizes = [one.edges or 0 for one in own]
        values = [one.faithfulness for one in own]
        ends = own[0].last
        alone = isnan(ends.floor)
        alike = ends.same if alone else ends.apart
        beside = "" if alone else f" (noise floor {ends.floor:.2f})"
        return (
            f"{title}: {_span(sizes, ',d')} edges, faithfulness {_span(values, '.2f')}"
            f"{self._in_sample}; overlap of first and last {alike:.2f}{beside}"
        )

    def __repr__(self) -> str:
        return "\n".join([*self._heading(), *self._tables(), *self._moved(), *self._beyond()])

    def _heading(self) -> Iterator[str]:
        about = self.about
        asked = "the size that the method chose"
        if about["edges"] is not None:
            asked = f"{about['edges']:,} edges"
        elif about["faithfulness"] is not None:
            asked = f"the fewest edges that reach faithfulness {about['faithfulness']:g}"
        sizes = about["samples"]
        yield (
            f"{about['task']} over {len(self.steps)} models: circuits of {asked} "
            f"({about['method']}, ranked by {about['rule']}; {about['metric']}, "
            f"{about['corruption']}; {about['examples']} prompts{self._in_sample})"
        )
        if len(sizes) > 1:
            yield (
                f"overlaps are Jaccard indices of edges over {len(sizes)} disjoint samples of "
                f"{_span(sizes, ',d')} prompts: on the same sample, on different samples, and the "
                "noise floor (one model, different samples)"
            )

    @property
    def _in_sample(self) -> str:
        return ", in sample" if self.about["in_sample"] else ""

    def _tables(self) -> Iterator[str]:
        """What was found on each model, and how far circuits overlap."""
        found = [
            {
                "model": row["model"], "accuracy": row["accuracy"], "edges": row["edges"],
                "heads": row["heads"], "MLPs": row["mlps"], "faithfulness": row["faithfulness"],
                "interval": interval_text(row["low"], row["high"], 2) if row["edges"] else None,
                "random": row["random"],
            }
            for row in self.rows()
        ]  # fmt: skip
        formats = dict.fromkeys(("accuracy", "faithfulness", "random"), ".2f")
        yield f"\n{as_text(found, formats=formats)}"
        names = ("with_first", "first_apart", "first_floor", "with_last", "last_apart",
                 "last_floor")  # fmt: skip
        rows = [{"model": row["model"], **{name: row[name] for name in names}}
                for row in self.rows() if row["edges"]]  # fmt: skip
        titles = ("with first", "different", "floor", "with last", "different", "floor")
        headings = dict(zip(names, titles, strict=True))
        if rows:
            shown = as_text(rows, formats=dict.fromkeys(names, ".2f"), headings=headings,
                            right=names)  # fmt: skip
            yield f"\n{shown}"

    def _moved(self) -> Iterator[str]:
        """Which components enter or leave, and why a model has no circuit."""
        lines = [
            f"  {label}: " + "; ".join(
                f"{verb} {' '.join(names)}"
                for verb, names in (("enter", entered), ("leave", left)) if names
            )
            for label, (entered, left) in self.moves.items() if entered or left
        ]  # fmt: skip
        if self.circuits:
            yield "\nHeads and MLPs that enter or leave (in all samples)" + (
                "" if lines else ": none"
            )
        yield from lines
        notes = [f"  {one.label}: {one.note}" for one in self.steps if one.note]
        if notes:
            yield "\nWithout a circuit"
            yield from notes

    def _beyond(self) -> Iterator[str]:
        """Which circuits differ from those at both ends by more than samples of prompts do."""
        if len(self.circuits) < 2:
            return
        yield ""
        if not smallest_p(self.samples) < BEYOND:
            yield (
                f"{self.samples} sample{'s' * (self.samples != 1)} of prompts cannot show whether "
                "models differ by more than samples do; four or more can (--samples)."
            )
            return
        for end in ENDS:
            found = self.differ(end)
            yield (
                f"The {end} circuit differs from those of "
                f"{', '.join(found) if found else 'none of the others'} by more than samples of "
                "prompts do (false discovery rate 5%)."
            )

    # -- files -------------------------------------------------------------------------------------
    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> list[Path]:
        """Write the table (``track.csv``), the figure (``track.svg``) and everything else, with the
        circuits (``track.json``, which ``load`` reads) into a folder; returns the files. A folder
        that holds another run is refused, unless ``overwrite`` replaces all files of that run.
        Raises OutputError then, and where they cannot be written."""
        texts = {
            "track.csv": to_csv(self.rows()), "track.svg": self.plot().svg(),
            "track.json": files.to_json(self.about, [vars(one) for one in self.steps]),
        }  # fmt: skip
        with filled(folder, "track", overwrite) as new:
            for name, text in texts.items():
                write_whole(new / name, text)
        return [Path(folder) / name for name in texts]

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, force: bool = False) -> Track:
        """What ``save`` wrote: the folder, or its ``track.json``. Raises CircuitError where there
        is nothing of the kind, and, unless it is read by ``force``, where it is not what was
        written: its digest is wrong."""
        place = Path(path)
        about, rows = files.read(place / "track.json" if place.is_dir() else place, force)
        steps = (Tracked(**{**row, **{end: Beside(**row[end]) for end in ENDS}}) for row in rows)
        return cls(about, tuple(steps))


def _span(values: Sequence[float], form: str) -> str:
    """The number, or the smallest and the largest of them."""
    low, high = (format(end(values), form) for end in (min, max))
    return low if low == high else f"{low} to {high}"

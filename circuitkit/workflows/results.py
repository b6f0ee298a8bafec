"""What a discovery found: a circuit, with everything that was measured of it."""

from __future__ import annotations

import html
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from circuitkit.evaluation.ability import Ability
from circuitkit.evaluation.certainty_result import Certainty
from circuitkit.evaluation.faithfulness import Beside, Evaluation
from circuitkit.evaluation.refining import Refined
from circuitkit.evaluation.searching import Search
from circuitkit.evaluation.verification import Verification
from circuitkit.features.supernodes import table as supernode_table
from circuitkit.graph import circuit as circuits
from circuitkit.graph.circuit import Circuit
from circuitkit.graph.compare import Agreement
from circuitkit.graph.nodes import INPUT, parse_edge
from circuitkit.graph.scores import Scores
from circuitkit.graph.types import Mask
from circuitkit.util.atomic import write_whole
from circuitkit.util.json_values import Json, nan_to_none
from circuitkit.util.statistics import interval_text
from circuitkit.util.tables import to_frame
from circuitkit.util.versions import versions
from circuitkit.workflows.feature_report import FeatureReport
from circuitkit.workflows.folders import RUNS, filled
from circuitkit.workflows.growing import Grown
from circuitkit.workflows.measured import Measured

if TYPE_CHECKING:
    import pandas

__all__ = ["Discovery", "files"]

VERIFIED, FEATURES = "verification.csv", "features.csv"
SUPERNODES = "supernodes.csv"


def files(verified: bool, certain: bool) -> tuple[str, ...]:
    """The names of the files that ``Discovery.save`` writes."""
    names = RUNS["discovery"]
    return names[:4] + names[4:5] * certain + (VERIFIED,) * verified


@dataclass(frozen=True)
class Discovery(Measured):
    """What a discovery found: a circuit, with everything that was measured of it.

    ``print(found)`` gives one line, ``found`` (or ``repr``) the full summary, and a notebook draws
    the circuit. Faithfulness that was measured on the prompts of the discovery themselves is marked
    *in sample* wherever it is shown: it is too high by an unknown amount.

    Attributes:
        circuit: The circuit, a ``Circuit``, whose attributes say how it was found.
        scores: The score of every edge, from which it was chosen.
        ability: How well the model does the task, on the prompts of the discovery.
        evaluation: The circuit's faithfulness.
        complement: That of all other edges.
        null: That of random circuits of the same size.
        beside: That of the circuit with random halves of all other edges kept as well.
        seconds: How long it took.
        mebibytes: The most memory that the process held.
        search: The sizes that were tried for the circuit, with their faithfulness on the prompts of
            the discovery; None where a size was asked for, or the method chose the circuit itself.
        verification: The edges that were measured exactly, where that was asked for.
        certainty: How sure each edge is, as far as the prompts go; None for methods that give no
            scores of single examples.
        core_evaluation: The faithfulness of the core alone; None without one.
        stopped: Where an agreement was asked for, why no more prompts were drawn.
        observed: The same, how the circuit of the other prompts agrees with this one (Jaccard).
        refined: The swaps that made the circuit more faithful, where that was asked for.
        grown: The sizes at which equivalence was tested, where that was asked for.
        agreement: How circuits of other orders agree, where that was asked for.
        features: What features and what they leave over carry, of a circuit of features.

    Example:
        >>> found = ck.discover(model, "ioi", edges=20, examples=8)
        >>> print(found)
        ioi on mini: 20 of 479 edges, faithfulness ... [..., ...] (logit_diff, 8 unseen prompts)
        >>> list(found.to_frame())
        ['writer', 'reader', 'weight', 'exact', 'standard_error', 'low', 'high', 'p', 'q', ...]
    """

    circuit: Circuit
    scores: Scores
    ability: Ability
    evaluation: Evaluation
    complement: Evaluation
    null: tuple[Evaluation, ...]
    beside: tuple[Evaluation, ...]
    seconds: float
    mebibytes: float
    search: Search | None = None
    verification: Verification | None = None
    certainty: Certainty | None = None
    core_evaluation: Evaluation | None = None
    stopped: str | None = None
    observed: float | None = None
    refined: Refined | None = None
    grown: Grown | None = None
    agreement: Agreement | None = None
    features: FeatureReport | None = None

    @classmethod
    def of(
        cls,
        scores: Scores,
        mask: Mask,
        evaluated: Beside,
        metadata: Mapping[str, Json],
        *,
        ability: Ability,
        seconds: float,
        mebibytes: float,
        search: Search | None = None,
        filled: int = 0,
        verification: Verification | None = None,
        certainty: Certainty | None = None,
        stopped: str | None = None,
        observed: float | None = None,
        refined: Refined | None = None,
        grown: Grown | None = None,
        agreement: Agreement | None = None,
    ) -> Discovery:
        """The result, from the scores, the circuit chosen from them, the evaluations of the
        circuit and of what is beside it, and what else was measured; scores and circuit carry the
        metadata, and the circuit alone how many of its edges were ``filled`` in, how faithful the
        part is that a picture shows, and how sure each edge is. The scores of each example are left
        out: they are large.
        """
        found, complement, null, beside, also = evaluated
        random = float(np.mean([e.faithfulness for e in null]))
        own = {**metadata, "faithfulness": found.said(random=random), "versions": versions()}
        scores = replace(scores, about={**scores.about, **own}, groups=None)
        circuit = scores.circuit(mask, **_said(filled, found, also))
        if certainty is not None:
            certainty = replace(certainty, about=dict(scores.about))
            circuit = certainty.annotated(circuit)
            expected = {} if isnan(certainty.agreement) else {"agreement": certainty.agreement}
            circuit.graph.update(expected)  # which compare reads
        return cls(
            circuit=circuit, scores=scores, evaluation=found, complement=complement,
            null=null, beside=beside, ability=ability, seconds=seconds, mebibytes=mebibytes,
            search=search, verification=verification, refined=refined, grown=grown,
            certainty=certainty,
            core_evaluation=also.get("core"), stopped=stopped, observed=observed,
            agreement=agreement,
        )  # fmt: skip

    @property
    def core(self) -> Circuit | None:
        """The core of the circuit: the edges that nearly every other sample of as many prompts
        would give too (``Certainty.core``); None where that is not known.

        Example:
            >>> found = ck.discover(model, "ioi", edges=20, examples=8)
            >>> bool(found.core.to_frame()["core"].all())
            True
        """
        if self.certainty is None or not self.certainty.known:
            return None
        core = self.scores.circuit(self.certainty.core)
        return self.certainty.annotated(core)

    def heads(self, n: int = 10) -> list[tuple[str, float]]:
        """The n heads and MLPs that carry most, each with Σ |weight| of the edges out of it, in
        metric units per example.

        Example:
            >>> found = ck.discover(model, "ioi", edges=20, examples=4)
            >>> (name, carried), *others = found.heads(2)
            >>> name in found.circuit.heads, carried > others[0][1]
            (True, True)
        """
        carried: dict[str, float] = {}
        for writer, _, weight in circuits.edges(self.circuit):
            carried[writer] = carried.get(writer, 0.0) + abs(weight)
        carried.pop(INPUT, None)
        return sorted(carried.items(), key=lambda item: -item[1])[:n]

    @property
    def level(self) -> str:
        """What the circuit is made of: an ``edge``, or a ``node``."""
        return self.scores.level

    @property
    def nodes(self) -> dict[str, float]:
        """The heads, MLPs and experts of the circuit, the strongest first, each with its score: of
        a circuit of edges the sum of the scores of all its out-edges, in metric units per example.

        Example:
            >>> found = ck.discover(model, "ioi", level="node", nodes=5, examples=4)
            >>> list(found.nodes)[:2], len(found.nodes)
            (['a2.h2', 'a0.h2'], 5)
        """
        own = circuits.components(self.circuit)
        return {name: score for name, score in self.scores.nodes.items() if name in own}

    def edges(self, n: int = 10) -> list[tuple[str, float]]:
        """The n strongest edges of the circuit, each with its weight."""
        own = circuits.mask(self.circuit)
        values = np.where(own, self.scores.values, 0)
        return Scores(self.scores.wiring, values).strongest(min(n, int(own.sum())))

    def _often(self) -> dict[str, float]:
        """How often circuits of other samples hold each of the strongest edges, if known."""
        if self.certainty is None or not self.certainty.known:
            return {}
        wiring, shares = self.scores.wiring, np.zeros(self.scores.wiring.shape)
        shares[wiring.legal] = self.certainty.frequency
        return {name: float(shares[wiring.index(*parse_edge(name))]) for name, _ in self.edges()}

    def to_frame(self) -> pandas.DataFrame:
        """The circuit's edges, the strongest first: ``writer``, ``reader``, ``weight`` (metric
        units per example) and ``exact``, as ``Circuit.to_frame`` gives them; of a circuit of nodes
        these: ``node`` and ``score``."""
        if self.level == "edge":
            return self.circuit.to_frame()
        return to_frame([{"node": name, "score": score} for name, score in self.nodes.items()])

    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> list[Path]:
        """Write the circuit (``circuit.json``), the scores of every edge (``scores.safetensors``),
        a picture (``circuit.svg``), an interactive page (``circuit.html``), how sure each edge is
        (``certainty.safetensors``, where that is known), and of a verified circuit the edges that
        were measured (``verification.csv``) into a folder; returns the files.

        The folder is created if needed. One that holds another run is refused, unless ``overwrite``
        replaces all files of that run; they stay until the new ones are complete. Raises
        OutputError then, and where the files cannot be written.

        Example:
            >>> found = ck.discover(model, "ioi", edges=20, examples=4)
            >>> [path.name for path in found.save("ioi")]
            ['circuit.json', 'scores.safetensors', 'circuit.svg', 'circuit.html', 'certainty...']
            >>> len(ck.Circuit.load("ioi/circuit.json").heads) == len(found.circuit.heads)
            True
        """
        names = files(self.verification is not None, self.certainty is not None)
        if self.features:
            names += (FEATURES, *(SUPERNODES,) * bool(self.features.supernodes))
        with filled(folder, "discovery", overwrite) as new:
            own = [new / name for name in names]
            self.circuit.save(own[0])
            self.scores.save(own[1])
            self.draw(own[2])
            self.circuit.draw(own[3], searched=self._searched)
            if self.certainty:
                self.certainty.save(own[4])
            if self.verification:
                write_whole(new / VERIFIED, self.verification.to_csv())
            if self.features:
                write_whole(new / FEATURES, self.features.to_csv())
                if self.features.supernodes:
                    write_whole(new / SUPERNODES, supernode_table(self.features.supernodes))
        return [Path(folder) / name for name in names]

    @property
    def _searched(self) -> dict[int, float]:
        """The faithfulness of the sizes that were tried, on the prompts of the discovery."""
        return {} if self.search is None else self.search.curve

    def to_dict(self) -> dict[str, Json]:
        """The summary as a dictionary for JSON; ``in_sample`` says whether the faithfulness was
        measured on the prompts of the discovery themselves."""
        low, high = self.evaluation.interval()
        about = self.circuit.graph
        return {
            **{k: v for k, v in dict(about).items() if k not in ("wiring", "versions")},
            "in_sample": self.in_sample,
            "edges": self.evaluation.edges,
            "edges_total": self.scores.wiring.n_edges,
            "accuracy": self.ability.accuracy,
            "metric_clean": self.ability.clean,
            "metric_corrupt": nan_to_none(self.ability.corrupt),
            "faithfulness": self.evaluation.faithfulness,
            "interval": nan_to_none([low, high]),
            "mean_of_ratios": self.evaluation.mean_of_ratios,
            "complement_faithfulness": self.complement.faithfulness,
            "beside_faithfulness": [e.faithfulness for e in self.beside],
            "random_faithfulness": [e.faithfulness for e in self.null],
            **({"nodes": self.nodes} if self.level == "node" else {}),
            "strongest_edges": self.edges(),
            "strongest_components": self.heads(),
            "seconds": round(self.seconds, 2),
            "peak_mebibytes": round(self.mebibytes),
            **({"search": self.search.to_dict()} if self.search else {}),
            **({"verification": self.verification.to_dict()} if self.verification else {}),
            **({"refined": self.refined.to_dict()} if self.refined else {}),
            **self._certainty_dict(),
            **({"orders": self.agreement.to_dict()} if self.agreement else {}),
            **({"features": self.features.to_dict()} if self.features else {}),
        }

    def _certainty_dict(self) -> dict[str, Json]:
        if self.certainty is None:
            return {"certainty": None}
        core = self.core_evaluation
        return {"certainty": {
            **self.certainty.to_dict(),
            "core_faithfulness": None if core is None else core.faithfulness,
            **({} if self.stopped is None else {"stopped": self.stopped}),
            **({} if self.observed is None else {"observed": self.observed}),
        }}  # fmt: skip

    def _sure(self) -> Iterator[str]:
        """How sure the circuit is."""
        if self.level == "node":
            yield "  certainty        not known of nodes"
            return
        if self.certainty is None:
            method = self.circuit.graph.get("method", "the method")
            yield f"  certainty        not known: {method} gives no scores of single examples"
            return
        core = self.core_evaluation
        lines = self.certainty.lines(None if core is None else core.faithfulness)
        if self.stopped is not None:
            wanted = self.circuit.graph["asked"]["agreement"]
            lines.append((f"{wanted:g} asked for", self.stopped))
        if self.observed is not None:
            lines.append(("observed", f"{self.observed:.3f} with the circuit of the other prompts"))
        yield from (f"  {name:17s}{text}" for name, text in lines)

    def __str__(self) -> str:
        about, found = self.circuit.graph, self.evaluation
        low, high = found.interval()
        known = ", known ones only" if "known" in about else ""
        return (
            f"{about['task']} on {about['model']}: {self._of_nodes()}{found.edges:,} of "
            f"{self.scores.wiring.n_edges:,} edges, faithfulness {found.faithfulness:.3f} "
            f"{interval_text(low, high)} ({found.metric}, {self._prompts()}{known})"
        )

    def _of_nodes(self) -> str:
        """How many nodes a circuit of nodes has; of one of edges nothing."""
        return f"{len(self.nodes)} nodes, " if self.level == "node" else ""

    def _method(self) -> Iterator[str]:
        """By which method and rule, and for which budget: what was chosen for it, and why."""
        about = self.circuit.graph
        settings = about.get("settings") or {}
        why = settings.get("why")
        yield f"  method           {about['method']}, ranked by {about['rule']}"
        if why is not None:
            yield f"    chosen         {settings['method']} on {settings['examples']:,} prompts:"
            yield f"                   {why}"

    def _kept(self) -> Iterator[str]:
        """How many prompts stayed, if only those that the model answers."""
        known = self.circuit.graph.get("known")
        if known is not None:
            counts = f"{known['kept']} of {known['of']}"
            yield f"  prompts          {counts}, those that the model answers"

    def _chosen(self) -> Iterator[str]:
        """How many edges were filled in, if any, and whether larger circuits were worse."""
        filled = self.circuit.graph.get("filled")
        if filled:
            yield f"  filled in        {filled:,} of them, as the ranking's next needs more others"
        if self.search and not self.search.monotone:
            yield f"  size             {self.search.again()}"

    def _path(self) -> Iterator[str]:
        """How far the sum of the scores is from the gap that they explain, where a method says."""
        path = self.scores.about.get("path")
        if isinstance(path, dict) and path.get("error") is not None:
            said = "" if path.get("resolved") else ": the path was not resolved"
            yield (
                f"  scores' sum      {path['sum']:.3f} of a gap of {path['gap']:.3f} "
                f"(relative error {path['error']:.2f}{said})"
            )

    def __repr__(self) -> str:
        about, found = self.circuit.graph, self.evaluation
        low, high = found.interval()
        spread = [e.faithfulness for e in self.null]
        halves = [e.faithfulness for e in self.beside]
        lines = [
            f"{about['task']} on {about['model']}: {self._of_nodes()}"
            f"{circuits.summary(self.circuit)}",
            "",
            f"  the model        {self.ability!r}",
            *self._kept(),
            *self._method(),
            f"  faithfulness     {found.faithfulness:.3f}  {interval_text(low, high)}  "
            f"({found.metric}, {found.corruption}, {self._prompts()})",
            f"  mean of ratios   {found.mean_of_ratios:.3f}",
            f"  without it       {self.complement.faithfulness:.3f}  "
            f"(all other {self.level}s kept)",
            f"  with halves      {np.mean(halves):.3f}  [{min(halves):.3f}, {max(halves):.3f}]  "
            f"({len(halves)} random halves of the others kept)",
            f"  random circuits  {self.random:.3f}  [{min(spread):.3f}, {max(spread):.3f}]  "
            f"({len(spread)} of {'the same size' if self.level == 'edge' else 'as many nodes'})",
            *(f"  {name:17s}{text}" for name, text in (self.grown.lines() if self.grown else ())),
            *self._chosen(),
            *self._path(),
            *self._sure(),
            f"  cost             {self.seconds:.1f} s, peak memory {self.mebibytes:,.0f} MiB",
            "",
            *self._strongest(),
        ]
        if self.verification:
            lines += ["", repr(self.verification)]
        if self.refined:
            lines += ["", repr(self.refined)]
        if self.agreement:
            lines += ["", f"In random orders, {self.agreement}"]
        if self.features:
            lines += ["", repr(self.features)]
        return "\n".join(lines)

    def _strongest(self) -> Iterator[str]:
        """A table of the strongest edges and components, or of the strongest nodes."""
        if self.level == "node":
            yield "  strongest nodes"
            yield from (f"  {score:+8.3f}  {name}" for name, score in [*self.nodes.items()][:20])
            return
        often = self._often()
        edges = "strongest edges, share of samples" if often else "strongest edges"
        yield f"  {edges:{40 if often else 34}s}strongest components (Σ|weight|)"
        rows = zip(self.edges(), [*self.heads(), *[("", 0.0)] * 10], strict=False)
        for (edge, weight), (head, total) in rows:
            right = f"{total:7.3f}  {head}" if head else ""
            share = f"{often[edge]:>4.0%}  " if often else ""
            yield f"  {weight:+8.3f}  {share}{edge:24s}{right}".rstrip()

    def _repr_html_(self) -> str:
        return (
            f"{self.circuit._framed(searched=self._searched)}<pre>{html.escape(repr(self))}</pre>"
        )


def _said(filled: int, whole: Evaluation, also: Mapping[str, Evaluation]) -> dict[str, Json]:
    """What a circuit alone says: how many edges were filled in, the faithfulness of its parts by
    their size, and, where a picture does not show all of it, that of what it shows."""
    said: dict[str, Json] = {"filled": filled} if filled else {}
    if sizes := {name: part.said() for name, part in also.items() if name.isdecimal()}:
        said["sizes"] = sizes
    if (part := also.get("drawn")) is not None:
        said["drawn"] = {"edges": part.edges, "of": whole.edges,
                         "faithfulness": round(part.faithfulness, 4)}  # fmt: skip
    return said

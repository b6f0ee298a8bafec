"""What is known of a circuit's certainty: of each edge, of its core, and of another sample."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import exp, inf, isnan, log, nan
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from circuitkit.evaluation import certainty_files as files
from circuitkit.evaluation.masks import as_scores
from circuitkit.evaluation.results import TableResult
from circuitkit.graph.circuit import Circuit
from circuitkit.graph.frames import CERTAINTY, edge_frame
from circuitkit.graph.scores import Scores
from circuitkit.graph.types import Mask
from circuitkit.graph.wiring import Wiring
from circuitkit.util.json_values import Json, nan_to_none
from circuitkit.util.statistics import LEVEL

if TYPE_CHECKING:
    import pandas

__all__ = ["AGREE", "FARTHEST", "TABLES", "Certainty", "prompts_text"]

AGREE = 0.9  # the agreement for which prompts are counted
FARTHEST = 8  # times as many prompts as there are: nothing is said of what lies beyond
TELLING = 0.1  # of the core: a bound above it says nothing


@dataclass(frozen=True, eq=False)
class Certainty(TableResult):
    """How sure each edge is, given the choice of the prompts; nan where unknown.

    The tables hold one number for each edge of the model, in the order of ``wiring.legal``.

    Attributes:
        wiring: The model's edges.
        mask: The circuit: bool [writers, readers].
        examples: The number of examples; with one, nothing is known.
        mean: The mean score, in metric units per example.
        standard_error: Its standard error.
        low: The low end of its interval.
        high: The high end.
        p: The p-value of its sign, two-sided, from the same statistic as the interval.
        q: The same, adjusted over all edges (Benjamini & Hochberg): of the edges with q at most
            0.05, at most one in twenty has the wrong sign on average.
        frequency: The share of circuits from other samples of the same number of prompts that are
            expected to have the edge.
        halves: The share of circuits from complementary halves of the prompts that have it.
        jaccards: For each sample size, the mean Jaccard index of the circuits of two samples.
        threshold: The frequency from which an edge of the circuit belongs to its core.
        level: The confidence level of the intervals.
        rule: How edges were ranked.
        about: The model, task and method of the scores.

    Example:
        >>> each = ck.discovery.eap(model, data, groups="examples")
        >>> sure = ck.certainty(each, 20)
        >>> core = each.circuit(sure.core)
        >>> 0 < len(core.to_frame()) <= 20
        True
    """

    wiring: Wiring
    mask: Mask
    examples: int
    mean: Float[np.ndarray, " edges"]
    standard_error: Float[np.ndarray, " edges"]
    low: Float[np.ndarray, " edges"]
    high: Float[np.ndarray, " edges"]
    p: Float[np.ndarray, " edges"]
    q: Float[np.ndarray, " edges"]
    frequency: Float[np.ndarray, " edges"]
    halves: Float[np.ndarray, " edges"]
    jaccards: Mapping[int, float]
    threshold: float = 0.9
    level: float = LEVEL
    rule: str = "abs"
    about: Mapping[str, Json] = field(default_factory=dict)

    # -- the circuit -----------------------------------------------------------------------------
    @property
    def edges(self) -> int:
        """How many edges the circuit has."""
        return int(self.mask.sum())

    @property
    def known(self) -> bool:
        """Whether anything is known: whether there was more than one example."""
        return self.examples > 1

    @cached_property
    def core(self) -> Mask:
        """The edges of the circuit that nearly every other sample would give too: those with at
        least the frequency of the threshold. The others are its periphery."""
        found: Mask = self.mask.copy()
        found[self.wiring.legal] &= self.frequency >= self.threshold  # nan is not
        return found

    @property
    def bound(self) -> float:
        """How many edges without any effect are in the core on average, at most: N² / ((2π − 1)E)
        of N edges of E, with the threshold π.

        It holds for those of the core that are in as many circuits of complementary halves of the
        prompts, if edges without effect are chosen alike, and no less well than at random
        (Meinshausen & Bühlmann 2010; Shah & Samworth 2013). Compare it with the size of the core:
        ``telling`` says whether it is at most a tenth of it.
        """
        return float(self.edges**2 / ((2 * self.threshold - 1) * self.wiring.n_edges))

    @property
    def telling(self) -> bool:
        """Whether the bound is informative: whether it is at most a tenth of the core, and all of
        the core is stable in complementary halves."""
        own = self.core[self.wiring.legal]
        stable = bool((self.halves[own] >= self.threshold).all())
        return stable and bool(self.bound <= TELLING * own.sum())

    # -- another sample --------------------------------------------------------------------------
    @property
    def agreement(self) -> float:
        """The expected Jaccard index of two circuits from different samples of that many prompts.

        It is estimated from samples of these prompts, which overlap more than new prompts would: an
        upper estimate.
        """
        return self.jaccards.get(self.examples, nan)

    def prompts_needed(self, agreement: float = AGREE) -> float:
        """How many prompts would bring the ``agreement`` to this value; inf for more than eight
        times as many as there are, and nan where it is not known.

        log(1 − J) is fitted on log n at a quarter, a half and all of the prompts. As the agreement
        is an upper estimate, this is a lower one.
        """
        if isnan(self.agreement):
            return nan
        if self.agreement >= agreement:
            return self.examples
        if len(self.jaccards) < 3:
            return nan
        sizes = np.log([*self.jaccards])
        missing = np.log(np.maximum(1 - np.array([*self.jaccards.values()]), 1e-6))
        slope, start = np.polyfit(sizes, missing, 1)
        if slope >= 0:
            return inf
        wanted = (log(1 - agreement) - start) / slope
        if wanted > log(FARTHEST * self.examples):
            return inf
        return max(self.examples + 1, round(exp(wanted)))

    def observed(self, scores: Scores) -> float:
        """The Jaccard index of the circuit with the one that other prompts' scores give, cut to the
        same number of edges by the same rule."""
        other = as_scores(scores).mask(self.edges, self.rule)
        return float((other & self.mask).sum() / (other | self.mask).sum())

    # -- tables ----------------------------------------------------------------------------------
    def _columns(self) -> dict[str, np.ndarray]:
        """What is known of each edge; the core is not there where nothing is."""
        own = self.core[self.wiring.legal] if self.known else np.full(len(self.mean), None)
        return {**{name: getattr(self, name) for name in CERTAINTY[:-1]}, "core": own}

    def to_frame(self) -> pandas.DataFrame:
        """All edges of the model, those with the largest mean first.

        Columns: ``writer``, ``reader``, ``weight`` (the mean), ``standard_error``, ``low``,
        ``high`` (its interval), ``p``, ``q`` (of its sign), ``frequency`` (the share of circuits of
        other samples that hold it), ``core`` and ``circuit`` (whether it is in them).
        """
        rows, columns = np.nonzero(self.wiring.legal)
        order = np.argsort(-np.abs(self.mean), kind="stable")
        writers, readers = (
            np.array([*map(str, nodes)], object)
            for nodes in (self.wiring.writers, self.wiring.readers)
        )
        known = {name: column[order] for name, column in self._columns().items()}
        frame = edge_frame(
            writers[rows[order]], readers[columns[order]], self.mean[order], None, known
        )
        return frame.drop(columns="exact").assign(circuit=self.mask[self.wiring.legal][order])

    def annotated(self, circuit: Circuit) -> Circuit:
        """The circuit with what is known of its edges as their attributes: ``standard_error``,
        ``low``, ``high``, ``p``, ``q``, ``frequency`` and ``core``."""
        found = circuit.copy()
        place = np.cumsum(self.wiring.legal).reshape(self.wiring.shape) - 1
        columns = self._columns()
        for writer, reader, data in found.edges(data=True):
            if data.get("weight") is None or not self.known:
                continue
            here = int(place[self.wiring.index(writer, reader)])
            said = {name: column[here].item() for name, column in columns.items()}
            data.update({name: own for name, own in said.items() if own == own})
        return found

    def to_dict(self) -> dict[str, Json]:
        """The summary as a dictionary for JSON; unknown values are None."""
        needed = self.prompts_needed()
        found: dict[str, Json] = nan_to_none({
            "examples": self.examples, "edges": self.edges,
            "core": int(self.core.sum()) if self.known else nan, "threshold": self.threshold,
            "by_chance_at_most": self.bound if self.telling else nan, "agreement": self.agreement,
            "agreements": [[n, j] for n, j in self.jaccards.items()],
            "prompts_for": AGREE, "prompts_needed": nan if needed == inf else needed,
            "more_than": FARTHEST * self.examples if needed == inf else nan,
        })  # fmt: skip
        return found

    def __str__(self) -> str:
        if not self.known:
            return "not known from a single example"
        return (
            f"{int(self.core.sum()):,} of {self.edges:,} edges in the core; agreement to expect "
            f"with another {self.examples:,} prompts {self.agreement:.3f}"
        )

    def __repr__(self) -> str:
        return "\n".join(f"{name:17s}{text}" for name, text in self.lines())

    def lines(self, alone: float | None = None) -> list[tuple[str, str]]:
        """The summary: what is known, each with its name; ``alone`` is the faithfulness of the
        core."""
        if not self.known:
            return [("certainty", str(self))]
        size, faithful = (
            int(self.core.sum()),
            "" if alone is None else f"; faithfulness {alone:.3f}",
        )
        core = f"{size:,} of {self.edges:,} edges, in at least {self.threshold:.0%} of samples"
        bound = f"at most {self.bound:.2g} of these (stability selection)"
        jaccard = f"{self.agreement:.3f} with another {self.examples:,} prompts"
        return [
            ("core", f"{core}{faithful}"),
            ("by chance", bound if self.telling else "the bound is not informative"),
            ("agreement", f"{jaccard} (Jaccard, an upper estimate)"),
            (f"prompts for {AGREE:g}", prompts_text(self)),
        ]  # fmt: skip

    # -- files -----------------------------------------------------------------------------------
    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a safetensors file, in single precision, atomically; ``load`` reads it. Raises
        OutputError where the place cannot be written."""
        said = {
            "wiring": self.wiring.to_dict(), "about": dict(self.about), "rule": self.rule,
            "examples": self.examples, "threshold": self.threshold, "level": self.level,
            "jaccards": [[n, j] for n, j in self.jaccards.items()],
        }  # fmt: skip
        return files.write(path, said, {"mask": self.mask, **{k: getattr(self, k) for k in TABLES}})

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, force: bool = False) -> Certainty:
        """Read what ``save`` wrote. Raises ScoresError if the file holds something else and, unless
        ``force`` is given, if its digest is wrong."""
        said, tables = files.read(path, TABLES, force)
        held: dict[str, Json] = {**said, **tables}
        return cls(**held)


TABLES = ("mean", "standard_error", "low", "high", "p", "q", "frequency", "halves")


def prompts_text(sure: Certainty, agreement: float = AGREE) -> str:
    """How many prompts would bring the agreement to this value, in words."""
    needed = sure.prompts_needed(agreement)
    if isnan(needed):
        return "not known"
    if needed == inf:
        return f"more than {FARTHEST * sure.examples:,}"
    return "these are enough" if needed <= sure.examples else f"about {needed:,.0f}, or more"

"""What was tested of a circuit: every hypothesis, with the words that belong to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import isnan
from textwrap import fill
from typing import TYPE_CHECKING, Literal

from circuitkit.evaluation.faithfulness import Evaluation
from circuitkit.evaluation.hypotheses import equivalence, minimality, necessity, sufficiency
from circuitkit.evaluation.hypotheses.minimality import EdgeTest
from circuitkit.evaluation.hypotheses.tested import Tested
from circuitkit.evaluation.results import TableResult
from circuitkit.util.json_values import Json
from circuitkit.util.statistics import interval_text
from circuitkit.util.tables import WIDTH, as_text, to_frame

if TYPE_CHECKING:
    import pandas

__all__ = ["HypothesisTests"]

SHOWN = 6  # edges of a printed list
P = ".1g"
WEAK = 0.8  # power below which "not rejected" says little


@dataclass(frozen=True)
class HypothesisTests(TableResult):
    """The hypotheses that were tested of a circuit.

    ``print(found)`` says the verdicts in a line, ``found`` (or ``repr``) everything in words.

    Attributes:
        evaluation: The circuit's faithfulness on the same prompts.
        tests: What was tested on all prompts, one family; by name: ``found["equivalence"]``.
        groups: What was tested on groups of the prompts, one family of its own.
        edges: What was found of each edge, the least needed first.
        sizes: Sufficiency against random circuits of growing sizes, by their number of edges; each
            for itself.
        total: How many edges the model has.
        settings: ``epsilon``, ``quantile``, ``alpha``, ``seed`` and ``by``, as they were given.
        prompts: How many prompts each group has.
        target: The faithfulness at which the circuit was cut, where its file says one.
    """

    evaluation: Evaluation
    tests: tuple[Tested, ...]
    groups: tuple[Tested, ...]
    edges: tuple[EdgeTest, ...]
    sizes: dict[int, Tested]
    total: int
    settings: dict[str, Json]
    prompts: dict[str, int]
    target: float | None = None

    def __getitem__(self, name: str) -> Tested:
        """The test of that name, on all prompts; raises KeyError where it was not made."""
        return {one.test: one for one in self.tests}[name]

    @property
    def redundant(self) -> tuple[str, ...]:
        """The edges with no more effect than randomly added ones."""
        return tuple(one.edge for one in self.edges if not one.minimal)

    @property
    def stops(self) -> int | None:
        """The smallest size of random circuits where the circuit is not shown to be closer to the
        model; None where it is for every size that was tried."""
        return next((size for size, one in self.sizes.items() if one.p > one.alpha), None)

    def to_frame(self, of: Literal["tests", "edges", "sizes"] = "tests") -> pandas.DataFrame:
        """A row for each test, first of all prompts and then of groups; or for each edge or size.

        Columns of tests: ``group``, ``test``, ``effect`` (a share), ``low`` and ``high`` (the ends
        of its exact interval), ``trials``, ``p``, ``adjusted`` (Holm; nan where it is not one of
        the family), ``power``, ``verdict``. Of edges: ``edge``, ``effect`` (in metric units),
        ``share`` (of random edges with less effect), ``p``, ``adjusted``, ``minimal``. Of sizes:
        ``edges``, ``share`` (of random circuits of that size that are less close to the model),
        ``low``, ``high``, ``p``, ``shown``.
        """
        if of == "edges":
            return to_frame((one.row() for one in self.edges), [*EdgeTest.__annotations__])
        if of == "sizes":
            return to_frame(self._sizes(), ["edges", "share", "low", "high", "p", "shown"])
        return to_frame([one.row() for one in (*self.tests, *self.groups)])

    def _sizes(self) -> list[dict[str, Json]]:
        return [
            {"edges": size, "share": one.effect, "low": one.low, "high": one.high, "p": one.p,
             "shown": one.p <= one.alpha}
            for size, one in self.sizes.items()
        ]  # fmt: skip

    def to_dict(self) -> dict[str, Json]:
        """All numbers, for machines; what is not known is None."""
        about = {key: value for key, value in self.evaluation.to_dict().items() if key != "edges"}
        return {
            **about, "circuit_edges": self.evaluation.edges,
            "edges_total": self.total, "settings": dict(self.settings), "target": self.target,
            "tests": [one.to_dict() for one in self.tests],
            "groups": [one.to_dict() for one in self.groups],
            "edges": [one.row() for one in self.edges],
            "sizes": self._sizes(), "stops": self.stops, "words": [*self._words()],
        }  # fmt: skip

    # -- words -------------------------------------------------------------------------------------
    def __str__(self) -> str:
        return "; ".join(f"{_spelt(one.test)} {one.verdict}" for one in self.tests)

    def __repr__(self) -> str:
        low, high = self.evaluation.interval()
        found = self.evaluation
        head = (
            f"faithfulness {found.faithfulness:.3f} {interval_text(low, high)} of {found.edges:,} "
            f"edges ({found.metric}, {found.corruption}, {len(found.circuit)} prompts)"
        )
        tables = self._table(), self._size_table(), self._edge_table(), self._group_table()
        words = (fill(f"- {line}", WIDTH, subsequent_indent="  ", break_on_hyphens=False)
                 for line in self._words())  # fmt: skip
        return "\n\n".join(filter(None, [fill(head, WIDTH), *tables, "\n".join(words)]))

    def _table(self) -> str:
        rows = [
            {"test": _spelt(one.test), "found": one.counted,
             "95% interval": "" if isnan(one.low) else interval_text(one.low, one.high, 2),
             "p": one.p, "Holm": one.adjusted, "power": one.power, "verdict": one.verdict}
            for one in self.tests
        ]  # fmt: skip
        return as_text(rows, formats={"p": P, "Holm": P, "power": ".2f"})

    def _size_table(self) -> str:
        if len(self.sizes) < 2:
            return ""
        rows: list[dict[str, Json]] = [
            {"edges": size, "share": size / self.total, "farther": one.effect, "p": one.p,
             "shown": "shown" if one.p <= one.alpha else "not shown: it stops here"}
            for size, one in self.sizes.items()
        ]  # fmt: skip
        table = as_text(
            rows, formats={"edges": ",d", "share": ".0%", "farther": ".0%", "p": P},
            headings={"share": "of the model", "farther": "are less close", "shown": "sufficiency"},
        )  # fmt: skip
        return f"sufficiency by the size of the random circuits\n{table}"

    def _edge_table(self) -> str:
        useless = [one for one in self.edges if not one.minimal]
        if not useless:
            return ""
        rows: list[dict[str, Json]] = [
            {"edge": one.edge, "effect": one.effect, "share": one.share, "p": one.p,
             "Holm": one.adjusted}
            for one in useless[:SHOWN]
        ]  # fmt: skip
        table = as_text(
            rows, formats={"effect": ".3g", "share": ".0%", "p": P, "Holm": P},
            headings={"share": "more than"},
        )  # fmt: skip
        more = len(useless) - SHOWN
        tail = f"\n... and {more:,} more" if more > 0 else ""
        return f"edges with no more effect than randomly added ones\n{table}{tail}"

    def _group_table(self) -> str:
        rows: list[dict[str, Json]] = []
        for name in dict.fromkeys(one.group for one in self.groups):
            own = {one.test: one for one in self.groups if one.group == name}
            row: dict[str, Json] = {"group": name, "prompts": self.prompts[name]}
            for test, one in own.items():
                row |= {test: one.effect, f"{test}, p": one.adjusted}
                if test == equivalence.NAME:
                    row["power"] = one.power
            rows.append(row)
        names = dict.fromkeys(one.test for one in self.groups)
        return as_text(
            rows,
            formats={**dict.fromkeys(names, ".0%"), **{f"{test}, p": P for test in names},
                     "power": ".2f"},
            headings={"group": f"prompts by {self.settings['by']}", "prompts": "n",
                      equivalence.NAME: "above", sufficiency.NAME: "closer",
                      necessity.NAME: "removal", **{f"{test}, p": "Holm" for test in names}},
        )  # fmt: skip

    def _words(self) -> Iterator[str]:
        """What the numbers say, and what they do not."""
        for one in self.tests:
            if one.reason:
                yield f"{_spelt(one.test)}: {one.reason}"
            elif one.test == equivalence.NAME:
                yield self._of_equivalence(one)
            elif one.test == minimality.NAME:
                yield self._of_minimality(one)
            elif one.test == sufficiency.NAME:
                yield self._of_sufficiency(one)
            else:
                yield f"{_spelt(one.test)}: {one.seen}"
        yield from self._of_p()

    def _of_equivalence(self, one: Tested) -> str:
        epsilon = f"within {self.settings['epsilon']:g} (epsilon) of one half"
        if not one.rejected:
            low = ", which is low: give more prompts" if one.power < WEAK else ""
            return (
                f"equivalence: {one.seen}, which may be {epsilon}. Not rejected is not proven; the "
                f"power on {one.trials} prompts is {one.power:.2f}{low}"
            )
        short = one.effect < 0.5 and self.evaluation.faithfulness < 1
        more = f". {self._by_construction(one)}" if short else ""
        return f"equivalence: {one.seen}, which is not {epsilon}{more}"

    def _by_construction(self, one: Tested) -> str:
        """What a target below 1 implies."""
        cut = (
            f"It was cut at the first size that keeps {self.target:g} of the gap"
            if self.target is not None
            else f"It keeps {self.evaluation.faithfulness:.2f} of the gap"
        )
        return (
            f"{cut}, so it is below the model on most prompts (here {1 - one.effect:.0%}): "
            "equivalence fails by construction. Such a circuit claims most of the behaviour, not "
            "all of it; circuitkit discover --test grows one until equivalence is not rejected"
        )

    def _of_minimality(self, one: Tested) -> str:
        said = f"minimality: {one.seen}"
        if one.trials < self.evaluation.edges:
            said += f", in {one.trials} drawn from {self.evaluation.edges:,}"
        least = self.edges[0]
        if not self.redundant:
            said += f"; the least needed, {least.edge}, exceeds {least.share:.0%} of them"
        return said

    def _of_sufficiency(self, one: Tested) -> str:
        said = f"sufficiency: {one.seen} of its size"
        if self.stops is None and len(self.sizes) > 1:
            largest = max(self.sizes)
            return f"{said}; shown up to {largest:,} edges, {largest / self.total:.0%} of the model"
        if self.stops is not None and self.stops > min(self.sizes):
            return (
                f"{said}; it stops at {self.stops:,} edges ({self.stops / self.total:.0%} of the "
                "model), where too many random circuits are as close"
            )
        return said

    def _of_p(self) -> Iterator[str]:
        own = [one for one in self.tests if not one.reason]
        if not own:
            return
        clear = "; ".join(dict.fromkeys(one.against for one in own if one.against))
        alpha = f"the level is {self.settings['alpha']:g}"
        if len(own) > 1:
            alpha = f"Holm adjusts p for the {len(own)} tests of this family; {alpha}"
        power = f". power: the probability of detecting, at a test's own level, {clear}"
        yield alpha + (power if clear else "")
        if self.groups:
            said = {
                equivalence.NAME: "above (the model: share of prompts)",
                sufficiency.NAME: "closer (than this share of random circuits)",
                necessity.NAME: "removal (hurts more than that of this share)",
            }
            names = dict.fromkeys(one.test for one in self.groups)
            yield (
                f"the groups are a separate family of {len(self.groups)} tests: "
                + ", ".join(said[name] for name in names)
            )


def _spelt(test: str) -> str:
    return test.replace("_", " ")

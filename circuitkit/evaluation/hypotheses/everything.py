"""All hypotheses about a circuit at once: from the same runs, as one family."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Literal

import numpy as np
import torch

from circuitkit.data.prompts import file_of
from circuitkit.data.subgroups import By, labelled
from circuitkit.engine.inputs import (
    CorruptionLike,
    Data,
    Inputs,
    MetricLike,
    prepare,
    require_model,
)
from circuitkit.engine.model import Model
from circuitkit.engine.numerics import exact
from circuitkit.errors import ArgumentError
from circuitkit.evaluation.faithfulness import evaluations
from circuitkit.evaluation.hypotheses import equivalence as equivalent
from circuitkit.evaluation.hypotheses import independence as independent
from circuitkit.evaluation.hypotheses import minimality as minimal
from circuitkit.evaluation.hypotheses import necessity as necessary
from circuitkit.evaluation.hypotheses import sufficiency as sufficient
from circuitkit.evaluation.hypotheses.equivalence import EPSILON, PROMPTS
from circuitkit.evaluation.hypotheses.measuring import Measured, Runs
from circuitkit.evaluation.hypotheses.minimality import EdgeTest
from circuitkit.evaluation.hypotheses.results import HypothesisTests
from circuitkit.evaluation.hypotheses.tested import Tested
from circuitkit.evaluation.masks import CircuitLike, as_any_mask, as_graph, others
from circuitkit.evaluation.running import run
from circuitkit.evaluation.searching import FAITHFULNESS
from circuitkit.evaluation.spaces import Placed, Plain, Space, space_of
from circuitkit.graph.places import PlacedMask, edges_of
from circuitkit.graph.walks import drawn_masks
from circuitkit.util.options import Bounds, Count, Seed, checked
from circuitkit.util.statistics import holm

__all__ = ["GROUPED", "TESTS", "hypothesis_tests"]

Name = Literal["equivalence", "minimality", "sufficiency", "partial_necessity", "independence"]
Quantile = Annotated[float, Bounds(0.5, 0.99)]
TESTS: tuple[Name, ...] = (
    "equivalence", "minimality", "sufficiency", "partial_necessity", "independence",
)  # fmt: skip
GROUPED: tuple[Name, ...] = ("equivalence", "sufficiency", "partial_necessity")
SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)  # of the model's edges, that random circuits grow to
LEAST = 8  # prompts of a group
SAME = 1e-4  # of the largest logit: outputs that are closer are the same
WHOLE = "the circuit is the whole model, so that nothing is random about one of its size"
PER_PROMPT = (
    "reported, not tested: here cut edges carry values of each prompt's own, so the output without "
    "any circuit depends on the prompt too; under zero or mean it is tested"
)


@checked
def hypothesis_tests(
    model: Model,
    circuit: CircuitLike,
    data: Data,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
    *,
    tests: Sequence[Name] = TESTS,
    epsilon: Annotated[float, Bounds(0, 0.4)] = EPSILON,
    quantile: Quantile = 0.9,
    alpha: Annotated[float, Bounds(0.0001, 0.5)] = 0.05,
    random: Count = 100,
    inflations: Count = 100,
    permutations: Count = 1000,
    edges: Count | None = None,
    sizes: Sequence[int] | None = None,
    by: By | None = "order",
    seed: Seed = 0,
    resume: str | os.PathLike[str] | None = None,
) -> HypothesisTests:
    """Claims about a circuit as statistical hypotheses, each with its effect size and its power.

    The twin of the command ``circuitkit test``. A task's name means 96 prompts that the circuit's
    discovery did not see. For equivalence, minimality and independence the null hypothesis is
    the claim itself, and a rejection is evidence against it; for sufficiency and partial necessity
    it is the opposite, and a rejection shows the claim.

    Args:
        model: The model.
        circuit: The circuit, a Discovery or a mask; one of nodes is tested by its edges. Beside
            one between places, random circuits have as many edges of both kinds, and begin in the
            spans in which it begins.
        data: The prompts.
        metric: Without one, that of the circuit.
        corruption: What a cut edge carries; without one, that of the circuit.
        tests: Which of them: ``equivalence`` (the circuit is above the model on half of the
            prompts, within ``epsilon``), ``minimality`` (each edge has more effect than a
            ``quantile`` of randomly added edges), ``sufficiency`` (closer to the model than a
            ``quantile`` of random circuits), ``partial_necessity`` (removing it hurts more than
            removing a ``quantile`` of them), ``independence`` (of the model and the model without
            it; only reported where cut edges carry values of each prompt's own).
        epsilon: How far from one half the share of prompts may be.
        quantile: The share of random circuits, or edges.
        alpha: The level, of all tests together (Holm).
        random: How many random circuits of each size.
        inflations: How many times a random path is added.
        permutations: How many permutations the test of independence takes.
        edges: For how many edges minimality is tested, drawn evenly; all by default.
        sizes: The numbers of edges of larger random circuits, tried until sufficiency stops;
            by default 10, 25, 50, 75 and 90 % of the model. Between places none are drawn.
        by: Groups of prompts that are tested too, by ``order`` (in which the answers occur),
            ``template``, ``length``, or what a function says of an Example; None for no groups.
            Groups of fewer than 8 prompts are left out.
        seed: The seed of random circuits, paths and permutations.
        resume: A directory for finished batches, with which a run resumes after a kill.

    Returns:
        A ``HypothesisTests``.

    Raises:
        ArgumentError: for an argument in the wrong place, for an unknown test, and for sizes of a
            circuit between places.
        CircuitError: where the circuit does not fit the model.

    Source: Shi et al. (2024), "Hypothesis testing the circuit hypothesis in LLMs".

    Example:
        >>> found = ck.hypothesis_tests(model, circuit, data, random=20, inflations=20, sizes=[])
        >>> found["sufficiency"].effect, found["equivalence"].trials
        (1.0, 16)
        >>> list(found.to_frame("edges"))
        ['edge', 'effect', 'share', 'p', 'adjusted', 'minimal']
    """
    require_model(model)
    space = space_of(as_any_mask(circuit, model.wiring), model)
    if isinstance(space, Placed) and sizes:
        raise ArgumentError(
            "larger random circuits are not drawn between places; leave sizes out (--sizes)"
        )
    named = isinstance(data, str | os.PathLike) and not file_of(os.fspath(data))
    inputs = prepare(
        model, data, metric, corruption, circuit=circuit, examples=PROMPTS if named else None
    )
    groups = {} if by is None else labelled(inputs.data, by)
    asked = _Asked(
        tuple(one for one in TESTS if one in tests), epsilon, quantile, alpha, random, inflations,
        permutations, edges, None if sizes is None else tuple(sizes), seed,
    )  # fmt: skip
    work = _Work(inputs, space, asked, Runs(inputs, resume))
    own, larger = work.measure()
    (evaluation,) = evaluations(
        np.stack([own.everything, own.nothing, own.circuit]), inputs.metric, inputs.corruption,
        [space.keep],
    )  # fmt: skip
    each = work.edges(own)
    return HypothesisTests(
        evaluation, work.family(own, each), work.grouped(own, groups), each, larger,
        space.total,
        {"epsilon": epsilon, "quantile": quantile, "alpha": alpha, "seed": seed,
         "by": by if isinstance(by, str) else getattr(by, "__name__", None)},
        {name: len(rows) for name, rows in groups.items()}, _target(circuit),
    )  # fmt: skip


def _target(circuit: CircuitLike) -> float | None:
    """The faithfulness at which a circuit was cut, where its file says so: it has no size that was
    asked for, and is not a method's own choice."""
    graph = None if isinstance(circuit, PlacedMask) else as_graph(circuit)
    about: Mapping[str, object] = getattr(graph, "graph", {})
    asked = about.get("asked")
    if not isinstance(asked, Mapping) or "refined" in about or about.get("tested"):
        return None
    if "edges" in asked or "nodes" in asked or about.get("chosen"):
        return None
    target = asked.get("faithfulness", FAITHFULNESS)
    return float(target) if isinstance(target, int | float) else None


@dataclass(frozen=True)
class _Asked:
    """What is to be tested, and how."""

    tests: tuple[Name, ...]
    epsilon: float
    quantile: float
    alpha: float
    random: int
    inflations: int
    permutations: int
    edges: int | None
    sizes: tuple[int, ...] | None
    seed: int


@dataclass(frozen=True)
class _Work:
    """The tests of one circuit."""

    inputs: Inputs
    space: Space
    asked: _Asked
    runs: Runs

    @property
    def is_whole(self) -> bool:
        """Whether the circuit is the whole model."""
        return edges_of(self.space.keep) == self.space.total

    def measure(self) -> tuple[Measured, dict[int, Tested]]:
        """All runs, and sufficiency by the size of random circuits."""
        asked, runs, space = self.asked, self.runs, self.space
        wiring = self.inputs.model.wiring
        own, without = runs.table([space.keep, others(space.keep, wiring)])
        compared = [] if self.is_whole else space.drawn(asked.random, asked.seed)
        random = runs.table(compared if "sufficiency" in asked.tests else [])
        missing = (others(mask, wiring) for mask in compared)
        lacking = runs.table(missing if "partial_necessity" in asked.tests else [])
        chosen = space.some(asked.edges, asked.seed)
        small = "minimality" in asked.tests and len(chosen) > 0 and not self.is_whole
        pairs = space.inflated(asked.inflations, asked.seed) if small else []
        cut = runs.table(space.without_each(chosen) if pairs else [])
        grown, deflated = (runs.table(pair[side] for pair in pairs) for side in (0, 1))
        everything, nothing = runs.ends
        measured = Measured(
            everything, nothing, own, without, random, lacking, cut, grown, deflated
        )
        sizes = self._by_size(measured) if len(random) else {}
        runs.finish()
        return measured, sizes

    def _by_size(self, own: Measured) -> dict[int, Tested]:
        """Sufficiency against random circuits of the circuit's size, and of growing ones until it
        is not shown."""
        size, asked, space = edges_of(self.space.keep), self.asked, self.space
        test = partial(sufficient.sufficiency, quantile=asked.quantile, level=asked.alpha)
        found = {size: replace(test(own.circuit, own.random, own.everything), alpha=asked.alpha)}
        if not isinstance(space, Plain):
            return found
        sizes = asked.sizes
        if sizes is None:
            sizes = tuple(round(share * space.total) for share in SHARES)
        for larger in sorted(n for n in sizes if size < n < space.total):
            if [*found.values()][-1].p > asked.alpha and self.runs.unfinished is None:
                break
            masks = drawn_masks(space.wiring, larger, asked.random, asked.seed)
            table = self.runs.table(masks)
            found[larger] = replace(test(own.circuit, table, own.everything), alpha=asked.alpha)
        return found

    def edges(self, own: Measured) -> tuple[EdgeTest, ...]:
        """What is found of each edge."""
        if not len(own.cut):
            return ()
        asked = self.asked
        names = self.space.names(self.space.some(asked.edges, asked.seed))
        return minimal.edge_tests(
            names, own.circuit, own.cut, own.inflated, own.deflated, asked.quantile, asked.alpha
        )

    # -- the tests ---------------------------------------------------------------------------------
    def family(self, own: Measured, each: Sequence[EdgeTest]) -> tuple[Tested, ...]:
        """Every test that was asked for, on all prompts."""
        reasons = {name: self._reason(name, each) for name in self.asked.tests}
        made = {
            name: partial(self._made, name, own, each)
            if not reason or name == independent.NAME
            else partial(_not_made, name)
            for name, reason in reasons.items()
        }
        return self._adjusted([*made.values()], [*reasons.values()])

    def grouped(self, own: Measured, groups: Mapping[str, np.ndarray]) -> tuple[Tested, ...]:
        """The tests that need no further runs, on each group of prompts; none of a single group."""
        large = {name: rows for name, rows in groups.items() if len(rows) >= LEAST}
        names = [
            name for name in self.asked.tests if name in GROUPED and not self._reason(name, ())
        ]
        if len(groups) < 2:
            return ()
        made = [
            partial(self._made, name, own.of(rows), (), group=group)
            for group, rows in large.items()
            for name in names
        ]
        return self._adjusted(made, [""] * len(made))

    def _made(
        self, name: Name, own: Measured, each: Sequence[EdgeTest], level: float, group: str = ""
    ) -> Tested:
        """One test, with its power at a level."""
        asked = self.asked
        made: dict[Name, Callable[[], Tested]] = {
            "equivalence": lambda: equivalent.equivalence(
                own.circuit, own.everything, asked.epsilon, level
            ),
            "minimality": lambda: minimal.minimality(each, asked.inflations, asked.quantile, level),
            "sufficiency": lambda: sufficient.sufficiency(
                own.circuit, own.random, own.everything, asked.quantile, level
            ),
            "partial_necessity": lambda: necessary.partial_necessity(
                own.without, own.lacking, own.everything, asked.quantile, level
            ),
            "independence": lambda: independent.independence(
                own.everything, own.without, asked.permutations, asked.seed
            ),
        }
        return replace(made[name](), group=group)

    def _adjusted(
        self, made: Sequence[Callable[[float], Tested]], reasons: Sequence[str]
    ) -> tuple[Tested, ...]:
        """The tests as one family, each with its power at the level that it is held against; those
        that have a reason not to be tested are not in it."""
        alpha = self.asked.alpha
        first = [test(alpha) for test in made]
        p = np.array([np.nan if why else one.p for one, why in zip(first, reasons, strict=True)])
        places = np.argsort(np.argsort(p, kind="stable"), kind="stable")  # nan come last
        counted = int((~np.isnan(p)).sum())
        levels = [alpha / max(1, counted - int(place)) for place in places]
        each = zip(made, first, levels, reasons, holm(p).tolist(), strict=True)
        return tuple(
            replace(one if why else test(level), adjusted=own, alpha=alpha, reason=why)
            for test, one, level, why, own in each
        )

    def _reason(self, name: Name, each: Sequence[EdgeTest]) -> str:
        """Why a test cannot be made; empty where it can."""
        if name in ("minimality", "sufficiency", "partial_necessity") and self.is_whole:
            return WHOLE
        if name == "minimality" and not each:
            return "the circuit has no edge, or has those of every path"
        if name == "independence" and _differs(self.inputs):
            return PER_PROMPT
        return ""


def _not_made(name: Name, level: float) -> Tested:
    del level
    return Tested(name, "none")


@torch.no_grad()
def _differs(inputs: Inputs) -> bool:
    """Whether the run of nothing differs from prompt to prompt."""
    model, data, _, corruption = inputs
    nothing = np.zeros(model.wiring.shape, dtype=bool)
    logits = exact(run(model, nothing, data, corruption)[0])
    away = (logits - logits.mean(0)).abs().max()
    return bool(away > SAME * logits.abs().max())

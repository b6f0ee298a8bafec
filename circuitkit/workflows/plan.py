"""What a discovery would cost, foreseen from shapes alone: nothing is run on the model.

A *forward* is one plain run of the model on one prompt, with the logits at its answer. All else is
counted in its floating point operations: a backward is one more forward, for no gradient is taken
in the weights; a run that begins at a later layer or token is a part of one.
"""

from __future__ import annotations

import html
import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil, log, sqrt
from typing import TYPE_CHECKING, Any

import psutil
import torch

from circuitkit.data.batches import Dataset
from circuitkit.data.places import places as places_of
from circuitkit.discovery.budgets import pick
from circuitkit.discovery.ensembles import MEMBERS
from circuitkit.engine.inputs import (
    CorruptionLike,
    Data,
    MetricLike,
    as_corruption,
    as_data,
    as_metric,
    require_model,
    twice,
)
from circuitkit.engine.memory import room_of
from circuitkit.engine.metric import Corruption, Method, learned
from circuitkit.engine.model import Model
from circuitkit.engine.placed_scores import bytes_of
from circuitkit.engine.weights import parameters
from circuitkit.errors import ArgumentError, EvaluationError
from circuitkit.evaluation.refining import SHORT, Candidates, rounds
from circuitkit.evaluation.sizes import STACK, rungs
from circuitkit.graph.places import Places
from circuitkit.graph.stages import ATTENTION
from circuitkit.registry import lookup, name_of, names, resolve
from circuitkit.util.bytesize import spell
from circuitkit.util.json_values import Json
from circuitkit.util.options import Count, Seed, Size, checked
from circuitkit.util.tables import as_text, to_frame
from circuitkit.viz.circuits.choice import SIZES
from circuitkit.workflows.asking import OF_BUDGET, RULE, Asked, Level, Orders, Share, prompts_for
from circuitkit.workflows.discover import HALVES, method_of
from circuitkit.workflows.placed_results import FILES
from circuitkit.workflows.results import files
from circuitkit.workflows.sampling import gives_groups

if TYPE_CHECKING:
    import pandas

__all__ = ["Plan", "plan"]

FACTOR = 2.0  # within which the forwards are foreseen
LOOSE = 3.0  # the same of acdc and of swaps, whose work depends on what is found, and of the time
PREPARED = {  # forwards of a corruption; others 1
    "zero": 0.3, "mean": 1.3, "mean_by_position": 1.3, "peak": 3.5, "optimal": 0.3,
}  # fmt: skip
TAUGHT = 16  # prompts of a step in which constants are learned, at most
LEARNING = 9.0  # forwards of one of them
FORESEEN = 6  # prompts that are run to see what fits the memory
ROUNDS = 4  # in which a circuit is verified and chosen again
SWAPS = 5  # of a refinement, with the one that is not made
RANDOM = 5  # random circuits beside the one that is found
LAYER = 32  # tensors [tokens, d_model] of each layer that live at once, in attribution
KEPT = 14  # the same that acdc keeps of every prompt
FIXED = 0.2  # seconds of what does not depend on the work
EFFICIENCY = 2.0  # how much slower than one large product the products of a run are
OPERATIONS = 60  # of a stage, between its products
LEARNED = ("nested", "edge_pruning", "ugs")  # methods whose cost is that of their ``runs``
SIDEWAYS = 1.2  # what scores between places cost, by that of plain ones
CUT = 0.5  # of a run of a circuit, which one with an edge of attention less shares with the others
SWEPT = 8 * 2**15  # values per dimension of a block of exact effects


@dataclass(frozen=True, repr=False)
class Plan:
    """What a discovery would cost; nothing has been run.

    Attributes:
        title: What would be found, and of which model.
        steps: The forwards of each step of the work: runs of the model on one prompt, backwards
            counted as one each, and parts of a run as parts.
        factor: How far the true number of forwards may be above or below.
        seconds: The time, from the speed of matrix products on this machine as busy as it is now;
            it may be off by a factor of three.
        bytes: The memory that the process would hold at its peak.
        batch_size: The prompts of a batch.
        batches: The batches of the discovery, which processes (torchrun) share: further processes
            are idle, except for exact effects, whose edges are shared too.
        files: The files that ``Discovery.save`` (and the command) would write.

    Example:
        >>> plan = ck.plan(model, "ioi", method="eap", edges=30, examples=8, batch_size=8)
        >>> plan.steps["scores"] > 16  # the corrupted run, the clean one and its backward
        True
        >>> plan.files
        ('circuit.json', 'scores.safetensors', 'circuit.svg', 'circuit.html', 'certainty...')
    """

    title: str
    steps: Mapping[str, float]
    factor: float
    seconds: float
    bytes: float
    batch_size: int
    batches: int
    files: tuple[str, ...]

    @property
    def forwards(self) -> float:
        """The forwards of all steps."""
        return sum(self.steps.values())

    def to_frame(self) -> pandas.DataFrame:
        """A row for each step: ``step`` and ``forwards``."""
        return to_frame([{"step": step, "forwards": n} for step, n in self.steps.items()])

    def to_dict(self) -> dict[str, Json]:
        """Everything as a dictionary for JSON."""
        return {**vars(self), "steps": dict(self.steps), "files": [*self.files],
                "forwards": self.forwards, "minutes": self.seconds / 60,
                "factor_of_time": LOOSE}  # fmt: skip

    def __str__(self) -> str:
        return (
            f"{self.title}: about {_spelt(self.forwards)} forwards, {_spelt(self.seconds / 60)} "
            f"minutes and {spell(self.bytes)} of memory"
        )

    def __repr__(self) -> str:
        rows = [{"step": step, "forwards": _spelt(n)} for step, n in self.steps.items()]
        low, high = (self.seconds / 60 * by for by in (1 / LOOSE, LOOSE))
        about = [
            ("forwards", f"{_spelt(self.forwards)}, of one prompt each, backwards included "
                         f"(within a factor of {self.factor:g})"),
            ("minutes", f"{_spelt(low)} to {_spelt(high)} on this machine"),
            ("memory", f"{spell(self.bytes)} at the peak, in batches of {self.batch_size}"),
            ("dealt", f"{_counted(self.batches, 'batch', 'batches')}; exact effects by blocks of "
                      "edges too"),
            ("files", ", ".join(self.files)),
        ]  # fmt: skip
        lines = [f"{self.title}: a plan, nothing has been done", ""]
        lines += [f"  {name:10s}{text}" for name, text in about]
        return "\n".join([*lines, "", as_text(rows, right=("forwards",), indent=2)])

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"


@checked
def plan(
    model: Model,
    data: Data,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
    *,
    method: Method | str | None = None,
    budget: Count | None = None,
    unseen: Data | None = None,
    edges: Size | None = None,
    faithfulness: Share | None = None,
    level: Level = "edge",
    nodes: Size | None = None,
    rule: str | None = None,
    examples: Count | None = None,
    seed: Seed = 0,
    batch_size: Count | None = None,
    memory: Size | None = None,
    verify: Size | None = None,
    refine: Candidates | None = None,
    orders: Orders | None = None,
    agreement: Share | None = None,
    test: bool = False,
    known: bool = False,
    spans: str | Sequence[str] | None = None,
) -> Plan:
    """What ``discover`` would cost with these arguments: forwards, minutes, memory and files.

    With ``spans`` (None by default) it is what ``discover_positions`` would cost.

    The prompts are drawn and put into tokens, but the model is not run, and nothing is written.
    The count follows from the shapes of the model and the prompts; the minutes also from the speed
    of matrix products of these shapes, which are timed for a fraction of a second. Which prompts
    are ``known`` is not foreseen: the rest of the work is that of all of them. Nor is how many more
    prompts an ``agreement`` needs: the work is that of the first ones. Of a circuit between places,
    as many edges of attention are supposed to be tested as it has edges of the residual stream.

    Raises what ``discover`` raises for wrong arguments, and EvaluationError for a method whose cost
    is not known, such as one of your own.

    Example:
        >>> print(ck.plan(model, "ioi", method="exact", edges=30, examples=8))
        30 edges of ioi on mini by exact: about ... forwards, ... minutes and ... of memory
    """
    examples = prompts_for(test, examples, data)
    asked = Asked(RULE if rule is None else rule, examples, seed, edges, faithfulness, verify,
                  orders, batch_size, memory, agreement, refine, level, nodes, test)  # fmt: skip
    require_model(model)
    asked.require(model)
    how, carried = method_of(method, orders, budget), as_corruption(corruption)
    own = isinstance(data, Dataset) or unseen is not None
    whole = as_data(model, data, examples=examples if own else twice(data, examples), seed=seed)
    as_metric(metric, data=whole)
    seen, measured = (whole, whole) if own else whole.halves()
    if unseen is not None:
        measured = as_data(model, unseen, examples=examples, seed=seed + 1)
    costs = _Costs(model, whole, name_of(carried), level)
    at = None if spans is None else _places(whole, model, spans, asked, budget, rule)
    batch = batch_size or costs.batch(model, memory, at)
    steps = (costs.steps if at is None else costs.between)(asked, how, seen.rows, measured.rows)
    if known:
        steps["prompts that the model answers"] = float(whole.rows)
    steps |= _constants(carried, seen, seen is measured)
    greedy = _name_and_settings(how)[0] == "acdc"
    factor = LOOSE if greedy or refine is not None or at is not None else FACTOR
    pruned = model.wiring.n_edges * (1 + (orders or 0)) if greedy else 0
    size = f"{asked.size:,} {level}s" if asked.size else "the circuit"
    title = f"{size} of {whole.about.get('task', 'own data')} on {model.name} by {name_of(how)}"
    return Plan(
        title, steps, factor, costs.seconds(steps, batch, pruned, seen.rows),
        psutil.Process().memory_info().rss + costs.bytes(how, batch, seen.rows, verify, at), batch,
        ceil(len(seen) / batch), FILES if at is not None else
        files(verify is not None, level == "edge" and gives_groups(how)),
    )  # fmt: skip


def _constants(carried: Corruption, seen: Dataset, shared: bool) -> dict[str, float]:
    """The forwards in which a corruption learns its constants, if it does."""
    taught = learned(carried, seen)
    if not isinstance(times := taught.get("steps"), int):
        return {}
    each = 1 if "task" in taught or shared else 2  # of the halves learns its own
    return {"constants": each * times * LEARNING * min(TAUGHT, seen.rows)}


def _places(
    data: Dataset, model: Model, spans: str | Sequence[str], asked: Asked, budget: int | None,
    rule: str | None,
) -> Places:  # fmt: skip
    """The places of the prompts; raises ArgumentError for what does not go with them."""
    given = {"budget": budget, "rule": rule, "level": asked.level == "node"}
    given |= {name: getattr(asked, name) for name in ("verify", "refine", "orders", "agreement",
                                                      "test")}  # fmt: skip
    for name, value in given.items():
        if value:
            raise ArgumentError(f"spans and {name} do not go together yet; leave one of them out")
    return places_of(data, model.wiring, spans)


class _Costs:
    """The parts of one forward, as fractions of it, on the longest prompts of the data."""

    def __init__(self, model: Model, data: Dataset, corruption: str, level: str = "edge") -> None:
        self.model, self.corruption, self.level = model, corruption, level
        self.units = model.wiring.n_edges if level == "edge" else len(model.wiring.writers) - 1
        lengths = [len(example.clean) for example in data.examples]
        self.tokens, self.longest = sum(lengths) / len(lengths), max(lengths)
        self.examples = min(data.batch_size, len(data))
        self.late = self._late(data)
        heads, groups = model.wiring.heads, model.wiring.groups
        layers = model.wiring.layers
        attention = model.d_model * model.d_head * 2 * (heads + groups)
        mlp = max(0.0, (self._weights() - layers * attention) / layers)
        self.of_stage = [
            attention if stage.kind == ATTENTION else mlp for stage in model.wiring.stages
        ]
        self.attention = layers * attention
        per_token = sum(self.of_stage)
        self.flops = 2 * (per_token * self.tokens + model.d_model * model.d_vocab)
        self.blocks = 2 * per_token * self.tokens / self.flops  # the rest are the logits

    def _weights(self) -> float:
        """The weights of all layers: those that are matrices, without embeddings; where the model
        does not show them, twelve times d_model² of each layer."""
        counts, model = parameters(self.model), self.model
        if counts is None:
            return 12 * model.d_model**2 * model.wiring.layers
        return float(sum(counts.values()) - 2 * self._embeddings(counts))

    def _embeddings(self, counts: Mapping[str, int]) -> float:
        """Half of what the input and the output embeddings hold."""
        vocabulary = self.model.d_model * self.model.d_vocab
        whole = [n for n in counts.values() if n == vocabulary]
        return sum(whole) / 2

    def _late(self, data: Dataset) -> float:
        """The share of positions at or after the first that a corruption changes in a batch: only
        these are run again. Where no text is replaced, and of texts that are aligned by spans, it
        is all of them."""
        if data.align is not None or not self.corruption.startswith(
            ("counterfactual", "resample", "noise")
        ):
            return 1.0
        shares = []
        for start in range(0, len(data), data.batch_size):
            some = data.examples[start : start + data.batch_size]
            longest = max(len(example.clean) for example in some)
            firsts = [
                next((i for i, (a, b) in enumerate(zip(e.clean, e.corrupt, strict=True)) if a != b),
                     len(e.clean) - 1)
                for e in some
            ]  # fmt: skip
            shares.append(1 - min(firsts) / longest)
        return sum(shares) / len(shares)

    # -- forwards of one prompt --------------------------------------------------------------------
    @property
    def carried(self) -> float:
        """What a corruption runs, in all of its draws."""
        return PREPARED.get(self.corruption.partition("(")[0], 1.0) * self._draws

    @property
    def _draws(self) -> int:
        _, _, rest = self.corruption.partition("draws=")
        digits = rest.partition(",")[0].rstrip(")")
        return int(digits) if digits.isdecimal() else 1

    @property
    def scored(self) -> float:
        """The score of every edge: what each writer writes and what each reader's gradient is, and
        their product."""
        products = self.model.wiring.n_edges * self.model.d_model + self.attention
        return 2 * products * self.tokens * self.late / self.flops

    @property
    def steepest(self) -> float:
        """A forward with its backward, and the scores from them."""
        return 2 + self.scored

    def masked(self, share: float) -> float:
        """A run under a mask with this share of all edges: late positions, and the readers'
        sums."""
        mixed = 2 * share * self.model.wiring.n_edges * self.model.d_model * self.tokens
        return self.late * (0.8 * self.blocks + mixed / self.flops) + 1 - self.blocks

    @property
    def edge(self) -> float:
        """The exact effect of an edge, in the mean over all: the rest of the model behind it."""
        wiring, stages = self.model.wiring, self.model.wiring.stages
        last = max(stage.index for stage in stages if self.model.kinds[stage.kind].mixes)
        total = 0.0
        for stage in stages:
            behind = sum(
                of for other, of in zip(stages, self.of_stage, strict=True)
                if stage.upstream < other.rows.start and stage.index < other.index <= last
            )  # fmt: skip
            own = self.of_stage[stage.index] / (2 if stage.kind == ATTENTION else 1)
            total += (
                (stage.upstream - stage.since)
                * stage.reads
                * (behind + own * (stage.index <= last))
            )
        whole = sum(self.of_stage) * wiring.n_edges
        return self.late * self.blocks * total / whole + 1 - self.blocks

    # -- the steps ---------------------------------------------------------------------------------
    def steps(self, asked: Asked, how: Method, seen: int, measured: int) -> dict[str, float]:
        """The forwards of each step of a discovery."""
        how, part = self._picked(how, seen)
        method, rest = _name_and_settings(how)
        greedy = method == "acdc" and not rest.get("thresholds") and asked.faithfulness is None
        chosen = asked.size is not None or greedy
        choice = 0.0 if chosen else self._choosing() * seen
        scores = self._scores(method, rest, part * seen)
        found = {
            "what fits the memory": FORESEEN * (2 * self.carried + 1 + self.steepest
                                                + self.masked(1)) * (asked.batch_size is None),
            "accuracy of the model": 2.0 * seen,
            "scores": scores * part * (seen + measured * bool(asked.agreement)),
            "choice of the circuit": choice,
            "exact effects": self._verifying(asked.verify or 0) * seen
            + ROUNDS * choice * bool(asked.verify),
            "refinement": self._refining(asked.refine or 0, seen),
            "equivalence": self._growing(seen, measured) * asked.test,
            "random orders": (asked.orders or 0) * (scores * seen + choice),
            "faithfulness": measured * self._faithfulness(asked),
        }  # fmt: skip
        return {step: n for step, n in found.items() if n}

    def between(self, asked: Asked, how: Method, seen: int, measured: int) -> dict[str, float]:
        """The same of a circuit between places: the plain circuit of the same scores is chosen too,
        and what cutting each edge of attention does is asked of all prompts."""
        method, rest = _name_and_settings(how)
        masked, draws = self.masked(0.1), self._draws
        once = self.carried + 1
        sized = asked.size is not None
        choice = once + masked * draws if sized else 2 * self._choosing()
        cut = asked.size or self._middle
        found = {
            "what fits the memory": FORESEEN * (2 * self.carried + 1 + self.steepest
                                                + self.masked(1)) * (asked.batch_size is None),
            "accuracy of the model": 2.0 * seen,
            "scores": self._scores(method, rest, seen) * SIDEWAYS * seen,
            "choice of the circuit": choice * seen,
            "edges of attention": (once + cut * masked * CUT * draws) * seen,
            "faithfulness": (once + (3 + RANDOM) * masked * draws) * measured,
        }  # fmt: skip
        return {step: n for step, n in found.items() if n}

    def _picked(self, how: Method, rows: int) -> tuple[Method, float]:
        """What the method runs, and on which share of the prompts: of ``auto`` what it picks."""
        name, settings = _name_and_settings(how)
        if name != OF_BUDGET:
            return how, 1.0
        picked = pick(self.corruption, rows, settings.get("budget"))
        return resolve("discovery", picked.method), picked.prompts / rows

    def _scores(self, method: str, settings: Mapping[str, Any], rows: float) -> float:
        """What a prompt costs of so many."""
        if method == "ensemble":
            members = [resolve("discovery", one) for one in settings.get("members", MEMBERS)]
            return sum(self._scores(*_name_and_settings(one), rows) for one in members)
        if method in LEARNED:
            return self._learned(method, settings, rows)
        draws, base = self._draws, self.carried + 1
        steps = settings.get("steps", 5) * self.steepest
        costs: dict[str, float] = {
            "random": 0.0,
            "activation_magnitude": base,
            "information_flow": base,
            "discrete_codes": base,
            "gradient_norm": self.steepest,
            "node_attribution": self.carried + self.steepest,
            "eap": self.carried + self.steepest,
            "clean_corrupted": self.carried + (1 + draws) * self.steepest,
            "eap_ig": base + steps * draws,
            "expected_gradients": base + settings.get("draws", 1) * self.steepest * draws,
            "mask_gradient": base + steps * draws,
            "ceap": base + steps * draws,
            "eap_ig_activations": base + steps * draws * (len(self.model.wiring.stages) + 1),
            "relp": self.carried + self.steepest,
            "atp_star": self._repaired(settings),
            "exact": self._exact(settings.get("edges")),
            "acdc": base + 0.75 * self._pruned(len(settings.get("thresholds") or [0])),
        }
        if method not in costs:
            every = (*costs, "ensemble", *LEARNED)
            known = ", ".join(name for name in every if name in names("discovery"))
            raise EvaluationError(
                f"what {method} costs is not known, so it cannot be planned; a plan knows {known}"
            )
        return float(costs[method])

    def _repaired(self, settings: Mapping[str, Any]) -> float:
        """AtP*: a backward for each layer, and each attention twice for each writer before it."""
        layers = self.model.wiring.layers if settings.get("drop", True) else 0
        pairs = zip(self.model.wiring.stages, self.of_stage, strict=True)
        heads = sum(2 * stage.upstream * own for stage, own in pairs if stage.kind == ATTENTION)
        fix = heads / sum(self.of_stage) if settings.get("fix", True) else 0.0
        return self.carried + 1 + ((layers + 1) * (self.steepest - 1) + fix) * self._draws

    def _learned(self, method: str, settings: Mapping[str, Any], rows: float) -> float:
        """Runs under a mask of all edges, forwards and backwards, and what they start from."""
        given = inspect.signature(lookup("discovery", method)).parameters
        runs, start = (
            settings.get(name, given[name].default if name in given else None)
            for name in ("runs", "start")
        )
        first = 0.0
        if isinstance(start, str):
            first = self._scores(*_name_and_settings(resolve("discovery", start)), rows)
        return float(self.carried + 1 + first + runs / rows * 2 * self.masked(1))

    def _pruned(self, thresholds: int) -> float:
        """The tests of all edges, and at each further threshold of what is left: an eighth."""
        return sum(self._effects(self.model.wiring.n_edges // 8**k) for k in range(thresholds))

    def _exact(self, edges: Any) -> float:
        """The exact effects of edges, or of nodes."""
        return self._effects(self._chosen(edges)) if self.level == "edge" else self._node_effects()

    def _node_effects(self) -> float:
        """The exact effect of every node: the rest of the model behind it, once for each."""
        stages = self.model.wiring.stages
        behind = [
            sum(of for other, of in zip(stages, self.of_stage, strict=True)
                if other.upstream >= stage.rows.stop)
            for stage in stages
        ]  # fmt: skip
        whole = sum(n * len(s.part.writers) for n, s in zip(behind, stages, strict=True))
        share, n = whole / sum(self.of_stage), len(self.model.wiring.writers) - 1
        part = self.masked(1) - (1 - self.blocks)
        return self.carried + 2 + (share * part + n * (1 - self.blocks)) * self._draws

    def _chosen(self, edges: Any) -> int:
        total = self.model.wiring.n_edges
        return total if edges is None else min(total, int(getattr(edges, "sum", edges.__len__)()))

    def _effects(self, edges: int) -> float:
        """The exact effects of so many edges."""
        return (self.carried + 1 + edges * self.edge * self._draws) if edges else 0.0

    @property
    def _middle(self) -> float:
        """The size of a circuit where none is asked for: between 8 and all in doublings."""
        return sqrt(8 * self.units)

    def _verifying(self, edges: int) -> float:
        """The exact effects of so many edges, in rounds; all edges are measured in one."""
        total = self.model.wiring.n_edges
        more = (ROUNDS - 1) * (self.carried + 1) if 0 < edges < total else 0.0
        return self._effects(min(edges, total)) + more

    def _refining(self, candidates: int, examples: int) -> float:
        """The swaps: candidates that are halved while the examples double, and then some pairs."""
        if not candidates:
            return 0.0
        before, masked = 0, 0.0
        for stop in rounds(candidates // 2, examples):
            masked += candidates * (stop - before)
            candidates, before = max(2 * SHORT, candidates // 2), stop
        pairs = min(SHORT, candidates // 2) ** 2 * examples
        runs = (masked + pairs) * self.masked(0.1) * self._draws
        return SWAPS * (runs + 2 * (self.carried + 1) * examples)

    def _choosing(self) -> float:
        """The sizes that are tried until one reaches a faithfulness, and up to twice that; then, in
        stacks, those between it and the one below."""
        tried = sum(n <= 2 * self._middle for n in rungs(self.units))
        narrowed = max(1, log(self._middle / 5, STACK + 1))
        stacks = tried / STACK + narrowed
        return stacks * (self.carried + 1 + STACK * self.masked(0.1) * self._draws)

    def _growing(self, seen: int, measured: int) -> float:
        """A stack of sizes on the prompts seen, and two looks at the others."""
        once = self.carried + 1
        stack = once + STACK * self.masked(0.1) * self._draws
        return seen * stack + 2 * measured * (once + self.masked(0.1) * self._draws)

    def _faithfulness(self, asked: Asked) -> float:
        """The circuit, its core, its parts by their size, all others, random ones, and it beside
        halves of the others."""
        parts = 2 + RANDOM + sum(size < (asked.size or self._middle) for size in SIZES)
        masked = parts * self.masked(0.1) + self.masked(1) + HALVES * self.masked(0.5)
        return self.carried + 1 + masked * self._draws

    # -- memory and time ---------------------------------------------------------------------------
    def example(self) -> float:
        """The bytes of one prompt in attribution, which takes the most."""
        model, size = self.model, torch.finfo(self.model.dtype).bits / 8
        layers, heads = model.wiring.layers, model.wiring.heads
        of_layer = LAYER * self.longest * model.d_model + 4 * heads * self.longest**2
        return (layers * of_layer + 8 * model.d_vocab) * size

    def batch(self, model: Model, memory: int | None, places: Places | None = None) -> int:
        """The prompts of a batch that fit the memory, at most 32."""
        each = self.example() + (0 if places is None else bytes_of(places))
        return max(1, min(self.examples, int(room_of(model, memory) / each)))

    def bytes(
        self, how: Method, batch: int, seen: int, verify: int | None, places: Places | None = None
    ) -> float:
        """What the work takes beyond what the process holds."""
        model, method = self.model, _name_and_settings(how)[0]
        size = torch.finfo(model.dtype).bits / 8
        work = batch * self.example()
        if method == "acdc":
            kept = KEPT * seen * self.longest * model.d_model * model.wiring.layers
            work = max(work, kept * size)
        if method == "exact" or verify:
            work = max(work, SWEPT * model.d_model * size)
        if self.level == "edge" and gives_groups(
            how
        ):  # the scores of each example, while more than half of memory is free
            tables = 1 if verify is None else 2  # one with exact effects
            edges = model.wiring.n_edges if places is None else sum(places.n_edges)
            work += min(4.0 * seen * edges, room_of(model, None) / 2) * tables
        if places is not None:  # and sums and squares of them all, in twice the bytes
            work += batch * bytes_of(places) + 16 * sum(places.n_edges)
        return float(work + 16 * model.wiring.shape[0] * model.wiring.shape[1])

    def seconds(self, steps: Mapping[str, float], batch: int, pruned: int, examples: int) -> float:
        """The time of these steps in such batches, from products and sums of their shapes; of
        ``pruned`` edges, each is tested by itself on every batch."""
        model, tokens = self.model, max(1, int(batch * self.tokens))
        x = torch.ones(tokens, model.d_model, device=model.device, dtype=model.dtype)
        w = torch.ones(model.d_model, 4 * model.d_model, device=model.device, dtype=model.dtype)
        product = _timed(lambda: x @ w, model.device) / (2 * x.numel() * w.shape[1])
        between = OPERATIONS * len(model.wiring.stages) * _timed(lambda: x + x, model.device)
        forwards = sum(steps.values())
        passes = forwards / batch + pruned * ceil(examples / batch)
        total: float = FIXED + forwards * self.flops * EFFICIENCY * product + passes * between
        return total


def _timed(work: Callable[[], object], device: torch.device) -> float:
    """The seconds of one call: the median of some, within a tenth of a second."""
    taken: list[float] = []
    while len(taken) < 21 and sum(taken) < 0.1:
        before = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - before)
    return sorted(taken)[len(taken) // 2]


def _name_and_settings(how: Method) -> tuple[str, Mapping[str, Any]]:
    """The method's name, if it is one of circuitkit's, and its settings; else a name of none."""
    settings: dict[str, Any] = {}
    inner: Any = how
    while isinstance(inner, partial):
        settings = {**inner.keywords, **settings}
        inner = inner.func
    name = name_of(inner)
    ours = name in names("discovery") and lookup("discovery", name) is inner
    return (name if ours else f"the method {name!r}"), settings


def _counted(number: int, one: str, several: str) -> str:
    """A number of things."""
    return f"{number:,} {one if number == 1 else several}"


def _spelt(number: float) -> str:
    """Two digits of a number: there are no more in an estimate."""
    if number >= 10:
        return f"{round(number, 1 - int(log(number, 10))):,.0f}"
    return f"{number:.2g}"

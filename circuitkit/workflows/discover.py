"""The main job: from a model and a task to a measured circuit.

Edges are scored on one half of the prompts, the circuit is chosen on it (where asked, again after
exact effects have been measured), and its faithfulness is measured on the other half, beside random
circuits of the same size.
"""

from __future__ import annotations

import html
import inspect
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import networkx as nx
import numpy as np
from jaxtyping import Bool

from circuitkit.data.batches import Dataset
from circuitkit.data.prompts import Task
from circuitkit.data.tasks import draw
from circuitkit.engine.metric import Corruption, Metric
from circuitkit.engine.model import Model
from circuitkit.errors import ScoresError, UnknownNameError
from circuitkit.evaluation import verification
from circuitkit.evaluation.faithfulness import (
    Ability,
    Evaluation,
    ability,
    evaluate,
    random_masks,
    smallest,
)
from circuitkit.evaluation.verification import Verification
from circuitkit.graph import circuit as circuits
from circuitkit.graph.compare import Agreement, agreement
from circuitkit.graph.scores import Scores
from circuitkit.registry import name_of, resolve
from circuitkit.util.versions import versions
from circuitkit.workflows.batching import fitted

__all__ = ["Discovery", "batched", "find_circuit"]

Inputs: TypeAlias = tuple[Model, Dataset, Metric, Corruption]
Mask: TypeAlias = Bool[np.ndarray, "writers readers"]
FAITHFULNESS = 0.85  # the target where neither a size nor a target is asked for


@dataclass(frozen=True)
class Discovery:
    """A circuit with what was measured of it; prints itself as a summary, and draws itself in a
    notebook."""

    circuit: nx.DiGraph
    scores: Scores
    ability: Ability
    evaluation: Evaluation
    complement: Evaluation
    null: tuple[Evaluation, ...]
    seconds: float
    mebibytes: float
    verification: Verification | None = None
    agreement: Agreement | None = None

    @property
    def random(self) -> float:
        """The mean faithfulness of the random circuits."""
        return float(np.mean([e.faithfulness for e in self.null]))

    def heads(self, n: int = 10) -> list[tuple[str, float]]:
        """The heads and MLPs that carry most: Σ |weight| over the edges out of each."""
        carried: dict[str, float] = {}
        for writer, _, weight in circuits.edges(self.circuit):
            carried[writer] = carried.get(writer, 0.0) + abs(weight)
        carried.pop("embed", None)
        return sorted(carried.items(), key=lambda item: -item[1])[:n]

    def edges(self, n: int = 10) -> list[tuple[str, float]]:
        """The circuit's strongest edges."""
        own = circuits.mask(self.circuit)
        values = np.where(own, self.scores.values, 0)
        return Scores(self.scores.wiring, values).strongest(min(n, int(own.sum())))

    def to_dict(self) -> dict[str, Any]:
        """Everything that the summary says, for machines."""
        low, high = self.evaluation.interval()
        about = self.circuit.graph
        return {
            **{k: v for k, v in about.items() if k not in ("wiring", "versions")},
            "edges": self.evaluation.edges,
            "edges_total": self.scores.wiring.n_edges,
            "accuracy": self.ability.accuracy,
            "metric_clean": self.ability.clean,
            "metric_corrupt": self.ability.corrupt,
            "faithfulness": self.evaluation.faithfulness,
            "interval": [low, high],
            "mean_of_ratios": self.evaluation.mean_of_ratios,
            "complement_faithfulness": self.complement.faithfulness,
            "random_faithfulness": [e.faithfulness for e in self.null],
            "strongest_edges": self.edges(),
            "strongest_components": self.heads(),
            "seconds": round(self.seconds, 2),
            "peak_mebibytes": round(self.mebibytes),
            **({"verification": self.verification.to_dict()} if self.verification else {}),
            **({"orders": self.agreement.to_dict()} if self.agreement else {}),
        }

    def __repr__(self) -> str:
        about, found = self.circuit.graph, self.evaluation
        low, high = found.interval()
        spread = [e.faithfulness for e in self.null]
        lines = [
            f"{about['task']} on {about['model']}: {circuits.summary(self.circuit)}",
            "",
            f"  the model        {self.ability}",
            f"  faithfulness     {found.faithfulness:.3f}  [{low:.3f}, {high:.3f}]  "
            f"({found.metric}, {found.corruption}, {len(found.circuit)} unseen prompts)",
            f"  mean of ratios   {found.mean_of_ratios:.3f}",
            f"  without it       {self.complement.faithfulness:.3f}  (all other edges kept)",
            f"  random circuits  {self.random:.3f}  [{min(spread):.3f}, {max(spread):.3f}]  "
            f"({len(spread)} of the same size)",
            f"  cost             {self.seconds:.1f} s, peak memory {self.mebibytes:,.0f} MiB",
            "",
            f"  {'strongest edges':34s}strongest components (Σ|weight| of their edges)",
        ]
        rows = zip(self.edges(), [*self.heads(), *[("", 0.0)] * 10], strict=False)
        for (edge, weight), (head, total) in rows:
            right = f"{total:7.3f}  {head}" if head else ""
            lines.append(f"  {weight:+8.3f}  {edge:24s}{right}")
        if self.verification:
            lines += ["", repr(self.verification)]
        if self.agreement:
            lines += ["", f"In random orders, {self.agreement}"]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        picture: str = self.circuit._repr_svg_()
        return f"{picture}<pre>{html.escape(repr(self))}</pre>"


def find_circuit(
    model: Model,
    task: Task | str,
    *,
    method: Callable[..., Scores] | str = "eap_ig",
    metric: Callable[..., Any] | str | None = None,
    corruption: Callable[..., Any] | str = "counterfactual",
    edges: int | None = None,
    faithfulness: float | None = None,
    rule: str = "abs",
    examples: int = 64,
    seed: int = 0,
    batch_size: int | None = None,
    memory: int | None = None,
    verify: int | None = None,
    orders: int | None = None,
    resume: str | os.PathLike[str] | None = None,
    force: bool = False,
) -> Discovery:
    """The circuit of a task, with its faithfulness on prompts that the discovery did not see.

    ``edges`` is the size of the circuit; else it is the one that the method chose itself, or the
    smallest that reaches ``faithfulness`` (0.85) on the half of the prompts on which it is
    discovered. ``examples`` are the prompts of each half; a Task that is given is halved.
    ``verify`` edges are measured exactly before the choice is made again; ``orders`` repeats the
    discovery in random orders; ``resume`` is a directory for finished blocks of exact effects.
    Without ``batch_size``, batches are as large as ``memory`` (bytes; default: what the machine
    has) allows, up to 32. Names stand for catalogued functions. Raises EvaluationError where the
    model cannot do the task, and BudgetError where one prompt does not fit the memory.
    """
    if edges is not None and faithfulness is not None:
        raise ScoresError("give the number of edges or the faithfulness to reach, not both")
    start = time.perf_counter()
    how = resolve("discovery", method) if isinstance(method, str) else method
    in_orders = _in_orders(how, orders)
    task = task if isinstance(task, Task) else draw(task, model, 2 * examples, seed)
    measure = metric if callable(metric) else resolve("metrics", metric or task.metric)
    corrupt = resolve("corruptions", corruption) if isinstance(corruption, str) else corruption
    seen, unseen = _halves(task, model, corrupt, batch_size, memory)
    able = ability(model, seen, measure)
    if not force:
        able.require(task.name)
    inputs = model, seen, measure, corrupt
    choose = partial(_choose, *inputs, edges=edges, faithfulness=faithfulness, rule=rule)
    options: dict[str, Any] = {"rule": rule, "seed": seed, "resume": resume}
    scores, mask, checked = _search(how, inputs, choose, verify, **options)
    agreed = _repeated(in_orders, inputs, choose)
    found, complement, *null = _evaluated(model, mask, unseen, measure, corrupt, seed)
    about = _about(inputs, task, name_of(how), rule, seed, _faithfulness(found, null))
    scores = replace(scores, about={**scores.about, **about})
    cost = time.perf_counter() - start, _peak()
    circuit = scores.circuit(mask)
    return Discovery(
        circuit, scores, able, found, complement, tuple(null), *cost,
        verification=checked, agreement=agreed,
    )  # fmt: skip


def _halves(
    task: Task, model: Model, corruption: Corruption, batch_size: int | None, memory: int | None
) -> tuple[Dataset, Dataset]:
    """The two halves of the task's prompts, in batches of one size."""
    cut = len(task.split(len(task.prompts) // 2)[0].prompts)
    whole = batched(Dataset.of(task, model, memory=memory), model, corruption, batch_size)
    first, second = whole.examples[:cut], whole.examples[cut:]
    return replace(whole, examples=first), replace(whole, examples=second)


def batched(data: Dataset, model: Model, corruption: Corruption, batch_size: int | None) -> Dataset:
    """The data in batches of that size, else of one that fits its memory."""
    if batch_size is None:
        return fitted(model, data, corruption)
    return replace(data, batch_size=batch_size)


def _search(
    how: Callable[..., Scores],
    inputs: Inputs,
    choose: Callable[..., Mask],
    verify: int | None,
    *,
    resume: str | os.PathLike[str] | None,
    **options: Any,
) -> tuple[Scores, Mask, Verification | None]:
    """The scores, and the circuit chosen from them; once more after some edges are measured."""
    scores = _resumed(how, resume)(*inputs)
    mask = choose(scores, scores.chosen)
    if verify is None:
        return scores, mask, None
    checked = verification.verify(*inputs, scores, mask, verify, resume=resume, **options)
    return checked.scores, choose(checked.scores, scores.chosen), checked


def _choose(
    model: Model,
    data: Dataset,
    metric: Metric,
    corruption: Corruption,
    scores: Scores,
    chosen: Mask | None,
    *,
    edges: int | None,
    faithfulness: float | None,
    rule: str,
) -> Mask:
    """The circuit of the size or the faithfulness asked for; else what the method chose, or the
    smallest of the usual faithfulness."""
    if edges is not None:
        return scores.mask(edges, rule)
    if faithfulness is not None or chosen is None:
        goal = FAITHFULNESS if faithfulness is None else faithfulness
        return smallest(model, scores, data, metric, corruption, goal, rule=rule)
    if not chosen.any():
        raise ScoresError(
            f"{scores.about.get('method', 'the method')} keeps no edge; loosen its settings, or "
            "ask for a number of edges or a faithfulness"
        )
    return chosen


def _evaluated(
    model: Model, mask: Mask, data: Dataset, metric: Metric, corruption: Corruption, seed: int
) -> list[Evaluation]:
    """The evaluations of a circuit, of all other edges, and of random circuits of its size."""
    nulls = random_masks(model.wiring, int(mask.sum()), seed=seed)
    masks = [mask, model.wiring.legal & ~mask, *nulls]
    found: list[Evaluation] = evaluate(model, masks, data, metric, corruption)
    return found


def _resumed(
    how: Callable[..., Scores], resume: str | os.PathLike[str] | None
) -> Callable[..., Scores]:
    """The method with this place for its finished blocks, where it keeps any and has none yet."""
    place = inspect.signature(how).parameters.get("resume")
    free = resume is not None and place is not None and place.default is None
    return partial(how, resume=resume) if free else how


def _in_orders(how: Callable[..., Scores], orders: int | None) -> list[Callable[..., Scores]]:
    """The method in so many random orders; raises UnknownNameError where it knows no order, and
    ScoresError for fewer than two."""
    if orders is None:
        return []
    if orders < 2:
        raise ScoresError(f"circuits of {orders} orders cannot agree or differ; give at least 2")
    if "order" not in inspect.signature(how).parameters:
        raise UnknownNameError(
            f"{name_of(how)} has no setting 'order', so it gives one circuit only; "
            "repeat a method that has (acdc)"
        )
    return [partial(how, order="random", seed=seed) for seed in range(orders)]


def _repeated(
    methods: Sequence[Callable[..., Scores]], inputs: Inputs, choose: Callable[..., Mask]
) -> Agreement | None:
    """How much the circuits of these methods agree; None where there are none."""
    several = (method(*inputs) for method in methods)
    found = [scores.circuit(choose(scores, scores.chosen)) for scores in several]
    return agreement(found) if found else None


def _faithfulness(found: Evaluation, null: Sequence[Evaluation]) -> dict[str, float]:
    low, high = found.interval()
    random = float(np.mean([e.faithfulness for e in null]))
    numbers = {"value": found.faithfulness, "low": low, "high": high, "random": random}
    return {key: round(value, 4) for key, value in numbers.items()}


def _about(
    inputs: Inputs, task: Task, method: str, rule: str, seed: int, faithfulness: dict[str, float]
) -> dict[str, Any]:
    model, data, metric, corruption = inputs
    return {
        "model": model.name,
        "metric": name_of(metric),
        "corruption": name_of(corruption),
        "task": task.name,
        "method": method,
        "rule": rule,
        "seed": seed,
        "examples": len(data),
        "source": task.source,
        "faithfulness": faithfulness,
        "versions": versions(),
    }


def _peak() -> float:
    """The process's peak memory in MiB (Linux counts it in KiB, macOS in bytes); nan on Windows."""
    try:
        import resource
    except ImportError:
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)

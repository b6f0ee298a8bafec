"""The cross product of methods, models, corruptions and seeds, in one run that can be resumed."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Iterator, Sequence
from itertools import combinations, product
from math import nan
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import numpy as np

from circuitkit.engine.checkpoints import Journal, digest
from circuitkit.errors import CircuitkitError, EvaluationError
from circuitkit.evaluation.recovery import stability
from circuitkit.registry import resolve
from circuitkit.util.options import Bounds, Seed, checked
from circuitkit.util.progress import Count, counting
from circuitkit.util.versions import versions
from circuitkit.workflows.benchmark.cells import SHARE, Cell, measured
from circuitkit.workflows.benchmark.records import Row
from circuitkit.workflows.benchmark.results import Benchmark
from circuitkit.workflows.benchmark.subjects import Source, Subject, TrueEdges, seeded, source

__all__ = ["METHODS", "MODELS", "CORRUPTIONS", "QUICK", "bench"]

VERSION = 1  # of the cells on disk
METHODS = (
    "random", "activation_magnitude", "gradient_norm", "node_attribution", "information_flow",
    "eap", "clean_corrupted", "eap_ig", "acdc", "exact",
)  # fmt: skip
PLAIN = (
    "proportion", "reverse", "histogram", "is_frequent", "shift", "same_as_previous",
    "three_pattern", "one_of_two", "sort_unique", "dyck", "induction", "first_occurrence",
    "modular_sum", "indirect_object", "backup", "two_tasks",
)  # fmt: skip
HARDER = (
    *(f"{name}+rotate+distract" for name in PLAIN if name != "two_tasks"),
    *(f"{name}+soften" for name in ("sort_unique", "induction", "indirect_object")),
    *(f"{name}+split" for name in ("reverse", "induction", "indirect_object")),
    *(f"{name}+split(shares=(1.3, -0.3))" for name in ("reverse", "induction", "indirect_object")),
    *(f"{name}+compress" for name in ("first_occurrence", "indirect_object")),
)
LOADED = ("mini:ioi", "mini:greater_than", "mini:induction")
MODELS = (*PLAIN, *HARDER, *LOADED)
CORRUPTIONS = ("counterfactual", "zero", "mean_by_position")
QUICK: dict[str, Any] = {
    "models": (
        "is_frequent", "one_of_two", "backup", "first_occurrence", "indirect_object",
        "reverse+rotate+distract", "induction+split(shares=(1.3, -0.3))", "mini:ioi",
    ),
    "corruptions": ("counterfactual", "zero"),
    "seeds": 2,
    "examples": 16,
}  # fmt: skip
Key: TypeAlias = tuple[str, str, str, int]  # method, model, corruption, seed


@checked
def bench(
    methods: Sequence[str] = METHODS,
    models: Sequence[str] = MODELS,
    corruptions: Sequence[str] = CORRUPTIONS,
    *,
    metric: str = "logit_diff",
    seeds: Annotated[int, Bounds(1, 1_000)] | Sequence[Seed] = 5,
    examples: Annotated[int, Bounds(1, 1_000_000)] = 32,
    device: str | None = None,
    resume: str | os.PathLike[str] | None = None,
) -> Benchmark:
    """How well methods find circuits that are known, and what each costs.

    Args:
        methods: Discovery methods by name, with settings (``"eap_ig(steps=10)"``) or by path.
        models: Compiled programs (``"reverse"``), variants of them (``"reverse+rotate"``), and
            loadable models with a task (``"mini:ioi"``), by name.
        corruptions: Corruptions by name.
        metric: The metric by name.
        seeds: How many seeds, or which; a seed draws the prompts, the variant where it is random,
            and what a method draws.
        examples: The prompts on which a circuit is found; it is measured on as many others.
        device: Where models are loaded; None for the CPU.
        resume: A directory for finished cells. They are known by names, by the contents of the
            files that are named, and by the digest of a model's weights.

    Returns:
        A ``Benchmark``; a method that refuses a cell leaves its reason there.

    Raises:
        UnknownNameError: for a name that does not exist.
        EvaluationError: where there is nothing to do, or something twice.

    Source: the measures are those of MIB (Mueller et al. 2025, arXiv:2504.13151).

    Example:
        >>> found = ck.bench(["random", "eap"], ["reverse"], ["counterfactual"], seeds=1)
        >>> sorted(found.to_frame()["method"])
        ['eap', 'random']
    """
    drawn = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    for what, names in (("methods", methods), ("models", models), ("corruptions", corruptions),
                        ("seeds", drawn)):  # fmt: skip
        if not names or len(set(names)) < len(names):
            raise EvaluationError(f"the {what} are {list(names)}; give at least one, each once")
    about = {
        "format": "circuitkit.bench", "version": VERSION, "metric": metric + _contents(metric),
        "examples": examples,
    }  # fmt: skip
    start = time.process_time()
    work = _Work(methods, corruptions, metric, Journal(resume, about))
    sources = {name: source(name, examples=examples, device=device) for name in models}
    found: dict[Key, Cell | str] = {}
    total = len(methods) * len(models) * len(corruptions) * len(drawn)
    with counting(total, "bench", "cell") as count:
        for model, seed, corruption in product(models, drawn, corruptions):
            found |= work.cells(sources[model], corruption, seed, count)
    metadata = {
        "metric": metric, "examples": examples, "seeds": list(drawn), "versions": versions(),
        "cpu_seconds": time.process_time() - start, "earlier": work.earlier,
    }  # fmt: skip
    return Benchmark(metadata, tuple(_rows(found, drawn)))


class _Work:
    """What all cells share."""

    def __init__(
        self, methods: Sequence[str], corruptions: Sequence[str], metric: str, journal: Journal
    ) -> None:
        self.methods = {name: resolve("discovery", name) for name in methods}
        self.corruptions = {name: resolve("corruptions", name) for name in corruptions}
        self.metric, self.journal = resolve("metrics", metric), journal
        self.earlier = 0
        self.truths: dict[tuple[str, str, int | None], TrueEdges | None] = {}

    def cells(
        self, where: Source, corruption: str, seed: int, count: Count
    ) -> Iterator[tuple[Key, Cell | str]]:
        """The cell of each method, from an earlier run or done now, or why there is none."""
        subject: Subject | None = None
        for name, method in self.methods.items():
            key = name, where.name, corruption, seed
            place = digest([*key, *map(_contents, key[:3]), *where.weights])
            block = self.journal.get(place)
            kept = None if block is None else Cell.of(block)
            if kept is not None:
                count(1, earlier=True)
                self.earlier += 1
                yield key, kept
                continue
            how = self.corruptions[corruption]
            try:
                subject = subject or where(seed).batched(how)
                arguments = {"seed": seed} if seeded(method) else {}
                truth = self.truth(where, subject, corruption, seed)
                cell = measured(subject, method, self.metric, how, truth, **arguments)
            except CircuitkitError as error:
                yield key, str(error)
            else:
                self.journal.put(place, cell.arrays())
                yield key, cell
            count(1)

    def truth(
        self, where: Source, subject: Subject, corruption: str, seed: int
    ) -> TrueEdges | None:
        """The true edges, found once for all seeds that share a model."""
        key = where.name, corruption, seed if where.random else None
        if key not in self.truths:
            find = subject.find_truth
            self.truths[key] = find and find(self.corruptions[corruption])
        return self.truths[key]


def _contents(name: str) -> str:
    """A hash of the files that an expression names; empty where it names none."""
    files = [Path(path) for path in re.findall(r"[^\s+:('\"]+\.(?:py|csv|jsonl)", name)]
    whole = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()]
    return digest(whole) if whole else ""


# -- rows ------------------------------------------------------------------------------------------
def _rows(found: dict[Key, Cell | str], seeds: Sequence[int]) -> Iterator[Row]:
    """A row for every cell, with the agreement of its circuit with those of the other seeds."""
    for method, model, corruption in dict.fromkeys(key[:3] for key in found):
        group = {seed: found[method, model, corruption, seed] for seed in seeds}
        agreed = _agreed({seed: cell for seed, cell in group.items() if isinstance(cell, Cell)})
        for seed, cell in group.items():
            named = {"method": method, "model": model, "corruption": corruption, "seed": seed}
            numbers = {} if isinstance(cell, str) else cell.numbers
            failed = cell if isinstance(cell, str) else ""
            yield {**named, **numbers, "agreement": agreed.get(seed, nan), "failed": failed}


def _agreed(cells: dict[int, Cell]) -> dict[int, float]:
    """Each seed's mean Jaccard index with the others, of circuits of the true size."""
    if len(cells) < 2:
        return {}
    numbers = next(iter(cells.values())).numbers
    size = numbers["true"] if numbers["true"] > 0 else SHARE * numbers["edges"]
    pairs = stability([cell.scores for cell in cells.values()], max(1, round(size))).pairs
    found: dict[int, list[float]] = {seed: [] for seed in cells}
    for both, pair in zip(combinations(cells, 2), pairs, strict=True):
        for seed in both:
            found[seed].append(pair.jaccard)
    return {seed: float(np.mean(own)) for seed, own in found.items()}

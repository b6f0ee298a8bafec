"""What the benchmark runs unless it is told otherwise: which methods for which budget, on what.

A budget is what one discovery may cost, in sequence-backwards (a forward and a backward of one
prompt). A method is given as many prompts as the budget pays for, at most 32, or more steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from circuitkit.errors import CircuitkitError
from circuitkit.registry import resolve
from circuitkit.workflows.benchmark.subjects import Source, trained_names

__all__ = ["CORRUPTIONS", "METHODS", "QUICK", "Run", "absent", "chosen_models", "plan", "seeds_of"]

Budgets = Mapping[int, Mapping[str, int]]  # of each budget the methods, and prompts for each

# Sequence-backwards a prompt, counted: eap 1.3, expected gradients and one mask gradient 1.7, five
# steps 5.7, an edge 1/12 to 1/6. A name that this version does not have is left out.
METHODS: Budgets = {
    10: {
        "random": 32, "eap": 7, "relp": 7, "eap_ig(steps=2)": 3, "expected_gradients": 6,
        "mask_gradient(steps=1)": 6, "mask_gradient(steps=3, norms='clean')": 2,
        "auto(budget=10)": 32,
    },
    50: {
        "activation_magnitude": 32, "gradient_norm": 32, "node_attribution": 32,
        "information_flow": 32, "eap": 32, "clean_corrupted": 22, "relp": 32, "atp_star": 5,
        "eap_ig": 8, "ceap": 7, "expected_gradients": 29, "mask_gradient": 8,
        "mask_gradient(steps=3, norms='clean')": 13, "ensemble": 5,
        "nested(start='expected_gradients', runs=24)": 10, "auto(budget=50)": 32,
    },
    200: {
        "eap_ig": 32, "eap_ig(points='midpoints')": 32, "ceap": 28, "mask_gradient": 32,
        "expected_gradients(draws=5)": 32, "mask_gradient(norms='clean')": 32, "ensemble": 21,
        "nested(start='expected_gradients', runs=120)": 32, "edge_pruning(runs=176)": 32,
        "ugs(runs=176)": 32, "atp_star": 21, "auto(budget=200)": 32,
    },
    1000: {
        "eap_ig(steps=29)": 32, "mask_gradient(steps=29)": 32, "eap_ig_activations": 16,
        "nested(start='mask_gradient', runs=792)": 32, "edge_pruning(runs=976)": 32,
        "ugs(runs=976)": 32, "acdc": 24, "exact": 24, "auto(budget=1000)": 32,
    },
}  # fmt: skip
CORRUPTIONS = ("counterfactual", "mean_by_position", "zero")
PLAIN = (
    "proportion", "reverse", "histogram", "is_frequent", "shift", "same_as_previous",
    "three_pattern", "one_of_two", "sort_unique", "dyck", "induction", "first_occurrence",
    "modular_sum", "indirect_object", "backup", "two_tasks",
)  # fmt: skip
VARIED = (
    *(f"{name}+rotate+distract" for name in PLAIN),
    *(f"{name}+split(shares=(1.3, -0.3))+distract"
      for name in ("reverse", "induction", "indirect_object")),
    *(f"{name}+compress" for name in ("first_occurrence", "indirect_object")),
)  # fmt: skip
REAL = (
    *(f"mini:{task}" for task in ("ioi", "gendered_pronoun", "greater_than", "facts", "induction")),
    *(f"smollm2-135m:{task}" for task in ("ioi", "facts")),
)
SEEDS = {"plain": 2, "varied": 2, "trained": 1, "real": 1}
# A model of which a cell takes a minute: part of the table, and one cell more.
LARGE = "smollm2-135m:"
LARGE_METHODS: Mapping[int, Sequence[str]] = {
    10: ("eap_ig(steps=2)", "expected_gradients"),
    50: (
        "eap_ig",
        "expected_gradients",
        "mask_gradient",
        "nested(start='expected_gradients', runs=24)",
    ),
    200: ("eap_ig", "nested(start='expected_gradients', runs=120)", "auto(budget=200)"),
}
LARGE_CELL = ("smollm2-135m:ioi", "counterfactual", "nested(start='mask_gradient', runs=792)")
QUICK: dict[str, Any] = {
    "methods": {
        10: {"random": 16, "eap": 7, "eap_ig(steps=2)": 3, "expected_gradients": 6},
        50: {"eap": 16, "eap_ig": 8, "mask_gradient": 8, "auto(budget=50)": 16},
        200: {
            "eap_ig": 16, "mask_gradient": 16, "exact": 16,
            "nested(start='expected_gradients', runs=120)": 16,
        },
    },
    "models": (
        "is_frequent", "one_of_two", "dyck", "first_occurrence", "indirect_object",
        "is_frequent+rotate+distract", "dyck+rotate+distract", "indirect_object+rotate+distract",
        *trained_names()[::6], "mini:ioi", "mini:induction",
    ),
    "corruptions": ("counterfactual", "zero"),
    "seeds": 1,
    "examples": 16,
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One discovery: a method by name, for which budget (0 without one), on how many prompts."""

    budget: int
    method: str
    prompts: int


def chosen_models() -> tuple[str, ...]:
    """The models by default: programs, their variants, those of this checkout that were trained,
    and real ones."""
    return (*PLAIN, *VARIED, *trained_names(), *REAL)


def absent(methods: Budgets) -> dict[str, str]:
    """The methods of a table that this version does not have, each with the reason."""
    found = {}
    for name in dict.fromkeys(name for own in methods.values() for name in own):
        try:
            resolve("discovery", name)
        except CircuitkitError as error:
            found[name] = str(error)
    return found


def plan(
    methods: Budgets | Sequence[str], where: Source, corruption: str, examples: int
) -> list[Run]:
    """What is run on a model under a corruption. Methods in a list have no budget and all prompts;
    of the table above what a model is too large for is left out."""
    if not isinstance(methods, Mapping):
        return [Run(0, name, examples) for name in methods]
    runs = [
        Run(budget, name, min(prompts, examples))
        for budget, own in methods.items()
        for name, prompts in own.items()
    ]
    if not where.name.startswith(LARGE):
        return runs
    return [
        run for run in runs
        if run.method not in METHODS.get(run.budget, ())
        or run.method in LARGE_METHODS.get(run.budget, ())
        or (where.name, corruption, run.method) == LARGE_CELL
    ]  # fmt: skip


def seeds_of(where: Source) -> int:
    """How many seeds a model gets by default: programs have several models already."""
    return SEEDS[where.block]

"""Whether a trained model is its causal model, edge by edge: the numbers, and what is asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitkit.corruptions.replacement import counterfactual
from circuitkit.discovery.sweeps import exact
from circuitkit.engine.model import Activations
from circuitkit.evaluation.running import measure
from circuitkit.graph.nodes import LOGITS
from circuitkit.metrics.answers import logit_diff
from circuitkit.truth.trained.causal import Values
from circuitkit.truth.trained.files import Pairs
from circuitkit.truth.trained.losses import UNIT
from circuitkit.truth.trained.subject import Rows, Subject

if TYPE_CHECKING:
    from circuitkit.truth.trained.files import Trained

__all__ = ["ASKED", "failing", "measured", "paired"]

ASKED = {
    "accuracy": 0.99, "interchange": 0.99, "links": 0.99, "mapped_only": 0.99, "joint": 0.99,
    "subsets": 0.99, "faithfulness_other": 0.95, "faithfulness_near": 0.95,
    "votes": 0.7,
}  # fmt: skip
PROMPTS, EFFECTS, PAIRS, POOL = 512, 64, 512, 4096


def failing(numbers: Mapping[str, object]) -> tuple[str, ...]:
    """Which of the numbers are below what is asked."""
    return tuple(
        f"{name} {numbers[name]:.3f}"
        for name, least in ASKED.items()
        if not float(numbers[name]) >= least  # type: ignore[arg-type]
    )


@torch.no_grad()
def measured(subject: Subject, trained: Trained) -> dict[str, float]:
    """What a model does on prompts of other seeds than those that it was trained on.

    ``accuracy`` of the whole model (where the largest logit has the most votes), and with other
    prompts' values: on one part (``interchange``, of all answers; ``worst_part``), on one of the
    causal model's edges (``links``, of all answers), on all edges outside of it (``mapped_only``),
    on all components outside (``joint``), on a random half of the edges outside (``subsets``).
    ``votes`` is the least share of a vote that is cast. The faithfulness of the mapped edges is
    that of the logit difference under two kinds of pairs, and ``unmapped`` the largest mean effect
    of an edge outside, as a share of the gap between the clean and the corrupted run.
    """
    found = _accuracies(subject)
    for pairs in ("other", "near"):
        data = trained.data(256, seed=1, pairs=pairs)
        circuits = [trained.mapped, np.zeros_like(trained.mapped), trained.model.wiring.legal]
        values = measure(trained.model, circuits, data, logit_diff, counterfactual)
        kept, nothing, clean = values.mean(1).tolist()
        found[f"faithfulness_{pairs}"] = (kept - nothing) / (clean - nothing)
        found[f"clean_{pairs}"] = clean
        found[f"nothing_{pairs}"] = nothing
    few = trained.data(EFFECTS, seed=2)
    effects = exact(trained.model, few, logit_diff, counterfactual).values
    outside = np.where(trained.mapped, 0, np.abs(effects)).max()
    found["unmapped"] = float(outside / (found["clean_other"] - found["nothing_other"]))
    return {name: round(value, 4) for name, value in found.items()}


def _accuracies(subject: Subject) -> dict[str, float]:
    causal, model = subject.causal, subject.model
    prompts, sources = (subject.prompts(PROMPTS, f"accept {i}") for i in range(2))
    run, values = subject.plain(sources), causal.values(sources)
    whole = Rows.whole(subject, prompts, sources)

    def right(rows: Rows) -> Bool[Tensor, " answers"]:
        return _right(subject.said(rows, run), subject.asked(rows, values))

    def cut(links: list[bool]) -> Bool[Tensor, " answers"]:
        return right(replace(whole, cut=torch.tensor(links).expand(PROMPTS, -1)))

    def outside(mask: Tensor) -> float:
        return _share(right(replace(whole, outside=mask.expand(PROMPTS, -1, -1))))

    parts = [cut([link.writer == part for link in causal.links]) for part in causal.parts]
    links = [cut([one == link for one in causal.links]) for link in causal.links]
    everything = torch.ones(model.wiring.shape, dtype=torch.bool)
    others = everything.clone()
    others[[0, *(model.wiring.writer[one] for one in subject.components.values())]] = False
    rng = torch.Generator().manual_seed(1)
    halves = torch.rand(PROMPTS, *model.wiring.shape, generator=rng) < 0.5
    return {
        "accuracy": _share(right(whole)),
        "interchange": _share(torch.cat(parts)), "worst_part": min(map(_share, parts)),
        "links": _share(torch.cat(links)),
        "votes": min(_shares(subject, whole, run, values)),
        "mapped_only": outside(everything), "joint": outside(others), "subsets": outside(halves),
    }  # fmt: skip


def _shares(subject: Subject, whole: Rows, run: Activations, values: Values) -> Iterator[float]:
    """For each vote, how much of what it is to change is changed when it is another prompt's: in
    the logit of its word, less that of the other prompt's."""
    said, asked = subject.said(whole, run), subject.asked(whole, values)
    for number, link in enumerate(subject.causal.links):
        if link.reader != LOGITS:
            continue
        cut = whole.cut.clone()
        cut[:, number] = True
        other = replace(whole, cut=cut)
        wanted = UNIT * (subject.asked(other, values) - asked)
        found = subject.said(other, run) - said
        here = ~wanted.isnan().any(-1) & (wanted != 0).any(-1)
        yield ((found * wanted)[here].sum() / wanted[here].square().sum()).item()


def _right(
    said: Float[Tensor, "b p vocab"], votes: Float[Tensor, "b p vocab"]
) -> Bool[Tensor, " answers"]:
    """Whether the word with the largest logit has the most votes, where there are any."""
    asked = ~votes.isnan().any(-1)
    found, wanted = said[asked], votes[asked]
    own = wanted.gather(-1, found.argmax(-1, keepdim=True))[:, 0]
    return own > wanted.amax(-1) - 1e-3


def _share(right: Bool[Tensor, " answers"]) -> float:
    """How many are; of none, all."""
    return right.float().mean().item() if len(right) else 1.0


def paired(subject: Subject) -> Pairs:
    """Different prompts with their answers, and for each the nearest of many that has another."""
    drawn = subject.prompts(POOL, "pairs").tolist()
    pool = torch.tensor([*dict.fromkeys(map(tuple, drawn))])
    answers = subject.causal.answers(subject.causal.values(pool))[:, -1].argmax(-1)
    own = slice(0, PAIRS)
    apart = (pool[own, None] != pool[None]).sum(-1)
    near = torch.where(answers[own, None] == answers, pool.shape[1] + 1, apart).argmin(-1)
    tokens = subject.tokens(pool)
    return Pairs(tokens[own], tokens[near], answers[own], answers[near])

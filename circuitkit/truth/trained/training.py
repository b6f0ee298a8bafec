"""Training a small transformer to be a causal model, edge by edge.

Interchange training (Geiger et al. 2022, arXiv:2112.00826) asks that a component which takes its
value from another prompt has the effect that its part has; its strict form (Gupta et al. 2024,
arXiv:2407.14494) that all other components have none. That leaves the edges open, so that here the
*edges* outside of the mapping carry another prompt's values, and the answer must stay.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor, nn

from circuitkit.errors import ModelError
from circuitkit.models.transformer_lens import from_module
from circuitkit.truth.trained.acceptance import failing, measured, paired
from circuitkit.truth.trained.causal import Causal
from circuitkit.truth.trained.files import Trained, assemble
from circuitkit.truth.trained.losses import distance, masks, probed
from circuitkit.truth.trained.placing import mask_of, place
from circuitkit.truth.trained.shapes import Shape
from circuitkit.truth.trained.subject import Subject
from circuitkit.util.json_values import Json

__all__ = ["Attempt", "Recipe", "train"]


@dataclass(frozen=True)
class Recipe:
    """How long and how fast is trained.

    Attributes:
        steps: The steps of the first round, in which the rate falls to a fiftieth.
        more: The steps of each further round, at half of the rate, while it is not accepted.
        rounds: How many rounds there are at most.
        rows: How many prompts a step has, and as many sources.
        rate: The highest learning rate.
        alone: The share of the first round in which the behaviour alone is trained.
        probing: The share of it in which probes are trained along, less and less.
        pool: How many random prompts are trained on.
    """

    steps: int = 300
    more: int = 200
    rounds: int = 3
    rows: int = 64
    rate: float = 4e-3
    alone: float = 0.15
    probing: float = 0.4
    pool: int = 4096


@dataclass(frozen=True)
class Attempt:
    """A training: the model as it was at the end, and by what it fails, if by anything."""

    model: Trained
    failing: tuple[str, ...]

    @property
    def accepted(self) -> bool:
        """Whether it is the causal model, edge by edge."""
        return not self.failing


def train(causal: Causal, shape: Shape, seed: int = 0, recipe: Recipe | None = None) -> Attempt:
    """Train a transformer of this shape to be the causal model; the seed chooses its weights, the
    components of the parts, and the prompts.

    After each round the weights are rounded to fp16 and measured as ``measured`` says; the first
    that are accepted are taken. The same seed gives the same model on the same machine.

    Raises ModelError where the shape has no room for the parts, or lacks words.
    """
    recipe, start = recipe or Recipe(), time.process_time()
    if shape.vocab != len(causal.words) or shape.context <= causal.length:
        raise ModelError(
            f"{causal.name!r} has {len(causal.words)} words and prompts of {causal.length}; give a "
            f"shape with that vocab and a longer context, not {shape}"
        )
    components = place(causal, shape.wiring, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = shape.build()
        run = _Training(causal, module, components, recipe, seed)
    for number in range(recipe.rounds):
        run.round(number)
        found = _rounded(run, shape, components, seed)
        about = measured(Subject(causal, found.model, components), found)
        faults = failing(about)
        if not faults:
            break
    known: dict[str, Json] = {
        **about, "causal": causal.name, "seed": seed, "steps": run.steps, "source": causal.source,
        "cpu_seconds": round(time.process_time() - start, 1), "recipe": asdict(recipe),
    }  # fmt: skip
    return Attempt(replace(found, about=known), faults)


def _rounded(run: _Training, shape: Shape, components: dict[str, str], seed: int) -> Trained:
    """The model of the weights as they are now, in fp16."""
    causal, wiring = run.subject.causal, shape.wiring
    weights = {key: value.detach().clone() for key, value in run.module.state_dict().items()}
    return assemble(
        f"{causal.name}, {shape.family}, seed {seed}", shape, weights, causal.words,
        mapped=mask_of(causal.links, components, wiring),
        constant=mask_of(causal.constant, components, wiring),
        components=components, about={}, pairs=paired(run.subject),
    )  # fmt: skip


class _Training:
    """A module in training, with its probes and its random numbers."""

    def __init__(
        self, causal: Causal, module: nn.Module, components: dict[str, str], recipe: Recipe,
        seed: int,
    ) -> None:  # fmt: skip
        self.module, self.recipe, self.steps = module, recipe, 0
        model = from_module(module, name=causal.name, trainable=True)
        self.subject = Subject(causal, model, components)
        self.rng = torch.Generator().manual_seed(seed)
        self.pool = self.subject.prompts(recipe.pool, f"train {seed}")
        sizes = {part: len(causal.tables.domain[op]) for part, op in causal.parts.items()}
        self.probes = {part: nn.Linear(model.d_model, size) for part, size in sizes.items()}

    def round(self, number: int) -> None:
        """A round of steps."""
        recipe, first = self.recipe, number == 0
        steps = recipe.steps if first else recipe.more
        highest = recipe.rate if first else recipe.rate / 2
        weights = [*self.module.parameters()]
        probes = [weight for probe in self.probes.values() for weight in probe.parameters()]
        optimizer = torch.optim.AdamW(
            [*weights, *probes], lr=highest, betas=(0.9, 0.98), weight_decay=0.01
        )
        for step in range(steps):
            at = step / steps
            rate = highest * min(1, (step + 1) / 30) * (0.51 + 0.49 * math.cos(math.pi * at))
            for group in optimizer.param_groups:
                group["lr"] = rate
            probing = max(0.0, 1 - at / recipe.probing) if first else 0.0
            loss = self.loss(probing, alone=first and at < recipe.alone)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
        self.steps += steps

    def loss(self, probing: float, alone: bool) -> Tensor:
        """That of random rows: behaviour on the sources, then interchanges and strict edges."""
        subject, causal = self.subject, self.subject.causal
        drawn = torch.randint(self.recipe.pool, (2, self.recipe.rows), generator=self.rng)
        prompts, sources = self.pool[drawn]
        run, values = subject.plain(sources), causal.values(sources)
        loss = distance(subject.spoken(run.final), causal.answers(values))
        if probing:
            loss = loss + probing * probed(subject, run, values, self.probes)
        if alone:
            return loss
        rows = masks(subject, prompts, sources, self.rng)
        return loss + distance(subject.said(rows, run), subject.asked(rows, values))

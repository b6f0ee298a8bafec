"""How a mask over the edges is learned: Adam over one number per edge, some prompts a step.

Every prompt of a step runs under a mask of its own. Which prompts a step takes, and all that is
drawn in it, depend on the prompts, the seed and the number of the step alone: not on the prompts'
order, on the size of the batches, nor on whether the training was killed and resumes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuitkit.data.batches import Batch
from circuitkit.engine.checkpoints import Journal, Shard, digest, identity
from circuitkit.engine.dealing import Block, Task, dealt
from circuitkit.engine.inputs import Inputs
from circuitkit.engine.metric import check_metric
from circuitkit.engine.model import Activations, Context
from circuitkit.engine.numerics import exact
from circuitkit.engine.record import answer, record
from circuitkit.engine.run import run
from circuitkit.errors import ArgumentError, MetricError
from circuitkit.graph.scores import Scores
from circuitkit.registry import name_of, resolve
from circuitkit.util.json_values import Json
from circuitkit.util.progress import counting

__all__ = ["Parameters", "Rule", "Start", "is_start", "learn", "started"]

Start: TypeAlias = "str | Scores | None"
Parameters: TypeAlias = Mapping[str, Tensor]

VERSION = 1  # of the states on disk
OWN, MOMENTS = "own/", ("exp_avg", "exp_avg_sq", "step")
SECONDS = 20.0  # between two states that are written
CACHED = 2**28  # bytes of carried runs that are kept, rather than run again
FLAT = 1e-6  # a smaller gap, relative to the metric, is rounding
SMALL = 1e-2  # metrics whose values are all below this are compared as if they were this large


class Masks(Protocol):
    """The masks of a step, from the parameters."""

    def __call__(
        self, parameters: Parameters, done: float, rng: np.random.Generator, n: int
    ) -> Float[Tensor, "n edges"]:
        """One for each of ``n`` prompts; ``done`` is the share of the runs that are over."""


def _free(parameters: Parameters, done: float) -> Tensor:
    """The penalty of a method that has none."""
    del done
    return parameters["edges"].new_zeros(())


@dataclass(frozen=True)
class Rule:
    """What a method learns: its parameters as they start (``edges`` are those of the edges, in the
    order of the wiring; asked for where there is no earlier state), the masks that it draws from
    them, a penalty that is added to the loss, the parameters in which the sum is raised rather than
    lowered (multipliers), and how many edges are kept in the end, where the method says so."""

    start: Callable[[], Parameters]
    masks: Masks
    penalty: Callable[[Parameters, float], Tensor] = _free
    raised: tuple[str, ...] = ()
    kept: Callable[[Tensor], int] | None = None


# -- where to start --------------------------------------------------------------------------------
def started(inputs: Inputs, start: Start) -> Callable[[], dict[str, Tensor]]:
    """What gives −log(rank) of every edge in a ranking by magnitude, which a method of that name
    (with settings) makes of the same inputs, or scores have; zeros without one. Raises
    UnknownNameError for a name that is not known, before anything is run."""
    wiring = inputs.model.wiring
    method = resolve("discovery", start) if isinstance(start, str) else None

    def starting() -> dict[str, Tensor]:
        if start is None:
            return {"edges": torch.zeros(wiring.n_edges)}
        scores = start if method is None else method(*inputs)
        if not isinstance(scores, Scores) or scores.wiring != wiring:
            is_scores = isinstance(scores, Scores)
            said = "of a different model" if is_scores else f"of type {type(scores).__name__}"
            raise ArgumentError(
                f"start gives scores {said}; give a method's name, as 'eap_ig', or Scores of "
                f"{inputs.model.name}"
            )
        return {"edges": -torch.from_numpy(_ranks(scores)).log()}

    return starting


def _ranks(scores: Scores) -> Float[np.ndarray, " edges"]:
    """The rank of every edge by magnitude, from 1; equal ones share the mean of theirs."""
    from scipy.stats import rankdata

    return np.asarray(rankdata(-np.abs(scores.values[scores.wiring.legal])), np.float32)


def is_start(value: object) -> bool:
    """Whether this may be a start; a name is resolved later."""
    return value is None or isinstance(value, str | Scores)


def _named(start: Start) -> Json:
    """What the settings say of it."""
    if not isinstance(start, Scores):
        return start
    return {"method": start.about.get("method"), "digest": digest(start.values.tolist())}


# -- the prompts -----------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Part:
    """A batch of a step's prompts, with what its runs need, and the metric of the whole model and
    of what is carried."""

    batch: Batch
    context: Context
    draws: tuple[Activations, ...]
    reference: Float[Tensor, "b vocab"]
    full: Float[Tensor, " examples"]
    nothing: Float[Tensor, " examples"]

    @property
    def bytes(self) -> int:
        """What keeping it takes: what the stages read and wrote."""
        held = [x for run in self.draws for x in (*run.reads, *run.shares, run.embed, run.final)]
        return sum(x.numel() * x.element_size() for x in held)


class _Prompts:
    """The prompts in the groups that a step takes, the same ones whatever the size of a batch.

    What is carried on them is kept while there is room, and else run again in every step.
    """

    def __init__(self, inputs: Inputs, size: int, seed: int) -> None:
        self.model, data, self.metric, corruption = inputs
        listed = sorted(range(len(data)), key=lambda i: data[i].fingerprint)
        order = np.random.default_rng((seed, 0)).permutation(listed)
        groups = np.array_split(order, -(-len(data) // size))
        self.groups = [replace(data, examples=tuple(data[i] for i in own)) for own in groups]
        self.carry = corruption(self.model, data)
        self.kept: dict[int, list[_Part]] = {}
        self.room = CACHED
        self.seed = seed
        made = [self._make(number) for number in range(len(groups))]
        self.plain = np.concatenate([_plain(part) for parts in made for part in parts], axis=1)

    def group(self, step: int) -> int:
        """Which prompts a step takes: all of them once, and then again in another order."""
        turn, place = divmod(step, len(self.groups))
        rng = np.random.default_rng((self.seed, 1, turn))
        return int(rng.permutation(len(self.groups))[place])

    def parts(self, group: int) -> list[_Part]:
        """The batches of a group."""
        return self.kept[group] if group in self.kept else self._make(group)

    def _make(self, group: int) -> list[_Part]:
        made = [self._part(batch) for batch in self.groups[group]]
        size = sum(part.bytes for part in made)
        if size <= self.room:
            self.kept[group] = made
            self.room -= size
        return made

    @torch.no_grad()
    def _part(self, batch: Batch) -> _Part:
        context = self.model.start(batch.clean, batch.mask)
        reference = answer(self.model, batch, record(self.model, context).final)
        draws = tuple(replace(run, computed=()) for run in self.carry(batch))
        ends = [answer(self.model, batch, run.final) for run in draws]
        full, *cut = (check_metric(self.metric, x, reference, batch) for x in (reference, *ends))
        return _Part(batch, context, draws, reference, full, torch.stack(cut).mean(0))

    def gap(self) -> float:
        """The metric's mean distance between the whole model and what is carried; raises
        MetricError where there is none."""
        full, nothing = self.plain
        gap = float(np.abs(full - nothing).mean())
        if gap <= FLAT * max(1.0, float(np.abs(full).mean())):
            raise MetricError(
                f"{name_of(self.metric)} is {full.mean():.4g} on the clean run and the same on the "
                "corrupted one, so that there is nothing to learn; use a different metric or "
                "corruption"
            )
        return gap


def _plain(part: _Part) -> Float[np.ndarray, "full_and_nothing examples"]:
    """The metric of the whole model and of what is carried, as numbers."""
    return np.asarray(exact(torch.stack([part.full, part.nothing])).cpu().numpy())


# -- learning --------------------------------------------------------------------------------------
def learn(
    inputs: Inputs,
    method: str,
    rule: Rule,
    settings: Mapping[str, Json],
    resume: str | os.PathLike[str] | None,
) -> Scores:
    """The scores −log(1 − p), where p = sigmoid(the learned number of an edge): positive, and in
    the order of p where p itself would be rounded to 1.

    Of the ``settings``, ``runs``, ``size``, ``rate``, ``loss`` and ``seed`` are read here.
    """
    if isinstance(resume, Shard) and resume.index is not None:
        raise ArgumentError(
            f"{method} is a training, of which a step needs the one before, so that it has no "
            "shards; use torchrun, or one process"
        )
    said = dict(settings)
    if "start" in said:
        said["start"] = _named(said["start"])
    journal = Journal(resume, _about(inputs, method, said))
    training = _Training(inputs, rule, settings, journal)
    training.run(method)
    wiring, learned = inputs.model.wiring, training.learned["edges"].detach().cpu()
    values = np.zeros(wiring.shape, np.float32)
    found = torch.nn.functional.softplus(exact(learned)).numpy()
    values[wiring.legal] = np.maximum(found, np.finfo(np.float32).tiny)
    kept = {} if rule.kept is None else {"kept": rule.kept(learned)}
    about = {**inputs.metadata(), "method": method, "settings": said, **kept, **training.told()}
    return Scores(wiring, values, about)


def _about(inputs: Inputs, method: str, settings: Mapping[str, Json]) -> dict[str, Json]:
    """All that tells one training from another, except for the weights."""
    model, data, metric, corruption = inputs
    return {
        **identity(model, data),
        "format": "circuitkit.training",
        "version": VERSION,
        "method": method,
        "metric": name_of(metric),
        "corruption": name_of(corruption),
        "settings": dict(settings),
    }


def _own(state: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """The parameters of a state."""
    return {
        name.removeprefix(OWN): torch.from_numpy(value)
        for name, value in state.items()
        if name.startswith(OWN)
    }


class _Training:
    """A training, from its start or from the state that was written last."""

    def __init__(
        self, inputs: Inputs, rule: Rule, settings: Mapping[str, Json], journal: Journal
    ) -> None:
        self.model, _, self.metric, _ = inputs
        self.rule, self.settings, self.journal = rule, settings, journal
        self.prompts = _Prompts(inputs, settings["size"], settings["seed"])
        self.gap = self.prompts.gap()
        self.legal = torch.from_numpy(np.flatnonzero(self.model.wiring.legal))
        self.legal = self.legal.to(self.model.device)
        self.runs: list[int] = []  # how many prompts each step has run
        self.losses: list[float] = []
        state = self._found()
        start = rule.start() if state is None else _own(state)
        self.learned = {
            name: torch.as_tensor(value).to(self.model.device, torch.float32, copy=True)
            for name, value in start.items()
        }
        groups = [{"params": [own.requires_grad_()], "maximize": name in rule.raised}
                  for name, own in self.learned.items()]  # fmt: skip
        self.adam = torch.optim.Adam(groups, lr=settings["rate"])
        if state is not None:
            self._restore(state)

    def run(self, label: str) -> None:
        """Step until so many prompts have been run; what is done is written now and then."""
        written = time.monotonic()
        with counting(self.settings["runs"], label, "prompt") as count:
            count(sum(self.runs), earlier=True)
            while sum(self.runs) < self.settings["runs"]:
                self._step()
                count(self.runs[-1], note=f"loss {self.losses[-1]:.3f}")
                if time.monotonic() - written > SECONDS:
                    self._write()
                    written = time.monotonic()
        self._write()

    def told(self) -> dict[str, Json]:
        """The mean loss of the first time that every prompt was run, and of the last."""
        turn = len(self.prompts.groups)
        first, last = self.losses[:turn], self.losses[-turn:]
        return {"losses": {"first": float(np.mean(first)), "last": float(np.mean(last))}}

    # -- a step ------------------------------------------------------------------------------------
    def _step(self) -> None:
        """One step of Adam."""
        step, done = len(self.runs), sum(self.runs) / self.settings["runs"]
        parts = self.prompts.parts(self.prompts.group(step))
        n = sum(part.batch.examples for part in parts)
        rng = np.random.default_rng((self.settings["seed"], 2, step))
        with torch.enable_grad():
            masks = self.rule.masks(self.learned, done, rng, n)
            loss, slopes = self._slopes(parts, masks.detach())
            whole = (masks * slopes).sum() + self.rule.penalty(self.learned, done)
            found = torch.autograd.grad(whole, [*self.learned.values()])
        for own, slope in zip(self.learned.values(), found, strict=True):
            own.grad = slope
        self.adam.step()
        self.runs.append(n)
        self.losses.append(loss)

    def _slopes(
        self, parts: Sequence[_Part], masks: Float[Tensor, "n edges"]
    ) -> tuple[float, Float[Tensor, "n edges"]]:
        """The mean loss of some prompts under these masks, and its gradient in each of them."""
        tasks, start = [], 0
        for part in parts:
            own = masks[start : start + part.batch.examples]
            tasks.append(Task(str(start), partial(self._block, part, own, len(masks))))
            start += part.batch.examples
        blocks = [*dealt(tasks)]
        slopes = torch.cat([torch.from_numpy(block["slopes"]) for block in blocks]).to(masks)
        loss = torch.zeros((), dtype=masks.dtype)
        for value in np.concatenate([block["losses"] for block in blocks]):
            loss += value
        if not bool(slopes.isfinite().all()):
            raise MetricError(
                f"the gradient of {name_of(self.metric)} in the masks is not finite in step "
                f"{len(self.runs) + 1}; load the model in float32, or use a different corruption"
            )
        return float(loss), slopes

    def _block(self, part: _Part, masks: Float[Tensor, "b edges"], of: int) -> Block:
        """The loss of a batch of a step of so many prompts, draw by draw, and its gradient."""
        own, slopes, losses = masks.requires_grad_(), torch.zeros_like(masks), []
        for carried in part.draws:
            value = self._loss(part, carried, own) / (of * len(part.draws))
            slopes += torch.autograd.grad(value, own)[0]
            losses.append(value.detach())  # read once, below: each look waits for the device
        return {"slopes": slopes.cpu().numpy(), "losses": exact(torch.stack(losses)).cpu().numpy()}

    def _loss(
        self, part: _Part, carried: Activations, masks: Float[Tensor, "n edges"]
    ) -> Float[Tensor, ""]:
        """The loss of a batch, summed, in shares of the metric's gap."""
        shape = self.model.wiring.shape
        keep = masks.new_zeros(len(masks), shape[0] * shape[1]).index_copy(1, self.legal, masks)
        keep = keep.view(-1, *shape)[part.batch.owner]  # of an answer of several tokens each row
        logits = run(self.model, part.batch, part.context, carried, keep)
        values = check_metric(self.metric, logits, part.reference, part.batch)
        if not values.requires_grad:
            raise MetricError(
                f"{name_of(self.metric)} has no gradient, so that no mask can be learned with it; "
                "use a different metric (logit_diff)"
            )
        match = self.settings["loss"] == "match"
        return ((values - part.full).abs() if match else -values).sum() / self.gap

    # -- states ------------------------------------------------------------------------------------
    def _write(self) -> None:
        """Write the state in place of an earlier one."""
        state = {"runs": np.array(self.runs), "losses": np.array(self.losses),
                 "plain": self.prompts.plain}  # fmt: skip
        for name, own in self.learned.items():
            known = self.adam.state[own]
            state[f"{OWN}{name}"] = own.detach().cpu().numpy()
            state |= {f"{key}/{name}": known[key].cpu().numpy() for key in MOMENTS}
        self.journal.put("state", state)

    def _found(self) -> dict[str, np.ndarray] | None:
        """The state that was written last; raises OutputError where it belongs to a different
        model."""
        state = self.journal.get("state")
        if state is not None:
            self.journal.recognise(self.model, state["plain"], self.prompts.plain, SMALL)
        return state

    def _restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from a state."""
        self.runs, self.losses = state["runs"].tolist(), state["losses"].tolist()
        for name, own in self.learned.items():
            moments = {key: torch.tensor(state[f"{key}/{name}"]) for key in MOMENTS}
            self.adam.state[own] = {
                key: value if key == "step" else value.to(own.device)
                for key, value in moments.items()
            }

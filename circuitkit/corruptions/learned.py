"""Constants that are learned, one for each writer: those under which circuits do best."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitkit.corruptions._written import Carry, Written, average, clean, constant
from circuitkit.data.batches import Batch, Dataset
from circuitkit.data.examples import Example
from circuitkit.data.tasks import make_task
from circuitkit.engine.dense import final_residual
from circuitkit.engine.devices import moved
from circuitkit.engine.metric import check_metric, learns
from circuitkit.engine.model import Model
from circuitkit.engine.numerics import exact
from circuitkit.engine.record import answer, record
from circuitkit.engine.weights import once
from circuitkit.errors import UnknownNameError
from circuitkit.registry import lookup, names
from circuitkit.util.json_values import Json
from circuitkit.util.naming import unknown
from circuitkit.util.options import Bounds, Count, Seed, checked
from circuitkit.util.progress import track

__all__ = ["optimal"]

TOGETHER = 16  # examples of a step, at most
FLOOR = 1e-6  # of a gradient: smaller ones are rounding, and move nothing


@dataclass(frozen=True)
class _How:
    """On what constants are learned, and how; see ``optimal``."""

    steps: int
    loss: str
    cut: str
    rate: float
    on: str | None
    examples: int
    seed: int
    at: str | Sequence[str]


def _about(data: Dataset, how: _How) -> dict[str, Json]:
    """What results say of it."""
    rest: dict[str, Json] = {
        "steps": how.steps, "loss": how.loss, "cut": how.cut, "rate": how.rate, "seed": how.seed,
    }  # fmt: skip
    if how.on is not None:
        return {"task": how.on, "examples": how.examples, **rest}
    marks = "".join(sorted(example.fingerprint for example in data.examples))
    prompts = hashlib.sha256(marks.encode()).hexdigest()[:16]
    return {"prompts": prompts, "examples": len(data), **rest}


@learns(lambda data, **settings: _about(data, _How(**settings)))
@checked
def optimal(
    model: Model,
    data: Dataset,
    *,
    steps: Annotated[int, Bounds(1, 100_000)] = 100,
    loss: Literal["kl", "log_probability"] = "kl",
    cut: Literal["edges", "writer"] = "edges",
    rate: Annotated[float, Bounds(0, 100, above=True)] = 0.05,
    on: str | None = None,
    examples: Count = 64,
    seed: Seed = 0,
    at: str | Sequence[str] = (),
) -> Carry:
    """Optimal ablation: a cut edge carries a constant of its writer that has been learned.

    It is learned so that circuits do as well as they can. Every writer has one vector, which all of
    its edges carry when they are cut, at every token. The vectors are learned together. They begin
    at the means, and each step lowers the loss of up to 16 examples, each under a mask of its own.
    ``cut="edges"`` draws a share between 0 and 1 for each example and keeps each edge with it, so
    that the constants suit circuits of every size.
    ``cut="writer"`` cuts all edges of one writer drawn at random, so that each constant suits a
    model in which all else is live. The loss is the divergence from the whole model (``kl``), or
    minus the ``log_probability`` of the correct answers. ``rate`` is the first length of a step, in
    units of what the writer writes at a usual token; it falls to zero (Adam).

    Without ``on`` the constants are learned on the prompts on which they are used, like means; a
    faithfulness on these prompts is then in sample. ``on`` names a task, of which ``examples``
    prompts are drawn with the ``seed``: give a seed that is not used for measuring. The constants
    do not depend on the order of the prompts or, up to rounding, on the batch size. Results say
    under ``learned`` what they were learned on. ``at``: see ``zero``.

    A step costs the forward and the backward of a run under masks, about three times that of a
    plain run for each example. Constants that were learned are kept with the model, the last few,
    and learned again where its weights or one of the settings has changed.

    Differs from the paper: the paper learns the constants of one circuit, or, while it searches
    (UGS), of the current masks; these are learned for circuits in general, so that different
    circuits can be compared, and are not optimal for any of them. For one component
    ``cut="writer"`` is the paper's.

    Raises DataError where there are no examples and, when used, for a span that an example lacks,
    UnknownNameError for an unknown task and MetricError where examples lack answers. Source: Li &
    Janson 2024.

    Example:
        >>> import circuitkit as ck
        >>> model = ck.load("mini")
        >>> data = ck.Dataset.of(ck.make_task("ioi", model, n=4), model)
        >>> (carried,) = ck.corruptions.optimal(model, data, steps=3)(next(iter(data)))
        >>> bool((carried.embed[0, 0] == carried.embed[1, 3]).all())  # at every token
        True
    """
    how = _How(steps, loss, cut, rate, on, examples, seed, at)
    if on is not None:
        data = replace(_drawn(model, how), batch_size=data.batch_size, memory=data.memory)
    known = hashlib.sha256(repr((how, data.examples)).encode()).hexdigest()
    return constant(model, once(model, f"optimal {known}", lambda: _learn(model, data, how)), at)


def _drawn(model: Model, how: _How) -> Dataset:
    """The prompts of the task; raises UnknownNameError for what is not the name of one."""
    if how.on not in names("tasks"):  # no file, and no code from elsewhere
        raise UnknownNameError(unknown("task", str(how.on), names("tasks")))
    return Dataset.of(make_task(how.on, model, n=how.examples, seed=how.seed), model)


# -- learning --------------------------------------------------------------------------------------
def _learn(model: Model, data: Dataset, how: _How) -> Written:
    """The constants, as one token of one prompt."""
    mean, scale = average(model, data, by_position=False), _scales(model, data)
    offsets = Written.each(torch.zeros_like, mean)
    if not model.post_norm:  # a head's share is what it computes
        offsets = replace(offsets, computed=offsets.shares)
    learned = [offsets.embed, *offsets.shares]
    adam = torch.optim.Adam(learned, eps=FLOOR)
    for step in track(range(how.steps), "optimal", "step"):
        slopes = _slopes(model, _chosen(data, step, how.seed), how, step, mean, scale, offsets)
        adam.param_groups[0]["lr"] = how.rate * (1 - step / how.steps)
        for x, slope in zip(learned, slopes, strict=True):
            x.grad = slope
        adam.step()
    return Written.each(torch.addcmul, mean, scale, offsets)


def _scales(model: Model, data: Dataset) -> Written:
    """How large what a writer writes is at the median token: the root of its mean square.

    Not at the mean one, as at the first token some writers write what is hundreds of times larger.
    """
    sizes = []
    for batch in data:
        kept, run = batch.mask, clean(model, batch)
        sizes.append(run.map(partial(_sizes, kept)))
    whole = Written.each(lambda *own: torch.cat(own), *sizes)
    return whole.map(lambda x: x.median(0).values[None, None]).placed(model)


def _sizes(kept: Bool[Tensor, "b p"], x: Float[Tensor, "b p *_n e"]) -> Float[Tensor, "t *_n 1"]:
    """The root of the mean square at each token."""
    return exact(x[moved(kept, x.device)]).square().mean(-1, keepdim=True).sqrt()


def _chosen(data: Dataset, step: int, seed: int) -> Dataset:
    """The examples of a step, which go through the data in an order drawn by the seed."""
    order = sorted(data.examples, key=lambda e: (_draw(e, seed).initial_seed(), e.clean))
    size = min(TOGETHER, len(order))
    start = step * size % len(order)
    return replace(data, examples=tuple((order + order)[start : start + size]))


def _draw(example: Example, *key: int) -> torch.Generator:
    """Random numbers that depend on the example's tokens and the key alone."""
    return torch.Generator().manual_seed(zlib.crc32(repr((key, example.fingerprint)).encode()))


def _slopes(
    model: Model,
    data: Dataset,
    how: _How,
    step: int,
    mean: Written,
    scale: Written,
    offsets: Written,
) -> list[Tensor]:
    """The gradients of the mean loss in the offsets, each under a mask of its own."""
    leaves = [x.detach().requires_grad_() for x in (offsets.embed, *offsets.shares)]
    tied = offsets.computed is offsets.shares
    here = Written(leaves[0], leaves[1:] if tied else offsets.computed, leaves[1:])
    total = [torch.zeros_like(x) for x in leaves]
    start = 0
    for batch in data:
        own = data.examples[start : start + batch.examples]
        start += batch.examples
        keep = torch.stack([_mask(model, example, how, step) for example in own])
        with torch.enable_grad():
            written = Written.each(torch.addcmul, mean, scale, here)
            said = _values(model, batch, constant(model, written, how.at), keep, how.loss)
            found = torch.autograd.grad(-said.mean() * len(own) / len(data), leaves)
        total = [x + y for x, y in zip(total, found, strict=True)]
    return total


def _mask(model: Model, example: Example, how: _How, step: int) -> Bool[Tensor, "w r"]:
    """The edges that are kept for an example in a step."""
    draw = _draw(example, how.seed, step)
    legal = torch.from_numpy(model.wiring.legal)
    if how.cut == "writer":
        row = torch.randint(len(legal), (), generator=draw)
        return legal & (torch.arange(len(legal)) != row)[:, None]
    share = torch.rand((), generator=draw)
    return legal & (torch.rand(legal.shape, generator=draw) < share)


def _values(
    model: Model, batch: Batch, carry: Carry, keep: Bool[Tensor, "n w r"], loss: str
) -> Float[Tensor, " values"]:
    """What the metric says of the runs under these masks."""
    context = model.start(batch.clean, batch.mask)
    with torch.no_grad():
        reference = answer(model, batch, record(model, context).final)
    (carried,) = carry(batch)
    final = final_residual(model, batch, context, carried, keep[batch.owner.cpu()])
    metric, logits = lookup("metrics", loss), model.unembed(final)
    several = batch.sequences is not None and loss == "kl"  # a value for each row
    return (
        metric(logits, reference, batch)
        if several
        else check_metric(metric, logits, reference, batch)
    )

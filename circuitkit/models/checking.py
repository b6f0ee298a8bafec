"""A numerical proof that a model is the graph that circuitkit takes it for.

Two plain forwards of the model's own code are watched, the second with noise added to one head, and
the masked runs at both ends are compared with plain forwards. An error is relative to the largest
value that it is compared with.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitkit.data.batches import Batch
from circuitkit.engine.attribute import score
from circuitkit.engine.devices import device_of, moved
from circuitkit.engine.gradients import gradients
from circuitkit.engine.model import Activations, Context, Native
from circuitkit.engine.numerics import wide
from circuitkit.engine.record import output, record
from circuitkit.engine.run import run
from circuitkit.errors import CircuitkitError, UnsupportedModelError
from circuitkit.graph.stages import ATTENTION, Stage
from circuitkit.models.saved import in_one_line
from circuitkit.models.transformer_lens import Transformer

__all__ = ["Proof", "Row", "check"]

TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 2e-1}


@dataclass(frozen=True)
class Row:
    """A statement about a model, with its relative error and the largest that is accepted."""

    statement: str
    error: float
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether the error is within the tolerance."""
        return self.error <= self.tolerance  # False for nan


@dataclass(frozen=True)
class Proof:
    """What ``check`` found of a model: ``rows`` of statements, and whether all of them hold."""

    model: str
    rows: tuple[Row, ...]

    @property
    def holds(self) -> bool:
        """Whether every statement holds."""
        return all(row.holds for row in self.rows)

    def require(self) -> None:
        """Raise UnsupportedModelError, with the first statement that fails, if any does."""
        for row in self.rows:
            if not row.holds:
                raise UnsupportedModelError(
                    f"{self.model!r} is not the sum of its parts as circuitkit reads them: "
                    f"it is false that {row.statement} (relative error {row.error:.1e}); "
                    "its circuits would be wrong, so use another model"
                )

    def __repr__(self) -> str:
        lines = [f"{self.model}"]
        for row in self.rows:
            verdict = "ok  " if row.holds else "FAIL"
            lines.append(f"  {verdict}  {row.error:8.1e} of {row.tolerance:.0e}  {row.statement}")
        return "\n".join(lines)


def check(model: Transformer, *, seed: int = 0, length: int = 8) -> Proof:
    """Check that a model is the graph that circuitkit takes it for, on random tokens.

    ``load`` does so for every model and refuses one that fails; call it for the numbers. On three
    random prompts of ``length`` tokens (or as many as the context holds) it compares what the
    writers sum to with what the model's readers read, each component called alone with the same
    component in the model, the masked runs at both ends with plain forwards, and attribution with
    the slope of the masked run. Errors are relative (without unit); the accepted ones depend on the
    model's dtype (1e-3 in float32).

    Raises UnsupportedModelError where the model's parts cannot be called one by one.

    Example:
        >>> import circuitkit as ck
        >>> proof = ck.check(ck.load("mini"))
        >>> proof.holds
        True
        >>> len(proof.rows)
        6
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (
        3,
        min(length, model.context or length),
    )  # not two, which a pair of outputs could be taken for
    clean, corrupt = (_random_tokens(model, shape, generator) for _ in range(2))
    mask = torch.ones(shape, dtype=torch.bool, device=model.device)
    try:
        with torch.no_grad():
            trial = _Trial.of(model, clean, corrupt, mask)
            errors = {**_sums(trial), **_noise(trial, generator), **_ends(trial)}
        errors |= _slope(trial)
    except CircuitkitError:
        raise
    except Exception as error:  # whatever the model's parts raise
        raise UnsupportedModelError(
            f"the parts of {model.name!r} cannot be called one by one ({in_one_line(error)}); use "
            "another model"
        ) from error
    tolerance = TOLERANCE.get(model.dtype, 1e-3)
    return Proof(model.name, tuple(Row(what, e, tolerance) for what, e in errors.items()))


def _random_tokens(
    model: Transformer, shape: tuple[int, int], generator: torch.Generator
) -> Int[Tensor, "b p"]:
    """Random tokens, but not that of padding: where its embedding is zero, norms divide by what
    rounding leaves of nothing."""
    drawn = torch.randint(model.d_vocab, shape, generator=generator)
    module = getattr(getattr(model, "bridge", None), "original_model", None)
    pad = getattr(getattr(module, "config", None), "pad_token_id", None)
    if isinstance(pad, int):
        drawn = torch.where(drawn == pad, (drawn + 1) % model.d_vocab, drawn)
    return drawn.to(model.device)


@dataclass(frozen=True)
class _Trial:
    """What every statement is checked on: random prompts, and their runs, each made once."""

    model: Transformer
    batch: Batch
    context: Context
    live: Activations
    carried: Activations
    native: Native

    @classmethod
    def of(
        cls,
        model: Transformer,
        clean: Int[Tensor, "b p"],
        corrupt: Int[Tensor, "b p"],
        mask: Bool[Tensor, "b p"],
    ) -> _Trial:
        """The runs of these prompts, by the model's own code and by its components."""
        batch = Batch(clean, corrupt, mask, mask.sum(1) - 1, clean[:, :1], corrupt[:, :1], {})
        context = model.start(clean, mask)
        live, carried = record(model, context), record(model, model.start(corrupt, mask))
        return cls(model, batch, context, live, carried, model.native(clean, mask))


def _error(found: Tensor, expected: Tensor) -> float:
    expected = moved(expected, found.device)
    scale = expected.abs().max().clamp(min=1e-30)
    return float((found - expected).abs().max() / scale)


def _written(model: Transformer, native: Native, embed: Tensor) -> list[Float[Tensor, "b p d"]]:
    """The running sum of what the writers wrote, where each stage reads, and then the logits."""
    sums, stream = [], {1: embed}
    x = embed
    for stage in model.wiring.stages:
        here = device_of(model, stage)
        sums.append(moved(stream[stage.upstream], here))
        x = stream[stage.rows.stop] = moved(x, here) + _native(model, native, stage)
    return [*sums, moved(x, embed.device)]


def _native(model: Transformer, native: Native, stage: Stage) -> Float[Tensor, "b p d"]:
    """What a stage writes in the model's own forward: of heads the sum of their shares."""
    if stage.kind != ATTENTION:
        return native.mlps[stage.layer]
    shares = model.kinds[stage.kind].shares(model, stage, native.z[stage.layer])
    return output(model, stage, shares)


def _reads(model: Transformer, native: Native) -> list[Float[Tensor, "b p d"]]:
    """What the same readers really read."""
    found = [
        (native.attn_in if stage.kind == ATTENTION else native.mlp_in)[stage.layer]
        for stage in model.wiring.stages
    ]
    return [*found, native.final]


def _sums(trial: _Trial) -> dict[str, float]:
    model, native, own = trial.model, trial.native, trial.live
    sums = _written(model, native, trial.context.embed)
    parts = [
        _error(own.computed[stage.index], native.z[stage.layer])
        if stage.kind == ATTENTION
        else _error(output(model, stage, own.shares[stage.index]), native.mlps[stage.layer])
        for stage in model.wiring.stages
    ]
    pairs = zip(sums, _reads(model, native), strict=True)
    return {
        "the writers sum to what every reader reads": max(_error(a, b) for a, b in pairs),
        "each component alone gives what it gives in the model": max(parts),
    }


def _noise(trial: _Trial, generator: torch.Generator) -> dict[str, float]:
    """Noise on one head: the readers change by it and by what other writers change, no more."""
    model, plain, embed = trial.model, trial.native, trial.context.embed
    head = model.wiring.heads - 1
    size = plain.z[0][..., head, :]
    noise = torch.randn(size.shape, generator=generator).to(size) * size.std()
    noisy = model.native(trial.batch.clean, trial.batch.mask, noise=(0, head, noise))
    sums = zip(_written(model, noisy, embed), _written(model, plain, embed), strict=True)
    reads = zip(_reads(model, noisy), _reads(model, plain), strict=True)
    found = [a - b for a, b in sums]
    true = [a - b for a, b in reads]
    moved = max(float(t.abs().max()) for t in true)
    worst = max(float((a - b).abs().max()) for a, b in zip(found, true, strict=True))
    statement = "noise added to one writer arrives at each later reader unchanged"
    return {statement: worst / moved if moved else float("nan")}


def _ends(trial: _Trial) -> dict[str, float]:
    model, legal = trial.model, trial.model.wiring.legal
    everything = run(model, trial.batch, trial.context, trial.carried, legal)
    nothing = run(model, trial.batch, trial.context, trial.carried, np.zeros_like(legal))
    carried = model.native(trial.batch.corrupt, trial.batch.mask)
    return {
        "keeping every edge gives the clean logits": _error(everything, trial.native.logits[:, -1]),
        "keeping no edge gives the carried logits": _error(nothing, carried.logits[:, -1]),
    }


def _slope(trial: _Trial) -> dict[str, float]:
    """Attribution is the gradient of the masked run in its mask: the norms' Jacobians are right."""
    model, batch, context = trial.model, trial.batch, trial.context

    def metric(logits: Float[Tensor, "b vocab"]) -> Float[Tensor, " b"]:
        return wide(logits[:, 0]) - wide(logits[:, 1])

    at = gradients(model, batch, context, context.embed, metric)
    found = score(model, batch, trial.live, trial.carried, at)
    keep = torch.from_numpy(model.wiring.legal).to(model.device, model.dtype).requires_grad_()
    with torch.enable_grad():
        value = metric(run(model, batch, context, trial.carried, keep)).sum()
        (slope,) = torch.autograd.grad(value, keep)
    return {"attribution is the slope of the masked run": _error(found, slope.to(found))}

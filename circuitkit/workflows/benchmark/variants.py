"""Harder variants of a compiled program by name, as ``bench`` takes them: ``distract(leak=0.01)``.

A variant is a function ``(model, data, *, ...) -> Decoder``; one that has a setting ``seed`` gets
that of the benchmark's cell.
"""

from __future__ import annotations

from collections.abc import Sequence

from circuitkit.corruptions.constants import zero
from circuitkit.corruptions.replacement import counterfactual
from circuitkit.data.batches import Dataset
from circuitkit.errors import ModelError
from circuitkit.graph.nodes import Node
from circuitkit.models.decoder import Decoder
from circuitkit.truth.rasp import variants
from circuitkit.workflows.benchmark.labels import leaked

__all__ = ["rotate", "soften", "split", "distract", "compress"]


def rotate(model: Decoder, data: Dataset, *, seed: int = 0) -> Decoder:
    """The residual stream in a random basis."""
    return variants.rotate(model, seed=seed)


def soften(model: Decoder, data: Dataset, *, factor: float = 0.1) -> Decoder:
    """Attention that is less sharp."""
    return variants.soften(model, factor)


def split(
    model: Decoder, data: Dataset, *, head: str = "", shares: Sequence[float] = (0.5, 0.5)
) -> Decoder:
    """A head (without a name: the last that the program uses) as several: twins, or with
    ``shares=(1.3, -0.3)`` one and a negative one. Raises ModelError where there is none."""
    used = [name for name in model.roles if Node(name).is_head]
    if not head and not used:
        raise ModelError(f"{model.name!r} uses no head, so there is none to split")
    return variants.split(model, head or used[-1], shares)


def distract(
    model: Decoder,
    data: Dataset,
    *,
    heads: int = 2,
    neurons: int = 16,
    width: int = 8,
    share: float = 0.3,
    seed: int = 0,
) -> Decoder:
    """Random heads and neurons beside the program that leak into the answer: cut off all together
    they change it, on average, by this share of its gap (``leaked``) under zero or counterfactual,
    whichever is more. Without a leak distractors have no effect at all, and every method knows
    them."""
    how = {"heads": heads, "neurons": neurons, "width": width, "seed": seed}
    if not share:
        return variants.distract(model, **how)
    whole = variants.distract(model, leak=1.0, **how)
    most = max(leaked(model, whole, data, corruption) for corruption in (counterfactual, zero))
    if not most > 0:
        raise ModelError(f"the distractors of {model.name!r} cannot be heard, so none can leak")
    return variants.distract(model, leak=share / most, **how)  # the answer is linear in the leak


def compress(model: Decoder, data: Dataset, *, share: float = 0.75) -> Decoder:
    """The residual stream in a share of its dimensions, in superposition."""
    return variants.compress(model, data, round(share * model.d_model))

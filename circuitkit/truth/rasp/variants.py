"""Harder models of the same programs: each variant is a model made from a model.

Plain compiled models are too easy to tell good methods apart, because edges outside of the circuit
have no effect at all. A variant keeps the names of the components and adds heads after them; each
says what stays the same. The truth of a variant is found as for any model, by brute force.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from circuitkit.data.batches import Batch, Dataset
from circuitkit.engine.numerics import exact
from circuitkit.engine.record import record
from circuitkit.errors import CircuitError, ModelError
from circuitkit.graph.nodes import Node
from circuitkit.graph.stages import ATTENTION
from circuitkit.models.decoder import Decoder

__all__ = ["compress", "distract", "rotate", "soften", "split"]

Draw: TypeAlias = Callable[..., Tensor]
READING = ("q", "k", "v", "w_in")
WRITING = ("o", "w_out")


def rotate(model: Decoder, *, seed: int = 0) -> Decoder:
    """The model in a random orthonormal basis of its residual stream.

    Single directions have no meaning of their own any more. What the model computes, and its truth,
    stay the same up to rounding.

    Example:
        >>> model = ck.rasp.compile_program(ck.rasp.named("shift"))
        >>> ck.rasp.rotate(model).name
        'shift, rotated'
    """
    square = _draw(model, seed)(model.d_model, model.d_model)
    basis = torch.linalg.qr(square)[0].to(model.dtype)
    return replace(_moved(model, basis), name=f"{model.name}, rotated")


def soften(model: Decoder, factor: float = 0.1) -> Decoder:
    """The model with its attention scores multiplied by a factor.

    At 0.1 compiled heads give a selected token e^10 times the attention of other tokens, at 0.03
    e^3 times. Outputs change a little. Raises ModelError if the factor is not positive.

    Example:
        >>> model = ck.rasp.compile_program(ck.rasp.named("shift"))
        >>> ck.rasp.soften(model, 0.03).name
        'shift, softened 0.03'
    """
    if not factor > 0:
        raise ModelError(f"scores cannot be multiplied by {factor}; give a factor above 0")
    return replace(model, q=model.q * factor, name=f"{model.name}, softened {factor:g}")


def split(model: Decoder, head: str, shares: Sequence[float] = (0.5, 0.5)) -> Decoder:
    """The model with one head as several, each of which writes a share of what it wrote.

    Args:
        model: The model.
        head: The name of the head, such as ``a1.h0``.
        shares: At least two shares that sum to 1: (0.5, 0.5) are twins, (1.3, −0.3) a head and a
            negative head, which works against it.

    Returns:
        A model in which the first share is at the head's place and the other shares are the last
        heads of its layer; the other layers get silent heads. What it computes stays the same.

    Raises:
        CircuitError: if there is no such head.
        ModelError: if there are fewer than two shares, or if they do not sum to 1.

    Example:
        >>> model = ck.rasp.compile_program(ck.rasp.named("shift"))
        >>> ck.rasp.split(model, "a0.h0").wiring.heads
        2
    """
    if head not in model.wiring.writer or not Node(head).is_head:
        raise CircuitError(f"{head!r} is not a head of {model.name!r}; give a name like 'a0.h0'")
    if len(shares) < 2 or abs(sum(shares) - 1) > 1e-6:
        raise ModelError(f"the shares {tuple(shares)} are not at least two that sum to 1")
    first, more = model.wiring.heads, len(shares) - 1
    layer, at = Node(head).layer or 0, Node(head).head or 0
    weights: dict[str, Any] = {name: _wider(getattr(model, name), more, 1) for name in "qkvo"}
    for i, share in zip([*range(first, first + more), at], [*shares[1:], shares[0]], strict=True):
        for name in "qkv":
            weights[name][layer, i] = getattr(model, name)[layer, at]
        weights["o"][layer, i] = share * model.o[layer, at]
    role = model.roles.get(head, head)
    names = {f"a{layer}.h{first + i}": f"{role} × {share:g}" for i, share in enumerate(shares[1:])}
    roles = {**model.roles, head: f"{role} × {shares[0]:g}", **names}
    return replace(model, **weights, roles=roles, name=f"{model.name}, {head} split")


def distract(
    model: Decoder,
    *,
    heads: int = 2,
    neurons: int = 16,
    width: int = 8,
    leak: float = 0.0,
    seed: int = 0,
) -> Decoder:
    """The model with random heads and neurons in every layer: large activations without a role.

    Args:
        model: The model.
        heads: How many heads each layer gets.
        neurons: How many neurons each layer gets.
        width: The dimensions that the residual stream gets; only the new parts read and write
            them.
        leak: How strongly the logits read these dimensions. At 0 the outputs stay the same, and
            the distractors have no effect at all; at 0.01 they have small effects, so that the
            truth needs a larger tolerance.
        seed: The seed of the random weights.

    Raises:
        ModelError: if a number is negative, or if the width is 0.

    Example:
        >>> model = ck.rasp.compile_program(ck.rasp.named("shift"))
        >>> ck.rasp.distract(model, heads=3).wiring.heads
        4
    """
    if min(heads, neurons, width - 1) < 0:
        raise ModelError(
            f"there cannot be {heads} heads and {neurons} neurons of width {width}; "
            "give whole numbers from 0, and a width from 1"
        )
    own, draw, wiring = model.d_model, _draw(model, seed), model.wiring
    wide: dict[str, Any] = {name: _wider(x, width, axis) for name, x, axis in _residual(model)}
    for name in "qkvo":
        wide[name] = _wider(wide[name], heads, 1)
    for name, axis in (("w_in", 2), ("w_out", 1)):
        wide[name] = _wider(wide[name], neurons, axis)
    for name in ("embedding", "positions"):
        wide[name][:, own:] = draw(len(wide[name]), width)
    new, layers, e, f = slice(wiring.heads, None), wiring.layers, model.d_head, model.w_in.shape[2]
    share = (2 * layers) ** -0.5  # so that what is written does not grow with the layers
    for name, scale in (("q", (width * e) ** -0.5), ("k", width**-0.5), ("v", width**-0.5)):
        wide[name][:, new, own:] = scale * draw(layers, heads, width, e)
    wide["o"][:, new, :, own:] = share * e**-0.5 * draw(layers, heads, e, width)
    wide["w_in"][:, own:, f:] = width**-0.5 * draw(layers, width, neurons)
    wide["w_out"][:, f:, own:] = share * max(1, neurons) ** -0.5 * draw(layers, neurons, width)
    wide["unembedding"][own:] = leak * width**-0.5 * draw(width, model.d_vocab)
    return replace(model, **wide, name=f"{model.name}, distracted")


@torch.no_grad()
def compress(model: Decoder, data: Dataset, width: int) -> Decoder:
    """The model with a narrower residual stream, in which its directions overlap.

    The dimensions are the principal ones of what the readers read on the data. Compiled values
    exclude each other, so that a half to three quarters of the width is often enough; with less the
    outputs change: measure the accuracy. Edges that carried nothing may now matter a little. Raises
    ModelError if the width is not below that of the model.

    Example:
        >>> program = ck.rasp.named("shift")
        >>> model = ck.rasp.compile_program(program)
        >>> ck.rasp.compress(model, program.data(8), width=8).d_model
        8
    """
    if not 0 < width < model.d_model:
        raise ModelError(
            f"{model.name!r} has the width {model.d_model}, which cannot be compressed into "
            f"{width}; give a smaller positive number"
        )
    read = exact(torch.cat([x[batch.mask] for batch in data for x in _read(model, batch)]))
    basis = torch.linalg.eigh(read.T @ read)[1][:, -width:].to(model.device, model.dtype)
    return replace(_moved(model, basis), name=f"{model.name}, compressed to {width}")


# -- parts -----------------------------------------------------------------------------------------
def _read(model: Decoder, batch: Batch) -> list[Float[Tensor, "b p d"]]:
    """What every reader reads in a run."""
    run = record(model, model.start(batch.clean, batch.mask))
    attention = [stage.kind == ATTENTION for stage in model.wiring.stages]
    heads, mlps = ([x for x, a in zip(run.reads, attention, strict=True) if a == which]
                   for which in (True, False))  # fmt: skip
    return [*heads, *mlps, run.final]


def _moved(model: Decoder, basis: Float[Tensor, "d w"]) -> Decoder:
    """The model whose writers write through a matrix, and whose readers read through it."""
    writing = {name: getattr(model, name) @ basis for name in ("embedding", "positions", *WRITING)}
    reading = {name: basis.T @ getattr(model, name) for name in (*READING, "unembedding")}
    return replace(model, **writing, **reading)


def _residual(model: Decoder) -> list[tuple[str, Tensor, int]]:
    """Every weight with its axis of the residual stream."""
    axes = {"q": 2, "k": 2, "v": 2, "w_in": 1, "unembedding": 0}
    return [(name, x, axes.get(name, x.ndim - 1)) for name, x in model.tensors().items()]


def _wider(x: Tensor, more: int, axis: int) -> Tensor:
    """The tensor with so many zeros after it along an axis."""
    shape = list(x.shape)
    shape[axis] = more
    return torch.cat([x, x.new_zeros(shape)], dim=axis)


def _draw(model: Decoder, seed: int) -> Draw:
    """Standard normal numbers of any shape, on the model's device."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(model.device, model.dtype)

    return draw

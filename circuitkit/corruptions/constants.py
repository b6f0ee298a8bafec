"""Corruptions that carry the same values for every example: zeros and means.

Where ``at`` names tokens, they do so at these, and carry what the clean run writes elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from circuitkit.corruptions._written import Carry, Written, average, constant
from circuitkit.data.batches import Batch, Dataset
from circuitkit.engine.model import Model
from circuitkit.util.options import checked

__all__ = ["mean", "mean_by_position", "zero"]


@checked
def zero(
    model: Model,
    data: Dataset,
    *,
    at: str | Sequence[str] = (),
    positions: Literal["cut", "kept"] = "cut",
) -> Carry:
    """Zero ablation: a cut edge carries zeros.

    With ``positions="cut"`` the embedding is cut as a whole, token and position together. With
    ``"kept"`` a cut edge from ``input`` carries the position embedding, where a model adds one
    (GPT-2): this is what EAP-IG and MIB call ``zero``. Biases that do not belong to a writer (of
    the attention's output projection) stay.

    ``at`` names the tokens (a span, as ``S2``, or several) at which edges are cut; without it, all.
    At the others a cut edge carries what its writer writes in the clean run.

    Raises DataError, when used, for a span that an example lacks.

    Example:
        >>> import circuitkit as ck
        >>> model = ck.load("mini")
        >>> data = ck.Dataset.of(ck.make_task("ioi", model, n=4), model)
        >>> zero = ck.corruptions.zero(model, data)
        >>> (carried,) = zero(next(iter(data)))
        >>> float(carried.embed.abs().max())
        0.0
    """
    one = torch.zeros(1, 1, model.d_model)
    nothing = [
        one.new_zeros(1, 1, stage.writes, model.kinds[stage.kind].width(model))
        for stage in model.wiring.stages
    ]
    written = Written(one, nothing, nothing).placed(model)
    return constant(model, written, at, embed=_positions(model) if positions == "kept" else None)


def _positions(model: Model) -> Callable[[Batch], Float[Tensor, "batch pos d"]]:
    """What gives the position embeddings of a batch; zeros where the model adds none."""

    def embed(batch: Batch) -> Float[Tensor, "batch pos d"]:
        with torch.no_grad():
            whole = model.start(batch.clean, batch.mask).embed
            return whole - model.embed_tokens(batch.clean)

    return embed


@checked
def mean(
    model: Model,
    data: Dataset,
    *,
    at: str | Sequence[str] = (),
    first: Literal["ablated", "clean"] = "ablated",
) -> Carry:
    """Mean ablation: a cut edge carries its writer's mean over all tokens of the clean prompts.

    Each writer has a mean of its own. EAP-IG's ``mean`` is one vector for all nodes: it averages
    over them too (``compute_mean_activations``, read in 2026), so its numbers differ from ours.
    Padding does not count. ``at``: see ``zero``.

    ``first="clean"`` averages over all tokens but the first of each prompt, and leaves that one as
    it is. In many models the first token is an attention sink, with a residual hundreds of times
    larger than the others' (in SmolLM2-135M 22,709 against 162): a mean with it carries ten times
    what other tokens hold, and breaks the model before an edge has been tested.

    Raises DataError where there are no examples or no token is left and, when used, for a span that
    an example lacks. Source: Wang et al. 2023, who average by position, see ``mean_by_position``.

    Example:
        >>> import circuitkit as ck
        >>> model = ck.load("mini")
        >>> data = ck.Dataset.of(ck.make_task("ioi", model, n=4), model)
        >>> (carried,) = ck.corruptions.mean(model, data)(next(iter(data)))
        >>> bool((carried.embed[0, 0] == carried.embed[1, 3]).all())  # at every token
        True
    """
    spared = first == "clean"
    written = average(model, data, by_position=False, without_first=spared)
    return constant(model, written, at, without_first=spared)


@checked
def mean_by_position(model: Model, data: Dataset, *, at: str | Sequence[str] = ()) -> Carry:
    """Mean ablation by position: a cut edge carries its writer's mean at the same position.

    The mean is taken over the clean prompts of the data.

    Positions count from a prompt's first token, whatever the padding, so it suits prompts that are
    aligned. ``at``: see ``zero``.

    Raises DataError where there are no examples and, when used, for a span that an example lacks
    and for a prompt longer than any that was averaged over. Source: Wang et al. 2023, §2.1.

    Example:
        >>> import circuitkit as ck
        >>> model = ck.load("mini")
        >>> data = ck.Dataset.of(ck.make_task("ioi", model, n=4), model)
        >>> (carried,) = ck.corruptions.mean_by_position(model, data)(next(iter(data)))
        >>> bool((carried.embed[0, 2] == carried.embed[1, 2]).all())
        True
    """
    return constant(model, average(model, data, by_position=True), at)

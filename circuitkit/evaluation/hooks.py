"""A circuit as hooks of TransformerLens, from the arguments that every public function takes."""

from __future__ import annotations

from dataclasses import replace

from circuitkit.data.batches import Batch
from circuitkit.engine.inputs import CorruptionLike, Data, as_corruption, as_data, require_model
from circuitkit.engine.model import Model
from circuitkit.errors import DataError
from circuitkit.evaluation.masks import CircuitLike, as_mask
from circuitkit.models.hooks import Hooks, masked_run, require_bridge
from circuitkit.registry import name_of

__all__ = ["hooks"]


def hooks(
    model: Model,
    circuit: CircuitLike,
    data: Data,
    corruption: CorruptionLike | None = None,
    *,
    batch: Batch | None = None,
) -> Hooks:
    """The circuit as TransformerLens hooks, with the logits of circuitkit's own run.

    A forward of ``model.bridge`` under them keeps the circuit's edges live; every other edge
    carries what the corruption puts there. The result is a list of (hook point, function), as
    ``run_with_hooks(fwd_hooks=...)`` and ``hooks(fwd_hooks=...)`` take it; the bridge that was
    given to ``ck.load`` takes it too. Hooks that are added later see what these have set.

    The hooks are for one batch, since what is carried belongs to its tokens: for all examples of
    the data, or for ``batch``, one of a Dataset's own (a mean is still taken over all of the data).
    Run ``hooks.batch.clean`` [batch, pos]; the logits at ``hooks.batch.last`` [batch] are those by
    which circuitkit measures the circuit. With padding on the left also give the forward
    ``attention_mask=hooks.batch.mask`` (in double precision pad on the right: with padding on the
    left, the bridge's own forward gives nan for many families).

    Under the hooks ``hook_q``, ``hook_k``, ``hook_v``, ``hook_z``, ``mlp.hook_in``,
    ``hook_mlp_out`` and the last ``hook_resid_post`` hold what the circuit's run computes; a
    component outside the circuit writes what it carries. The other residual hook points do not,
    because in a circuit of edges every reader reads a sum of its own. Components outside the
    circuit are computed too, so ``ck.evaluate`` is faster.

    Raises UnsupportedModelError for a model that does not run on TransformerLens or has experts as
    nodes, DataError for a corruption with several draws and (in the forward) for a batch of another
    shape, and CircuitError for a circuit of another model.

    Example:
        >>> hooks = ck.hooks(model, circuit, data, "mean")
        >>> hooks
        26 hooks: a circuit of 50 edges, for 16 texts of ... tokens
        >>> with model.bridge.hooks(fwd_hooks=hooks):
        ...     logits = model.bridge(hooks.batch.clean)
        >>> logits[range(16), hooks.batch.last].shape
        torch.Size([16, 1068])
    """
    require_model(model)
    mask = as_mask(circuit, model.wiring)
    bridged = require_bridge(model)
    whole, function = as_data(model, data, circuit), as_corruption(corruption, circuit)
    own = next(iter(replace(whole, batch_size=len(whole)))) if batch is None else batch
    draws = function(model, whole)(own)
    if len(draws) != 1:
        raise DataError(
            f"{name_of(function)} makes {len(draws)} draws, and hooks put one of them into the "
            "model; give draws=1"
        )
    return masked_run(bridged, own, draws[0], mask)

"""A circuit as hooks of TransformerLens, from the arguments that every public function takes."""

from __future__ import annotations

from dataclasses import replace

from circuitkit.data.batches import Batch, Dataset
from circuitkit.engine.metric import Corruption
from circuitkit.engine.model import Model
from circuitkit.errors import DataError
from circuitkit.evaluation.masks import as_mask
from circuitkit.graph.types import Graph, Mask
from circuitkit.models.hooks import Hooks, masked_run, require_bridge
from circuitkit.registry import name_of, resolve

__all__ = ["hooks"]


def hooks(
    model: Model,
    circuit: Graph | Mask,
    data: Dataset,
    corruption: Corruption | str | None = None,
    *,
    batch: Batch | None = None,
) -> Hooks:
    """The circuit as TransformerLens hooks: a forward of ``model.bridge`` under them keeps the
    circuit's edges live, and every other edge carries what the corruption puts there.

    The result is a list of (hook point, function), as ``run_with_hooks(fwd_hooks=...)`` and
    ``hooks(fwd_hooks=...)`` take it; further hooks may be added to it, and see what ours have set.
    It is for one batch, since what is carried belongs to its tokens: all examples of the data, or
    ``batch`` (one of the data's own; the data is what a mean is taken over). Run
    ``hooks.batch.clean`` [batch, pos]; the logits at ``hooks.batch.last`` [batch] are those that
    circuitkit measures the circuit by. With padding on the left give the forward
    ``attention_mask=hooks.batch.mask`` too (in double precision pad on the right: with padding on
    the left many families' own forward gives nan in the bridge).

    Under the hooks ``hook_q``, ``hook_k``, ``hook_v``, ``hook_z``, ``mlp.hook_in``,
    ``hook_mlp_out`` and the last ``hook_resid_post`` hold what the circuit's run computes, a
    component outside the circuit writing what it carries. Other residual hook points do not: in an
    edge-level circuit every reader reads a sum of its own. Nothing is saved by leaving components
    out; circuitkit's own runs are faster.

    Raises UnsupportedModelError for a model that does not run on TransformerLens, and for one with
    experts as nodes; DataError for a corruption of several draws and, in the forward, for other
    tokens than the batch's shape; CircuitError for a circuit of another model.

    Example:
        >>> import circuitkit as ck
        >>> model = ck.load("mini")
        >>> data = ck.Dataset.of(ck.make_task("ioi", model, n=8), model)
        >>> metric, corruption = ck.metrics.logit_diff, ck.corruptions.counterfactual
        >>> circuit = ck.discovery.eap(model, data, metric, corruption).top(100)
        >>> hooks = ck.hooks(model, circuit, data, corruption)
        >>> with model.bridge.hooks(fwd_hooks=hooks):
        ...     logits = model.bridge(hooks.batch.clean)
        >>> logits[range(8), hooks.batch.last].shape
        torch.Size([8, 1068])
    """
    bridged = require_bridge(model)
    mask = as_mask(circuit, model.wiring)
    function: Corruption = resolve("corruptions", corruption or "counterfactual")
    own = next(iter(replace(data, batch_size=len(data)))) if batch is None else batch
    draws = function(model, data)(own)
    if len(draws) != 1:
        raise DataError(
            f"{name_of(function)} makes {len(draws)} draws, and hooks put one of them into the "
            "model; give draws=1"
        )
    return masked_run(bridged, own, draws[0], mask)

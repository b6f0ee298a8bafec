"""A masked run as hooks on TransformerLens's own forward.

The hooks take what every writer writes there, and set what every reader reads: each head's q, k and
v from the residual that its own port reads, what each MLP reads, and what the logits read. All else
is the bridge's: attention, MLPs, norms and logits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuitkit.data.batches import Batch
from circuitkit.engine.devices import moved
from circuitkit.engine.model import Activations, Model
from circuitkit.errors import DataError, UnsupportedModelError
from circuitkit.graph.stages import ATTENTION, MLP, Stage
from circuitkit.graph.types import Mask
from circuitkit.models.transformer_lens import Transformer

__all__ = ["Hook", "Hooks", "masked_run", "require_bridge"]


@runtime_checkable
class Hook(Protocol):
    """What TransformerLens calls with an activation and its hook point."""

    def __call__(self, x: Tensor, hook: object) -> Tensor:
        """What stands in the activation's place."""


Named: TypeAlias = tuple[str, Hook]
Keep: TypeAlias = Mask | Float[np.ndarray, "writers readers"]  # a mask, or fractions


class Hooks(list[Named]):
    """A circuit as TransformerLens hooks: a list of (hook point, function), as ``run_with_hooks``
    and ``hooks`` take it. ``batch`` holds the prompts that they are for: its ``clean`` tokens are
    to be run, with its ``mask``, and ``last`` is where the answers are."""

    def __init__(self, named: Iterable[Named], batch: Batch, edges: int) -> None:
        super().__init__(named)
        self.batch, self.edges = batch, edges

    def __repr__(self) -> str:
        texts, length = self.batch.clean.shape
        return (
            f"{len(self)} hooks: a circuit of {self.edges:,} edges, for {texts:,} texts of "
            f"{length:,} tokens"
        )


def require_bridge(model: Model) -> Transformer:
    """The model as one of TransformerLens; raises UnsupportedModelError where it is none, or takes
    MLPs apart, in which there are no hook points."""
    if not isinstance(model, Transformer):
        raise UnsupportedModelError(
            f"{model.name!r} does not run on TransformerLens, so that there is nothing to hook; "
            "use ck.generate or the patching functions, which take any model"
        )
    other = {stage.kind for stage in model.wiring.stages} - {ATTENTION, MLP}
    if other:
        raise UnsupportedModelError(
            f"TransformerLens has no hook points for what each of the {', '.join(sorted(other))} "
            f"of {model.name!r} writes; use the model with its MLPs whole, each as one node"
        )
    return model


def masked_run(model: Transformer, batch: Batch, carried: Activations, mask: Keep) -> Hooks:
    """The hooks under which the model's bridge gives the logits of ``engine.run.run`` with this
    mask. Raises UnsupportedModelError where the bridge lacks a hook point."""
    made = _MaskedRun(require_bridge(model), carried, mask)
    found = Hooks(made.hooks(), batch, int((mask != 0)[model.wiring.legal].sum()))
    for name, _ in found:
        if name not in model.bridge.hook_dict:
            raise UnsupportedModelError(
                f"the bridge of {model.name!r} has no hook point {name!r}; use ck.generate or the "
                "patching functions, which need none"
            )
    return found


class _MaskedRun:
    """The state of one forward: by row, what each writer wrote, live − carried."""

    def __init__(self, model: Transformer, carried: Activations, mask: Keep) -> None:
        self.model, self.carried = model, carried
        alive = model.wiring.alive(mask != 0)
        kept = np.where(alive, mask, mask.dtype.type(0))
        self.alive = alive
        self.weights = torch.from_numpy(kept).to(model.device, model.dtype)
        self.changes: dict[int, Tensor] = {}

    def hooks(self) -> Iterator[Named]:
        """Every hook, in the order of the forward."""
        yield "blocks.0.hook_resid_pre", self._begin
        for stage in self.model.wiring.stages:
            block = f"blocks.{stage.layer}"
            if stage.kind == ATTENTION:
                for port, letter in enumerate("qkv"):
                    yield f"{block}.attn.hook_{letter}", partial(self._port, stage, port)
                yield f"{block}.attn.hook_z", partial(self._heads, stage)
            else:
                yield f"{block}.mlp.hook_in", partial(self._mlp_in, stage)
                yield f"{block}.hook_mlp_out", partial(self._mlp_out, stage)
        yield f"blocks.{self.model.wiring.layers - 1}.hook_resid_post", self._end

    # -- what is read ------------------------------------------------------------------------------
    def _read(
        self, base: Float[Tensor, "b p d"], columns: Sequence[int]
    ) -> Float[Tensor, "n b p d"]:
        """What these readers read: the carried residual, and what live writers change of it."""
        if not self.changes:
            raise DataError(
                "the forward did not begin at the embedding, so that the circuit's hooks cannot "
                "know what was written; run it whole, without start_at_layer"
            )
        rows = [row for row in self.changes if self.alive[row, columns].any()]
        if not rows:
            return base.expand(len(columns), *base.shape)
        values = torch.stack([moved(self.changes[row], base.device) for row in rows])
        weights = moved(self.weights[rows][:, columns], base.device)
        mixed: Tensor = torch.tensordot(weights.T, values, dims=1)
        return base + mixed

    def _port(self, stage: Stage, port: int, x: Tensor, hook: object) -> Tensor:
        """q, k or v: of each head or group from what its own port reads."""
        kind, base = self.model.kinds[stage.kind], self.carried.reads[stage.index]
        own = range(self.model.wiring.shape[1])[stage.port_columns(port)]
        received = kind.project(self.model, stage, base)[port]
        columns = [column for column in own if self.alive[:, column].any()]
        if columns:
            readers = [column - stage.columns.start for column in columns]
            live = kind.read(self.model, stage, readers, self._read(base, columns))
            places = torch.tensor([column - own.start for column in columns], device=x.device)
            received = received.index_copy(2, places, live.movedim(0, 2))
        return received.reshape(x.shape)

    def _mlp_in(self, stage: Stage, x: Tensor, hook: object) -> Tensor:
        """What the MLP reads, behind its norm."""
        read = self._read(self.carried.reads[stage.index], [stage.columns.start])[0]
        normed: Tensor = self.model.layers[stage.layer].ln2(read)
        return normed

    # -- what is written ---------------------------------------------------------------------------
    def _live(self, stage: Stage) -> list[int]:
        """The places of the components that a kept path reaches; the others write what they
        carry."""
        return [
            place
            for place, columns in enumerate(stage.feeds)
            if self.alive[stage.rows.start + place].any() and self.alive[:, columns].any()
        ]

    def _heads(self, stage: Stage, x: Tensor, hook: object) -> Tensor:
        """Take what the heads computed; those outside the circuit compute what they carry."""
        kind, live = self.model.kinds[stage.kind], self._live(stage)
        computed = self.carried.computed[stage.index]
        if live:
            places = torch.tensor(live, device=x.device)
            z = x.reshape(computed.shape)
            computed = computed.index_copy(2, places, z.index_select(2, places))
            shares = kind.shares(self.model, stage, computed) - self.carried.shares[stage.index]
            written = kind.write(self.model, stage, live, shares[:, :, live])
            self.changes |= {
                stage.rows.start + n: own for n, own in zip(live, written, strict=True)
            }
        return computed.reshape(x.shape)

    def _mlp_out(self, stage: Stage, x: Tensor, hook: object) -> Tensor:
        """Take what the MLP wrote; outside the circuit it writes what it carries."""
        carried = self.carried.shares[stage.index][:, :, 0]
        if not self._live(stage):
            return carried
        self.changes[stage.rows.start] = x - carried
        return x

    # -- the ends ----------------------------------------------------------------------------------
    def _begin(self, x: Tensor, hook: object) -> Tensor:
        """Take the embedding."""
        known = self.carried.embed
        if x.shape != known.shape:
            raise DataError(
                f"the circuit's hooks are for {known.shape[0]} texts of {known.shape[1]} tokens, "
                f"and the forward is of {x.shape[0]} of {x.shape[1]}; run the batch that they were "
                "made for (hooks.batch.clean)"
            )
        self.changes = {0: moved(x, known.device) - known}
        return x

    def _end(self, x: Tensor, hook: object) -> Tensor:
        """Set what the logits read."""
        final = self._read(self.carried.final, [self.model.wiring.shape[1] - 1])[0]
        self.changes = {}
        return moved(final, x.device)

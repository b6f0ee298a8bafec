"""How the stages that every model has compute: attention and MLPs.

A verb walks the wiring's stages and asks each stage's kind; it does not know architectures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from circuitkit.engine.model import Context, Kind, Model, Ports, Pull
from circuitkit.graph.stages import ATTENTION, MLP, Stage

__all__ = ["KINDS", "Attention", "Mlp", "Writing"]


class Attention:
    """The heads of a layer: their ports give q, k and v; they compute what the output projection
    takes."""

    mixes = True

    def couples(self, model: Model) -> bool:
        """Whether a norm over all queries (or keys) lies between the ports and the scores."""
        return model.couples

    def joint(self, model: Model) -> bool:
        """Whether a norm lies over all heads, before or behind them."""
        return model.couples or model.post_norm

    def width(self, model: Model) -> int:
        """That of z."""
        return model.d_head

    def project(self, model: Model, stage: Stage, x: Tensor) -> Ports:
        """q, k and v."""
        return model.project(stage.layer, x)

    def read(self, model: Model, stage: Stage, readers: Sequence[int], x: Tensor) -> Tensor:
        """q, k or v of some ports."""
        return model.read(stage.layer, readers, x)

    def compute(self, model: Model, stage: Stage, context: Context, ports: Ports) -> Tensor:
        """z, by the model's own attention."""
        q, k, v = ports
        return model.attend(context, stage.layer, q, k, v)

    def out(self, model: Model, stage: Stage, computed: Tensor) -> tuple[Tensor, Tensor]:
        """What the heads write together, and z scaled to the share of each."""
        return model.attention_out(stage.layer, computed)

    def shares(self, model: Model, stage: Stage, computed: Tensor) -> Tensor:
        """z scaled to the share of each head."""
        return model.share(stage.layer, computed)

    def write(
        self, model: Model, stage: Stage, index: Sequence[int] | None, shares: Tensor
    ) -> Tensor:
        """What some heads contribute."""
        return model.write(stage.layer, index, shares)

    def constant(self, model: Model, stage: Stage) -> Tensor | None:
        """The output projection's bias."""
        return model.constant(stage.layer)

    def pull(self, model: Model, stage: Stage) -> Pull:
        """Back through the projections and the norm."""
        return model.pull(stage.layer)


class Writing:
    """Components that read one residual as it is, and compute what they write: their width is the
    residual stream's, and no norm lies over them together."""

    mixes = False

    def couples(self, model: Model) -> bool:
        """There is one port."""
        return False

    def joint(self, model: Model) -> bool:
        """Each writes by itself."""
        return False

    def width(self, model: Model) -> int:
        """That of the residual stream."""
        return model.d_model

    def project(self, model: Model, stage: Stage, x: Tensor) -> Ports:
        """The residual itself."""
        return (x[..., None, :],)

    def read(self, model: Model, stage: Stage, readers: Sequence[int], x: Tensor) -> Tensor:
        """The residuals themselves."""
        return x

    def out(self, model: Model, stage: Stage, computed: Tensor) -> tuple[Tensor, Tensor]:
        """The sum, and what was computed."""
        return computed.sum(-2) if stage.writes > 1 else computed[..., 0, :], computed

    def shares(self, model: Model, stage: Stage, computed: Tensor) -> Tensor:
        """What was computed."""
        return computed

    def write(
        self, model: Model, stage: Stage, index: Sequence[int] | None, shares: Tensor
    ) -> Tensor:
        """What was computed, component by component."""
        return shares.movedim(-2, 0)

    def constant(self, model: Model, stage: Stage) -> Tensor | None:
        """Biases belong to the components."""
        return None

    def pull(self, model: Model, stage: Stage) -> Pull:
        """The gradient in the residual is the port's own."""
        return lambda _, grads, *held: grads[0].movedim(-2, 0)


class Mlp(Writing):
    """The MLP of a layer."""

    def compute(self, model: Model, stage: Stage, context: Context, ports: Ports) -> Tensor:
        """What the MLP writes."""
        return model.mlp(stage.layer, ports[0][..., 0, :])[..., None, :]


KINDS: Mapping[str, Kind] = {ATTENTION: Attention(), MLP: Mlp()}

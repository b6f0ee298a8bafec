"""What the numerical verbs ask of a model: its component functions, and what they give.

A decoder's residual stream is a sum. Every writer adds to it; every reader reads the sum of what
was written before. The protocol below is that decomposition, as functions: nothing is hooked, so a
verb computes just the components that it needs.

Letters of the shapes: w(riter), r(eader), b(atch), p(osition), t(oken), h(ead), g(roup), e for
d_head, and f(eature): a neuron of an MLP.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitkit.data.tokens import Tokenizer
from circuitkit.graph.stages import Stage
from circuitkit.graph.wiring import Wiring

__all__ = ["Activations", "Context", "Kind", "Model", "Native", "Ports", "Pull"]

Ports: TypeAlias = Sequence[Float[Tensor, "... _ports _width"]]  # of attention q, k and v
# Of what is read at tokens [t, d] and the gradients in what the ports gave there; and of the scale
# of the norm between, where another run's is held.
Pull: TypeAlias = Callable[..., Float[Tensor, "r t d"]]


@dataclass(frozen=True)
class Context:
    """What a batch fixes for every run on its tokens: the embedding, and the further arguments
    (mask, rotary angles, ...) that each layer's attention gets from the model itself. ``held`` is
    what a stage takes from the run of these tokens whatever it reads (by the stage's number: the
    weights of a router that does not answer)."""

    embed: Float[Tensor, "b p d"]
    calls: tuple[Mapping[str, Any], ...]
    held: Mapping[int, tuple[Tensor, ...]] = field(default_factory=dict)

    def tile(self, times: int) -> Context:
        """The context of the batch repeated so many times; the embedding stays as it is."""
        batch = len(self.embed)
        known: dict[int, Tensor] = {}  # most layers get the same tensors

        def again(value: Any) -> Any:
            if isinstance(value, Tensor) and value.ndim and len(value) == batch > 1:
                if id(value) not in known:
                    known[id(value)] = value.repeat(times, *[1] * (value.ndim - 1))
                return known[id(value)]
            if isinstance(value, (tuple, list)):
                return type(value)(map(again, value))
            return value

        if times == 1:
            return self
        calls = ({key: again(value) for key, value in call.items()} for call in self.calls)
        return replace(self, calls=tuple(calls))

    def holding(self, run: Activations) -> Context:
        """The same, but what is held is that of another run, if it holds anything."""
        return replace(self, held=run.held) if run.held else self

    def at(self, cut: Callable[[Tensor], Tensor], times: int) -> Context:
        """What is held at some of the positions, for the batch repeated so many times."""
        held = {
            stage: tuple(cut(x).repeat(times, *[1] * (x.ndim - 1)) for x in own)
            for stage, own in self.held.items()
        }
        return replace(self, held=held) if held else self


@dataclass(frozen=True)
class Activations:
    """What every writer wrote, and every reader read, in one run; stage by stage.

    ``reads`` is the residual that a stage's readers read and ``final`` the one that the logits
    read. ``computed`` is what a stage's components computed, as compact as possible: for heads what
    the output projection takes (z), for an MLP what it writes. ``shares`` is the same such that
    ``Kind.write`` of it is what each of them contributes to the residual stream: another tensor
    only in post-norm models, where a norm over all heads scales each of them. ``consistent`` says
    that they are one real run: where its embedding is the clean one's up to a position, so is
    everything. ``held`` is that of its context. ``sources`` is, where it was kept (by the stage's
    number), what components read at other positions than their own: of heads k and v. Of a model
    on several devices, ``embed`` and ``final`` are on its own, and what belongs to a stage is where
    that computes.
    """

    embed: Float[Tensor, "b p d"]
    reads: tuple[Float[Tensor, "b p d"], ...]
    computed: tuple[Float[Tensor, "b p _n _e"], ...]
    shares: tuple[Float[Tensor, "b p _n _e"], ...]
    final: Float[Tensor, "b p d"]
    consistent: bool = False
    held: Mapping[int, tuple[Tensor, ...]] = field(default_factory=dict)
    sources: Mapping[int, Ports] = field(default_factory=dict)

    def written(self) -> Activations:
        """What was written alone: all that attribution needs of a run, in half the memory."""
        return replace(self, reads=(), computed=())

    def untouched(self, deltas: Iterable[Float[Tensor, "b p d"]]) -> Bool[Tensor, "b p"]:
        """Where a causal run with these changes is what this one is: before the first token that
        one of them touches, if this is a real run; else nowhere."""
        changed = [(delta != 0).any(-1).to(self.embed.device) for delta in deltas]
        touched = torch.stack(changed).any(0)
        same = touched.long().cumsum(1) == 0
        return same if self.consistent else torch.zeros_like(same)


@runtime_checkable
class Kind(Protocol):
    """How the components of one kind of stage compute, by the functions of a model.

    ``project`` takes readings to what each port gives (of attention q, k and v; an MLP has one
    port, which gives what it reads), ``compute`` and ``write`` take that to what each component
    writes, in two steps so that what exists in between stays small, and ``pull`` takes gradients in
    what the ports gave back to what they read. ``mixes``: a component looks at other positions than
    its own, by all its ports but the first.
    """

    mixes: bool

    def couples(self, model: Model) -> bool:
        """Whether what one port gives moves other components than those it feeds."""

    def joint(self, model: Model) -> bool:
        """Whether what a component writes depends on what the others of its stage compute."""

    def width(self, model: Model) -> int:
        """The size of what one component computes."""

    def project(self, model: Model, stage: Stage, x: Float[Tensor, "m p d"]) -> Ports:
        """What each port gives, all reading the same residual; in the order of the readers."""

    def read(
        self, model: Model, stage: Stage, readers: Sequence[int], x: Float[Tensor, "_n b p d"]
    ) -> Float[Tensor, "n b p e"]:
        """What some readers of one port, or of ports of one width, give (counted from the stage's
        first), each reading a residual of its own."""

    def compute(
        self, model: Model, stage: Stage, context: Context, ports: Ports
    ) -> Float[Tensor, "m p n e"]:
        """What the components compute from what their ports give."""

    def out(
        self, model: Model, stage: Stage, computed: Float[Tensor, "m p n e"]
    ) -> tuple[Float[Tensor, "m p d"], Float[Tensor, "m p n e"]]:
        """What all components write together, biases included; and their shares in it."""

    def shares(
        self, model: Model, stage: Stage, computed: Float[Tensor, "m p n e"]
    ) -> Float[Tensor, "m p n e"]:
        """The second value of ``out`` alone, which usually costs nothing."""

    def write(
        self,
        model: Model,
        stage: Stage,
        index: Sequence[int] | None,
        shares: Float[Tensor, "*t n e"],
    ) -> Float[Tensor, "n *t d"]:
        """What some components (None: all) contribute, given their shares."""

    def constant(self, model: Model, stage: Stage) -> Float[Tensor, " d"] | None:
        """What is written whatever the components do: the output bias."""

    def pull(self, model: Model, stage: Stage) -> Pull:
        """What takes the residual read at some tokens [t, d], and the gradients in what the ports
        gave there, to the gradient in what each reader reads [r, t, d]."""


@runtime_checkable
class Model(Protocol):
    """What circuitkit needs of a model: a decoder as functions of its components.

    ``circuitkit.load`` returns one around a Hugging Face model, and ``circuitkit.rasp`` compiles
    one; any object with these members will do. Shapes are letters: b(atch), p(osition), h(ead),
    g(roup of heads that share keys and values), e for d_head, d for d_model.

    ``kinds`` says how each kind of the wiring's stages computes; ``router`` whether the router of
    experts that are writers is ``live`` or ``held``. ``trainable`` says that
    gradients flow into the weights. ``post_norm`` says that a norm over what a
    layer's heads write together scales each share. Where layers are on several devices, the model
    says on which (``circuitkit.engine.devices.Placed``), and functions of a layer get what is
    there.
    """

    name: str
    wiring: Wiring
    router: str | None
    kinds: Mapping[str, Kind]
    tokenizer: Tokenizer | None
    d_model: int
    d_head: int
    d_vocab: int
    post_norm: bool
    trainable: bool

    @property
    def couples(self) -> bool:
        """Whether a head's output depends on the other heads of its layer beyond attention (a norm
        over all heads' queries): a run then needs the ports of every head, live or not."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""

    @property
    def dtype(self) -> torch.dtype:
        """The weights' type."""

    def start(self, tokens: Int[Tensor, "b p"], mask: Bool[Tensor, "b p"]) -> Context:
        """The embedding and the layers' further arguments."""

    def embed_tokens(self, tokens: Int[Tensor, "b p"]) -> Float[Tensor, "b p d"]:
        """The token embedding alone, without positions."""

    def project(
        self, layer: int, x: Float[Tensor, "b p d"]
    ) -> tuple[Float[Tensor, "b p h e"], Float[Tensor, "b p g e"], Float[Tensor, "b p g e"]]:
        """q, k and v of every port of a layer, all reading the same residual."""

    def read(
        self, layer: int, ports: Sequence[int], x: Float[Tensor, "_n b p d"]
    ) -> Float[Tensor, "n b p e"]:
        """q, k or v of some ports of a layer (counted through q, then k, then v), each reading a
        residual of its own, or all the one that is given."""

    def pull(self, layer: int) -> Pull:
        """What takes the residual that a layer's attention reads at some tokens, and the gradients
        in q, k and v there, to the gradient in what each of its ports reads (q, then k, then v):
        back through the projection and the norm."""

    def attend(
        self,
        context: Context,
        layer: int,
        q: Float[Tensor, "b p h e"],
        k: Float[Tensor, "b p g e"],
        v: Float[Tensor, "b p g e"],
    ) -> Float[Tensor, "b p h e"]:
        """What each head's output projection takes, by the model's own attention."""

    def attention_out(
        self, layer: int, z: Float[Tensor, "b p h e"]
    ) -> tuple[Float[Tensor, "b p d"], Float[Tensor, "b p h e"]]:
        """What all heads of a layer write together, with the bias; and ``z`` scaled such that
        ``write`` of it is each head's share (z itself, except in post-norm models)."""

    def share(self, layer: int, z: Float[Tensor, "b p h e"]) -> Float[Tensor, "b p h e"]:
        """The second value of ``attention_out`` alone; costs nothing except in post-norm models."""

    def write(
        self, layer: int, index: Sequence[int] | None, z: Float[Tensor, "*t n e"]
    ) -> Float[Tensor, "n *t d"]:
        """The contributions of some heads (None: all), without the bias."""

    def constant(self, layer: int) -> Float[Tensor, " d"] | None:
        """What a layer's attention writes whatever its heads do: the output bias."""

    def mlp(self, layer: int, x: Float[Tensor, "b p d"]) -> Float[Tensor, "b p d"]:
        """What the MLP writes when it reads this residual."""

    def neurons(self, layer: int, x: Float[Tensor, "b p d"]) -> Float[Tensor, "b p f"]:
        """The MLP's neurons when it reads this residual: what its down projection takes. Raises
        CircuitError where it has none."""

    def mlp_out(self, layer: int, neurons: Float[Tensor, "b p f"]) -> Float[Tensor, "b p d"]:
        """What the MLP writes from these neurons: ``mlp`` is this of ``neurons``."""

    def unembed(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n vocab"]:
        """The logits of these final residuals."""


@dataclass(frozen=True)
class Native:
    """What a plain forward showed: its logits, what was read where, and what each part wrote."""

    logits: Float[Tensor, "b p vocab"]
    attn_in: tuple[Float[Tensor, "b p d"], ...]
    mlp_in: tuple[Float[Tensor, "b p d"], ...]
    final: Float[Tensor, "b p d"]
    z: tuple[Float[Tensor, "b p h e"], ...]
    mlps: tuple[Float[Tensor, "b p d"], ...]

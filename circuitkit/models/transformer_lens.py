"""TransformerLens 4 as a model: the one module that knows it.

The functions of the protocol are TransformerBridge's own modules, called one by one. Attention runs
inside the model's own attention module, in a shallow copy whose projections hand over given q, k
and v; the embedding, the masks, the rotary angles and the logits come from the model's own forward,
in a shallow copy whose blocks do nothing. The copies share every weight, and the model stays as it
is. ``circuitkit.check`` finds a model that this composition does not reproduce, and
``load`` refuses it.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from circuitkit.data.batches import Batch
from circuitkit.data.tokens import Tokenizer
from circuitkit.engine.backward import PLAIN, Rule
from circuitkit.engine.bounds import require_length, require_tokens
from circuitkit.engine.devices import moved
from circuitkit.engine.holding import Held
from circuitkit.engine.inspection import Frozen
from circuitkit.engine.kinds import KINDS
from circuitkit.engine.model import Activations, Context, Native, Pull
from circuitkit.engine.numerics import wide
from circuitkit.engine.record import at_answers
from circuitkit.engine.weights import Weights, versions_of
from circuitkit.errors import (
    CircuitError,
    CircuitkitError,
    ModelError,
    UnsupportedModelError,
)
from circuitkit.graph.stages import ATTENTION, ATTENTION_FEATURES, EXPERTS, STREAM_FEATURES
from circuitkit.graph.wiring import Wiring
from circuitkit.models.architectures import require_served
from circuitkit.models.compat import (
    is_parallel,
    keep_dtype,
    original,
    parts_of,
    use_eager,
    without_forks,
)
from circuitkit.models.experts import ROUTERS, ExpertBlock, Experts, routed
from circuitkit.models.norms import Norm
from circuitkit.models.placing import (
    ON_DISK,
    DeviceMap,
    device_of_weights,
    follow,
    is_spread,
    is_too_large,
    moved_within,
    require_here,
    undispatched,
)
from circuitkit.models.rules import norms_within, stubs_for
from circuitkit.models.saved import (
    in_one_line,
    refuse_packed,
    require_finite,
    require_fitting,
    require_loaded,
)
from circuitkit.models.scoring import PortNorm, seen_scores
from circuitkit.models.stubs import HandsOver, Last, Muted, Through, between, copy_with
from circuitkit.models.training import attach, require_trainable
from circuitkit.models.twins import twin
from circuitkit.util.options import require
from circuitkit.util.quiet import quiet
from circuitkit.util.versions import changed

__all__ = ["Transformer", "from_module", "from_pretrained", "tokenizer_of"]


# -- layers --------------------------------------------------------------------------------------
@dataclass
class _Layer:
    """The modules of one block, and its projections by head."""

    block: Any
    attn: Any
    ln1: Norm
    ln1_post: Norm | None
    ln2: Norm
    mlp: Any
    stem: Any
    down: Any
    ln2_post: Any
    weights: dict[str, Float[Tensor, "n d e"]]
    biases: dict[str, Float[Tensor, "n e"] | None]
    out: Float[Tensor, "h e d"]
    taps: dict[str, HandsOver]
    attention: nn.Module
    scale: float = 1.0  # of what the attention and the MLP write (Granite's residual multiplier)
    loose: Mapping[str, Any] | None = None  # of an MLP without a module of its own, its projections

    def port(self, index: int) -> tuple[Float[Tensor, "d e"], Float[Tensor, " e"] | None]:
        """Weight and bias of a port, counted through q, then k, then v."""
        for letter in "qkv":
            if index < len(self.weights[letter]):
                bias = self.biases[letter]
                return self.weights[letter][index], None if bias is None else bias[index]
            index -= len(self.weights[letter])
        raise IndexError(index)


def _single(value: Any) -> Any:
    """A mask's values such that single precision holds them: many models compute attention weights
    in it whatever their type, where the least double is −∞, and a row of these gives nan."""
    if isinstance(value, Tensor) and value.dtype == torch.float64:
        return value.clamp(min=torch.finfo(torch.float32).min)
    return value


def _by_example(name: str, value: Any, batch: int) -> Any:
    """What an attention is called with, by example: Falcon's ALiBi is over examples × heads."""
    if name != "alibi" or not isinstance(value, Tensor):
        return value
    return value.view(batch, -1, *value.shape[1:])


def _for_batch(call: Mapping[str, Any], size: int) -> Mapping[str, Any]:
    """The call for so many examples: an ALiBi of one does not spread by itself."""
    biases = call.get("alibi")
    if biases is None or len(biases) == size:
        return call
    return {**call, "alibi": biases.expand(size, *biases.shape[1:])}


def _by_head(weight: Tensor, heads: int) -> Float[Tensor, "n d e"]:
    if weight.ndim != 3 or weight.shape[0] != heads:
        raise UnsupportedModelError(
            f"a projection has the shape {tuple(weight.shape)}, which does not split into {heads} "
            "heads; use a model with separate heads"
        )
    return weight


def _layer(block: Any, heads: int, groups: int, width: int) -> _Layer:
    parts = parts_of(block)
    attn = parts.get("attn")
    if attn is None or any(getattr(attn, p, None) is None for p in "qkvo"):
        raise UnsupportedModelError(
            f"{type(block).__name__} has no attention with q, k, v and o projections; "
            "only decoders of softmax attention and MLPs are supported"
        )
    weights = {p: _by_head(getattr(attn, f"W_{p.upper()}"), n)
               for p, n in zip("qkv", (heads, groups, groups), strict=True)}  # fmt: skip
    biases = {}
    for port, weight in weights.items():
        bias = getattr(attn, f"b_{port.upper()}", None)
        biases[port] = None if bias is None else bias.reshape(weight.shape[0], -1)
    like = weights["q"]
    keep_dtype(attn, like.dtype)
    loose, scale = _loose(block), float(getattr(original(block), "residual_multiplier", 1.0))
    mlp, stem, down = _mlp(parts.get("mlp"), loose and between(original(block), loose))

    def norm(name: str) -> Norm | None:
        return Norm(original(parts[name]), width, like) if name in parts else None

    ln1 = norm("ln1") or Norm(None, width, like)
    post_only = "ln2_post" in parts and "ln2" not in parts
    ln2 = norm("ln2") or (Norm(None, width, like) if post_only else ln1)
    taps = {port: HandsOver() for port in "qkvo"}
    stubs = {id(part): taps[p] for p in "qkvo" for part in _twins(getattr(attn, p))}
    return _Layer(
        block, attn, ln1, norm("ln1_post"), ln2, mlp, stem, down,
        original(parts["ln2_post"]) if "ln2_post" in parts else None,
        weights, biases, _scaled(_by_head(attn.W_O, heads), scale), taps,
        _attention(attn, stubs), scale, loose,
    )  # fmt: skip


def _loose(block: Any) -> Mapping[str, Any] | None:
    """The projections of an MLP that has no module of its own, but lies in the block's (OPT)."""
    part = parts_of(block).get("mlp")
    return None if part is None or original(part) is not original(block) else parts_of(part)


def _attention(attn: Any, stubs: Mapping[int, nn.Module]) -> nn.Module:
    """The attention with stubs for its projections, and a configuration of its own, in which it
    forks nothing by head: for that it would look for weights in the stubs."""
    twin = copy_with(attn, stubs)
    twin.config = without_forks(attn.config)
    return twin


def _mlp(part: Any, own: Any) -> tuple[Any, Any, Any]:
    """The MLP (the wrapped one, or its own); it without its down projection, and that, where there
    is one."""
    mlp, down = own or original(part), None if part is None else parts_of(part).get("out")
    if mlp is None or down is None:
        return mlp, None, None
    through = HandsOver()
    stem = copy_with(mlp, {id(twin): through for twin in _twins(down)})
    return (mlp, None, None) if stem is mlp else (mlp, stem, original(down))


def _following(layer: _Layer, rule: Rule, name: str) -> _Layer:
    """The layer, whose backward follows the rule."""
    like = layer.out[0, 0]
    if rule.norms:
        post = layer.ln2_post and Norm(layer.ln2_post, len(like), like).constant_scale()
        layer = replace(
            layer, ln1=layer.ln1.constant_scale(), ln2=layer.ln2.constant_scale(), ln2_post=post,
            ln1_post=layer.ln1_post and layer.ln1_post.constant_scale(),
            attention=copy_with(layer.attention, norms_within(layer.attn)),
        )  # fmt: skip
    if layer.mlp is None:
        return layer
    mlp, stem = copy_with(layer.mlp, stubs_for(layer.mlp, rule, like, name)), layer.stem
    if stem is not None:
        down = (layer.loose or parts_of(parts_of(layer.block)["mlp"]))["out"]
        stem = copy_with(mlp, {id(twin): HandsOver() for twin in _twins(down)})
    return replace(layer, mlp=mlp, stem=stem)


def _twins(part: Any) -> list[Any]:
    """A bridge component and what it wraps: either may stand in the module tree."""
    return [part, *([original(part)] if original(part) is not None else [])]


# -- the model -----------------------------------------------------------------------------------
class Transformer:
    """A TransformerBridge as a ``Model``; make one with ``circuitkit.load``.

    The bridge is set to evaluation and its weights are frozen: it is the model's own (``load``
    makes one where it is given yours). With ``experts`` mixture-of-experts MLPs are taken apart:
    their router answers to what is read (``live``), or keeps the weights that it has in the run
    whose tokens they are (``held``). ``shared`` are weights that others may change. A ``trainable``
    model keeps its gradients, and is read anew where its weights have changed. Its layers may be on
    several devices.
    """

    rule = PLAIN
    _unruled: Transformer | None = None

    def __init__(
        self,
        bridge: Any,
        name: str,
        tokenizer: Tokenizer | None = None,
        experts: str | None = None,
        shared: Iterable[Tensor] = (),
        trainable: bool = False,
    ) -> None:
        self.bridge = bridge.eval() if trainable else bridge.eval().requires_grad_(False)
        self.trainable = trainable
        self._shared = tuple(bridge.parameters() if trainable else shared)
        self.name, self.tokenizer = name, tokenizer
        config = bridge.cfg
        heads = int(config.n_heads)
        groups = int(getattr(config, "n_key_value_heads", None) or heads)
        self.d_model, self.d_vocab = int(config.d_model), int(config.d_vocab)
        if getattr(bridge, "blocks", None) is None:
            raise UnsupportedModelError(f"{name!r} has no stack of blocks; use a plain decoder")
        self._sizes = heads, groups, self.d_model
        if is_spread(bridge):
            follow(name, bridge.blocks, (bridge.ln_final, bridge.unembed))
        self._read_weights()
        self._home = device_of_weights(getattr(bridge, "embed", None), self.layers[0].out.device)
        mlps = {layer.mlp is not None for layer in self.layers}
        if len(mlps) > 1:
            raise UnsupportedModelError(
                f"{name!r} has MLPs in some layers only; it is not supported"
            )
        self.router = experts
        self.experts = self._experts() if experts else {}
        self.kinds = {**KINDS, EXPERTS: Experts(self.experts)} if experts else KINDS
        counts = (self.experts[i].count if i in self.experts else 0
                  for i in range(len(self.layers)))  # fmt: skip
        self.wiring = Wiring(
            layers=len(self.layers),
            heads=heads,
            groups=groups,
            mlp=mlps.pop(),
            parallel=is_parallel(config),
            experts=tuple(counts),
            shared=any(block.shared for block in self.experts.values()),
        )
        self.d_head = self.layers[0].out.shape[1]
        self.post_norm = self.layers[0].ln1_post is not None
        for layer in self.layers:
            post = layer.ln1_post
            if post and (post.module is None or post.centred or post.bias.abs().max() > 0):
                raise UnsupportedModelError(
                    f"{name!r} has a post-norm with centring or bias, in which a head has no share "
                    "of its own; only RMS post-norms are supported"
                )

        if trainable:
            require_trainable(name, post_norm=self.post_norm, experts=bool(self.experts))

    def _read_weights(self) -> None:
        """Read the layers' weights as they are now."""
        for name in ("_hollow", "_final_norm", "_port_norms"):
            self.__dict__.pop(name, None)
        with torch.set_grad_enabled(self.trainable):
            self.layers = [_layer(block, *self._sizes) for block in self.bridge.blocks]
        if self.rule != PLAIN:
            self.layers = [_following(layer, self.rule, self.name) for layer in self.layers]
        self._versions = versions_of(self._shared)

    def under(self, rule: Rule) -> Transformer:
        """The same model, whose backward follows the rule (and no other one).

        Raises UnsupportedModelError where an activation that the rule speaks of is not a part of
        its own. Routers, caps on scores or logits, and a shared expert's gate keep their gradient.
        """
        base = self._unruled or self
        twin = copy.copy(base)
        twin._unruled, twin.rule = base, rule
        vars(twin).pop("_final_norm", None)  # which follows the rule too
        twin.layers = [_following(layer, rule, self.name) for layer in base.layers]
        if base.experts:
            twin.experts = {
                number: block.following(twin.layers[number].ln2, twin.layers[number].mlp)
                for number, block in base.experts.items()
            }
            twin.kinds = {**KINDS, EXPERTS: Experts(twin.experts)}
        return twin

    def _experts(self) -> dict[int, ExpertBlock]:
        """The mixture-of-experts MLPs, by layer."""
        require("experts", str(self.router), ROUTERS)
        found = {
            number: ExpertBlock(layer.mlp, layer.ln2, layer.out[0, 0])
            for number, layer in enumerate(self.layers)
            if layer.mlp is not None and hasattr(layer.mlp, "experts")
        }
        changed = (self.layers[i].ln2_post is not None or self.layers[i].scale != 1 for i in found)
        if not found or any(changed):
            raise UnsupportedModelError(
                f"{self.name!r} has no mixture-of-experts MLPs that write into the residual stream "
                "as they are; load it without experts"
            )
        if len({block.shared for block in found.values()}) > 1:
            raise UnsupportedModelError(
                f"{self.name!r} has shared experts in some layers only; load it without experts"
            )
        return found

    def __repr__(self) -> str:
        w = self.wiring
        return (
            f"{self.name}: {w.layers} layers × {w.heads} heads"
            f"{f' ({w.groups} key/value groups)' if w.groups != w.heads else ''}, "
            f"d_model {self.d_model}, {w.n_edges:,} edges, {str(self.dtype)[6:]} on {self.device}"
        )

    @property
    def device(self) -> torch.device:
        """Where the weights are: of several devices that of the embedding."""
        return self._home

    def device_of(self, layer: int) -> torch.device:
        """Where a layer's weights are."""
        return self.layers[layer].out.device

    @property
    def dtype(self) -> torch.dtype:
        """The weights' type."""
        return self.layers[0].out.dtype

    def tensors(self) -> dict[str, Tensor]:
        """The weights, by the names that they have in the Hugging Face model."""
        module = self.bridge.original_model
        held = module.state_dict().items()
        found = {name.replace("_original_component.", ""): value for name, value in held}
        with contextlib.suppress(Exception), quiet(), torch.device("meta"):
            # what TransformerLens puts beside them (q, k and v apart) is left out
            own = type(module)(module.config).state_dict()
            found = {name: found[name] for name in own if name in found}
        return found

    @cached_property
    def weights(self) -> Weights:
        """The same, with their digest."""
        return Weights(self.tensors())

    @cached_property
    def couples(self) -> bool:
        """Whether a head's output moves with the query of another (OLMo 2's norm is over the
        queries of all heads at once): measured, with random values."""
        length = min(4, self.context or 4)
        tokens = torch.zeros(1, length, dtype=torch.long)
        context = self.start(tokens, torch.ones_like(tokens, dtype=torch.bool))
        generator, here = torch.Generator().manual_seed(0), self.device_of(0)
        kind = context.embed.dtype
        q, k, v = (
            torch.randn(1, length, n, self.d_head, generator=generator).to(here, kind)
            for n in (self.wiring.heads, self.wiring.groups, self.wiring.groups)
        )
        louder = q.clone()
        louder[..., 0, :] *= 100
        with torch.no_grad():
            plain, other = (self.attend(context, 0, x, k, v)[..., 1:, :] for x in (q, louder))
        return bool(((plain - other).abs() > 1e-3 * v.abs().max()).any())

    # -- the model's own forward ------------------------------------------------------------------
    def _arguments(self, tokens: Tensor, mask: Tensor) -> dict[str, Any]:
        """The forward's arguments; positions count the tokens that are not padding."""
        arguments = {
            "input_ids": tokens.to(self.device),
            "attention_mask": mask.to(self.device).long(),
            "position_ids": (mask.long().cumsum(-1) - 1).clamp(min=0).to(self.device),
            "use_cache": False,
        }
        return {key: value for key, value in arguments.items() if key in self._accepted}

    @cached_property
    def _accepted(self) -> frozenset[str]:
        """The names of the forward's arguments; one that takes more takes the cache's switch."""
        found = inspect.signature(self.bridge.original_model.forward).parameters.values()
        more = any(one.kind is one.VAR_KEYWORD for one in found)
        return frozenset({one.name for one in found} | ({"use_cache"} if more else set()))

    @cached_property
    def _hollow(self) -> tuple[nn.Module, list[Muted], nn.Module, Last, Last]:
        """The model's forward with silent blocks: what it does before and after them."""
        stubs: dict[int, nn.Module] = {}
        attentions = []
        for layer in self.layers:
            attentions.append(Muted(returns_tuple=True))
            stubs |= {id(part): attentions[-1] for part in _twins(layer.attn)}
            for name, part in parts_of(layer.block).items():
                if name == "mlp" and layer.loose:
                    ends = (Through(), layer.loose["in"]), (Muted(), layer.loose["out"])
                    stubs |= {id(twin): stub for stub, end in ends for twin in _twins(end)}
                elif name != "attn":
                    stub = Muted(self._gives_more(layer)) if name == "mlp" else Through()
                    stubs |= {id(twin): stub for twin in _twins(part)}
            # a copy of the bridge's own block would hang its hooks on the parts of the original
            stubs[id(layer.block)] = copy_with(_twins(layer.block)[-1], stubs)
        last = []
        for part, first in ((self.bridge.ln_final, True), (self.bridge.unembed, False)):
            last.append(Last(part, first=first))
            stubs |= {id(twin): last[-1] for twin in _twins(part)}
        root = copy_with(self.bridge.original_model, stubs)
        names = parts_of(self.layers[0].block)
        entry = stubs[id(names["ln1"])] if "ln1" in names else attentions[0]
        return root, attentions, entry, last[0], last[1]

    def _gives_more(self, layer: _Layer) -> bool:
        """Whether an MLP returns something beside what it writes (a router's scores)."""
        with torch.no_grad():
            return isinstance(layer.mlp(layer.out.new_zeros(1, 1, self.d_model)), tuple)

    def start(self, tokens: Int[Tensor, "b p"], mask: Bool[Tensor, "b p"]) -> Context:
        """The embedding and the layers' further arguments, from the model's own forward.

        Raises ModelError where weights that the model shares were changed after it was loaded, and
        DataError for a prompt of more tokens than the model has positions for, or of a token that
        is not in its vocabulary.
        """
        if versions_of(self._shared) != self._versions:
            if not self.trainable:
                raise ModelError(
                    f"the weights of {self.name!r} were changed after it was loaded; load it again"
                )
            self._read_weights()
        self._require(tokens, mask)
        root, attentions, entry, *_ = self._hollow
        with torch.set_grad_enabled(self.trainable and torch.is_grad_enabled()):
            root(**self._arguments(tokens, mask))
        known: dict[tuple[int, torch.device], Any] = {}  # most layers get the same tensors

        def own(name: str, value: Any, device: torch.device) -> Any:
            if (id(value), device) not in known:
                single = _by_example(name, _single(value), len(tokens))
                known[id(value), device] = moved_within(single, device)
            return known[id(value), device]

        calls = tuple(
            {name: own(name, value, self.device_of(i)) for name, value in attention.call.items()}
            for i, attention in enumerate(attentions)
        )
        embed: Tensor = entry.read  # type: ignore[assignment]
        held = self._held(tokens, mask) if self.router == "held" else {}
        return Context(embed, calls, held)

    @cached_property
    def context(self) -> int | None:
        """How many tokens a prompt may have; None where distances are all that counts (ALiBi)."""
        config = self.bridge.cfg
        known = getattr(config, "n_ctx", None)
        anywhere = getattr(config, "positional_embedding_type", None) == "alibi"
        if known is not None and known < 0:
            raise ModelError(
                f"the configuration of {self.name!r} says that its context holds {known:,} tokens; "
                "correct its config.json"
            )
        return None if anywhere or not known else int(known)

    def _require(self, tokens: Tensor, mask: Tensor) -> None:
        """Raise DataError for prompts that are too long, or not of this vocabulary."""
        require_length(self.name, mask, self.context)
        require_tokens(self.name, tokens, self.d_vocab)

    def _held(self, tokens: Tensor, mask: Tensor) -> dict[int, tuple[Tensor, ...]]:
        """The routers' choices and weights in the model's own forward on these tokens."""
        asked: dict[int, tuple[Any, ...]] = {}

        def keep(layer: int) -> Callable[..., None]:
            def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                asked[layer] = (*args, *kwargs.values())[1:3]

            return hook

        handles = [
            block.experts.register_forward_pre_hook(keep(layer), with_kwargs=True)
            for layer, block in self.experts.items()
        ]
        try:
            with torch.no_grad():
                self.bridge.original_model(**self._arguments(tokens, mask))
        finally:
            for handle in handles:
                handle.remove()
        stages = [stage for stage in self.wiring.stages if stage.kind == EXPERTS]
        return {stage.index: routed(asked[stage.layer], tokens[..., None]) for stage in stages}

    def embed_tokens(self, tokens: Int[Tensor, "b p"]) -> Float[Tensor, "b p d"]:
        """The token embedding alone, without positions."""
        if getattr(self.bridge, "pos_embed", None) is None:
            return self.start(tokens, torch.ones_like(tokens, dtype=torch.bool)).embed
        embed: Tensor = original(self.bridge.embed)(tokens.to(self.device))
        return embed

    def unembed(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n vocab"]:
        """The logits of these final residuals, from the model's own forward."""
        root, _, _, norm, head = self._hollow
        tokens = torch.zeros(len(x), 1, dtype=torch.long, device=self.device)
        norm.value = head.value = x[:, None]
        norm.bare = self.rule.norms or self._final_is_held
        there = moved(x, self._final_norm.weight.device) if norm.bare else x
        if self._final_is_held:
            norm.value = self._final_norm(there)[:, None]
        elif self.rule.norms:
            given = norm.module(there[:, None])
            norm.value = self._final_norm.with_constant_scale(there[:, None], given)
        try:
            output = root(**self._arguments(tokens, torch.ones_like(tokens)))
        finally:
            norm.value = head.value = None
            norm.bare = False
        return moved(_logits(output)[:, 0], self.device)

    @property
    def _final_is_held(self) -> bool:
        """Whether the final norm has another run's scale."""
        return "_final_norm" in vars(self) and self._final_norm.held is not None

    # -- components -------------------------------------------------------------------------------
    def project(self, layer: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v of every port of a layer, all reading the same residual."""
        parts = self.layers[layer]
        normed = parts.ln1(x)
        q, k, v = (
            original(getattr(parts.attn, p))(normed).unflatten(-1, (-1, self.d_head)) for p in "qkv"
        )
        return q, k, v

    def read(
        self, layer: int, ports: Sequence[int], x: Float[Tensor, "_n b p d"]
    ) -> Float[Tensor, "n b p e"]:
        """q, k or v of some ports of a layer, each reading a residual of its own (or all one)."""
        parts = self.layers[layer]
        normed = parts.ln1(x)
        received = []
        for i, port in enumerate(ports):
            weight, bias = parts.port(port)
            own = normed[i if len(x) > 1 else 0].flatten(0, 1)
            given = own @ weight if bias is None else torch.addmm(bias, own, weight)
            received.append(given.view(*x.shape[1:3], -1))
        return torch.stack(received) if received else x.new_empty(0, *x.shape[1:3], self.d_head)

    def pull(self, layer: int) -> Pull:
        """The gradient in the residual that each port reads, from those in q, k and v."""
        parts = self.layers[layer]
        matrix = wide(torch.cat([parts.weights[port] for port in "qkv"]))
        pull = parts.ln1.pull(matrix)
        return lambda x, grads, *held: pull(
            x, wide(torch.cat([g.transpose(0, 1) for g in grads])), *held
        )

    def attend(self, context: Context, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """What each head's output projection takes, by the model's own attention module."""
        if self.rule.patterns:
            q, k = q.detach(), k.detach()
        return self._attend(self.layers[layer].attention, context, layer, q, k, v)

    def _attend(
        self, attention: nn.Module, context: Context, layer: int, q: Tensor, k: Tensor, v: Tensor
    ) -> Tensor:
        """What a layer's attention (or a copy of it) gives its output projection."""
        parts = self.layers[layer]
        for port, value in zip("qkv", (q, k, v), strict=True):
            parts.taps[port].value = value.flatten(-2)
        shape = q.new_zeros(1).expand(*q.shape[:2], self.d_model)
        try:
            out = attention(shape, **_for_batch(context.calls[layer], len(q)))
        finally:
            for tap in parts.taps.values():
                tap.value = None
        z = out[0] if isinstance(out, tuple) else out
        return _split(z, self.d_head)

    def attention_out(self, layer: int, z: Tensor) -> tuple[Tensor, Tensor]:
        """What all heads write together, and z scaled such that ``write`` gives their shares."""
        parts = self.layers[layer]
        total = _scaled(original(parts.attn.o)(z.flatten(-2)), parts.scale)
        if parts.ln1_post is None:
            return total, z
        return parts.ln1_post(total), z * parts.ln1_post.scale(total)[..., None]

    def share(self, layer: int, z: Tensor) -> Tensor:
        """z scaled such that ``write`` gives each head's share of what all heads write together."""
        return z if self.layers[layer].ln1_post is None else self.attention_out(layer, z)[1]

    def write(self, layer: int, index: Sequence[int] | None, z: Tensor) -> Tensor:
        """The contributions of some heads (None: all), without the bias."""
        parts = self.layers[layer]
        out = parts.out if index is None else parts.out[list(index)]
        lead = z.shape[:-2]
        written = z.reshape(-1, *z.shape[-2:]).transpose(0, 1) @ out.to(z.dtype)
        if parts.ln1_post is not None:
            written = written * parts.ln1_post.weight
        return written.view(len(written), *lead, -1)

    def constant(self, layer: int) -> Tensor | None:
        """The output bias of a layer's attention."""
        bias = getattr(self.layers[layer].attn, "b_O", None)
        return None if bias is None else _scaled(bias, self.layers[layer].scale)

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        """What the MLP writes when it reads this residual."""
        return self.mlp_after_norm(layer, self.layers[layer].ln2(x)).view(x.shape)

    def mlp_after_norm(self, layer: int, given: Tensor) -> Tensor:
        """What the MLP writes when the norm before it gives this."""
        return self._after_mlp(layer, self.layers[layer].mlp(given)).view(given.shape)

    def mlp_in(self, layer: int, x: Tensor) -> Tensor:
        """What the norm before the MLP gives when the MLP reads this residual."""
        return self.layers[layer].ln2(x)

    def mlp_pull(self, layer: int, matrix: Float[Tensor, "n d e"]) -> Pull:
        """The gradient in the residual, from that in what is read through norm and matrices."""
        return self.layers[layer].ln2.pull(wide(matrix))

    def after_mlp(self, layer: int, out: Tensor) -> Tensor:
        """What arrives in the residual stream of what the MLP gives."""
        return self._after_mlp(layer, out)

    def _after_mlp(self, layer: int, out: Any) -> Tensor:
        """What arrives in the residual stream of an MLP's output."""
        written: Tensor = out[0] if isinstance(out, tuple) else out
        post = self.layers[layer].ln2_post
        return _scaled(written if post is None else post(written), self.layers[layer].scale)

    def neurons(self, layer: int, x: Tensor) -> Tensor:
        """What the MLP's down projection takes when the MLP reads this residual."""
        parts = self.layers[layer]
        if parts.stem is None:
            raise CircuitError(
                f"the MLP of layer {layer} of {self.name!r} has no single down projection (a "
                "mixture of experts has one for each expert), and so no neurons; choose 'mlp_out'"
            )
        neurons: Tensor = parts.stem(parts.ln2(x))
        return neurons

    def mlp_out(self, layer: int, neurons: Tensor) -> Tensor:
        """What the MLP writes from what its down projection takes."""
        return self._after_mlp(layer, self.layers[layer].down(neurons))

    # -- its norms with the scales of another run --------------------------------------------------
    def _norms(self) -> list[Norm | None]:
        """The norms that each stage's readers read through; the residual stream is read as it
        is."""
        layers = [(self.layers[stage.layer], stage.kind) for stage in self.wiring.stages]
        heads = (ATTENTION, ATTENTION_FEATURES)
        return [None if kind == STREAM_FEATURES else layer.ln1 if kind in heads else layer.ln2
                for layer, kind in layers]  # fmt: skip

    def scales(self, batch: Batch, run: Activations, least: bool) -> Held:
        """The scales of the norms where this run of the batch reads."""
        pairs = zip(self._norms(), run.reads, strict=True)
        final = moved(at_answers(batch, run.final), self._final_norm.weight.device)
        return Held(
            tuple(norm.scale_of(read, least) if norm else None for norm, read in pairs),
            self._final_norm.scale_of(final, least),
        )

    @contextlib.contextmanager
    def holding(self, held: Held | None) -> Iterator[None]:
        """Within it, runs of that batch have these scales."""
        norms = [*self._norms(), self._final_norm]
        scales = [None] * len(norms) if held is None else [*held.stages, held.final]
        pairs = [(norm, own) for norm, own in zip(norms, scales, strict=True) if norm is not None]
        before = [norm.held for norm, _ in pairs]
        try:
            for norm, scale in pairs:
                norm.held = scale
            yield
        finally:
            for (norm, _), scale in zip(pairs, before, strict=True):
                norm.held = scale

    # -- its affine parts --------------------------------------------------------------------------
    def norm(self, layer: int | None, x: Tensor | None) -> Frozen:
        """The norm before a layer's attention, or the final one, frozen where it reads this."""
        norm = self._final_norm if layer is None else self.layers[layer].ln1
        if layer is not None:
            return norm.frozen(x)
        frozen = norm.frozen(None if x is None else moved(x, norm.weight.device))
        weight, bias = (moved(part, self.device) for part in (frozen.weight, frozen.bias))
        return replace(frozen, weight=weight, bias=bias)

    def mlp_norm(self, layer: int, x: Tensor | None) -> Frozen:
        """The norm before a layer's MLP, frozen where it reads this."""
        return self.layers[layer].ln2.frozen(x)

    @cached_property
    def _final_norm(self) -> Norm:
        last = original(self.bridge.ln_final)
        like = moved(self.layers[0].weights["q"][0, 0], device_of_weights(last, self.device))
        norm = Norm(last, self.d_model, like)
        return norm.constant_scale() if self.rule.norms else norm

    def projection(self, layer: int, port: str) -> tuple[Tensor, Tensor | None]:
        """The weights and the biases of a port (q, k or v), by head or group."""
        return self.layers[layer].weights[port], self.layers[layer].biases[port]

    def port_norms(self, layer: int, q: Tensor | None, k: Tensor | None) -> tuple[Frozen, Frozen]:
        """The norms over a layer's queries and keys, frozen as they are for these."""
        norms = self._port_norms
        if layer not in norms:
            attn, like = self.layers[layer].attn, self.layers[layer].weights["q"]
            groups = self.wiring.groups
            norms[layer] = (
                PortNorm(attn, "q", self.wiring.heads, like), PortNorm(attn, "k", groups, like)
            )  # fmt: skip
        over_q, over_k = norms[layer]
        return over_q.frozen(q), over_k.frozen(k)

    @cached_property
    def _port_norms(self) -> dict[int, tuple[PortNorm, PortNorm]]:
        """The norms over queries and keys that were asked for, by layer."""
        return {}

    def scores(
        self, context: Context, layer: int, q: Tensor, k: Tensor, *, normed: bool = False
    ) -> Tensor:
        """The scores that enter the softmax of the model's own attention."""
        parts = self.layers[layer]
        attention = self._without_norms(layer) if normed else parts.attention
        with seen_scores(parts.attn) as seen:
            self._attend(attention, context, layer, q, k, torch.zeros_like(k))
        if not seen or seen[0].shape[:2] != (len(q), self.wiring.heads):
            raise UnsupportedModelError(
                f"the attention scores of {self.name!r} are not seen before its softmax; use "
                "another model"
            )
        return seen[0]

    def _without_norms(self, layer: int) -> nn.Module:
        """A layer's attention that takes queries and keys as they are behind the norms over
        them."""
        parts = self.layers[layer]
        stubs: dict[int, nn.Module] = {
            id(twin): parts.taps[p] for p in "qkvo" for twin in _twins(getattr(parts.attn, p))
        }
        norms = [
            part for name, part in parts_of(parts.attn).items() if name in ("q_norm", "k_norm")
        ]
        stubs |= {id(twin): nn.Identity() for part in norms for twin in _twins(part)}
        return _attention(parts.attn, stubs)

    def logit_directions(self, weights: Float[Tensor, "n vocab"]) -> tuple[Tensor, Tensor]:
        """The directions of weighted sums of logits in what the final norm gives, and what the
        sums are where it gives nothing: the slope at zero, which a cap does not change."""
        root, _, _, norm, head = self._hollow
        given = torch.zeros(len(weights), 1, self.d_model, dtype=self.dtype, device=self.device)
        tokens = torch.zeros(len(weights), 1, dtype=torch.long, device=self.device)
        norm.value = head.value = given.requires_grad_()
        norm.bare = True
        try:
            with torch.enable_grad():
                output = root(**self._arguments(tokens, torch.ones_like(tokens)))
                sums = (moved(_logits(output), self.device)[:, 0] * weights).sum(-1)
                (directions,) = torch.autograd.grad(sums.sum(), given)
        finally:
            norm.value = head.value = None
            norm.bare = False
        return directions[:, 0], sums.detach()

    # -- the model as it is, for the check and as the oracle ---------------------------------------
    def native(
        self,
        tokens: Int[Tensor, "b p"],
        mask: Bool[Tensor, "b p"],
        noise: tuple[int, int, Float[Tensor, "b p e"]] | None = None,
    ) -> Native:
        """A plain forward of the bridge, watched by hooks; ``noise`` = (layer, head, vector) is
        added to what a head's output projection takes."""
        self._require(tokens, mask)
        seen: dict[tuple[str, int], Tensor] = {}
        handles = list(self._watch(seen, noise))
        try:
            with torch.no_grad():
                output = self.bridge.original_model(**self._arguments(tokens, mask))
        finally:
            for handle in handles:
                handle.remove()
        layers = range(self.wiring.layers)

        def all_of(
            key: str,
        ) -> tuple[Tensor, ...]:  # some MLPs see the tokens of a batch in one row
            return tuple(seen[key, i].view(*tokens.shape, -1) for i in layers)

        return Native(
            logits=moved(_logits(output), self.device),
            attn_in=all_of("attn"),
            mlp_in=all_of("mlp") if self.wiring.mlp else (),
            final=moved(seen["final", 0], self.device),
            z=tuple(_split(z, self.d_head) for z in all_of("z")),
            mlps=all_of("out") if self.wiring.mlp else (),
        )

    def _watch(
        self, seen: dict[tuple[str, int], Tensor], noise: tuple[int, int, Tensor] | None
    ) -> Iterator[Any]:
        def reads(key: str, i: int) -> Callable[..., None]:
            def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                seen[key, i] = (args[0] if args else kwargs["hidden_states"]).detach().clone()

            return hook

        def writes(i: int) -> Callable[..., None]:
            def hook(_: nn.Module, __: Any, out: Any) -> None:
                written = (out[0] if isinstance(out, tuple) else out).detach().clone()
                seen["out", i] = _scaled(written, self.layers[i].scale)

            return hook

        def disturb(i: int) -> Callable[..., tuple[Any, ...]]:
            def hook(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
                z = args[0].detach().clone()
                if noise is not None and noise[0] == i:
                    _split(z, self.d_head)[..., noise[1], :] += noise[2]
                seen["z", i] = z
                return (z, *args[1:])

            return hook

        for i, layer in enumerate(self.layers):
            parts = parts_of(layer.block)
            yield layer.block.register_forward_pre_hook(reads("attn", i), with_kwargs=True)
            yield layer.attn.o.hook_in.register_forward_pre_hook(disturb(i))
            if layer.mlp is not None:
                entry = parts.get("ln2") or (parts["mlp"] if "ln2_post" in parts else parts["ln1"])
                yield entry.register_forward_pre_hook(reads("mlp", i), with_kwargs=True)
                exit_ = (
                    parts.get("ln2_post") or (layer.loose or parts)["out" if layer.loose else "mlp"]
                )
                yield exit_.register_forward_hook(writes(i))
        yield self.bridge.ln_final.register_forward_pre_hook(reads("final", 0), with_kwargs=True)


def _scaled(x: Tensor, scale: float) -> Tensor:
    return x if scale == 1 else x * scale


def _split(x: Tensor, size: int) -> Float[Tensor, "*t n e"]:
    """The last axis in pieces of that size: one a head."""
    return x.view(*x.shape[:-1], -1, size)


def _logits(output: Any) -> Tensor:
    logits: Tensor = output if isinstance(output, Tensor) else output.logits
    return logits


# -- making one ----------------------------------------------------------------------------------
def _library() -> tuple[type[Any], Callable[..., Any]]:
    """TransformerLens's bridge, and what builds one around a module."""
    try:
        from transformer_lens.model_bridge import TransformerBridge
        from transformer_lens.model_bridge.sources import build_bridge_from_module
    except ImportError as error:
        raise changed("transformer_lens", str(error)) from error
    return TransformerBridge, build_bridge_from_module


def from_module(
    module: nn.Module,
    *,
    tokenizer: Tokenizer | None = None,
    name: str = "module",
    device: str | None = None,
    dtype: torch.dtype | None = None,
    experts: str | None = None,
    trainable: bool = False,
) -> Transformer:
    """The model of a Hugging Face causal language model, or of a TransformerBridge, which stays as
    it is; with ``experts`` and ``trainable`` see ``Transformer``.

    Without a ``device`` or a ``dtype`` the weights are read where they are; else they are copied.
    Raises UnsupportedModelError where TransformerLens does not know the architecture.
    """
    with quiet():
        bridge_type, _ = _library()
        if not isinstance(module, bridge_type):
            _require_decoder(module, name)
        require_here(name, module)
        own = undispatched(name, twin(module, trainable))
        if device is not None or dtype is not None:
            where: dict[str, Any] = {"device": device, "dtype": dtype}
            own = _moved(own, name, **where)
        places = {weight.data_ptr() for weight in own.parameters()}
        shared = [weight for weight in module.parameters() if weight.data_ptr() in places]
        if isinstance(own, bridge_type):
            require_finite(name, own)
            return _made(own, name, tokenizer, experts, shared, trainable)
    return _wrapped(own, name, tokenizer, experts, shared, trainable)


def _moved(module: nn.Module, name: str, **where: Any) -> nn.Module:
    """The module on that device, in that dtype; raises ModelError where it cannot be there."""
    asked = {key: value for key, value in where.items() if value is not None}
    try:
        return module.to(**asked)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        wanted = ", ".join(f"{key} {value}" for key, value in asked.items())
        raise ModelError(
            f"{name!r} cannot be used with {wanted} ({in_one_line(error)}); choose another dtype, "
            "or cpu"
        ) from error


def _require_decoder(module: nn.Module, name: str) -> None:
    """Raise UnsupportedModelError for what no bridge can be built around."""
    remedy = "use a causal language model, as AutoModelForCausalLM loads it"
    config = getattr(module, "config", None)
    if any(kind.__name__ == "HookedTransformer" for kind in type(module).__mro__):
        raise UnsupportedModelError(
            f"{name!r} is a HookedTransformer, which TransformerLens 4 replaced; give a "
            "TransformerBridge (TransformerBridge.boot_transformers) or the Hugging Face module"
        )
    if config is None:
        raise UnsupportedModelError(
            f"{name!r} is not a Hugging Face model (it has no config); {remedy}"
        )
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModelError(
            f"{name!r} is an encoder-decoder, whose graph is another one; {remedy}"
        )
    if any(hasattr(part, "original_component") for part in module.modules()):
        raise UnsupportedModelError(
            f"{name!r} is part of a TransformerBridge already; give the bridge"
        )


def _wrapped(
    module: nn.Module,
    name: str,
    tokenizer: Tokenizer | None,
    experts: str | None,
    shared: Iterable[Tensor] = (),
    trainable: bool = False,
) -> Transformer:
    """The model of a module that is ours to change."""
    given = [*module.parameters()]
    require_served(module, name)
    require_finite(name, module)
    with quiet():
        _, build = _library()
        use_eager(module.config)
        _allow_double(module)
        try:
            bridge = build(
                module, architecture=type(module).__name__, hf_config=module.config, tokenizer=None
            )
        except Exception as error:  # TransformerLens raises what it likes
            refuse_packed(name, module, error)
            raise UnsupportedModelError(
                f"TransformerLens cannot wrap {type(module).__name__} ({in_one_line(error)}); use "
                "a causal language model, as AutoModelForCausalLM loads it, of an architecture "
                "that TransformerLens supports"
            ) from error
    if trainable:
        attach(name, bridge, given)
    return _made(bridge, name, tokenizer, experts, shared, trainable)


def _made(
    bridge: nn.Module,
    name: str,
    tokenizer: Tokenizer | None,
    experts: str | None,
    shared: Iterable[Tensor],
    trainable: bool = False,
) -> Transformer:
    """The model of a bridge; raises UnsupportedModelError whatever its parts raise."""
    try:
        return Transformer(bridge, name, tokenizer, experts, shared, trainable)
    except CircuitkitError:
        raise
    except Exception as error:  # parts of another shape or kind than we take them for
        refuse_packed(name, bridge, error)
        raise UnsupportedModelError(
            f"{name!r} does not consist of the parts that its configuration describes "
            f"({in_one_line(error)}); use a decoder whose heads are all of one size"
        ) from error


def _allow_double(module: Any) -> None:
    """Experts whose matrices are multiplied in groups know single precision only: in double
    precision, one after the other."""
    if any(weight.dtype == torch.float64 for weight in module.parameters()):
        with contextlib.suppress(AttributeError, ValueError):
            module.set_experts_implementation("eager")


def from_pretrained(
    place: str | Path,
    *,
    name: str,
    tokenizer: Tokenizer | None = None,
    device: str = "cpu",
    device_map: DeviceMap | None = None,
    dtype: torch.dtype | None = None,
    experts: str | None = None,
    trainable: bool = False,
) -> Transformer:
    """The model in a Hugging Face directory or of a hub name, with its tokenizer unless another one
    is given, on a device or where the map says; raises ModelError where it cannot be loaded."""
    if device_map is None and device.startswith("cuda"):
        device_map = {"": device}  # tensor by tensor, so that the host need not hold it all
    whole, revision = _at_revision(place)
    with quiet():
        from transformers import AutoModelForCausalLM, AutoTokenizer

        try:
            require_fitting(name, place)
            module, found = AutoModelForCausalLM.from_pretrained(
                whole,
                revision=revision,
                attn_implementation="eager",
                dtype=dtype or "auto",
                device_map=device_map,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are refused below, by name
                trust_remote_code=False,
            )
            if tokenizer is None:
                tokenizer = AutoTokenizer.from_pretrained(
                    whole, revision=revision, trust_remote_code=False
                )
        except ModelError:
            raise
        except Exception as error:  # transformers and its readers raise what they like
            raise ModelError(
                f"the model {name!r} cannot be loaded ({in_one_line(error)}); "
                f"{ON_DISK if is_too_large(error) else _remedy(place)}"
            ) from error
    require_loaded(name, found)
    _require_decoder(module, name)
    module = undispatched(name, module)
    if device_map is None:
        module = _moved(module, name, device=device)
    return _wrapped(module, name, tokenizer, experts, (), trainable)


def _at_revision(place: str | Path) -> tuple[str, str]:
    """A directory, or the name of a model on the hub, and the revision behind its ``@``."""
    if os.path.isdir(place):
        return str(place), "main"
    name, _, revision = str(place).partition("@")
    return name, revision or "main"


def _remedy(place: str | Path) -> str:
    """What to do where a model cannot be loaded from there."""
    if os.path.isdir(place):
        return "save or download the files of that directory again"
    return (
        "give a Hugging Face directory, a hub name that is cached or reachable, 'mini', or "
        "'smollm2-135m' after `circuitkit fetch smollm2-135m`"
    )


def tokenizer_of(module: nn.Module) -> Tokenizer | None:
    """The tokenizer of a bridge, or the one in the local directory that a module says it was loaded
    from, if there is one; nothing is downloaded."""
    own: Tokenizer | None = getattr(module, "tokenizer", None)
    config = getattr(getattr(module, "original_model", module), "config", None)
    place = str(getattr(config, "name_or_path", "") or "")
    if own is not None or not os.path.isdir(place):
        return own
    with quiet():
        from transformers import AutoTokenizer

        with contextlib.suppress(Exception):  # of a directory without one its readers raise any
            own = AutoTokenizer.from_pretrained(place, local_files_only=True)
    return own

"""A dictionary: features, each with the direction that it reads and the one that it writes.

Whatever a file holds, a ``Dictionary`` is in one form. A feature's pre-activation is its encoder
row times what is read, plus its bias; the feature is active where that exceeds a threshold, which
is not negative, and then writes its decoder row times the pre-activation. What a file subtracts
from what is read, gates of their own, and decoder norms that choose the top k are folded into the
weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuitkit.errors import DictionaryError
from circuitkit.util.json_values import Json
from circuitkit.util.naming import unknown

__all__ = ["ACTIVATIONS", "KINDS", "SITES", "Active", "Dictionary"]

KINDS = ("autoencoder", "transcoder", "skip_transcoder", "cross_layer_transcoder")
ACTIVATIONS = ("relu", "jumprelu", "gated", "batch_topk", "topk")
SITES = {
    "resid_pre": "the residual stream before a layer",
    "resid_mid": "the residual stream that the MLP reads, before its norm",
    "resid_post": "the residual stream after a layer",
    "attn_z": "what the heads give to the output projection, head after head",
    "attn_out": "what the attention adds to the residual stream",
    "mlp_in": "what the norm before the MLP gives, with its weight and bias",
    "mlp_normalized": "what the norm before the MLP gives; of an RMSNorm without its weight",
    "neurons": "the neurons of the MLP: what its down projection takes",
    "mlp_raw": "what the MLP gives, before a norm that may follow it",
    "mlp_out": "what the MLP adds to the residual stream, after a norm that may follow it",
}
_LETTERS = {"resid": "r", "attn": "a", "mlp": "m", "neurons": "m"}
_TENSORS = ("encoder", "encoder_bias", "decoder", "bias", "threshold", "skip")


class Active(NamedTuple):
    """The features that are active in a stretch of n tokens: for each, the number of the token, its
    own number, and its activation; in the order of the tokens, then of the features."""

    tokens: Int[Tensor, " n"]
    features: Int[Tensor, " n"]
    values: Float[Tensor, " n"]


@dataclass(frozen=True, eq=False, repr=False)
class Dictionary:
    """Features of one layer, which read at one place of a model and write at one (or at several:
    the same place of later layers).

    Attributes:
        layer: The layer in which it reads.
        encoder: What each feature reads, a row a feature.
        encoder_bias: What is added to each pre-activation.
        decoder: What each feature writes per unit, a row a feature; [feature, target, d_out] where
            it writes to several layers.
        bias: What is written whatever is read, in its own layer (the first of ``targets``).
        reads: Where it reads, one of ``SITES``: ``mlp_in`` is after the MLP's norm, ``resid_mid``
            before it.
        writes: Where it writes, one of ``SITES``.
        activation: What it was trained with, one of ``ACTIVATIONS``.
        threshold: What a pre-activation has to exceed, by feature; 0 without.
        k: How many features of a token may be active, with ``topk``.
        skip: The linear map from what is read to what is written, [d_out, d_in], if there is one.
        model: The name of the model, as far as it is known.
        targets: The layers in which it writes.
        about: What else a file says.

    Raises DictionaryError where the parts do not fit one another.
    """

    layer: int
    encoder: Float[Tensor, "f d"]
    encoder_bias: Float[Tensor, " f"]
    decoder: Float[Tensor, "f *t e"]
    bias: Float[Tensor, " e"]
    reads: str = "mlp_in"
    writes: str = "mlp_out"
    activation: str = "relu"
    threshold: Float[Tensor, " f"] | None = None
    k: int | None = None
    skip: Float[Tensor, "e d"] | None = None
    model: str = ""
    targets: tuple[int, ...] = ()
    about: Mapping[str, Json] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        if not self.targets:
            object.__setattr__(self, "targets", (self.layer,))
        self._require_words()
        self._require_shapes()
        for name, tensor in self.tensors().items():
            if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
                raise DictionaryError(
                    f"{name!r} of a dictionary of layer {self.layer} holds what is not a finite "
                    "number; save it again in float32"
                )

    def _require_words(self) -> None:
        for what, name, known in (
            ("place", self.reads, tuple(SITES)),
            ("place", self.writes, tuple(SITES)),
            ("activation", self.activation, ACTIVATIONS),
        ):
            if name not in known:
                raise DictionaryError(unknown(what, name, known))
        if (self.activation == "topk") != (self.k is not None):
            raise DictionaryError(
                f"the activation {self.activation!r} with k={self.k}: 'topk' has a k, and no other"
            )
        gated = self.activation in ("jumprelu", "gated", "batch_topk")
        if gated != (self.threshold is not None):
            raise DictionaryError(
                f"the activation {self.activation!r} {'without' if gated else 'with'} a threshold: "
                "'jumprelu', 'gated' and 'batch_topk' have one, and no other"
            )
        if not isinstance(self.k, int | None) or not 1 <= (self.k or 1) <= len(self.encoder):
            raise DictionaryError(f"k={self.k!r} of {len(self.encoder):,} features; give 1 or more")
        ordered = sorted(set(self.targets)) == list(self.targets)
        if self.layer < 0 or not ordered or self.targets[0] < self.layer:
            raise DictionaryError(
                f"a dictionary that reads in layer {self.layer} cannot write in the layers "
                f"{list(self.targets)}; they begin there or later, and rise"
            )

    def _require_shapes(self) -> None:
        several = self.decoder.ndim == 3
        if self.encoder.ndim != 2 or self.decoder.ndim not in (2, 3):
            raise DictionaryError(
                f"an encoder of the shape {tuple(self.encoder.shape)} and a decoder of the shape "
                f"{tuple(self.decoder.shape)}; they have a row for each feature"
            )
        f, d = self.encoder.shape
        e = self.decoder.shape[-1]
        fitting: dict[str, tuple[int, ...]] = {
            "encoder_bias": (f,), "bias": (e,), "threshold": (f,), "skip": (e, d),
            "decoder": (f, len(self.targets), e) if several else (f, e),
        }  # fmt: skip
        for name, shape in fitting.items():
            tensor = getattr(self, name)
            if tensor is not None and tuple(tensor.shape) != shape:
                raise DictionaryError(
                    f"{name!r} has the shape {tuple(tensor.shape)}, and beside an encoder of "
                    f"{f:,} features that read {d} values it has {shape}"
                )
        if not f or not d or not e or (len(self.targets) > 1 and not several):
            raise DictionaryError(
                f"{f} features that read {d} values and write {e} in {len(self.targets)} layers "
                "are not a dictionary"
            )
        if self.reads == self.writes and (d != e or self.skip is not None):
            raise DictionaryError("an autoencoder writes as many values as it reads, without skip")

    # -- what it is --------------------------------------------------------------------------------
    @property
    def kind(self) -> str:
        """One of ``KINDS``."""
        if self.decoder.ndim == 3:
            return "cross_layer_transcoder"
        if self.reads == self.writes:
            return "autoencoder"
        return "transcoder" if self.skip is None else "skip_transcoder"

    @property
    def n_features(self) -> int:
        """How many features it has."""
        return len(self.encoder)

    @property
    def d_in(self) -> int:
        """How many values it reads."""
        return self.encoder.shape[1]

    @property
    def d_out(self) -> int:
        """How many values it writes in a layer."""
        return self.decoder.shape[-1]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.encoder.device

    @property
    def dtype(self) -> torch.dtype:
        """The weights' type."""
        return self.encoder.dtype

    @property
    def prefix(self) -> str:
        """How its features' names begin: ``m3`` of the MLP of layer 3, ``a3`` of its attention,
        ``r3`` of the residual stream there."""
        return f"{_LETTERS[self.writes.partition('_')[0]]}{self.layer}"

    def feature(self, index: int) -> str:
        """The name of a feature: ``m3.f417``."""
        return f"{self.prefix}.f{index}"

    def __repr__(self) -> str:
        gate = f"topk {self.k}" if self.k else self.activation
        place = self.reads if self.reads == self.writes else f"{self.reads} to {self.writes}"
        return (
            f"{self.kind} of {self.prefix}: {self.n_features:,} features, {gate}, {place}, "
            f"{self.d_in} to {self.d_out}, {str(self.dtype)[6:]} on {self.device}"
        )

    def tensors(self) -> dict[str, Tensor]:
        """The weights by name, without those that are not there."""
        found = {name: getattr(self, name) for name in _TENSORS}
        return {name: value for name, value in found.items() if value is not None}

    def to(self, *where: torch.device | torch.dtype | str) -> Dictionary:
        """The same on another device, or of another type, as ``Tensor.to`` takes them."""
        moved: dict[str, Any] = self.tensors()
        for one in where:
            moved = {name: value.to(one) for name, value in moved.items()}
        return replace(self, **moved)

    def encoder_rows(self, features: Sequence[int] | Int[Tensor, " n"]) -> Float[Tensor, "n d"]:
        """What some features read: the gradient of their pre-activations in what is read."""
        return self.encoder[_places(features, self.device)]

    def decoder_rows(self, features: Sequence[int] | Int[Tensor, " n"]) -> Float[Tensor, "n *t e"]:
        """What some features write per unit of activation."""
        return self.decoder[_places(features, self.device)]

    # -- what it computes --------------------------------------------------------------------------
    def pre(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n f"]:
        """The pre-activations where this is read."""
        return torch.nn.functional.linear(x.to(self.dtype), self.encoder, self.encoder_bias)

    def thresholds(self, pre: Float[Tensor, "*n f"]) -> Float[Tensor, "*n _f"]:
        """What each pre-activation has to exceed to be active.

        With ``topk`` it is one number a token, halfway between the k-th pre-activation and the next
        (and not below 0): at the k-th itself, rounding would switch features on and off.
        """
        if self.k is None:
            lowest = torch.zeros_like(self.encoder_bias)
            own = lowest if self.threshold is None else self.threshold.clamp(min=0)
            return own.expand(pre.shape)
        if self.k == self.n_features:
            return torch.zeros_like(pre[..., :1])
        best = pre.topk(self.k + 1, dim=-1).values
        return best[..., -2:].mean(-1, keepdim=True).clamp(min=0)

    def activate(self, pre: Float[Tensor, "*n f"]) -> Float[Tensor, "*n f"]:
        """The activations that follow from pre-activations."""
        if self.k is not None:
            best = pre.topk(self.k, dim=-1)
            return torch.zeros_like(pre).scatter(-1, best.indices, best.values.relu())
        return torch.where(pre > self.thresholds(pre), pre, torch.zeros_like(pre))

    def encode(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n f"]:
        """The activation of every feature where this is read."""
        return self.activate(self.pre(x))

    def active(self, x: Float[Tensor, "p d"]) -> Active:
        """The features that are active in these tokens."""
        values = self.encode(x)
        tokens, features = values.nonzero(as_tuple=True)
        return Active(tokens, features, values[tokens, features])

    def decode(self, activations: Float[Tensor, "*n f"]) -> Float[Tensor, "*n *t e"]:
        """What features write with these activations, and the bias: without the skip. Of a
        dictionary that writes in several layers, one after the other."""
        if self.decoder.ndim == 2:
            return activations @ self.decoder + self.bias
        written = torch.einsum("...f,fte->...te", activations, self.decoder)
        written[..., 0, :] += self.bias
        return written

    def skipped(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n e"]:
        """What the skip writes where this is read; 0 without one."""
        if self.skip is None:
            return x.new_zeros(*x.shape[:-1], self.d_out, dtype=self.dtype)
        return x.to(self.dtype) @ self.skip.T

    def __call__(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n *t e"]:
        """What it writes where this is read: features, bias and skip."""
        written = self.decode(self.encode(x))
        if self.skip is None:
            return written
        if self.decoder.ndim == 2:
            return written + self.skipped(x)
        written[..., 0, :] += self.skipped(x)
        return written


def _places(features: Sequence[int] | Tensor, device: torch.device) -> Tensor:
    if isinstance(features, Tensor):
        return features.to(device)
    return torch.tensor(list(features), dtype=torch.long, device=device)

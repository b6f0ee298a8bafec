"""A plain decoder in torch as a model: no norms, no biases, causal softmax attention, ReLU MLPs.

It consists of its weights alone, so that a program can be compiled into them, and a variant of a
model is a change of its weights. It is saved as one safetensors file.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitkit.data.batches import Batch
from circuitkit.data.tokens import Tokenizer
from circuitkit.engine.backward import PLAIN, Rule
from circuitkit.engine.bounds import require_length, require_tokens
from circuitkit.engine.holding import Held
from circuitkit.engine.inspection import Frozen
from circuitkit.engine.kinds import KINDS
from circuitkit.engine.model import Activations, Context, Kind, Native, Pull
from circuitkit.errors import CircuitkitError, ModelError
from circuitkit.graph.wiring import Wiring
from circuitkit.util.atomic import write_whole
from circuitkit.util.notes import in_one_note, notes_of
from circuitkit.util.reading import parse_json

__all__ = ["SPECIAL", "SUFFIX", "Decoder", "Spaced"]

SPECIAL = ("<bos>", "<unk>")
SUFFIX = ".decoder"  # of files
FORMAT = "circuitkit.decoder"
VERSION = "1"
SHAPES = {  # of the weights, by the names of their axes
    name: tuple(axes.split())
    for name, axes in {
        "embedding": "vocab d", "positions": "ctx d", "q": "l h d e", "k": "l h d e",
        "v": "l h d e", "o": "l h e d", "w_in": "l d f", "w_out": "l f d", "unembedding": "d vocab",
    }.items()
}  # fmt: skip


@dataclass(frozen=True)
class Spaced:
    """A tokenizer that splits at spaces; its first word opens every prompt, and its second stands
    for each unknown word."""

    words: tuple[str, ...]
    bos_token_id: int = 0
    unk_token_id: int = 1

    def __call__(
        self, text: Sequence[str], *, add_special_tokens: bool
    ) -> dict[str, list[list[int]]]:
        """The token ids of each text, as Hugging Face tokenizers give them."""
        opening = [self.bos_token_id] if add_special_tokens else []
        return {"input_ids": [opening + [self.id(word) for word in one.split()] for one in text]}

    def id(self, word: str) -> int:
        """The number of a word."""
        return self.words.index(word) if word in self.words else self.unk_token_id

    def decode(self, ids: Sequence[int]) -> str:
        """The words of these token ids."""
        return " ".join(self.words[i] for i in ids)


@dataclass(eq=False)
class Decoder:
    """A compiled program, or a variant of one: a decoder as plain weights, which is a ``Model``.

    There are ``l`` layers of ``h`` heads. An attention score is q · k, unscaled. ``words`` are the
    vocabulary, which begins with ``SPECIAL``; ``roles`` says what each writer computes.

    Example:
        >>> model = ck.rasp.compile_program(ck.rasp.named("shift"))
        >>> model.roles["a0.h0"]
        '1 before'
        >>> model.save("shift.decoder").name
        'shift.decoder'
        >>> ck.load("shift.decoder")
        shift: 1 layers × 1 heads, d_model 13, 8 edges, float32 on cpu
    """

    name: str
    words: tuple[str, ...]
    embedding: Float[Tensor, "vocab d"]
    positions: Float[Tensor, "ctx d"]
    q: Float[Tensor, "l h d e"]
    k: Float[Tensor, "l h d e"]
    v: Float[Tensor, "l h d e"]
    o: Float[Tensor, "l h e d"]
    w_in: Float[Tensor, "l d f"]
    w_out: Float[Tensor, "l f d"]
    unembedding: Float[Tensor, "d vocab"]
    roles: Mapping[str, str]
    couples: bool = False
    post_norm: bool = False
    trainable: bool = False
    wiring: Wiring = field(init=False)
    router: str | None = field(init=False, default=None)
    kinds: Mapping[str, Kind] = field(init=False, default_factory=lambda: KINDS)
    rule: Rule = field(init=False, default=PLAIN)
    tokenizer: Tokenizer | None = field(init=False)
    d_model: int = field(init=False)
    d_head: int = field(init=False)
    d_vocab: int = field(init=False)

    def __post_init__(self) -> None:
        layers, heads, self.d_model, self.d_head = self.q.shape
        self.wiring, self.d_vocab = Wiring(layers, heads, heads), len(self.embedding)
        self.tokenizer = Spaced(self.words)

    def __repr__(self) -> str:
        w = self.wiring
        return (
            f"{self.name}: {w.layers} layers × {w.heads} heads, d_model {self.d_model}, "
            f"{w.n_edges:,} edges, {str(self.dtype)[6:]} on {self.device}"
        )

    # -- what it is --------------------------------------------------------------------------------
    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.device

    @property
    def dtype(self) -> torch.dtype:
        """The weights' type."""
        return self.embedding.dtype

    def tensors(self) -> dict[str, Tensor]:
        """The weights by name."""
        found = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: value for name, value in found.items() if isinstance(value, Tensor)}

    def to(self, *where: torch.device | torch.dtype | str) -> Decoder:
        """The same on another device, or of another type, as ``Tensor.to`` takes them."""
        moved: dict[str, Any] = self.tensors()
        for one in where:
            moved = {name: value.to(one) for name, value in moved.items()}
        return replace(self, **moved)

    def under(self, rule: Rule) -> Decoder:
        """The same model, whose backward follows the rule, of which patterns are all there is to
        it: there are no norms and no gates, and the slope of a ReLU at x is relu(x)/x already."""
        twin = copy.copy(self)
        twin.rule = rule
        return twin

    # -- components --------------------------------------------------------------------------------
    @property
    def context(self) -> int:
        """How many tokens a prompt may have."""
        return len(self.positions)

    def start(self, tokens: Int[Tensor, "b p"], mask: Bool[Tensor, "b p"]) -> Context:
        """The embedding, and which keys each query may see; raises DataError where the prompts are
        longer than the model's positions."""
        tokens, mask = tokens.to(self.device), mask.to(self.device)
        at = (mask.long().cumsum(-1) - 1).clamp(min=0)
        require_length(self.name, mask, self.context)
        require_tokens(self.name, tokens, len(self.embedding))
        square = tokens.shape[1], tokens.shape[1]
        causal = torch.ones(square, dtype=torch.bool, device=self.device).tril()
        itself = torch.eye(square[0], dtype=torch.bool, device=self.device)
        seen = causal & (mask[:, None] | itself)
        call = {"seen": seen[:, None]}
        embed = self.embedding[tokens] + self.positions[at]
        return Context(embed, (call,) * self.wiring.layers)

    def embed_tokens(self, tokens: Int[Tensor, "b p"]) -> Float[Tensor, "b p d"]:
        """The token embedding alone, without positions."""
        return self.embedding[tokens.to(self.device)]

    def project(self, layer: int, x: Float[Tensor, "b p d"]) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v of every head of a layer, all reading the same residual."""
        q, k, v = (torch.einsum("bpd,hde->bphe", x, w[layer]) for w in (self.q, self.k, self.v))
        return q, k, v

    def _ports(self, layer: int) -> Float[Tensor, "r d e"]:
        return torch.cat([self.q[layer], self.k[layer], self.v[layer]])

    def read(
        self, layer: int, ports: Sequence[int], x: Float[Tensor, "_n b p d"]
    ) -> Float[Tensor, "n b p e"]:
        """q, k or v of some ports of a layer, each reading a residual of its own (or all one)."""
        return x @ self._ports(layer)[list(ports)][:, None]

    def pull(self, layer: int) -> Pull:
        """The gradient in the residual that each port reads, from those in q, k and v."""
        ports = self._ports(layer)
        return lambda _, grads: torch.einsum("tre,rde->rtd", torch.cat([*grads], dim=1), ports)

    def attend(self, context: Context, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """What each head's output projection takes."""
        if self.rule.patterns:
            q, k = q.detach(), k.detach()
        pattern = self.scores(context, layer, q, k).softmax(-1)
        return torch.einsum("bhqk,bkhe->bqhe", pattern, v)

    def attention_out(self, layer: int, z: Tensor) -> tuple[Tensor, Tensor]:
        """What all heads of a layer write together, and ``z`` as it is."""
        return torch.einsum("bphe,hed->bpd", z, self.o[layer]), z

    def share(self, layer: int, z: Tensor) -> Tensor:
        """``z`` as it is: no norm follows the attention."""
        return z

    def write(self, layer: int, index: Sequence[int] | None, z: Tensor) -> Tensor:
        """The contributions of some heads (None: all)."""
        out = self.o[layer] if index is None else self.o[layer][list(index)]
        return torch.einsum("...ne,ned->n...d", z, out)

    def constant(self, layer: int) -> None:
        """There are no biases."""
        return None

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        """What the MLP writes when it reads this residual."""
        return self.mlp_out(layer, self.neurons(layer, x))

    def neurons(self, layer: int, x: Tensor) -> Tensor:
        """The MLP's neurons when it reads this residual."""
        return (x @ self.w_in[layer]).relu()

    def mlp_out(self, layer: int, neurons: Tensor) -> Tensor:
        """What the MLP writes from these neurons."""
        return neurons @ self.w_out[layer]

    def mlp_in(self, layer: int, x: Tensor) -> Tensor:
        """The residual itself: there is no norm."""
        return x

    def mlp_after_norm(self, layer: int, given: Tensor) -> Tensor:
        """The MLP itself: there is no norm."""
        return self.mlp(layer, given)

    def mlp_norm(self, layer: int, x: Tensor | None) -> Frozen:
        """There is no norm."""
        return self.norm(layer, x)

    def mlp_pull(self, layer: int, matrix: Float[Tensor, "n d e"]) -> Pull:
        """The gradient in the residual, from that in what is read through matrices."""
        return lambda _, grads: grads @ matrix.mT

    def after_mlp(self, layer: int, out: Tensor) -> Tensor:
        """What the MLP gives, as it is."""
        return out

    def unembed(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n vocab"]:
        """The logits of these final residuals."""
        return x @ self.unembedding

    # -- its affine parts --------------------------------------------------------------------------
    def scales(self, batch: Batch, run: Activations, least: bool) -> Held:
        """There are no norms."""
        return Held((None,) * len(self.wiring.stages), None)

    def holding(self, held: Held | None) -> AbstractContextManager[None]:
        """There is nothing to hold."""
        return nullcontext()

    def norm(self, layer: int | None, x: Tensor | None) -> Frozen:
        """There is no norm."""
        return Frozen.identity(self.d_model, like=self.embedding)

    def projection(self, layer: int, port: str) -> tuple[Tensor, None]:
        """The weights of a port (q, k or v), by head; there are no biases."""
        weights: Tensor = getattr(self, port)[layer]
        return weights, None

    def port_norms(self, layer: int, q: Tensor | None, k: Tensor | None) -> tuple[Frozen, Frozen]:
        """There are no norms over queries and keys."""
        none = Frozen.identity(self.d_head, like=self.embedding)
        return none, none

    def scores(
        self, context: Context, layer: int, q: Tensor, k: Tensor, *, normed: bool = False
    ) -> Tensor:
        """The scores that enter the softmax."""
        found = torch.einsum("bqhe,bkhe->bhqk", q, k)
        return found.masked_fill(~context.calls[layer]["seen"], -torch.inf)

    def logit_directions(self, weights: Float[Tensor, "n vocab"]) -> tuple[Tensor, Tensor]:
        """The directions of weighted sums of logits; of nothing they are 0."""
        return weights @ self.unembedding.T, weights.new_zeros(len(weights))

    # -- the whole ---------------------------------------------------------------------------------
    def native(
        self,
        tokens: Int[Tensor, "b p"],
        mask: Bool[Tensor, "b p"],
        noise: tuple[int, int, Float[Tensor, "b p e"]] | None = None,
    ) -> Native:
        """A plain forward, and what was read and written in it; ``noise`` = (layer, head, vector)
        is added to what a head's output projection takes."""
        context = self.start(tokens, mask)
        x, seen = context.embed, context.calls[0]["seen"]
        before, middle, heads, mlps = [], [], [], []
        for layer in range(self.wiring.layers):
            before.append(x)
            q, k, v = (x[:, None] @ w[layer] for w in (self.q, self.k, self.v))
            scores = (q @ k.transpose(-1, -2)).masked_fill(~seen, -torch.inf)
            z = (scores.softmax(-1) @ v).transpose(1, 2).clone()
            if noise is not None and noise[0] == layer:
                z[:, :, noise[1]] += noise[2]
            heads.append(z)
            x = x + z.flatten(2) @ self.o[layer].flatten(0, 1)
            middle.append(x)
            mlps.append((x @ self.w_in[layer]).relu() @ self.w_out[layer])
            x = x + mlps[-1]
        logits = x @ self.unembedding
        return Native(logits, tuple(before), tuple(middle), x, tuple(heads), tuple(mlps))

    # -- files -------------------------------------------------------------------------------------
    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the model as one safetensors file, whole or not at all, which ``circuitkit.load``
        takes where its name ends in ``.decoder``; raises OutputError."""
        from safetensors.torch import save

        about = {"name": self.name, "words": self.words, "roles": dict(self.roles)}
        notes = {"format": FORMAT, "version": VERSION, "about": json.dumps(about)}
        weights = {name: value.cpu().contiguous() for name, value in self.tensors().items()}
        return write_whole(path, save(weights, metadata=in_one_note(notes)))

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Decoder:
        """The model in the file; raises ModelError where it does not hold one."""
        from safetensors import SafetensorError, safe_open

        name = repr(os.fspath(path))
        try:
            with safe_open(os.fspath(path), framework="pt") as file:
                notes = notes_of(file.metadata())
                if (notes.get("format"), notes.get("version")) != (FORMAT, VERSION):
                    raise ModelError(f"{name} is not a file of {FORMAT}, version {VERSION}")
                about = parse_json(str(notes["about"]))
                weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            title, words, roles = _said(about)
            _require_weights(weights, len(words))
            return cls(title, words, roles=roles, **weights)
        except FileNotFoundError as error:
            raise ModelError(f"there is no file {name}; save a Decoder there") from error
        except ModelError:
            raise
        except (SafetensorError, OSError, KeyError, CircuitkitError) as error:
            raise ModelError(
                f"{name} does not hold a compiled model ({error}); save the Decoder again"
            ) from error


def _said(about: Any) -> tuple[str, tuple[str, ...], dict[str, str]]:
    """The name, the words and the roles in a file; raises CircuitkitError where they are not."""
    about = about if isinstance(about, dict) else {}
    name, words, roles = (about.get(key) for key in ("name", "words", "roles"))
    if not isinstance(name, str) or not isinstance(words, list) or not isinstance(roles, dict):
        raise CircuitkitError("it does not say its name, words and roles")
    each = [*words, *roles.values()]
    if not all(isinstance(one, str) for one in each) or len(set(words)) < max(len(words), 2):
        raise CircuitkitError("its words or roles are not texts, or it has a word twice")
    return name, tuple(words), roles


def _require_weights(weights: Mapping[str, Tensor], vocab: int) -> None:
    """Raise CircuitkitError where these are not a decoder's weights, of one floating type, finite,
    and of shapes that fit one another and the words."""
    sizes = {"vocab": vocab}
    if sorted(weights) != sorted(SHAPES):
        raise CircuitkitError(f"its tensors are not {', '.join(SHAPES)}")
    for name, axes in SHAPES.items():
        shape = tuple(weights[name].shape)
        known = tuple(sizes.setdefault(axis, size) for axis, size in zip(axes, shape, strict=False))
        if shape != known or len(shape) != len(axes) or 0 in shape:
            raise CircuitkitError(
                f"{name!r} has the shape {shape}, which does not fit the other weights and the "
                f"{vocab} words"
            )
    kinds = {weight.dtype for weight in weights.values()}
    if len(kinds) > 1 or not kinds.pop().is_floating_point:
        raise CircuitkitError("its weights are not of one floating type")
    for name, weight in weights.items():
        if not torch.isfinite(weight.float()).all():
            raise CircuitkitError(f"{name!r} holds nan or infinity")

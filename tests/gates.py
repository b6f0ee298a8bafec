"""Models built by hand, whose every number can be worked out on paper.

One layer and one-token prompts. Each residual direction has a name; a head multiplies what its q, k
and v inputs read and writes it in a direction of its own; the MLP writes any function of the
residual. Weights and inputs are small whole numbers, so that every sum is exact in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from circuitkit.data.batches import Dataset
from circuitkit.data.examples import Example
from circuitkit.engine.kinds import KINDS
from circuitkit.engine.model import Context, Kind, Pull
from circuitkit.graph.wiring import Wiring


@dataclass(frozen=True)
class ByHand:
    """A model of one layer. ``ports`` [3 × heads, d] and ``bias`` are what q, k and v read;
    ``out`` [heads, d] where each head writes; ``mlp_writes`` maps a residual to a residual."""

    embedding: Tensor
    ports: Tensor
    bias: Tensor
    out: Tensor
    mlp_writes: Callable[[Tensor], Tensor]
    readout: Tensor
    name: str = "by hand"
    tokenizer: Any = None
    d_head: int = 1
    couples: bool = False
    post_norm: bool = False
    trainable: bool = False
    kinds: Mapping[str, Kind] = field(default_factory=lambda: KINDS)
    router: str | None = None

    @property
    def wiring(self) -> Wiring:
        return Wiring(1, len(self.out), len(self.out))

    @property
    def d_model(self) -> int:
        return self.embedding.shape[1]

    @property
    def d_vocab(self) -> int:
        return self.readout.shape[1]

    @property
    def device(self) -> torch.device:
        return self.embedding.device

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding.dtype

    def start(self, tokens: Tensor, mask: Tensor) -> Context:
        return Context(self.embedding[tokens], ({},))

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        return self.embedding[tokens]

    def project(self, layer: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (x @ self.ports.T + self.bias).chunk(3, dim=-1)
        return q[..., None], k[..., None], v[..., None]

    def read(self, layer: int, ports: Sequence[int], x: Tensor) -> Tensor:
        weights, bias = self.ports[list(ports)], self.bias[list(ports)]
        return (x * weights[:, None, None]).sum(-1, keepdim=True) + bias[:, None, None, None]

    def pull(self, layer: int) -> Pull:
        return lambda _, grads: torch.einsum("tne,nd->ntd", torch.cat([*grads], dim=1), self.ports)

    def attend(self, context: Context, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return q * k * v

    def attention_out(self, layer: int, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.write(layer, None, z).sum(0), z

    def share(self, layer: int, z: Tensor) -> Tensor:
        return z

    def write(self, layer: int, index: Sequence[int] | None, z: Tensor) -> Tensor:
        heads = range(len(self.out)) if index is None else index
        return (z * self.out[list(heads)]).movedim(-2, 0)

    def constant(self, layer: int) -> None:
        return None

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        return self.mlp_writes(x)

    def neurons(self, layer: int, x: Tensor) -> Tensor:
        return self.mlp(layer, x)

    def mlp_out(self, layer: int, neurons: Tensor) -> Tensor:
        return neurons

    def unembed(self, x: Tensor) -> Tensor:
        return x @ self.readout


def prompts(pairs: Iterable[tuple[int, int]], swap: bool = False) -> Dataset:
    """One-token prompts of these (clean, corrupt) tokens. The logit difference is logit 0 less
    logit 1, or with ``swap`` the other way round."""
    right, wrong = (1, 0) if swap else (0, 1)
    made = [Example((a,), (b,), (right,), (wrong,), {"end": (0, 1)}) for a, b in pairs]
    return Dataset(tuple(made), batch_size=2)


SIZES = (1, 2, 3)
OR, AND, SUM, IDLE = (0, 1), (2, 3), (4, 5), 6


def gates() -> ByHand:
    """Three gates with two heads each, and a head that nobody reads.

    Directions: 0 the size s, 1 the signal, 2 the answer, 3 + h what head h writes. The token 2i has
    the size s = SIZES[i] and the signal s; the token 2i + 1 the same size and the signal 0. Every
    head copies the signal (its query and key are 1 whatever they read). The MLP writes

        min(s, h0 + h1)  +  max(0, h2 + h3 − s)  +  h4 + h5

    in the direction of the answer, which is logit 0; every other logit is 0.
    """
    embedding = torch.zeros(2 * len(SIZES), 10)
    for i, size in enumerate(SIZES):
        embedding[2 * i, :2] = size
        embedding[2 * i + 1, 0] = size
    ports, bias = torch.zeros(21, 10), torch.ones(21)
    ports[14:, 1], bias[14:] = 1, 0
    readout = torch.zeros(10, 2)
    readout[2, 0] = 1

    def mlp(x: Tensor) -> Tensor:
        size, heads = x[..., 0], x[..., 3:]
        either = torch.minimum(size, heads[..., OR].sum(-1))
        both = (heads[..., AND].sum(-1) - size).relu()
        written = torch.zeros_like(x)
        written[..., 2] = either + both + heads[..., SUM].sum(-1)
        return written

    return ByHand(embedding, ports, bias, torch.eye(10)[3:], mlp, readout)


def gate_prompts(swap: bool = False) -> Dataset:
    """One prompt of each size: signal against no signal."""
    return prompts([(2 * i, 2 * i + 1) for i in range(len(SIZES))], swap)

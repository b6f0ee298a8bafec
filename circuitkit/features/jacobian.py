"""How sparse the computation of an MLP is between two dictionaries: one of what it reads, and one
of what it writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitkit.engine.inspection import Inspectable
from circuitkit.engine.model import Model
from circuitkit.errors import DictionaryError
from circuitkit.evaluation.results import TableResult
from circuitkit.features.dictionaries import Dictionary
from circuitkit.features.rows import collect
from circuitkit.features.sites import fitted
from circuitkit.features.texts import Tokens
from circuitkit.util.json_values import Json
from circuitkit.util.progress import track
from circuitkit.util.tables import as_text, to_frame

if TYPE_CHECKING:
    import pandas

__all__ = ["JacobianSparsity", "jacobian_sparsity"]

THRESHOLDS = (0.1, 1.0)  # of the root mean square of a token's entries
AT_ONCE = 64  # tokens
FORMATS = {"entries": ".0f", "size": ".3g", "l1_l2": ".3f", "kurtosis": ".1f",
           "above_0.1": ".3f", "above_1": ".3f"}  # fmt: skip
Through = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class JacobianSparsity(TableResult):
    """How sparse the Jacobian of an MLP is between active features, beside two noise floors.

    ``measured`` has a row for the features that are active ``together`` at a token; for those of
    what is written beside those of what is read at ``another token``; and for as many ``random``
    directions. In the mean over ``tokens``: ``entries`` of a token's Jacobian, their ``size`` (root
    mean square: per unit of what a feature writes, in units of what the other writes), ``l1_l2``
    (mean magnitude by root mean square: 1 where all are alike, 0.80 of normal numbers, and 1/√n
    where one of n is not 0), the ``kurtosis`` (1; 3; n), and the shares of entries above 0.1 and 1
    times their size.
    """

    layer: int
    model: str
    texts: str
    measured: tuple[dict[str, Json], ...]

    def __str__(self) -> str:
        own, *floors = (row["l1_l2"] for row in self.measured)
        beside = " and ".join(f"{value:.2f}" for value in floors)
        return f"m{self.layer} of {self.model}: L1/L2 of the Jacobian {own:.2f}, beside {beside}"

    def __repr__(self) -> str:
        return f"{self} on {self.texts}\n\n{as_text(self.measured, formats=FORMATS)}"

    def to_frame(self) -> pandas.DataFrame:
        """A row for the active features and for each floor."""
        return to_frame(self.measured)

    def to_dict(self) -> dict[str, Json]:
        """All of it as plain values."""
        return {"component": f"m{self.layer}", "model": self.model, "texts": self.texts,
                "jacobians": [*self.measured]}  # fmt: skip


@torch.no_grad()
def jacobian_sparsity(
    model: Model,
    inputs: Dictionary,
    outputs: Dictionary,
    texts: Sequence[Tokens],
    *,
    tokens: int = 512,
    name: str = "the texts",
    seed: int = 0,
    batch_size: int = 32,
) -> JacobianSparsity:
    """How sparsely the features of what an MLP writes depend on those of what it reads.

    The Jacobian of a token is that of (activations, decoded → MLP → encoded), between the features
    of ``inputs`` that are active there and those of ``outputs`` that are active of what the MLP
    then writes. Features are scaled so that one unit writes a vector of length 1: how a dictionary
    deals size out to its encoder and its decoder does not count.

    Args:
        model: The model, from ``ck.load``.
        inputs: An autoencoder of what the MLP reads, after its norm (``mlp_in``) or before it
            (``resid_mid``).
        outputs: An autoencoder of what it writes (``mlp_out``).
        texts: Where it is measured, as ``read_texts`` reads them.
        tokens: On how many of their tokens, at random.
        name: What the texts are called.
        seed: Of which tokens, of which other tokens, and of the random directions.
        batch_size: How many texts run at once.

    Returns:
        The means over tokens, with both noise floors.

    Raises:
        DictionaryError: where the dictionaries are not a pair of autoencoders around one MLP of
            this model, or no features of both are active.

    Source: Farnik et al. (2025, arXiv:2502.18147), who train dictionaries for it.
    """
    read, written = (fitted(own, model).to(model.device, model.dtype) for own in (inputs, outputs))
    through = _through(model, read, written)
    marks = [torch.ones(len(text), dtype=torch.bool) for text in texts]
    place = (read.layer, read.reads, read.reads)
    rng = torch.Generator().manual_seed(seed)
    rows = collect(model, texts, marks, [place], batch_size)[place].x
    x = rows[torch.randperm(len(rows), generator=rng)[:tokens]].to(model.device, model.dtype)
    active = read.encode(x)
    x = read.decode(active)
    live, answering = active > 0, written.encode(through(x)) > 0
    decoder = torch.nn.functional.normalize(read.decoder, dim=-1)
    encoder = written.encoder * written.decoder.norm(dim=-1, keepdim=True)
    anywhere = [
        torch.nn.functional.normalize(torch.randn(own.shape, generator=rng), dim=-1).to(own)
        for own in (decoder, encoder)
    ]
    pairings = {
        "together": (live, decoder, encoder),
        "another token": (live.roll(1, 0), decoder, encoder),
        "random": (live, *anywhere),
    }
    measured = tuple(
        {"features": pairing, **_measured(through, x, answering, *own)}
        for pairing, own in pairings.items()
    )
    return JacobianSparsity(read.layer, model.name, name, measured)


def _through(model: Model, read: Dictionary, written: Dictionary) -> Through:
    """The MLP between the two dictionaries, token by token; raises DictionaryError where they are
    not around one."""
    places = {(own.reads, own.writes) for own in (read, written)}
    known = [{(x, x), ("mlp_out", "mlp_out")} for x in ("mlp_in", "resid_mid")]
    if places not in known or written.reads != "mlp_out" or read.layer != written.layer:
        raise DictionaryError(
            f"{read!r} and {written!r} are not around one MLP; give an autoencoder of 'mlp_in' or "
            "'resid_mid' and one of 'mlp_out' of the same layer"
        )
    if read.reads == "resid_mid":
        return lambda x: model.mlp(read.layer, x[:, None])[:, 0]
    if not isinstance(model, Inspectable):
        raise DictionaryError(
            f"{model.name!r} does not show what its norms give; load it with circuitkit.load"
        )
    return lambda x: model.mlp_after_norm(read.layer, x[:, None])[:, 0]


def _slopes(
    through: Through, x: Float[Tensor, "n d"], directions: Float[Tensor, "n e"]
) -> Float[Tensor, "n d"]:
    """The gradient of a direction of what the MLP writes in what it reads, row by row."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        (found,) = torch.autograd.grad((through(x) * directions).sum(), x)
    return found


def _measured(
    through: Through, x: Float[Tensor, "n d"], answering: Bool[Tensor, "n g"],
    live: Bool[Tensor, "n f"], decoder: Float[Tensor, "f d"], encoder: Float[Tensor, "g e"],
) -> dict[str, Json]:  # fmt: skip
    """The means over the tokens whose Jacobian has an entry that is not 0."""
    parts = [
        _of_tokens(through, x[part], answering[part], live[part], decoder, encoder)
        for part in track(torch.split(torch.arange(len(x)), AT_ONCE), "Jacobians")
    ]
    every = torch.cat(parts, 1)
    every = every[:, every[1] > 0]
    if not every.shape[1]:
        raise DictionaryError(
            "no features of both dictionaries are active at these tokens, or the MLP does nothing "
            "between them; give other texts"
        )
    entries, size, mean, fourth, *above = every.mean(1).tolist()
    shares = {f"above_{c:g}": value for c, value in zip(THRESHOLDS, above, strict=True)}
    return {"tokens": every.shape[1], "entries": entries, "size": size, "l1_l2": mean,
            "kurtosis": fourth, **shares}  # fmt: skip


def _of_tokens(
    through: Through, x: Tensor, answering: Tensor, live: Tensor, decoder: Tensor, encoder: Tensor
) -> Float[Tensor, "measures n"]:
    """Of each token's Jacobian the number of entries, their root mean square, and in its units the
    mean magnitude, the mean fourth power, and the shares above the thresholds."""
    token, feature = answering.nonzero(as_tuple=True)
    slopes = _slopes(through, x[token], encoder[feature])
    there = live[token]
    jacobian = torch.where(there, slopes @ decoder.T, 0).cpu().double()
    token, none = token.cpu(), jacobian.new_zeros(len(x))
    count = none.index_add(0, token, there.sum(1).cpu().double())
    per_entry = 1 / count.clamp(min=1)
    size = (none.index_add(0, token, jacobian.square().sum(1)) * per_entry).sqrt()
    tiny = torch.finfo(size.dtype).tiny
    unit = jacobian.abs() / size.clamp(min=tiny)[token][:, None]
    sums = [unit, unit**4, *((unit > c).to(unit) for c in THRESHOLDS)]
    means = [none.index_add(0, token, one.sum(1)) * per_entry for one in sums]
    return torch.stack([count, size, *means])

"""Which edges of a model are the true ones: by three labels, which are kept apart.

``mapped`` edges are those that a model was made to use: by training, or by compiling the program
that a variant hides. ``one`` are those that are necessary when one edge alone is cut; ``half``
those that are necessary alone, or within a random half of the other edges, which finds backups too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from circuitkit.corruptions.replacement import counterfactual
from circuitkit.data.batches import Dataset
from circuitkit.engine.metric import Corruption
from circuitkit.engine.model import Model
from circuitkit.evaluation.faithfulness import Evaluation, evaluate
from circuitkit.graph.types import Mask
from circuitkit.graph.wiring import Wiring
from circuitkit.metrics.answers import logit_diff
from circuitkit.models.decoder import Decoder
from circuitkit.truth.cuts import any_logit, changes_alone, changes_in_halves, metric_change
from circuitkit.truth.rasp import structural_edges, true_edges

__all__ = ["LABELS", "MEMBERS", "TrueEdges", "hidden", "leaked", "programmed", "trained", "within"]

LABELS = ("mapped", "one", "half")
MEMBERS = ("or", "backup", "negative")  # sets of true edges of their own
SHARE = 0.05  # of the gap: the mean effect from which an edge of a noisy model is necessary
FEW = 32  # prompts on which the random halves of a compiled model are run
HALVES, PROMPTS = 8, 8  # random halves of a trained model, and the prompts on which they are run


@dataclass(frozen=True)
class TrueEdges:
    """The true edges of a model under one corruption, by each label that it has.

    ``members`` are labelled sets of them: the legs of an OR, backups (edges that are necessary only
    within a half), and those of negative heads. ``unmapped`` is the largest mean effect of an edge
    that is not true, and ``leak`` what all of them change in a model that hides a program, as
    shares of the gap. ``edges`` counts all edges of the model.
    """

    labels: Mapping[str, Mask]
    members: Mapping[str, Mask] = field(default_factory=dict)
    unmapped: float = 0.0
    leak: float = 0.0
    edges: int = 0

    @property
    def main(self) -> str:
        """The label that counts: what is mapped; where nothing is, what is necessary in a half."""
        return "mapped" if "mapped" in self.labels else "half"

    @property
    def true(self) -> Mask:
        """The true edges by that label."""
        return self.labels[self.main]

    def to_block(self) -> dict[str, np.ndarray]:
        """As a block of a journal."""
        return {
            **{f"label.{name}": mask for name, mask in self.labels.items()},
            **{f"member.{name}": mask for name, mask in self.members.items()},
            "shares": np.array([self.unmapped, self.leak, self.edges]),
        }

    @classmethod
    def from_block(cls, block: Mapping[str, np.ndarray] | None) -> TrueEdges | None:
        """From a block of a journal; None where there is none, or something else."""
        named: dict[str, dict[str, Mask]] = {"label": {}, "member": {}}
        shares = (block or {}).get("shares")
        if block is None or shares is None or shares.shape != (3,) or shares.dtype.kind != "f":
            return None
        for name, mask in block.items():
            kind, _, own = name.partition(".")
            if kind in named and mask.dtype == bool and mask.ndim == 2:
                named[kind][own] = mask
        if not set(named["label"]) & {"mapped", "half"}:
            return None
        unmapped, leak, edges = shares.tolist()
        return cls(named["label"], named["member"], unmapped, leak, int(edges))


def programmed(
    model: Decoder, data: Dataset, corruption: Corruption, legs: Sequence[str] = ()
) -> TrueEdges:
    """The edges of a compiled model by brute force: what changes any logit of any prompt."""
    found = true_edges(model, data, corruption)
    one = found.necessary
    changes = changes_in_halves(
        model, data[:FEW], corruption, any_logit,
        among=found.structural, asked=found.structural & ~one, largest=True,
    )  # fmt: skip
    half = one | (changes > found.tolerance)
    either = [name for name, role in model.roles.items() if role.partition(" × ")[0] in legs]
    against = [name for name, role in model.roles.items() if "× -" in role]
    masks = (
        half & _touching(model.wiring, either), half & ~one,
        half & _touching(model.wiring, against),
    )  # fmt: skip
    members = dict(zip(MEMBERS, masks, strict=True))
    return TrueEdges({"one": one, "half": half}, members, edges=model.wiring.n_edges)


def hidden(
    truth: TrueEdges, program: Decoder, model: Decoder, data: Dataset, corruption: Corruption
) -> TrueEdges:
    """The truth of a program in a model that holds it among other parts with effects of their own:
    its edges are mapped, and those of any part are necessary from 5 % of the gap on."""

    def at(mask: Mask) -> Mask:
        return within(mask, program.wiring, model.wiring)

    shares = _shares(model, data, corruption)
    mapped = at(truth.true)
    return TrueEdges(
        {"mapped": mapped, "one": shares > SHARE},
        {name: at(mask) for name, mask in truth.members.items()},
        _unmapped(shares, mapped),
        leaked(program, model, data, corruption),
        model.wiring.n_edges,
    )


def trained(
    model: Model, mapped: Mask, constant: Mask, data: Dataset, corruption: Corruption
) -> TrueEdges:
    """The truth of a model that was trained to use the mapped edges. Through the constant ones the
    same is read in every prompt: they are true where cutting them changes something."""
    shares = _shares(model, data, corruption)
    mapped = mapped & ~(constant & (shares <= SHARE))
    one, few = shares > SHARE, data[:PROMPTS]
    changes = changes_in_halves(
        model, few, corruption, metric_change(logit_diff),
        among=model.wiring.legal, asked=model.wiring.legal & ~one, draws=HALVES,
    )  # fmt: skip
    half = one | (changes > SHARE * _gap(model, few, corruption))
    labels = {"mapped": mapped, "one": one, "half": half}
    unmapped = _unmapped(shares, mapped)
    return TrueEdges(labels, unmapped=unmapped, edges=model.wiring.n_edges)


def within(mask: Mask, wiring: Wiring, larger: Wiring) -> Mask:
    """The same edges, by their names, in a model that has more components."""
    found = np.zeros(larger.shape, dtype=bool)
    for i, j in np.argwhere(mask):
        found[larger.index(wiring.writers[i], wiring.readers[j])] = True
    return found


def leaked(
    program: Decoder, model: Decoder, data: Dataset, corruption: Corruption = counterfactual
) -> float:
    """By what share of the gap between clean and corrupted answers all edges that are not the
    program's change the answer (``logit_diff``) when they are cut, on average over the prompts."""
    own = within(structural_edges(program), program.wiring, model.wiring)
    apart = evaluate(model, own, data, logit_diff, corruption)
    change = float(np.abs(apart.circuit - apart.everything).mean())
    return change / _gap(program, data, corruption)


# -- parts -----------------------------------------------------------------------------------------
def _shares(
    model: Model, data: Dataset, corruption: Corruption
) -> Float[np.ndarray, "writers readers"]:
    """The mean effect of cutting each edge alone, as a share of the gap."""
    found = changes_alone(model, data, corruption, metric_change(logit_diff))
    return found / _gap(model, data, corruption)


def _gap(model: Model, data: Dataset, corruption: Corruption) -> float:
    """How far the mean answers of the model and of nothing kept are apart; where they are the same,
    the mean size of the answers."""
    ends: Evaluation = evaluate(model, model.wiring.legal, data, logit_diff, corruption)
    size = float(np.abs(ends.everything).mean())
    gap = abs(float(ends.everything.mean() - ends.nothing.mean()))
    return gap if gap > 1e-6 * size else max(size, 1e-6)


def _unmapped(shares: Float[np.ndarray, "writers readers"], true: Mask) -> float:
    return float(np.where(true, 0, shares).max(initial=0))


def _touching(wiring: Wiring, names: list[str]) -> Mask:
    """The edges into and out of these components."""
    mask = np.zeros(wiring.shape, dtype=bool)
    for row in (wiring.writer[name] for name in names):
        mask[row], mask[:, wiring.feeds(row)] = True, True
    mask &= wiring.legal
    return mask

"""Two programs compiled by Tracr, whose true edges depend on what a cut edge carries."""

from __future__ import annotations

from collections.abc import Iterable

from circuitkit.graph.nodes import parse_edge
from circuitkit.graph.wiring import Wiring
from circuitkit.references._rules import Edges, Published

__all__ = ["PROPORTION", "REVERSE", "circuits"]

_ACDC = "Conmy et al. 2023, arXiv:2304.14997"
_AUTOCIRCUIT = "Miller et al. 2024, arXiv:2407.08734"

# ACDC's edges, whose models have two inputs: the tokens and the positions.
REVERSE = (
    "tokens->a0.h0<v>", "tokens->m0", "a0.h0->m0", "tokens->m1", "positions->m1", "m0->m1",
    "m1->m2", "m2->a3.h0<q>", "positions->a3.h0<k>", "tokens->a3.h0<v>", "a3.h0->logits",
)  # fmt: skip
PROPORTION = (
    "tokens->m0", "tokens->a1.h0<q>", "positions->a1.h0<q>", "tokens->a1.h0<k>",
    "positions->a1.h0<k>", "m0->a1.h0<v>", "a1.h0->logits",
)  # fmt: skip
_REVERSE, _PROPORTION = Wiring(4, 1, 1), Wiring(2, 1, 1)
_REVERSE_ROLES = {
    "a0.h0": "length", "m0": "length", "m1": "opposite index", "m2": "opposite index",
    "a3.h0": "reversed copy",
}  # fmt: skip
_PROPORTION_ROLES = {"m0": "is x", "a1.h0": "mean so far"}
_ZERO = (
    "residual edges under zero ablation, tokens and positions as one input; as two inputs, and "
    "with one direct edge for every port entered, {}"
)
_RESAMPLED = "residual edges under resampling, tokens and positions as one input"
_CONSTANT = (
    "what carries only positions or the length is the same in every prompt of one length: cut or "
    "not, nothing changes, so that its edges are none here"
)


def circuits() -> tuple[Published, ...]:
    """The true edges of each program, under zero ablation and under resampling."""
    reverse, proportion = ("a3.h0->logits", "input->a3.h0<v>"), (
        "input->m0", "m0->a1.h0<v>", "a1.h0->logits",
    )  # fmt: skip
    return (
        Published(
            "tracr-reverse:acdc", "tracr-reverse", _REVERSE, _ACDC, _ZERO.format("15 of 106"),
            "edges that carry positions or the length count; under resampling they do not",
            _REVERSE_ROLES, {}, _merged(REVERSE),
        ),
        Published(
            "tracr-reverse:resample", "tracr-reverse", _REVERSE, _AUTOCIRCUIT, _RESAMPLED,
            _CONSTANT, {"a3.h0": "reversed copy"}, {}, _merged(reverse),
        ),
        Published(
            "tracr-proportion:acdc", "tracr-xproportion", _PROPORTION, _ACDC,
            _ZERO.format("10 of 38"),
            "Shi et al. 2024 drop the tokens' edges into q and k of the head; as one input these "
            "are the edges of the positions, which they keep",
            _PROPORTION_ROLES, {}, _merged(PROPORTION),
        ),
        Published(
            "tracr-proportion:resample", "tracr-xproportion", _PROPORTION, _AUTOCIRCUIT,
            _RESAMPLED, _CONSTANT, _PROPORTION_ROLES, {}, _merged(proportion),
        ),
    )  # fmt: skip


def _merged(names: Iterable[str]) -> Edges:
    """The edges, tokens and positions become the one embedding."""
    pairs = [name.partition("->")[::2] for name in names]
    return frozenset(
        parse_edge(f"{'input' if writer in ('tokens', 'positions') else writer}->{reader}")
        for writer, reader in pairs
    )

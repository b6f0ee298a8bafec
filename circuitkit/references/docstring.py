"""The next argument of a docstring in a four-layer attention-only model: Heimersheim and Janiak's
circuit."""

from __future__ import annotations

from circuitkit.graph.nodes import INPUT, LOGITS
from circuitkit.graph.published import Edges, Published, Rule, heads, joined, legal, roles_of
from circuitkit.graph.wiring import Wiring

__all__ = ["heimersheim2023", "acdc", "autocircuit", "autocircuit_heads"]

_POST = "Heimersheim & Janiak 2023"
_ACDC = "Conmy et al. 2023, arXiv:2304.14997"
_AUTOCIRCUIT = "Miller et al. 2024, arXiv:2407.08734"
_MODEL, _WIRING = "attn-only-4l", Wiring(layers=4, heads=8, groups=8, mlp=False)

_CLASSES = {
    "argument mover": heads("3.0 3.6"),
    "previous token": heads("2.0"),
    "induction and fuzzy previous token": heads("1.4"),
    "duplicate token": heads("1.2"),
    "token transformation": heads("0.5"),
}
_KNOWN = roles_of(_CLASSES)
_EIGHT = _CLASSES | {"previous token": heads("0.2 2.0"), "positional information": heads("0.4")}
_HELPING = _EIGHT | {"helps, role unknown": heads("0.1 1.0 2.3")}
_POSITIONS = {
    "a0.h2": ("B_doc",),
    "a0.h4": ("end",),
    "a0.h5": ("B_def", "C_def", "B_doc"),
    "a1.h2": ("A_doc", "B_doc"),
    "a1.h4": ("B_def+1",),
    "a2.h0": ("C_def",),
    "a3.h0": ("end",),
    "a3.h6": ("end",),
}

_RULES: tuple[Rule, ...] = (
    ("input", "token transformation", "v"),
    ("input", "duplicate token", "qk"),
    ("input", "induction and fuzzy previous token", "v"),
    ("input", "previous token", "qk"),
    ("input", "argument mover", "v"),
    ("token transformation", "duplicate token", "qk"),
    ("token transformation", "induction and fuzzy previous token", "v"),
    ("token transformation", "previous token", "qk"),
    ("token transformation", "argument mover", "v"),
    ("induction and fuzzy previous token", "previous token", "v"),
    ("induction and fuzzy previous token", "argument mover", "q"),
    ("duplicate token", "argument mover", "k"),
    ("previous token", "argument mover", "k"),
    ("argument mover", "output", ""),
)


def heimersheim2023() -> Published:
    """attn-only-4l: 11 of 32 components; Heimersheim & Janiak 2023.

    Example:
        >>> ck.references.docstring.heimersheim2023().roles["a3.h0"]
        'argument mover'
    """
    return Published(
        name="docstring:heimersheim2023",
        model=_MODEL,
        wiring=_WIRING,
        source=_POST,
        convention="heads, each at one or more token positions",
        note=(
            "the original: six heads that patching finds, 0.2 and 0.4, which it cannot find, and "
            "three that help in an unknown way, at no particular position; B_def+1 is the comma "
            "after B"
        ),
        roles=roles_of(_HELPING),
        positions=_POSITIONS,
    )


def acdc() -> Published:
    """attn-only-4l: 37 of 1,377 edges (24 without the direct ones);
    Conmy et al. 2023, arXiv:2304.14997.

    Example:
        >>> len(ck.references.docstring.acdc().edges)
        24
    """
    return Published(
        name="docstring:acdc",
        model=_MODEL,
        wiring=_WIRING,
        source=_ACDC,
        convention="residual edges, and one direct edge for every port that they enter",
        note=(
            "the six heads that patching finds, joined by the authors of the post; without 0.2 and "
            "0.4 of docstring:heimersheim2023"
        ),
        roles=_KNOWN,
        positions={name: _POSITIONS[name] for name in _KNOWN},
        edges=joined(_WIRING, _CLASSES, _RULES),
        direct=True,
    )


def autocircuit() -> Published:
    """attn-only-4l: 24 of 1,281 edges; Miller et al. 2024, arXiv:2407.08734.

    Example:
        >>> len(ck.references.docstring.autocircuit().edges)
        24
    """
    return Published(
        name="docstring:autocircuit",
        model=_MODEL,
        wiring=_WIRING,
        source=_AUTOCIRCUIT,
        convention="residual edges",
        note="the edges of docstring:acdc, counted without the direct ones",
        roles=_KNOWN,
        positions={name: _POSITIONS[name] for name in _KNOWN},
        edges=joined(_WIRING, _CLASSES, _RULES),
    )


def autocircuit_heads() -> Published:
    """attn-only-4l: 588 of 1,281 edges; Miller et al. 2024, arXiv:2407.08734.

    Example:
        >>> len(ck.references.docstring.autocircuit_heads().edges)
        588
    """
    return Published(
        name="docstring:autocircuit_heads",
        model=_MODEL,
        wiring=_WIRING,
        source=_AUTOCIRCUIT,
        convention="residual edges, at all positions",
        note=(
            "every edge except those that leave a head outside docstring:heimersheim2023: what is "
            "kept when the other heads are patched"
        ),
        roles=roles_of(_HELPING),
        positions=_POSITIONS,
        edges=_without_other_heads(),
    )


def _without_other_heads() -> Edges:
    parts = [writer for writer in _WIRING.writers if writer != INPUT]
    return legal(_WIRING, (INPUT, *roles_of(_HELPING)), (*parts, LOGITS))

"""Indirect object identification: Wang et al.'s heads in GPT-2 small with three readings of the
edges between them, and Merullo et al.'s heads in GPT-2 medium."""

from __future__ import annotations

from circuitkit.graph.nodes import INPUT, LOGITS, Node
from circuitkit.graph.published import (
    GPT2,
    Edges,
    Published,
    Rule,
    heads,
    joined,
    legal,
    roles_of,
)
from circuitkit.graph.wiring import Wiring

__all__ = [
    "wang2022",
    "wang2022_naive",
    "acdc",
    "autocircuit",
    "autocircuit_heads",
    "eap_ig",
    "merullo2024",
]

_WANG = "Wang et al. 2023, arXiv:2211.00593"
_ACDC = "Conmy et al. 2023, arXiv:2304.14997"
_AUTOCIRCUIT = "Miller et al. 2024, arXiv:2407.08734"
_EAP_IG = "Hanna et al. 2024, arXiv:2403.17806"
_MERULLO = "Merullo et al. 2024, arXiv:2310.08744"

# The heads of each class, by importance if the paper ranks them, and where their output counts.
_CLASSES = {
    "name mover": heads("9.9 10.0 9.6"),
    "backup name mover": heads("10.10 10.6 10.2 10.1 11.2 9.7 9.0 11.9"),
    "negative name mover": heads("10.7 11.10"),
    "S-inhibition": heads("7.3 7.9 8.6 8.10"),
    "induction": heads("5.5 5.8 5.9 6.9"),
    "duplicate token": heads("0.1 0.10 3.0"),
    "previous token": heads("2.2 4.11"),
}
_SPANS = {
    "name mover": "end", "backup name mover": "end", "negative name mover": "end",
    "S-inhibition": "end", "induction": "S2", "duplicate token": "S2", "previous token": "S1+1",
}  # fmt: skip
_NAIVE = {
    "name mover": heads("9.9 10.0 9.6"),
    "S-inhibition": heads("7.3 7.9 8.6 8.10"),
    "induction": heads("5.5 5.9"),
    "duplicate token": heads("0.10 3.0"),
    "previous token": heads("2.2 4.11"),
}
_MEDIUM = {
    "mover": heads("15.14 16.15 17.4 18.5 19.15"),
    "induction": heads("9.3"),
    "duplicate token": heads("6.4"),
    "inhibition": heads("12.3 13.4 13.13"),
    "negative mover": heads("19.1"),
}
_ROLES = roles_of(_CLASSES)
_POSITIONS = {name: (_SPANS[role],) for name, role in _ROLES.items()}
_MLPS = tuple(f"m{layer}" for layer in range(GPT2.layers))

# What ACDC and AutoCircuit both join.
_RULES: tuple[Rule, ...] = (
    ("input", "previous token", "qkv"),
    ("input", "duplicate token", "qkv"),
    ("input", "S-inhibition", "q"),
    ("input", "negative name mover", "kv"),
    ("input", "name mover", "kv"),
    ("input", "backup name mover", "kv"),
    ("previous token", "induction", "kv"),
    ("induction", "S-inhibition", "kv"),
    ("duplicate token", "S-inhibition", "kv"),
    ("S-inhibition", "negative name mover", "q"),
    ("S-inhibition", "name mover", "q"),
    ("S-inhibition", "backup name mover", "q"),
    ("negative name mover", "output", ""),
    ("name mover", "output", ""),
    ("backup name mover", "output", ""),
)
_EAP_IG_RULES: tuple[Rule, ...] = (
    ("input", "previous token", "qkv"),
    ("previous token", "induction", "q"),
    ("input", "duplicate token", "qkv"),
    ("duplicate token", "induction", "kv"),
    ("first induction", "last induction", "q"),
    ("first movers", "later movers", "q"),
    ("input", "S-inhibition", "qkv"),
    ("induction", "S-inhibition", "kv"),
    ("S-inhibition", "all movers", "q"),
    ("input", "all movers", "kv"),
    ("all movers", "output", ""),
    ("mover into the last MLP", "last MLP", ""),
    ("last MLP", "output", ""),
)


def wang2022() -> Published:
    """gpt2: 26 of 144 components; Wang et al. 2023, arXiv:2211.00593.

    Example:
        >>> ck.references.ioi.wang2022().roles["a9.h9"]
        'name mover'
    """
    return Published(
        name="ioi:wang2022",
        model="gpt2",
        wiring=GPT2,
        source=_WANG,
        convention="heads, each at one token position; MLPs and the embedding stay as they are",
        note=(
            "the original: a set of heads, no edges; the paper's code merges name movers and "
            "backup name movers into one class"
        ),
        roles=_ROLES,
        positions=_POSITIONS,
    )


def wang2022_naive() -> Published:
    """gpt2: 13 of 144 components; Wang et al. 2023, arXiv:2211.00593.

    Example:
        >>> ck.references.ioi.wang2022_naive().roles["a9.h9"]
        'name mover'
    """
    return Published(
        name="ioi:wang2022_naive",
        model="gpt2",
        wiring=GPT2,
        source=_WANG,
        convention="heads, each at one token position; MLPs and the embedding stay as they are",
        note=(
            "the paper's control: no backup or negative name movers, half of the induction heads; "
            "it is faithful but far from complete"
        ),
        roles=roles_of(_NAIVE),
        positions={name: _POSITIONS[name] for name in roles_of(_NAIVE)},
    )


def acdc() -> Published:
    """gpt2: 1,041 of 32,923 edges (963 without the direct ones);
    Conmy et al. 2023, arXiv:2304.14997.

    Example:
        >>> len(ck.references.ioi.acdc().edges)
        963
    """
    return Published(
        name="ioi:acdc",
        model="gpt2",
        wiring=GPT2,
        source=_ACDC,
        convention="residual edges, and one direct edge for every port of the 26 heads",
        note=(
            "every edge of an MLP with a head of the circuit, with an MLP, with the embedding or "
            "with the logits is kept; ioi:autocircuit keeps only MLPs between joined classes"
        ),
        roles=_ROLES,
        positions=_POSITIONS,
        edges=_acdc(),
        direct=True,
    )


def autocircuit() -> Published:
    """gpt2: 739 of 32,491 edges; Miller et al. 2024, arXiv:2407.08734.

    Example:
        >>> len(ck.references.ioi.autocircuit().edges)
        739
    """
    return Published(
        name="ioi:autocircuit",
        model="gpt2",
        wiring=GPT2,
        source=_AUTOCIRCUIT,
        convention="residual edges",
        note=(
            "the classes of ioi:acdc, joined through the MLPs from the first layer of the one to "
            "the layer before the last of the other; without token positions the bound for the "
            "logits falls to 0, so that no MLP is between a mover and the logits"
        ),
        roles=_ROLES,
        positions=_POSITIONS,
        edges=_autocircuit(),
    )


def autocircuit_heads() -> Published:
    """gpt2: 6,540 of 32,491 edges; Miller et al. 2024, arXiv:2407.08734.

    Example:
        >>> len(ck.references.ioi.autocircuit_heads().edges)
        6540
    """
    return Published(
        name="ioi:autocircuit_heads",
        model="gpt2",
        wiring=GPT2,
        source=_AUTOCIRCUIT,
        convention="residual edges, at all positions",
        note=(
            "every edge except those that leave a head outside ioi:wang2022: what is kept when the "
            "other heads are ablated"
        ),
        roles=_ROLES,
        positions=_POSITIONS,
        edges=_without_other_heads(),
    )


def eap_ig() -> Published:
    """gpt2: 215 of 32,491 edges; Hanna et al. 2024, arXiv:2403.17806.

    Example:
        >>> len(ck.references.ioi.eap_ig().edges)
        215
    """
    return Published(
        name="ioi:eap_ig",
        model="gpt2",
        wiring=GPT2,
        source=_EAP_IG,
        convention="residual edges; the source's precision and recall leave MLPs out",
        note=(
            "unlike ioi:acdc: previous-token heads enter induction heads at q, duplicate-token "
            "heads feed induction heads, movers of layer 9 feed the later ones, one MLP"
        ),
        roles=_ROLES,
        positions=_POSITIONS,
        edges=_eap_ig(),
    )


def merullo2024() -> Published:
    """gpt2-medium: 11 of 384 components; Merullo et al. 2024, arXiv:2310.08744.

    Example:
        >>> ck.references.ioi.merullo2024().roles["a15.h14"]
        'mover'
    """
    return Published(
        name="ioi:merullo2024",
        model="gpt2-medium",
        wiring=Wiring(layers=24, heads=16, groups=16),
        source=_MERULLO,
        convention="heads; no edges were published",
        note=(
            "a different model from all other circuits of the task; an appendix also has 13.14 "
            "among the inhibition heads"
        ),
        roles=roles_of(_MEDIUM),
    )


def _acdc() -> Edges:
    """The classes as they are joined, and every edge of an MLP or from end to end."""
    parts = (*_ROLES, *_MLPS)
    through = legal(GPT2, (INPUT, *parts), _MLPS) | legal(GPT2, _MLPS, (*parts, LOGITS))
    return joined(GPT2, _CLASSES, _RULES) | through | {(str(INPUT), str(LOGITS))}


def _autocircuit() -> Edges:
    """The classes as they are joined, directly and through the MLPs between them."""
    found: Edges = frozenset()
    for first, second, letters in _RULES:
        writers, readers = _CLASSES.get(first, (INPUT,)), _CLASSES.get(second, (LOGITS,))
        start = min((_layer(name) for name in _CLASSES.get(first, ())), default=0)
        stop = max((_layer(name) for name in _CLASSES.get(second, ())), default=0)
        between = _MLPS[start:stop]
        found |= legal(GPT2, (*writers, *between), (*readers, *between), letters)
    return found


def _layer(name: str) -> int:
    return Node(name).layer or 0


def _without_other_heads() -> Edges:
    parts = [writer for writer in GPT2.writers if writer != INPUT]
    kept = [writer for writer in GPT2.writers if not writer.is_head or writer in _ROLES]
    return legal(GPT2, kept, (*parts, LOGITS))


def _eap_ig() -> Edges:
    groups = _CLASSES | {
        "first induction": heads("5.5 5.8 5.9"),
        "last induction": heads("6.9"),
        "first movers": heads("9.6 9.9 9.0 9.7"),
        "later movers": heads("10.0 10.10 10.6 10.2 10.1 11.2 11.9"),
        "all movers": tuple(name for name, role in _ROLES.items() if "mover" in role),
        "mover into the last MLP": heads("9.7"),
        "last MLP": ("m11",),
    }
    return joined(GPT2, groups, _EAP_IG_RULES)

"""Comparing years in GPT-2 small: Hanna et al.'s components, and three readings of the edges
between them."""

from __future__ import annotations

from circuitkit.graph.published import GPT2, Edges, Published, Rule, heads, joined, roles_of

__all__ = ["hanna2023", "acdc", "autocircuit", "eap_ig"]

_HANNA = "Hanna et al. 2023, arXiv:2305.00586"
_ACDC = "Conmy et al. 2023, arXiv:2304.14997"
_AUTOCIRCUIT = "Miller et al. 2024, arXiv:2407.08734"
_EAP_IG = "Hanna et al. 2024, arXiv:2403.17806"


def _mlps(first: int, last: int) -> tuple[str, ...]:
    return tuple(f"m{layer}" for layer in range(first, last + 1))


_LOW = {
    "early head": heads("0.3 0.5"),
    "early head into MLPs": heads("0.1"),
    "early MLP": _mlps(0, 3),
}
_ORIGINAL = _LOW | {
    "mid head": heads("5.1 5.5 6.9 7.10 8.8 8.11 9.1"),
    "late MLP": _mlps(8, 11),
}
_GROUPS = _LOW | {"mid head": heads("5.5 6.1 6.9 7.10 8.11 9.1"), "late MLP": _mlps(8, 11)}
_EAP_IG_GROUPS = _LOW | {
    "mid head": heads("5.1 5.5 6.1 6.9 7.10 8.8 8.11 9.1"),
    "late MLP": _mlps(8, 11),
}

_RULES: tuple[Rule, ...] = (
    ("input", "early head", "qkv"),
    ("input", "early head into MLPs", "qkv"),
    ("input", "early MLP", ""),
    ("mid head", "output", ""),
    ("late MLP", "output", ""),
    ("early MLP", "early MLP", ""),
    ("late MLP", "late MLP", ""),
    ("early head into MLPs", "early MLP", ""),
    ("early head into MLPs", "mid head", "qkv"),
    ("early head", "mid head", "qkv"),
    ("early MLP", "mid head", "qkv"),
    ("mid head", "late MLP", ""),
)
# Hanna et al. leave the queries of the mid heads clean: every MLP may reach them.
_QUERIES: tuple[Rule, ...] = (
    ("MLP below the mid heads", "MLP below the mid heads", ""),
    ("MLP below the mid heads", "mid head", "q"),
)


def hanna2023() -> Published:
    """gpt2: 18 of 156 components; Hanna et al. 2023, arXiv:2305.00586.

    Example:
        >>> ck.references.greater_than.hanna2023().roles["a0.h3"]
        'early head'
    """
    return Published(
        name="greater_than:hanna2023",
        model="gpt2",
        wiring=GPT2,
        source=_HANNA,
        convention="components, each at one token position",
        note="the original: paths between these components; queries of the mid heads stay clean",
        roles=roles_of(_ORIGINAL),
        positions=_positions(),
    )


def acdc() -> Published:
    """gpt2: 262 of 32,923 edges (235 without the direct ones);
    Conmy et al. 2023, arXiv:2304.14997.

    Example:
        >>> len(ck.references.greater_than.acdc().edges)
        235
    """
    return Published(
        name="greater_than:acdc",
        model="gpt2",
        wiring=GPT2,
        source=_ACDC,
        convention="residual edges, and one direct edge for every port of the 9 heads",
        note=(
            "has head 6.1 and not 5.1 and 8.8 of greater_than:hanna2023; the MLPs below the mid "
            "heads, and their edges into the queries, stand for the queries left clean"
        ),
        roles=roles_of(_GROUPS),
        edges=_acdc(),
        direct=True,
    )


def autocircuit() -> Published:
    """gpt2: 235 of 32,491 edges; Miller et al. 2024, arXiv:2407.08734.

    Example:
        >>> len(ck.references.greater_than.autocircuit().edges)
        235
    """
    return Published(
        name="greater_than:autocircuit",
        model="gpt2",
        wiring=GPT2,
        source=_AUTOCIRCUIT,
        convention="residual edges",
        note="the edges of greater_than:acdc, counted without the direct ones",
        roles=roles_of(_GROUPS),
        edges=_acdc(),
    )


def eap_ig() -> Published:
    """gpt2: 240 of 32,491 edges; Hanna et al. 2024, arXiv:2403.17806.

    Example:
        >>> len(ck.references.greater_than.eap_ig().edges)
        240
    """
    return Published(
        name="greater_than:eap_ig",
        model="gpt2",
        wiring=GPT2,
        source=_EAP_IG,
        convention="residual edges",
        note=(
            "has all the mid heads of greater_than:hanna2023 and 6.1; joined as in "
            "greater_than:acdc, but nothing stands for the queries left clean"
        ),
        roles=roles_of(_EAP_IG_GROUPS),
        edges=joined(GPT2, _EAP_IG_GROUPS, _RULES),
    )


def _acdc() -> Edges:
    return joined(GPT2, _GROUPS | {"MLP below the mid heads": _mlps(0, 8)}, _RULES + _QUERIES)


def _positions() -> dict[str, tuple[str, ...]]:
    """The low components work at the year's ending, all others at the last token."""
    low = roles_of(_LOW)
    return {name: (("YY",) if name in low else ("end",)) for name in roles_of(_ORIGINAL)}

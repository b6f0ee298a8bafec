"""What the prompts of a cluster share: their template, the order of names, words, lengths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from circuitkit.data.batches import Dataset
from circuitkit.data.examples import Example
from circuitkit.data.subgroups import length, named, order, template, text
from circuitkit.util.json_values import Json

__all__ = ["features", "shared"]

DRAWS = 999  # permutations of the clusters


def features(data: Dataset) -> dict[str, list[str]]:
    """What can be said of each prompt without a model, by name: the ``template`` (the text with a
    gap for each span), the ``order`` of the answers, the ``length`` in tokens, where the corrupted
    text ``differs``, the ``first word`` (which not all prompts share), the ``last word``, the
    ``answer``, and the words of each span. What all prompts share is left out, and what is hardly
    ever the same in two of them."""
    examples = data.examples
    names = dict.fromkeys(name for example in examples for name in example.spans if name != "end")
    found = {
        "template": [template(data, one) for one in examples],
        "order": [order(one) for one in examples],
        "length": [length(one) for one in examples],
        "differs": [_differs(one) for one in examples],
        "first word": _first(data),
        "last word": [text(data, one.clean[-1:]) for one in examples],
        "answer": [text(data, one.correct) for one in examples],
        **{name: [text(data, _span(one, name)) for one in examples] for name in names},
    }
    return {name: values for name, values in found.items() if _tells(values)}


def _span(example: Example, name: str) -> Sequence[int]:
    """The tokens of a span, if there is one."""
    start, stop = example.spans.get(name, (0, 0))
    return example.clean[start:stop]


def _differs(example: Example) -> str:
    """The spans in which the corrupted text differs, or how many tokens do."""
    if len(example.clean) != len(example.corrupt):  # aligned by its spans
        return " ".join(_changed(example)) or "the lengths"
    pairs = zip(example.clean, example.corrupt, strict=True)
    own = [i for i, (clean, corrupt) in enumerate(pairs) if clean != corrupt]
    held = [name for start, stop, name in named(example) if any(start <= i < stop for i in own)]
    return " ".join(held) or f"{len(own)} token{'s' * (len(own) != 1)}"


def _changed(example: Example) -> list[str]:
    """The spans whose words are others in a corrupted text of another length."""
    spans = example.corrupt_spans or {}
    pairs = ((n, example.clean[a:b], spans.get(n, (0, 0))) for a, b, n in named(example))
    return [name for name, words, there in pairs if words != example.corrupt[slice(*there)]]


def _first(data: Dataset) -> list[str]:
    """The first token of each prompt of those that not all of them share."""
    clean = [one.clean for one in data.examples]
    shortest = min(map(len, clean))
    at = next((i for i in range(shortest) if len({ids[i] for ids in clean}) > 1), 0)
    return [text(data, ids[at : at + 1]) for ids in clean]


def _tells(values: Sequence[str]) -> bool:
    return 1 < len(set(values)) <= len(values) / 2


def shared(
    told: Mapping[str, Sequence[str]], labels: Int[np.ndarray, " prompts"], seed: int = 0
) -> list[dict[str, Json]]:
    """How well each feature says the cluster, the best first, and for each cluster the value that
    it has more often than others.

    ``explained`` is the share of the clusters' entropy that the feature takes away, beyond what
    features at random do (the adjusted mutual information): 1 says the cluster, 0 nothing. ``p`` is
    that of a permutation test, times the number of features (Bonferroni). ``share`` is how often
    the ``value`` is in the cluster, ``of_all`` how often in all prompts.
    """
    if labels.max() < 1:
        return []
    draw = np.random.default_rng(seed)
    drawn = np.stack([draw.permutation(labels) for _ in range(DRAWS)])
    rows: list[dict[str, Json]] = []
    for name, values in told.items():
        codes, kinds = _coded(values)
        own, null = _information(codes, labels[None])[0], _information(codes, drawn)
        most = _information(labels, labels[None])[0]
        explained = (own - null.mean()) / (most - null.mean()) if most > null.mean() else 0.0
        p = min(1.0, len(told) * (1 + int((null >= own - 1e-12).sum())) / (1 + DRAWS))
        said: dict[str, Json] = {"feature": name, "explained": float(explained), "p": p}
        rows += [{**said, **own} for own in _typical(codes, kinds, labels)]
    return sorted(rows, key=lambda row: -row["explained"])


def _coded(values: Sequence[str]) -> tuple[Int[np.ndarray, " n"], list[str]]:
    kinds, codes = np.unique(np.asarray(values, dtype=object), return_inverse=True)
    return codes, [str(kind) for kind in kinds]


def _information(
    codes: Int[np.ndarray, " n"], labels: Int[np.ndarray, "draws n"]
) -> Float[np.ndarray, " draws"]:
    """The mutual information, in nats, of a feature with each draw of the clusters."""
    n, kinds = len(codes), int(codes.max()) + 1
    clusters = int(labels.max()) + 1
    one = np.eye(kinds)[codes]  # [n, kinds]
    other = np.eye(clusters)[labels]  # [draws, n, clusters]
    both = np.einsum("nk,dnc->dkc", one, other) / n
    alone = both.sum(2, keepdims=True) * both.sum(1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        each = np.where(both > 0, both * np.log(both / alone), 0)
    return np.asarray(each.sum((1, 2)))


def _typical(
    codes: Int[np.ndarray, " n"], kinds: Sequence[str], labels: Int[np.ndarray, " n"]
) -> Iterator[dict[str, Json]]:
    """For each cluster the value whose share in it is most above that in all prompts."""
    whole = np.bincount(codes, minlength=len(kinds)) / len(codes)
    for cluster in range(int(labels.max()) + 1):
        inside = codes[labels == cluster]
        part = np.bincount(inside, minlength=len(kinds)) / len(inside)
        best = int((part - whole).argmax())
        yield {"cluster": cluster + 1, "value": kinds[best], "share": float(part[best]),
               "of_all": float(whole[best])}  # fmt: skip

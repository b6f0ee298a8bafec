"""The baselines by hand: from what hooks on the family's plain module see, and from autograd and
slopes that share nothing with them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from families import (
    FAMILIES,
    as_batch,
    dataset,
    distance,
    double,
    model,
    port,
    port_columns,
    pristine,
)
from oracles import Oracle, _State
from torch import Tensor, nn

from circuitkit.corruptions import counterfactual, noise, zero
from circuitkit.discovery import (
    _written,
    activation_magnitude,
    eap,
    gradient_norm,
    information_flow,
    node_attribution,
)
from circuitkit.engine.record import record
from circuitkit.engine.run import run
from circuitkit.errors import MetricError
from circuitkit.graph.nodes import Node
from circuitkit.graph.wiring import Wiring
from circuitkit.metrics import accuracy, kl, logit_diff

KINDS = ["gpt2", "neox-parallel", "llama", "gemma2", "olmo2", "mixtral", "attention-only"]
every_kind = pytest.mark.parametrize("family", KINDS)
UNUSED: Any = None  # the metric or the corruption that a baseline does not look at


@cache
def oracle(family: str) -> Oracle:
    """The family's plain module, to be run by hand."""
    return Oracle(pristine(family), model(family).wiring)


def written(family: str, corrupt: bool = False) -> dict[str, Tensor]:
    """What every writer writes in a plain run."""
    batch = as_batch(dataset())
    tokens = batch.corrupt if corrupt else batch.clean
    return oracle(family).plain(tokens, batch.mask).writers


def spread(of_writers: Any, wiring: Wiring) -> np.ndarray:
    """The table of numbers of the writers, by name, on their edges."""
    return np.where(wiring.legal, np.array([of_writers[w] for w in wiring.writers])[:, None], 0)


# -- activation magnitude --------------------------------------------------------------------------
@every_kind
def test_activation_magnitude_is_the_norm_of_what_a_writer_changes(family: str) -> None:
    w, mask = model(family).wiring, as_batch(dataset()).mask
    clean, corrupt = written(family), written(family, corrupt=True)
    expected = {
        name: np.mean([(clean[name] - corrupt[name])[i, own].norm() for i, own in enumerate(mask)])
        for name in clean
    }
    found = activation_magnitude(model(family), dataset(), UNUSED, counterfactual)
    assert distance(found.values, spread(expected, w)) < 1e-4
    assert len({*np.round(found.values[:, -1], 5)}) == len(w.writers)
    assert found.about["corruption"] == "counterfactual"
    assert "metric" not in found.about


@pytest.mark.parametrize("family", ["gpt2", "olmo2"])
def test_under_zero_ablation_it_is_the_norm_of_what_is_written(family: str) -> None:
    mask, clean = as_batch(dataset()).mask, written(family)
    expected = {n: np.mean([x[i, own].norm() for i, own in enumerate(mask)])
                for n, x in clean.items()}  # fmt: skip
    found = activation_magnitude(model(family), dataset(), UNUSED, zero)
    assert distance(found.values, spread(expected, model(family).wiring)) < 1e-4


def test_activation_magnitude_is_the_mean_over_the_draws() -> None:
    m, data = model("gpt2"), dataset()
    draws = len(noise(m, data, draws=3)(as_batch(data)))
    each = [
        activation_magnitude(m, data, UNUSED, only(partial(noise, draws=3), i)).values
        for i in range(draws)
    ]
    found = activation_magnitude(m, data, UNUSED, partial(noise, draws=3)).values
    assert distance(found, np.mean(each, axis=0)) < 1e-5
    assert distance(found, each[0]) > 1e-3


def only(corruption: Any, draw: int) -> Any:
    """The corruption with this one of its draws."""

    def made(m: Any, data: Any) -> Any:
        carry = corruption(m, data)
        return lambda batch: carry(batch)[draw : draw + 1]

    return made


# -- gradient norm ---------------------------------------------------------------------------------
class Nudges:
    """A plain run in which each reader reads a little more, by leaves that know their gradient."""

    def __init__(self, own: Oracle, shape: tuple[int, ...]) -> None:
        self.own = own
        readers = map(str, own.wiring.readers)
        self.leaves = {name: torch.zeros(shape, requires_grad=True) for name in readers}

    def hooks(self) -> Iterator[Any]:
        """Every hook, registered."""
        for layer, block in enumerate(self.own.blocks):
            for letters, module in block.projections.items():
                yield module.register_forward_hook(self._project(layer, letters))
            if isinstance(block.ln1, nn.Module):
                yield block.ln1.register_forward_pre_hook(self._keep)
            else:
                first = block.projections["q"]
                yield first.register_forward_pre_hook(self._keep)
            if block.mlp is not None:
                entry = block.ln2 if isinstance(block.ln2, nn.Module) else block.mlp
                yield entry.register_forward_pre_hook(partial(self._add, f"m{layer}"))
        yield self.own.final.register_forward_pre_hook(partial(self._add, "logits"))

    def _keep(self, _: Any, args: Any) -> None:
        if not hasattr(self, "read"):
            self.read = args[0]

    def _add(self, name: str, _: Any, args: Any) -> Any:
        if hasattr(self, "read"):
            del self.read  # the attention of this layer is over
        return (args[0] + self.leaves[name], *args[1:])

    def _project(self, layer: int, letters: str) -> Any:
        block, wiring = self.own.blocks[layer], self.own.wiring
        place = _State(self.own, None, {})._place

        def hook(module: Any, _: Any, out: Tensor) -> Tensor:
            parts = out.clone()
            for letter in letters:
                for index in range(wiring.heads if letter == "q" else wiring.groups):
                    leaf = self.leaves[str(port(wiring, layer, letter, index))]
                    at = place(letters, letter, index)
                    parts[..., at] = module.forward(block.ln1(self.read + leaf))[..., at]
            return parts

        return hook


def gradients_by_hand(family: str) -> dict[str, Tensor]:
    """The gradient of the summed logit difference at every reader, by autograd alone."""
    own, batch = oracle(family), as_batch(dataset())
    width = own.blocks[0].out.shape[-1]
    nudges = Nudges(own, (*batch.mask.shape, width))
    positions = (batch.mask.long().cumsum(-1) - 1).clamp(min=0)
    with ExitStack() as stack:
        for handle in nudges.hooks():
            stack.callback(handle.remove)
        out = own.module(
            input_ids=batch.clean, attention_mask=batch.mask.long(), position_ids=positions
        )
    logits = (out if isinstance(out, Tensor) else out.logits)[range(len(batch)), batch.last]
    value = logit_diff(logits, logits, batch).sum()
    found = torch.autograd.grad(value, [*nudges.leaves.values()])
    return dict(zip(nudges.leaves, found, strict=True))


@pytest.mark.parametrize("family", ["gpt2", "neox-serial", "llama", "gemma2", "olmo2"])
def test_gradient_norm_is_the_norm_of_the_gradient_at_the_reader(family: str) -> None:
    w = model(family).wiring
    grads = gradients_by_hand(family)
    expected = np.array([float(grads[str(r)].flatten(1).norm(dim=1).mean()) for r in w.readers])
    found = gradient_norm(model(family), dataset(), logit_diff, UNUSED)
    assert distance(found.values, np.where(w.legal, expected, 0)) < 1e-4
    assert (expected > 1e-4).all()
    assert found.about["metric"] == "logit_diff"
    assert "corruption" not in found.about


@every_kind
def test_no_edge_is_attributed_more_than_its_ends_allow(family: str) -> None:
    """Cauchy and Schwarz: |Δ · g| ≤ ‖Δ‖ ‖g‖, of one example; and some edges use much of it."""
    m, data = model(family), dataset((7,))
    both = activation_magnitude(m, data, UNUSED, counterfactual).values
    both = both * gradient_norm(m, data, logit_diff, UNUSED).values
    score = np.abs(eap(m, data, logit_diff, counterfactual).values)
    assert (score <= both * (1 + 1e-4)).all()
    assert (score / np.where(m.wiring.legal, both, 1)).max() > 0.2


def test_a_metric_without_a_gradient_is_refused() -> None:
    m, data = model("gpt2"), dataset()
    with pytest.raises(MetricError, match=r"accuracy has no gradient; use a different metric"):
        gradient_norm(m, data, accuracy, UNUSED)
    with pytest.raises(MetricError, match=r"the gradient of kl is zero at the clean run"):
        gradient_norm(m, data, kl, UNUSED)
    with pytest.raises(MetricError, match=r"gradient of kl is zero"):
        node_attribution(m, data, kl, counterfactual)


# -- node attribution ------------------------------------------------------------------------------
@pytest.mark.parametrize("family", ["gpt2", "neox-parallel", "llama", "olmo2", "attention-only"])
def test_a_node_is_worth_the_slope_of_the_metric_in_all_its_edges(family: str) -> None:
    m, batch, step = double(family), as_batch(dataset()), 2e-3
    found = node_attribution(m, dataset(), logit_diff, counterfactual).values[:, -1]
    with torch.no_grad():
        context = m.start(batch.clean, batch.mask)
        carried = record(m, m.start(batch.corrupt, batch.mask))

        def value(row: int, change: float) -> float:
            keep = m.wiring.legal.astype(float)
            keep[row] *= 1 + change
            logits = run(m, batch, context, carried, torch.from_numpy(keep))
            return float(logit_diff(logits, logits, batch).mean())

        rows = range(len(m.wiring.writers))
        expected = [(value(row, step) - value(row, -step)) / (2 * step) for row in rows]
    assert distance(found, expected) < 1e-3
    assert len({*np.sign(expected)}) == 2


@every_kind
def test_an_edge_is_worth_its_weaker_end(family: str) -> None:
    m = model(family)
    found = node_attribution(m, dataset(), logit_diff, counterfactual).values
    nodes = dict(zip(map(str, m.wiring.writers), found[:, -1].tolist(), strict=True))
    for row, column in np.argwhere(m.wiring.legal[:, :-1]):
        reader = m.wiring.readers[column]
        fed = m.wiring.fed(reader)
        ends = [nodes[m.wiring.writers[row]], max((nodes[str(n)] for n in fed), key=abs)]
        weaker = min(map(abs, ends)) * (-1 if min(ends) < 0 else 1)
        assert found[row, column] == pytest.approx(weaker)
    sums = eap(m, dataset(), logit_diff, counterfactual).values.sum(1)
    assert distance(found[:, -1], sums) < 1e-5


def test_the_edges_above_a_threshold_are_those_between_the_nodes_above_it() -> None:
    m = model("gpt2")
    scores = node_attribution(m, dataset(), logit_diff, counterfactual)
    nodes, w = scores.values[:, -1], m.wiring
    for rule, worth in (("abs", np.abs(nodes)), ("signed", nodes)):
        for threshold in np.quantile(np.abs(nodes), [0.2, 0.5, 0.8]):
            kept = {w.writers[i] for i in np.flatnonzero(worth > threshold)}
            between = [[writer in kept and (reader == "logits" or Node(reader).component in kept)
                        for reader in w.readers] for writer in w.writers]  # fmt: skip
            above = (np.abs(scores.values) if rule == "abs" else scores.values) > threshold
            assert np.array_equal(above, np.array(between) & w.legal)
            assert 0 < above.sum() < w.n_edges


# -- information flow ------------------------------------------------------------------------------
def shares_by_hand(family: str) -> np.ndarray:
    """The shares of every edge: token by token, reader by reader, of what hooks saw."""
    own, batch, clean = oracle(family), as_batch(dataset()), written(family)
    w, table = own.wiring, np.zeros(own.wiring.shape)
    for column, reader in enumerate(w.readers):
        names = [str(writer) for writer in w.writers[: w.upstream[column]]]
        layers = w.layers if reader == "logits" else reader.layer or 0
        before = layers + (Node(reader).is_mlp and not w.parallel)
        read = sum(clean[n] for n in names) + sum(own.constant(layer) for layer in range(before))
        assert isinstance(read, Tensor)
        for i in range(len(batch)):
            tokens = [int(batch.last[i])] if reader == "logits" else batch.mask[i].nonzero()[:, 0]
            for t in tokens:
                y = read[i, t]
                near = [float(y.abs().sum() - (y - clean[n][i, t]).abs().sum()) for n in names]
                near = [max(0.0, one) for one in near]
                table[: len(names), column] += np.array(near) / sum(near) / len(tokens)
    return table / len(batch)


@pytest.mark.parametrize("family", ["gpt2", "neox-parallel", "olmo2", "attention-only"])
def test_information_flows_as_by_hand(family: str) -> None:
    found = information_flow(model(family), dataset(), UNUSED, UNUSED)
    assert distance(found.values, shares_by_hand(family)) < 1e-4
    assert not {"metric", "corruption"} & found.about.keys()


@pytest.mark.parametrize("family", FAMILIES)
def test_what_flows_into_a_reader_is_one_whole(family: str) -> None:
    m = model(family)
    found = information_flow(m, dataset(), UNUSED, UNUSED).values
    assert found.sum(0) == pytest.approx(np.ones(m.wiring.shape[1]), abs=1e-5)
    assert found[0, : port_columns(m.wiring, 0)["v"].stop] == pytest.approx(
        1
    )  # nobody else wrote yet
    assert found.min() == 0
    assert (found[:, -1] > 0.01).sum() > 2


# -- all -------------------------------------------------------------------------------------------
METHODS = [activation_magnitude, gradient_norm, node_attribution, information_flow]


@pytest.mark.parametrize("method", METHODS)
def test_small_blocks_of_tokens_give_the_same(method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    m, data = model("llama"), dataset()
    whole = method(m, data, logit_diff, counterfactual).values
    monkeypatch.setattr(_written, "block_tokens", lambda _: 3)
    assert distance(method(m, data, logit_diff, counterfactual).values, whole) < 1e-5


@pytest.mark.parametrize("method", METHODS)
def test_a_baseline_costs_a_few_runs(method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    m, data, ran = model("gpt2"), dataset(batch_size=6), []
    attend = m.attend

    def counted(*given: Any) -> Tensor:
        ran.append(given)
        return attend(*given)

    monkeypatch.setattr(m, "attend", counted)
    method(m, data, logit_diff, counterfactual)
    assert 0 < len(ran) <= 3 * m.wiring.layers

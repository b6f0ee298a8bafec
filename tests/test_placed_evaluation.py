"""What is asked of a circuit is asked of one between places alike: cut, beside others, by nodes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from families import model
from test_placed import mask, of_prompts

import circuitkit as ck
from circuitkit.engine.inputs import Inputs, prepare
from circuitkit.errors import CircuitError, CircuitkitError
from circuitkit.evaluation.masks import node_level
from circuitkit.evaluation.running import slopes
from circuitkit.evaluation.spaces import Placed, Plain, space_of
from circuitkit.graph.circuit import Circuit, edges
from circuitkit.graph.nodes import edge_name, parse_edge
from circuitkit.graph.places import PlacedMask


@pytest.fixture(scope="module")
def inputs() -> Inputs:
    own = ck.load("mini")
    return prepare(own, ck.Dataset.of(ck.make_task("ioi", own, n=4, seed=5), own))


@pytest.fixture(scope="module")
def circuit(inputs: Inputs) -> Circuit:
    asked: dict[str, Any] = {"method": "eap", "edges": 8, "examples": 4, "spans": ["S2"]}
    return ck.discover_positions(inputs.model, "ioi", **asked).circuit


def plain_masks(wiring: Any) -> list[np.ndarray]:
    return [
        wiring.alive(wiring.legal & (np.random.default_rng(seed).random(wiring.shape) < share))
        for seed, share in enumerate((0.2, 0.5))
    ]


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "mixtral"])
def test_a_space_goes_from_masks_to_values_and_back(family: str) -> None:
    where = of_prompts(model(family))[1]
    for keep in (mask(where, 0.3), *plain_masks(where.wiring)):
        space = space_of(keep, model(family))
        again = space.mask(space.flat(keep))
        assert space.edges(again) == space.edges(keep)
        assert space.flat(space.whole).sum() == space.total == space.others + len(space.edges(keep))
        one, other = space.beside(3, 2, 0)
        for drawn in (one, other):
            assert space.flat(drawn).sum() == len(space.edges(keep)) + 3
            assert space.flat(drawn)[space.flat(keep)].all()
        assert (space.flat(one) != space.flat(other)).any()
        edges = space.some(4, 1)
        left = space.edges(space.without(keep, edges))
        assert left == [edge for edge in space.edges(keep) if edge not in edges]
        assert {*map(parse_edge, space.names(edges))} == {*map(space.ends, edges)}


def test_a_space_takes_its_own_masks_alone() -> None:
    where = of_prompts(model("gpt2"))[1]
    plain = plain_masks(where.wiring)[0]
    with pytest.raises(CircuitError, match="between these places"):
        Placed(mask(where, 0.3)).flat(plain)
    with pytest.raises(CircuitError, match=r"collapse\(\)"):
        Plain(where.wiring, plain).flat(mask(where, 0.3))


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "mixtral"])
def test_the_nodes_of_a_circuit_in_all_spans_are_those_of_the_plain_one(family: str) -> None:
    m = model(family)
    where = of_prompts(m)[1]
    for plain in plain_masks(where.wiring):
        whole = node_level(plain, m)
        held = whole.any(1)[where.heads][:, None, None, None]
        spread = where.spread(plain)
        found = node_level(PlacedMask(where, spread.residual, spread.attention & held), m)
        assert isinstance(found, PlacedMask)
        assert (found.residual == where.spread(whole).residual).all()
        assert (found.attention == spread.attention & held).all()


def test_a_head_that_an_edge_of_attention_enters_is_a_node_at_its_destination() -> None:
    where = of_prompts(model("llama"))[1]
    keep = mask(where, 0)
    head, port, source, span = map(int, np.argwhere(where.legal.attention)[-1])
    keep.attention[head, port, source, span] = True
    found = node_level(keep)
    assert isinstance(found, PlacedMask)
    row = where.heads[head]
    assert np.argwhere(found.residual.any(1)).tolist() == [[row, span]]
    assert (found.residual[row, :, span] == where.legal.residual[row, :, span]).all()
    assert (found.attention[head, :, :, span] == where.legal.attention[head, :, :, span]).all()
    assert found.attention.sum() == where.legal.attention[head, :, :, span].sum()


def test_the_slope_of_a_plain_edge_is_the_sum_over_its_spans(
    inputs: Inputs, circuit: Circuit
) -> None:
    places = circuit.placed_mask().places
    plain = places.wiring.legal * 0.5
    weights = PlacedMask(places, places.legal.residual * 0.5, places.legal.attention * 1.0)
    found, expected = slopes(inputs, weights), slopes(inputs, plain)
    assert isinstance(found, PlacedMask)
    sums = found.residual.sum(2)
    assert sums == pytest.approx(expected, abs=1e-4 * np.abs(expected).max())


def test_other_edges_are_kept_beside_it(inputs: Inputs, circuit: Circuit) -> None:
    alone = ck.evaluate(inputs.model, circuit, *inputs[1:]).faithfulness
    none, whole = (ck.complements(*found(inputs, circuit), n=2, share=share) for share in (0, 1))
    assert none.values == pytest.approx([alone] * 2, abs=1e-6)
    assert whole.values == pytest.approx((1, 1), abs=1e-5)
    assert none.others == sum(circuit.placed_mask().places.n_edges) - len(circuit.to_frame())
    worst = ck.complements(*found(inputs, circuit), kind="worst", n=1, steps=1)
    names = {parse_edge(name) for name in worst.edges}
    assert names
    assert not names & {(writer, reader) for writer, reader in circuit.edges}
    assert worst.found.faithfulness <= alone + 0.5


def found(inputs: Inputs, circuit: Circuit) -> Any:
    return inputs.model, circuit, *inputs[1:]


def test_its_edges_are_cut_one_by_one(inputs: Inputs, circuit: Circuit) -> None:
    """Of both kinds: what is lost is the metric of the circuit, less that without the edge."""
    own = ck.marginal_effects(*found(inputs, circuit))
    assert len(own.edges) == len(circuit.to_frame())
    cut = []
    for name in own.edges:
        less = circuit.copy()
        less.remove_edge(*parse_edge(name))
        cut.append(less)
    whole, *each = ck.measure(inputs.model, [circuit, *cut], *inputs[1:]).double().numpy()
    assert own.effects == pytest.approx(whole - np.array(each), abs=1e-3)
    of_mask = ck.marginal_effects(*found(inputs, circuit.placed_mask()))  # type: ignore[arg-type]
    assert of_mask.means == pytest.approx(own.means, abs=1e-5)


def test_all_knock_outs_are_made_of_it(inputs: Inputs, circuit: Circuit) -> None:
    report = ck.knockout(*found(inputs, circuit), pairs=3, subsets=2)
    assert report.interactions is not None
    assert len(report.interactions.pairs) == 3
    assert {*report.minimality.edges} == {*report.marginal_effects.edges}
    crossing = next(name for name in report.minimality.edges if ".v@" in name.split("->")[0])
    effects = dict(zip(report.marginal_effects.edges, report.marginal_effects.means, strict=True))
    largest = dict(zip(report.minimality.edges, report.minimality.largest, strict=True))
    assert largest[crossing] >= abs(effects[crossing]) - 1e-5


def test_it_is_measured_under_every_choice(inputs: Inputs, circuit: Circuit) -> None:
    named = {"found": circuit, "mask": circuit.placed_mask()}
    conditions = ["logit_diff"], ["counterfactual", "mean"]
    own = ck.cross_evaluate(inputs.model, named, inputs.data, *conditions)
    for corruption in conditions[1]:
        for level, keep in (("edge", circuit), ("node", node_level(circuit))):
            by_hand = ck.evaluate(inputs.model, keep, inputs.data, "logit_diff", corruption)
            cell = own.evaluations["found", corruption, "logit_diff", level]
            assert cell.faithfulness == pytest.approx(by_hand.faithfulness, abs=1e-6)
    (overlap,) = own.overlap()
    assert overlap["jaccard"] == 1


def test_it_is_refined_at_its_size(inputs: Inputs) -> None:
    """Edges of both kinds are swapped, and none is a dead end."""
    asked: dict[str, Any] = {"method": "eap", "edges": 8, "examples": 4, "spans": ["S2"]}
    own = ck.discover_positions(inputs.model, "ioi", **asked)
    keep = own.chosen.mask
    made = ck.refine(inputs.model, own, own.scores, *inputs[1:], candidates=12, swaps=2)
    mask = made.mask
    assert isinstance(mask, PlacedMask)
    assert made.swaps
    assert sum(mask.counts()) == sum(keep.counts()) == made.evaluation.edges
    assert mask.places.alive(mask).counts() == mask.counts()
    assert abs(1 - made.evaluation.faithfulness) < abs(1 - made.before.faithfulness)
    (again,) = ck.evaluate(inputs.model, [made.circuit], *inputs[1:])
    assert again.faithfulness == pytest.approx(made.evaluation.faithfulness, abs=1e-5)
    before, after = (
        {edge_name(*edge[:2]) for edge in edges(graph)} for graph in (own.circuit, made.circuit)
    )
    assert before ^ after <= {n for swap in made.swaps for n in (*swap.dropped, *swap.added)}
    assert made.circuit.graph["words"] == own.circuit.graph["words"]
    with pytest.raises(CircuitkitError, match=r"give scores\.collapse\(\)"):
        ck.verify(inputs.model, own, *inputs[1:])  # type: ignore[arg-type]
    with pytest.raises(CircuitkitError, match="not of the edges between these"):
        ck.refine(inputs.model, own, own.scores.collapse(), *inputs[1:])

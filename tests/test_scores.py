"""Scores: what is selected of them, by oracles that go through the ranking one edge at a time."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
from safetensors.numpy import save_file

from circuitkit.corruptions import counterfactual
from circuitkit.data.batches import Dataset
from circuitkit.data.tasks import make_task
from circuitkit.errors import CircuitkitError, OutputError, ScoresError
from circuitkit.evaluation.choosing import choose, smallest
from circuitkit.evaluation.curves import curve
from circuitkit.evaluation.size_curves import size_curves
from circuitkit.graph.circuit import edges, from_json, mask, to_json, weight_matrix
from circuitkit.graph.nodes import edge_name, parse_edge
from circuitkit.graph.scores import RULES, Scores, ScoresWarning
from circuitkit.graph.wiring import Wiring
from circuitkit.metrics import logit_diff
from circuitkit.models.loading import load

WIRINGS = [
    Wiring(2, 3, 3),
    Wiring(2, 4, 2),
    Wiring(3, 2, 1, parallel=True),
    Wiring(2, 3, 3, mlp=False),
]
SMALL = Wiring(1, 1, 1)  # 8 edges: input and a0.h0 and m0, to q k v, m0 and logits


def some_scores(seed: int = 0, ties: bool = False) -> Scores:
    """Random scores of a random small wiring; with ties, few different values."""
    wiring = WIRINGS[seed % len(WIRINGS)]
    values = np.random.default_rng(seed).standard_normal(wiring.shape).astype(np.float32)
    about = {"model": "toy", "method": "random", "settings": {"seed": seed}}
    return Scores(wiring, np.round(values * 2) / 2 if ties else values, about)


def by_hand(**values: float) -> Scores:
    """Scores of the smallest wiring, 0 where not given; ``input_m0=1.0`` is input->m0."""
    table = np.zeros(SMALL.shape)
    for name, value in values.items():
        writer, reader = name.split("_")
        reader = f"a0.h0<{reader}>" if reader in "qkv" else reader
        table[SMALL.index(*parse_edge(f"{'a0.h0' if writer == 'head' else writer}->{reader}"))] = (
            value
        )
    return Scores(SMALL, table)


def names(scores: Scores, flat: np.ndarray) -> list[str]:
    """The names of the edges at these flat indices."""
    w = scores.wiring
    return [edge_name(w.writers[i // w.shape[1]], w.readers[i % w.shape[1]]) for i in flat]


def kept(scores: Scores, keep: np.ndarray) -> set[str]:
    """The names of the edges that a mask keeps."""
    return set(names(scores, np.flatnonzero(keep)))


def heads_of_ranking(scores: Scores, rule: str) -> list[np.ndarray]:
    """What is alive of the first edges of the ranking: of none, of one, of two, ..."""
    keep = np.zeros(scores.wiring.shape, dtype=bool)
    found = [keep.copy()]
    for flat in scores.ranking(rule):
        keep.flat[flat] = True
        found.append(scores.wiring.alive(keep))
    return found


# -- rules -----------------------------------------------------------------------------------------
def test_the_rules_order_a_small_graph_as_by_hand() -> None:
    scores = by_hand(
        input_q=-6.0, input_k=0.5, input_v=2.0, input_m0=4.0, input_logits=-1.0, head_m0=-5.0,
        head_logits=3.0, m0_logits=-2.5,
    )  # fmt: skip
    assert names(scores, scores.ranking("abs")) == [
        "input->a0.h0<q>", "a0.h0->m0", "input->m0", "a0.h0->logits", "m0->logits",
        "input->a0.h0<v>", "input->logits", "input->a0.h0<k>",
    ]  # fmt: skip
    assert names(scores, scores.ranking("signed")) == [
        "input->m0", "a0.h0->logits", "input->a0.h0<v>", "input->a0.h0<k>", "input->logits",
        "m0->logits", "a0.h0->m0", "input->a0.h0<q>",
    ]  # fmt: skip
    # From the logits: the head (3.0) opens its ports, whose q (6.0) beats m0 (2.5), which opens m0.
    assert names(scores, scores.ranking("greedy")) == [
        "a0.h0->logits", "input->a0.h0<q>", "m0->logits", "a0.h0->m0", "input->m0",
        "input->a0.h0<v>", "input->logits", "input->a0.h0<k>",
    ]  # fmt: skip


def greedy_oracle(scores: Scores) -> list[tuple[str, str]]:
    """Repeatedly the strongest edge not yet taken into any node that is reached, by a graph."""
    w = scores.wiring
    graph = nx.DiGraph()
    for row, column in np.argwhere(w.legal):
        value = abs(float(scores.values[row, column]))
        graph.add_edge(w.writers[row], w.readers[column], value=value)
    for reader in w.readers:
        if reader.port:
            graph.add_edges_from((reader, head) for head in w.fed(reader))
    reached, taken = {"logits"}, []
    while True:
        offers = [
            (graph[u][v]["value"], u, v)
            for v in reached
            for u in graph.predecessors(v)
            if "value" in graph[u][v] and (u, v) not in taken
        ]
        if not offers:
            return taken
        _, writer, reader = max(offers)
        taken.append((writer, reader))
        reached |= {writer, *(p for p in graph.predecessors(writer) if not graph[p][writer])}


@pytest.mark.parametrize("seed", range(4))
def test_greedy_takes_the_strongest_in_edge_of_what_is_reached(seed: int) -> None:
    scores = some_scores(seed)
    expected = [edge_name(*edge) for edge in greedy_oracle(scores)]
    assert names(scores, scores.ranking("greedy")) == expected


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", range(4))
def test_a_ranking_holds_every_edge_once(seed: int, rule: str, ties: bool) -> None:
    scores = some_scores(seed, ties)
    assert sorted(scores.ranking(rule)) == np.flatnonzero(scores.wiring.legal).tolist()


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_a_ranking_never_rises(seed: int, ties: bool) -> None:
    scores = some_scores(seed, ties)
    flat = scores.values.reshape(-1)
    assert (np.diff(flat[scores.ranking("signed")]) <= 0).all()
    assert (np.diff(np.abs(flat)[scores.ranking("abs")]) <= 0).all()


def test_the_sign_of_all_scores_matters_to_signed_alone() -> None:
    scores = some_scores(1)
    turned = Scores(scores.wiring, -scores.values)
    for rule in ("abs", "greedy"):
        np.testing.assert_array_equal(turned.ranking(rule), scores.ranking(rule))
    np.testing.assert_array_equal(turned.ranking("signed"), scores.ranking("signed")[::-1])


def test_what_stands_where_there_is_no_edge_is_never_looked_at() -> None:
    scores = some_scores(2)
    odd = np.where(scores.wiring.legal, scores.values, np.nan)
    other = Scores(scores.wiring, odd)
    for rule in RULES:
        np.testing.assert_array_equal(other.filled(9, rule)[0], scores.filled(9, rule)[0])
    np.testing.assert_array_equal(mask(other.above(0.3)), mask(scores.above(0.3)))
    assert weight_matrix(other.graph()).tolist() == weight_matrix(scores.graph()).tolist()


# -- selection -------------------------------------------------------------------------------------
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", range(4))
def test_a_mask_is_the_longest_head_of_the_ranking_that_fits_filled_up(
    seed: int, rule: str, ties: bool
) -> None:
    scores = some_scores(seed, ties)
    heads = heads_of_ranking(scores, rule)
    total = scores.wiring.n_edges
    for n in [*range(1, 12), *range(12, total, 5), total, 10**6]:
        keep, filled = scores.filled(n, rule)
        np.testing.assert_array_equal(scores.wiring.alive(keep), keep)
        if rule == "mib":
            np.testing.assert_array_equal(keep, heads[min(n, total)])
            assert filled == 0
            continue
        longest = next(head for head in reversed(heads) if head.sum() <= n)  # scanned, not bisected
        assert keep.sum() == min(n, total)
        assert filled == (keep & ~longest).sum()
        assert filled or np.array_equal(keep, longest)
    np.testing.assert_array_equal(keep, scores.wiring.legal)


def test_many_sizes_are_those_of_each_alone() -> None:
    scores = some_scores(2)
    for rule in RULES:
        for n, keep in zip((30, 4, 17), scores.masks([30, 4, 17], rule), strict=True):
            np.testing.assert_array_equal(keep, scores.filled(n, rule)[0])


def test_by_the_rule_of_mib_nothing_may_be_left_and_that_is_refused() -> None:
    scores = by_hand(input_q=9.0, m0_logits=8.0, input_logits=1.0, input_m0=0.5)
    for select in (scores.mask, scores.top):
        with pytest.raises(ScoresError, match=r"nothing would be left .* choose the rule abs"):
            select(2, "mib")
    assert kept(scores, scores.mask(3, "mib")) == {"input->logits"}


def test_a_strong_edge_that_leads_nowhere_is_not_selected() -> None:
    scores = by_hand(input_q=9.0, m0_logits=8.0, input_logits=1.0, input_m0=0.5)
    assert kept(scores, scores.mask(1)) == {"input->logits"}
    # none of two holds that of one: it makes room for the path of two with the best mean, 4.5
    assert kept(scores, scores.mask(2)) == {"input->a0.h0<q>", "a0.h0->logits"}
    assert kept(scores, scores.mask(3)) == {"input->logits", "input->m0", "m0->logits"}
    assert [scores.filled(n)[1] for n in (1, 2, 3)] == [0, 2, 0]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", range(4))
def test_the_weights_of_a_selected_circuit_are_the_scores(seed: int, rule: str) -> None:
    scores = some_scores(seed)
    circuit = scores.top(30, rule)
    keep, filled = scores.filled(30, rule)
    assert keep.any()
    np.testing.assert_array_equal(mask(circuit), keep)
    np.testing.assert_array_equal(weight_matrix(circuit), np.where(keep, scores.values, 0))
    said = {"filled": filled} if filled else {}
    assert {**circuit.graph, "wiring": 0} == {**scores.about, "rule": rule, "wiring": 0, **said}


def test_an_edge_of_score_zero_can_be_selected() -> None:
    scores = by_hand(input_logits=1.0)
    np.testing.assert_array_equal(mask(scores.top(8)), SMALL.legal)


@pytest.mark.parametrize("threshold", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_above_keeps_what_exceeds_the_threshold_without_dead_ends(
    seed: int, threshold: float
) -> None:
    scores = some_scores(seed, ties=True)
    for rule, values in (("abs", np.abs(scores.values)), ("signed", scores.values)):
        circuit = scores.above(threshold, rule)
        expected = scores.wiring.alive((values > threshold) & scores.wiring.legal)
        np.testing.assert_array_equal(mask(circuit), expected)
        assert circuit.graph["threshold"] == threshold
        assert all(weight == scores.values[scores.wiring.index(w, r)]
                   for w, r, weight in edges(circuit))  # fmt: skip


def test_a_score_at_the_threshold_is_not_above_it() -> None:
    scores = by_hand(input_logits=1.0, input_m0=2.0, m0_logits=-2.0)
    assert kept(scores, mask(scores.above(1.0))) == {"input->m0", "m0->logits"}
    assert kept(scores, mask(scores.above(0.5, "signed"))) == {"input->logits"}
    assert not mask(scores.above(2.0)).any()


def test_the_whole_graph_holds_every_edge() -> None:
    scores = some_scores(1)
    graph = scores.graph()
    np.testing.assert_array_equal(mask(graph), scores.wiring.legal)
    assert len(list(edges(graph))) == scores.wiring.n_edges


def test_the_strongest_are_the_head_of_the_ranking_with_their_scores() -> None:
    scores = some_scores(3)
    strongest = scores.strongest(7)
    assert [name for name, _ in strongest] == names(scores, scores.ranking()[:7])
    for name, value in strongest:
        assert value == scores.values[scores.wiring.index(*parse_edge(name))]
    assert len(scores.strongest(10**6)) == scores.wiring.n_edges


def test_scores_print_their_origin_and_the_strongest_edges() -> None:
    text = repr(some_scores(0))
    assert "(random, toy)" in text
    assert all(name in text for name, _ in some_scores(0).strongest(8))


@pytest.mark.parametrize("n", [0, -1, -(10**9)])
def test_fewer_than_one_edge_is_refused(n: int) -> None:
    for select in (some_scores().mask, some_scores().top):
        with pytest.raises(
            ScoresError, match=f"{n} edges do not make a circuit; ask for at least 1"
        ):
            select(n)


@pytest.mark.parametrize("rule", ["", "ABS", "absolute", "top"])
def test_an_unknown_rule_is_refused_with_the_known_ones(rule: str) -> None:
    scores = some_scores()
    for select in (scores.ranking, lambda r: scores.mask(3, r), lambda r: scores.top(3, r)):
        with pytest.raises(ScoresError, match="choose from abs, signed, greedy"):
            select(rule)
    with pytest.raises(ScoresError, match=f"'{rule}' .*choose from abs, signed$"):
        scores.above(0.5, rule)


def test_a_threshold_has_no_greedy_rule_and_does_not_offer_it() -> None:
    with pytest.raises(ScoresError, match=r"'greedy' .*choose from abs, signed$"):
        some_scores().above(0.5, "greedy")


# -- estimated or measured -------------------------------------------------------------------------
def mixed_scores(seed: int = 0) -> Scores:
    """Random scores of which about half are called exact."""
    scores = some_scores(seed)
    drawn = np.random.default_rng(seed).random(scores.wiring.shape) < 0.5
    return Scores(scores.wiring, scores.values, scores.about, drawn)


def flags(circuit: nx.DiGraph) -> dict[tuple[str, str], object]:
    """The attribute ``exact`` of every weighted edge."""
    return {(w, r): circuit[w][r].get("exact") for w, r, _ in edges(circuit)}


@pytest.mark.parametrize("seed", range(4))
def test_a_circuit_says_of_each_edge_whether_it_was_measured(seed: int) -> None:
    scores = mixed_scores(seed)
    w, exact = scores.wiring, scores.exact
    assert exact is not None
    for circuit in (scores.top(15), scores.above(0.3), scores.graph()):
        found = flags(circuit)
        assert set(found.values()) == {True, False}
        assert all(exact[w.index(*edge)] == flag for edge, flag in found.items())
    again = from_json(to_json(scores.top(15)))
    assert flags(again) == flags(scores.top(15))


def test_a_circuit_of_plain_scores_says_nothing_of_it() -> None:
    assert set(flags(some_scores().top(15)).values()) == {None}


@pytest.mark.parametrize("seed", range(4))
def test_what_was_measured_survives_the_file(seed: int, tmp_path: Path) -> None:
    scores = mixed_scores(seed)
    legal = scores.wiring.legal
    again = Scores.load(scores.save(tmp_path / "s"))
    assert scores.exact is not None
    assert again.exact is not None
    np.testing.assert_array_equal(again.exact, scores.exact & legal)
    np.testing.assert_array_equal(again.values[legal], scores.values[legal])
    assert 0 < again.exact.sum() < legal.sum()
    plain = Scores(scores.wiring, scores.values).save(tmp_path / "plain")
    assert Scores.load(plain).exact is None


@pytest.mark.parametrize("exact", [np.zeros((5, 3), bool), np.zeros(SMALL.shape, np.float32)])
@pytest.mark.unchecked
def test_a_mask_of_the_exact_that_does_not_fit_is_refused(exact: Any, tmp_path: Path) -> None:
    values = np.zeros(SMALL.shape, np.float32)
    with pytest.raises(ScoresError, match="'exact'"):
        Scores(SMALL, values, {}, exact)
    save_file({"scores": values, "exact": exact}, tmp_path / "s", metadata=NOTES)
    assert "'exact'" in refused(tmp_path / "s")


# -- circuits that a method chose itself -----------------------------------------------------------
def own_choice(seed: int, chosen: bool = True) -> Scores:
    """Random scores of a method that dropped about two thirds of the edges."""
    scores = some_scores(seed)
    dropped = np.random.default_rng(seed + 1).random(scores.wiring.shape) < 0.6
    return Scores(scores.wiring, np.where(dropped, 0, scores.values), {"chosen": chosen})


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", range(4))
def test_an_edge_that_the_method_dropped_is_never_selected(seed: int, rule: str) -> None:
    scores = own_choice(seed)
    kept = (scores.values != 0) & scores.wiring.legal
    ranking = scores.ranking(rule)
    assert set(ranking.tolist()) == set(np.flatnonzero(kept).tolist())
    np.testing.assert_array_equal(scores.mask(10**6, rule), scores.wiring.alive(kept))
    assert scores.mask(10**6, rule).any()
    assert not (scores.filled(9, rule)[0] & ~kept).any()
    assert len(scores.strongest(10**6)) == kept.sum()


def test_the_circuit_that_a_method_chose_is_what_it_kept_without_dead_ends() -> None:
    for seed in range(4):
        scores = own_choice(seed)
        assert scores.chosen is not None
        np.testing.assert_array_equal(scores.chosen, mask(scores.above(0.0)))
        assert scores.chosen.any()
    for about in ({}, {"chosen": False}):
        assert Scores(scores.wiring, scores.values, about).chosen is None


def test_a_choice_survives_the_file(tmp_path: Path) -> None:
    scores = own_choice(1)
    again = Scores.load(scores.save(tmp_path / "s"))
    np.testing.assert_array_equal(again.chosen, scores.chosen)  # type: ignore[arg-type]


# -- what scores must be ---------------------------------------------------------------------------
def test_scores_of_the_wrong_shape_are_refused() -> None:
    with pytest.raises(ScoresError, match=r"shape \(5, 3\), and the wiring \(3, 5\)"):
        Scores(SMALL, np.zeros((5, 3)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_refused_with_its_edge(value: float) -> None:
    with pytest.raises(ScoresError, match=r"2 scores are not finite, the first that of a0\.h0->m0"):
        by_hand(head_m0=value, m0_logits=value)


def test_selecting_changes_neither_the_scores_nor_what_is_about_them() -> None:
    scores = some_scores(1)
    values, about = scores.values.copy(), repr(scores.about)
    circuit = scores.top(5)
    circuit.graph["model"] = "another"
    scores.above(0.1)
    scores.strongest(5)
    np.testing.assert_array_equal(scores.values, values)
    assert repr(scores.about) == about


@pytest.mark.parametrize("key", ["weights", "wiring", "edge_attributes", "rule", "self", "keep"])
def test_what_is_about_the_scores_may_have_any_name(key: str) -> None:
    scores = Scores(SMALL, some_scores_of_small(), {key: "x"})
    for circuit in (scores.top(3), scores.above(0.0), scores.graph()):
        assert circuit.graph["wiring"]["layers"] == 1
        assert key in circuit.graph


def some_scores_of_small() -> np.ndarray:
    return np.ones(SMALL.shape)


# -- files -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(8))
def test_scores_survive_their_file(seed: int, tmp_path: Path) -> None:
    scores = some_scores(seed)
    about = {**scores.about, "task": "größer", "n": [1, {}]}
    scores = Scores(scores.wiring, scores.values, about)
    assert scores.save(tmp_path / "a" / "s.safetensors") == tmp_path / "a" / "s.safetensors"
    again = Scores.load(tmp_path / "a" / "s.safetensors")
    assert again.wiring == scores.wiring
    assert again.about == scores.about
    legal = scores.wiring.legal
    np.testing.assert_array_equal(again.values[legal], scores.values[legal])
    assert os.listdir(tmp_path / "a") == ["s.safetensors"]


def test_impossible_edges_do_not_spoil_a_file(tmp_path: Path) -> None:
    values = np.where(SMALL.legal, 1.0, np.nan)
    Scores(SMALL, values).save(tmp_path / "s")
    np.testing.assert_array_equal(Scores.load(tmp_path / "s").values, SMALL.legal)


def test_any_memory_layout_is_saved_as_what_it_holds(tmp_path: Path) -> None:
    scores = some_scores(2)
    Scores(scores.wiring, np.asfortranarray(scores.values)).save(tmp_path / "s")
    legal = scores.wiring.legal
    loaded = Scores.load(tmp_path / "s").values
    np.testing.assert_array_equal(loaded[legal], scores.values[legal])


def refused(path: Path) -> str:
    """The one sentence with which the file is refused."""
    with pytest.raises(ScoresError) as caught:
        Scores.load(path)
    message = str(caught.value)
    assert repr(str(path)) in message
    assert "\n" not in message
    return message


NOTES = {
    "format": "circuitkit.scores", "version": "1", "about": "{}",
    "wiring": '{"layers": 1, "heads": 1, "groups": 1}',
}  # fmt: skip


def test_equal_scores_are_equal_files(tmp_path: Path) -> None:
    scores = replace(some_scores(1), about={"metric": "kl", "examples": 3, "task": "ioi"})
    other = replace(scores, about=dict(reversed(scores.about.items())))
    files = [own.save(tmp_path / str(i)) for i, own in enumerate([scores, other] * 8)]
    assert len({file.read_bytes() for file in files}) == 1
    assert Scores.load(files[0]).about == scores.about


def test_the_notes_that_the_bad_files_spoil_are_good(tmp_path: Path) -> None:
    save_file({"scores": np.zeros(SMALL.shape, np.float32)}, tmp_path / "s", metadata=NOTES)
    assert Scores.load(tmp_path / "s").wiring == SMALL


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": "pt"}, "is not a file of circuitkit.scores, version 1"),
        ({"version": "2"}, "is not a file of circuitkit.scores, version 1"),
        ({"about": '{"a": 1'}, "holds no scores"),
        ({"wiring": "{}"}, "holds no scores"),
        ({"wiring": "[]"}, "holds no scores"),
        ({"wiring": "{"}, "holds no scores"),
        ({"wiring": '{"layers": 2, "heads": 1, "groups": 1}'}, "shape"),
        ({"wiring": '{"layers": 0, "heads": 1, "groups": 1}'}, "is not a wiring"),
        ({"wiring": '{"layers": 999999999, "heads": 1, "groups": 1}'}, "is not a wiring"),
        ({"wiring": "[" * 10**5}, "holds no scores"),
        ({"about": "x"}, "holds no scores"),
        ({"about": "[1, 2]"}, "holds no scores"),
        ({"about": "null"}, "holds no scores"),
        ({"about": '{"a":' * 10**5}, "holds no scores"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_file_with_spoilt_notes_is_refused(
    change: dict[str, str], says: str, tmp_path: Path
) -> None:
    table = {"scores": np.zeros(SMALL.shape, np.float32)}
    save_file(table, tmp_path / "s", metadata={**NOTES, **change})
    assert says in refused(tmp_path / "s")


@pytest.mark.parametrize(
    "table",
    [
        {"weight": np.zeros((3, 5), np.float32)},
        {"scores": np.zeros((3, 4), np.float32)},
        {"scores": np.zeros(15, np.float32)},
        {"scores": np.full((3, 5), np.nan, np.float32)},
    ],
    ids=["name", "width", "flat", "nan"],
)
@pytest.mark.unchecked
def test_a_file_with_another_table_is_refused(table: dict[str, Any], tmp_path: Path) -> None:
    save_file(table, tmp_path / "s", metadata=NOTES)
    refused(tmp_path / "s")


def test_a_safetensors_file_without_notes_is_refused(tmp_path: Path) -> None:
    save_file({"scores": np.zeros(SMALL.shape, np.float32)}, tmp_path / "s")
    assert "is not a file of circuitkit.scores" in refused(tmp_path / "s")


@pytest.mark.parametrize("content", [b"", b"\x00", b"{}", b"not scores", b"\xff" * 64])
def test_a_foreign_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(content)
    assert "holds no scores" in refused(tmp_path / "s")


def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    some_scores(3).save(tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    for length in range(0, len(whole), 13):
        (tmp_path / "cut").write_bytes(whole[:length])
        refused(tmp_path / "cut")


def test_a_file_that_is_not_there_and_a_directory_are_refused(tmp_path: Path) -> None:
    assert "there is no file" in refused(tmp_path / "absent")
    refused(tmp_path)


def test_notes_that_json_cannot_hold_are_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    place = tmp_path / "s"
    for about in ({"metric": object()}, {"x": {1, 2}}, {"task": "a\udce9"}):
        with pytest.raises(ScoresError):
            Scores(SMALL, np.zeros(SMALL.shape), about).save(place)
        assert not os.listdir(tmp_path)


def test_scores_too_large_for_the_file_are_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    with pytest.raises(ScoresError, match="input->logits"):
        by_hand(input_logits=1e300).save(tmp_path / "s")
    assert not os.listdir(tmp_path)


def test_a_place_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        some_scores().save(tmp_path / "file" / "s")


# -- as a mapping, and as a table ------------------------------------------------------------------
def test_a_score_is_looked_up_by_the_name_or_the_nodes_of_its_edge() -> None:
    scores = some_scores(0)
    w = scores.wiring
    assert len(scores) == w.n_edges == len(list(scores))
    for name in scores:
        writer, reader = parse_edge(name)
        expected = scores.values[w.index(writer, reader)]
        assert scores[name] == scores[writer, reader] == expected
        assert isinstance(scores[name], float)
        assert name in scores
        assert (writer, reader) in scores
    if "a0.h0" in w.writer:
        assert scores["0.0->logits"] == scores["0.0", "logits"] == scores["a0.h0->logits"]


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("edge", "words"),
    [
        ("a0.h0", "is not an edge; write it as"),
        ("embed->logits", "the embedding is called input"),
        ("logits->input", "is not an edge of a model with"),
        ("a99.h0->logits", "is not an edge of a model with"),
        (("a0.h0", "input"), "is not an edge of a model with"),
        (("a0.h0",), "is not an edge; write it as"),
        (3, "is not an edge; write it as"),
        (None, "is not an edge; write it as"),
    ],
    ids=str,
)
def test_what_is_not_an_edge_is_refused_in_a_sentence(edge: Any, words: str) -> None:
    scores = some_scores(0)
    with pytest.raises(CircuitkitError, match=words) as caught:
        scores[edge]
    assert "\n" not in str(caught.value)
    assert edge not in scores


def test_the_frame_has_all_edges_the_strongest_first() -> None:
    scores = some_scores(0)
    frame = scores.to_frame()
    assert list(frame.columns) == ["writer", "reader", "weight", "exact"]
    assert len(frame) == len(scores)
    assert frame["exact"].isna().all()
    for row in frame.itertuples():
        assert scores[row.writer, row.reader] == row.weight
    sizes = frame["weight"].abs().to_numpy()
    assert (sizes[:-1] >= sizes[1:]).all()
    exact = scores.values > 0
    mixed = Scores(scores.wiring, scores.values, exact=exact).to_frame()
    assert (mixed["exact"] == (mixed["weight"] > 0)).all()


def test_scores_of_millions_of_edges_are_read_as_any_others() -> None:
    wiring = Wiring(32, 32, 32)  # 1.6 million edges
    scores = Scores(wiring, np.random.default_rng(0).standard_normal(wiring.shape))
    assert len(scores) > 1.5e6
    assert scores["a0.h1->logits"] == scores.values[wiring.index("a0.h1", "logits")]
    assert len(repr(scores).splitlines()) == 9
    assert len(scores.to_frame()) == len(scores)


def test_scores_print_short_and_long_and_in_a_notebook() -> None:
    scores = Scores(SMALL, np.ones(SMALL.shape), {"method": "eap"})
    assert str(scores) == "8 scores (eap)"
    assert repr(scores).startswith("8 scores (eap); the strongest:\n")
    assert scores._repr_html_().count("<tr") == 9
    assert "input-&gt;logits" in scores._repr_html_()


# -- zeros -----------------------------------------------------------------------------------------
NOTHING = by_hand()
MINI = load("mini")
DATA = Dataset.of(make_task("ioi", MINI, 2), MINI)
CHOOSE: dict[str, Callable[[Scores], object]] = {
    "top": lambda s: s.top(3),
    "signed": lambda s: s.top(3, rule="signed"),
    "greedy": lambda s: s.top(3, rule="greedy"),
    "mask": lambda s: s.mask(3),
    "above": lambda s: s.above(-1.0, rule="signed"),
    "choose": lambda s: choose(MINI, s, DATA, logit_diff, counterfactual, edges=3),
    "faithfulness": lambda s: choose(MINI, s, DATA, logit_diff, counterfactual, faithfulness=0.5),
    "smallest": lambda s: smallest(MINI, s, DATA),
    "curve": lambda s: curve(MINI, s, DATA),
    "size_curves": lambda s: size_curves(MINI, s, DATA, shares=(0.5, 1)),
}  # fmt: skip


@pytest.mark.parametrize("how", CHOOSE)
def test_scores_of_zeros_choose_nothing(how: str) -> None:
    nothing = Scores(MINI.wiring, np.zeros(MINI.wiring.shape))
    with pytest.raises(ScoresError, match=r"all scores are zero.* use another metric or corrupt"):
        CHOOSE[how](nothing)


def test_a_method_that_dropped_all_edges_is_named() -> None:
    scores = Scores(SMALL, NOTHING.values, {"chosen": True, "method": "acdc"})
    with pytest.raises(ScoresError, match=r"acdc has dropped every edge.*loosen its settings"):
        scores.top(3)


@pytest.mark.parametrize("rule", RULES)
def test_edges_that_are_chosen_without_a_score_are_counted(rule: str) -> None:
    scores = by_hand(input_logits=2.0, input_m0=1.0, m0_logits=1.0)
    assert scores.top(3, rule=rule).number_of_edges() == 3
    with pytest.warns(ScoresWarning, match=r"of the \d edges .* only 3 of 8 edges have another"):
        scores.top(7, rule=rule)
    assert scores.top(8, rule=rule) is not None  # the whole model is no choice

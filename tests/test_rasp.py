"""Compiled programs: against their interpreter, against plain Python, and their true circuits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import Layers, as_batch, distance, mlp_column, port_columns
from torch import Tensor

import circuitkit
from circuitkit.corruptions.constants import mean_by_position, zero
from circuitkit.corruptions.replacement import counterfactual
from circuitkit.data.batches import Dataset
from circuitkit.data.examples import Example
from circuitkit.discovery.attribution import eap
from circuitkit.discovery.sweeps import exact
from circuitkit.engine.model import Model
from circuitkit.engine.record import answer, record
from circuitkit.errors import CircuitError, DataError, ModelError, UnknownNameError
from circuitkit.graph import circuit as circuits
from circuitkit.graph.compare import compare
from circuitkit.graph.nodes import edge_name
from circuitkit.graph.published import named as published
from circuitkit.metrics.answers import accuracy, logit_diff
from circuitkit.models.checking import check
from circuitkit.truth.rasp import (
    Aggregate,
    Decoder,
    Map,
    Otherwise,
    Program,
    Select,
    SelectorWidth,
    SequenceMap,
    Truth,
    compile_program,
    compress,
    distract,
    evaluate,
    indices,
    named,
    programs,
    redundant_edges,
    rotate,
    soften,
    split,
    structural_edges,
    tokens,
    true_edges,
)

PROGRAMS = list(programs())
every_program = pytest.mark.parametrize("name", PROGRAMS)


@cache
def program(name: str) -> Program:
    return named(name)


@cache
def compiled(name: str) -> Decoder:
    return compile_program(program(name))


@cache
def truth(name: str, corruption: Any = counterfactual, n: int = 40) -> Truth:
    return true_edges(compiled(name), program(name).data(n), corruption)


def logits(m: Decoder, data: Dataset) -> Tensor:
    """At the last token of every prompt."""
    batch = as_batch(data)
    return m.native(batch.clean, batch.mask).logits[torch.arange(len(batch)), batch.last]


def everything(name: str) -> Dataset:
    """Every prompt that a program answers, with no partner."""
    texts = [(0, *map(compiled(name).words.index, prompt)) for prompt in program(name).answers]
    return Dataset(tuple(Example(ids, ids, (0,), (1,), {}) for ids in texts))


def listed(truth: Truth, keep: Any = None) -> set[str]:
    w = truth.wiring
    keep = truth.necessary if keep is None else keep
    return {edge_name(w.writers[i], w.readers[j]) for i, j in np.argwhere(keep)}


# -- what is computed ------------------------------------------------------------------------------
def balanced(p: Sequence[str]) -> bool:
    levels = np.cumsum([1 if word == "(" else -1 for word in p])
    return bool(levels[-1] == 0 and levels.min() >= 0)


def sort_unique(p: Sequence[str]) -> str:
    bar = p.index("|")
    return [*sorted(set(p[:bar])), "|"][len(p) - bar - 1]


def induction(p: Sequence[str]) -> str:
    return next(b for a, b in pairwise(p) if a == p[-1])


def first(p: Sequence[str]) -> int:
    return list(p).index(p[-1])


PLAIN: dict[str, Callable[[tuple[str, ...]], Any]] = {
    "proportion": lambda p: p.count("x") / len(p),
    "reverse": lambda p: p[:4][::-1][len(p) - 5],
    "histogram": lambda p: p.count(p[-1]),
    "is_frequent": lambda p: p.count(p[-1]) >= 3,
    "shift": lambda p: p[-2],
    "same_as_previous": lambda p: p[-1] == p[-2],
    "three_pattern": lambda p: p[-3:] == ("a", "b", "c"),
    "one_of_two": lambda p: "a" in (p[0], p[-2]),
    "sort_unique": sort_unique,
    "dyck": balanced,
    "induction": induction,
    "first_occurrence": first,
    "modular_sum": lambda p: str((int(p[-1]) + int(p[-2])) % 5),
    "indirect_object": lambda p: p[2] if p[0] == p[4] else p[0],
    "backup": lambda p: p[-2],
    "two_tasks": lambda p: p[-2] if p[0] == "shift" else first(p[1:]) + 1,
}


@every_program
def test_a_program_computes_what_plain_python_does(name: str) -> None:
    answers = program(name).answers
    assert len(set(answers.values())) > 1
    for prompt, value in answers.items():
        assert float(value) == pytest.approx(PLAIN[name](prompt)) if name == "proportion" else (
            value == PLAIN[name](prompt)
        )  # fmt: skip


@every_program
def test_a_model_gives_what_its_program_means_on_all_prompts(name: str) -> None:
    """Every logit: 1 for the value, 0 for all others; or the number."""
    p, m = program(name), compiled(name)
    expected = torch.zeros(len(p.answers), m.d_vocab)
    for row, value in zip(expected, p.answers.values(), strict=True):
        numeric = p.output.is_numeric
        row[m.words.index("more" if numeric else str(value))] = float(value) if numeric else 1
    assert distance(logits(m, everything(name)), expected) < 1e-5
    assert len(p.answers) > 80


@every_program
def test_prompts_are_pairs_of_one_length_with_different_answers(name: str) -> None:
    p, m = program(name), compiled(name)
    data = p.data(30, seed=1)
    assert data == p.data(30, seed=1) != p.data(30, seed=2)
    for example in data.examples:
        clean, corrupt = (
            p.answers[tuple(m.words[i] for i in text[1:])]
            for text in (example.clean, example.corrupt)
        )
        assert clean != corrupt
        assert example.clean[0] == example.corrupt[0] == 0
        if p.output.is_numeric:
            assert (m.words[example.correct[0]] == "more") == (clean > corrupt)
        else:
            assert m.words[example.correct[0]] == str(clean)
            assert m.words[example.wrong[0]] == str(corrupt)


def test_null_values_select_nothing_and_stay_null() -> None:
    before = Aggregate(Select(indices, indices, lambda key, query: key == query - 1), tokens)
    none = SequenceMap(lambda x, y: x if x == "a" else None, before, tokens)
    filled = Otherwise(none, Map(lambda word: word * 2, tokens))
    count = SelectorWidth(Select(none, tokens, lambda key, query: True))
    same = SelectorWidth(Select(tokens, tokens, lambda key, query: key == query))
    early = Aggregate(Select(indices, indices, lambda key, query: key == query - 3), same)
    counted = Otherwise(early, tokens)
    prompt = ("a", "b", "a", "c")
    assert list(evaluate(counted, prompt)) == ["a", "b", "a", 1]
    assert list(evaluate(none, prompt)) == [None, "a", None, "a"]
    assert list(evaluate(filled, prompt)) == ["aa", "a", "aa", "a"]
    assert list(evaluate(count, prompt)) == [0, 1, 1, 2]
    for output in (filled, count, counted):
        p = Program("null", output, "abc", 4, shortest=3)
        data = p.data(None)
        right = [i.correct[0] for i in data.examples]
        assert len(data) > 20
        assert logits(compile_program(p), data).argmax(-1).tolist() == right


# -- a model like any other ------------------------------------------------------------------------
def test_a_compiled_model_is_the_sum_of_its_parts() -> None:
    for name, variant in (("histogram", rotate), ("two_tasks", distract), ("modular_sum", soften)):
        m = variant(compiled(name))
        assert isinstance(m, Model)
        proof = check(m, length=4)  # type: ignore[arg-type]
        assert proof.holds, proof


@pytest.mark.parametrize("padding", ["left", "right"])
def test_padding_changes_nothing(padding: str) -> None:
    p, m = program("first_occurrence"), compiled("first_occurrence")
    batch = as_batch(replace(p.data(60), padding=padding))
    assert not batch.mask.all()
    found = answer(m, batch, record(m, m.start(batch.clean, batch.mask)).final)
    assert distance(found, logits(m, p.data(60))) < 1e-6


@pytest.mark.parametrize("name", ["histogram", "induction", "one_of_two"])
def test_methods_work_on_compiled_models(name: str) -> None:
    """Patching finds the truth; attribution is exact where the model is linear, into the logits."""
    m, data = compiled(name), program(name).data(60)
    scores, guess = (method(m, data, logit_diff, counterfactual) for method in (exact, eap))
    assert np.array_equal(np.abs(scores.values) > 1e-3, true_edges(m, data).necessary)
    assert distance(guess.values[:, -1], scores.values[:, -1]) < 1e-5


def test_a_model_is_saved_and_loaded_like_any_other(tmp_path: Path) -> None:
    m, data = distract(compiled("shift")), program("shift").data(20)
    loaded = circuitkit.load(m.save(tmp_path / "shift.decoder"), dtype="float64")
    assert isinstance(loaded, Decoder)
    assert (loaded.name, loaded.words, loaded.roles) == (m.name, m.words, m.roles)
    assert loaded.dtype == torch.float64
    assert distance(logits(loaded, data), logits(m, data)) < 1e-6
    assert Dataset.of(program("shift").task(20), loaded, batch_size=64) == data
    (tmp_path / "other.decoder").write_text("{}")
    for name in ("other", "none"):
        with pytest.raises(ModelError, match=name):
            circuitkit.load(tmp_path / f"{name}.decoder")


# -- the truth -------------------------------------------------------------------------------------
def test_the_published_circuits_of_proportion_and_reverse() -> None:
    """The sets of Conmy et al. 2023 and Miller et al. 2024, with one input node."""
    p = program("proportion")
    resampled = {"input->m0", "m0->a1.h0<v>", "a1.h0->logits"}
    assert truth("proportion").wiring.n_edges == 23
    assert listed(truth("proportion")) == resampled
    assert listed(truth("proportion", zero)) == resampled | {"input->a1.h0<q>", "input->a1.h0<k>"}
    length = SelectorWidth(Select(indices, indices, lambda key, query: True))
    mirrored = Map(lambda i: i - 1, SequenceMap(lambda n, i: n - i, length, indices))
    output = Aggregate(Select(indices, mirrored, lambda key, query: key == query), tokens)
    p = Program("reverse", output, "123", 5)
    m, data = compile_program(p), p.data(60)
    resampled = {"input->a3.h0<v>", "a3.h0->logits"}
    for corruption in (counterfactual, mean_by_position):
        assert listed(true_edges(m, data, corruption)) == resampled
    assert m.wiring.n_edges == 77
    assert listed(true_edges(m, data, zero)) == resampled | {
        "input->a0.h0<v>", "a0.h0->m0", "input->m0", "m0->m1", "input->m1", "m1->m2",
        "m2->a3.h0<q>", "input->a3.h0<k>",
    }  # fmt: skip
    for corruption, name in ((zero, "acdc"), (counterfactual, "resample")):
        scores, known = exact(m, data, logit_diff, corruption), published(f"tracr_reverse:{name}")
        assert np.count_nonzero(scores.values) == len(known.edges)
        assert compare(scores.top(len(known.edges)), known.circuit).edges.jaccard == 1


Writers = list[Tensor]
Swap = tuple[int, int, Tensor]


def forward(m: Decoder, ids: Sequence[int], swap: Swap | None = None) -> tuple[Writers, Tensor]:
    """A plain run of one prompt, writer by writer, in which one reader may get another value of one
    writer: what every writer wrote, and the last logits."""
    size, column = len(ids), -1
    wrote = [m.embedding[list(ids)] + m.positions[:size]]

    def read(at: int) -> Tensor:
        seen = list(wrote)
        if swap is not None and swap[1] == at:
            seen[swap[0]] = swap[2]
        return torch.stack(seen).sum(0)

    hidden = torch.ones(size, size).triu(1).bool()
    for layer in range(m.wiring.layers):
        ports = port_columns(m.wiring, layer)
        heads = []
        for head in range(m.wiring.heads):
            q, k, v = (
                read(ports[letter].start + head) @ weight[layer, head]
                for letter, weight in (("q", m.q), ("k", m.k), ("v", m.v))
            )
            pattern = (q @ k.T).masked_fill(hidden, -torch.inf).softmax(-1)
            heads.append(pattern @ v @ m.o[layer, head])
        wrote += heads
        column = mlp_column(m.wiring, layer)
        wrote.append((read(column) @ m.w_in[layer]).clamp(min=0) @ m.w_out[layer])
    return wrote, read(column + 1)[-1] @ m.unembedding


@pytest.mark.parametrize("kind", ["resample", "zero"])
@pytest.mark.parametrize("name", ["proportion", "one_of_two", "same_as_previous", "backup"])
def test_the_truth_is_that_of_a_slow_enumeration(name: str, kind: str) -> None:
    m, data = compiled(name), program(name).data(12)
    expected = np.zeros(m.wiring.shape)
    for example in data.examples:
        _, plain = forward(m, example.clean)
        others, _ = forward(m, example.corrupt)
        for row, column in np.argwhere(m.wiring.legal):
            value = others[row] if kind == "resample" else torch.zeros_like(others[row])
            _, cut = forward(m, example.clean, (row, column, value))
            change = float((cut - plain).abs().max())
            expected[row, column] = max(expected[row, column], change)
    found = true_edges(m, data, counterfactual if kind == "resample" else zero)
    assert distance(found.changes, expected) < 1e-5
    assert np.array_equal(found.necessary, expected > 1e-3)


@pytest.mark.parametrize("corruption", [counterfactual, zero])
@every_program
def test_what_is_necessary_is_structural(name: str, corruption: Any) -> None:
    found = truth(name, corruption, 12)
    assert found.necessary.any()
    assert not (found.necessary & ~found.structural).any()
    assert np.array_equal(found.wiring.alive(found.structural), found.structural)


def test_backups_are_redundant_where_they_fire() -> None:
    """A backup is heard where the first head is silent: with its values cut to zero, and not with
    those of another prompt, or of all tokens at once."""
    m, data = compiled("backup"), program("backup").data(30)
    first, spare = ({f"input->a0.h{i}<{port}>" for port in "qkv"} for i in (0, 1))
    loud, silent = {"input->a0.h0<q>", "input->a0.h0<k>"}, {"a0.h0->m0", "input->a0.h0<v>"}
    zeroed, resampled = (true_edges(m, data, c) for c in (zero, counterfactual))
    whole = first | spare | {"a0.h0->m0", "a0.h1->m0", "m0->logits"}
    assert listed(zeroed, zeroed.structural) == whole
    assert listed(zeroed) == loud | {"m0->logits"}
    found = redundant_edges(m, data, zeroed, zero)
    assert listed(zeroed, found) == silent | spare | {"a0.h1->m0"}
    assert listed(resampled) == silent | {"m0->logits"}
    assert not redundant_edges(m, data, resampled).any()


def test_what_nobody_hears_is_no_structure() -> None:
    m = compiled("proportion")
    v, w_in = m.v.clone(), m.w_in.clone()
    v[1, 0, 1, -1] = 1  # a channel that reads the embedding and writes nothing
    w_in[1, 1, 0] = 1  # a neuron that does so
    assert not m.o[1, 0, -1].any()
    assert not m.w_out[1, 0].any()
    assert np.array_equal(structural_edges(replace(m, v=v, w_in=w_in)), structural_edges(m))


def test_a_truth_is_a_circuit_with_roles() -> None:
    found = truth("indirect_object")
    circuit, whole = found.circuit(), found.circuit("structural")
    assert np.array_equal(circuits.mask(circuit), found.necessary)
    assert np.array_equal(circuits.mask(whole), found.structural)
    assert found.structural.sum() > found.necessary.sum() > 3
    assert circuit.nodes["a2.h0"]["role"] == "S-inhibition"
    assert circuit.nodes["a3.h0"]["role"] == "name mover"
    assert circuits.to_json(circuits.from_json(circuits.to_json(circuit)))
    assert "indirect_object under counterfactual: of 77 edges" in repr(found)
    with pytest.raises(CircuitError, match=r"'possible'.*necessary, structural"):
        found.circuit("possible")


# -- variants --------------------------------------------------------------------------------------
VARIANTS: dict[str, Callable[[Decoder], Decoder]] = {
    "rotated": rotate,
    "distracted": distract,
    "twins": partial(split, head="a1.h0"),
    "negative": partial(split, head="a1.h0", shares=(1.3, -0.3)),
    "all": lambda m: rotate(distract(split(m, "a1.h0"))),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ["induction", "three_pattern", "proportion"])
def test_a_variant_computes_the_same(name: str, variant: str) -> None:
    m, data = compiled(name), program(name).data(40)
    changed = VARIANTS[variant](m)
    before = {key: value.clone() for key, value in m.tensors().items()}
    assert distance(logits(changed, data), logits(m, data)) < 1e-3
    assert all(torch.equal(value, m.tensors()[key]) for key, value in before.items())
    old, new = truth(name, n=40), true_edges(changed, data)
    if variant in ("rotated", "distracted"):
        assert listed(new) == listed(old)
        assert listed(new, new.structural) == listed(old, old.structural)
    else:
        assert listed(old) - listed(new) <= {e for e in listed(old) if "a1.h0" in e}


def test_a_rotated_model_has_no_direction_of_its_own() -> None:
    m, data = compiled("three_pattern"), program("three_pattern").data(10)
    batch = as_batch(data)
    one, two = (record(x, x.start(batch.clean, batch.mask)).final for x in (m, rotate(m)))
    assert distance(two.norm(dim=-1), one.norm(dim=-1)) < 1e-5
    assert (one.abs() > 1e-3).double().mean() < 0.5 < (two.abs() > 1e-3).double().mean()


def test_distractors_are_large_and_do_not_matter() -> None:
    m, data = compiled("induction"), program("induction").data(40)
    found = distract(m, heads=2, width=4)
    assert found.wiring.heads == m.wiring.heads + 2
    batch = as_batch(data)
    run = record(found, found.start(batch.clean, batch.mask))
    sizes = [
        found.write(1, [h], Layers(found.wiring, run).heads[1][:, :, [h]]).norm() for h in range(3)
    ]
    assert min(sizes[1:]) > 0.1 * sizes[0]
    leaking = distract(m, leak=0.01)
    moved = (logits(leaking, data) - logits(m, data)).abs().max()
    assert 1e-4 < moved < 0.2
    assert structural_edges(leaking).sum() > structural_edges(found).sum()


def test_shares_of_a_split_head_are_what_was_asked() -> None:
    m, data = compiled("shift"), program("shift").data(20)
    found = split(m, "a0.h0", (1.3, -0.5, 0.2))
    batch = as_batch(data)
    run = record(found, found.start(batch.clean, batch.mask))
    wrote = found.write(0, None, Layers(found.wiring, run).heads[0])
    assert distance(wrote[1], wrote.sum(0) * -0.5) < 1e-5
    assert found.roles["a0.h1"] == "1 before × -0.5"
    changes = true_edges(found, data, zero).changes
    w = found.wiring
    sizes = [changes[w.index(f"a0.h{i}", "logits")] for i in range(3)]
    assert sizes == pytest.approx([1.3, 0.5, 0.2], rel=1e-4)


def test_softer_attention_leaks_and_still_answers() -> None:
    m, data = compiled("induction"), program("induction").data(60)
    batch = as_batch(data)
    for factor, least, most in ((0.1, 1e-6, 0.02), (0.03, 1e-2, 0.6)):
        found = logits(soften(m, factor), data)
        assert least < (found - logits(m, data)).abs().max() < most
        assert accuracy(found, found, batch).min() == 1


def test_compression_keeps_the_function_until_it_does_not() -> None:
    m, data = compiled("indirect_object"), program("indirect_object").data(None)
    batch = as_batch(data)
    right = {}
    for width in (m.d_model // 2, 4):
        small = compress(m, data, width)
        assert small.d_model == width
        right[width] = float(accuracy(logits(small, data), logits(small, data), batch).mean())
    assert right[m.d_model // 2] == 1 > right[4]
    gram = compress(m, data, m.d_model // 2).unembedding
    gram = torch.nn.functional.normalize(gram[:, gram.norm(dim=0) > 1e-3], dim=0)
    overlap = (gram.T @ gram - torch.eye(gram.shape[1])).abs().max()
    assert overlap > 0.05


# -- a program of one's own ------------------------------------------------------------------------
def test_a_program_of_ones_own_takes_ten_lines() -> None:
    from circuitkit.truth import rasp

    same = rasp.Select(rasp.tokens, rasp.tokens, lambda key, query: key == query)
    twice = rasp.Map(lambda count: count == 2, rasp.SelectorWidth(same))
    program = rasp.Program("twice", twice, "abc", length=4, shortest=2)
    model, data = rasp.compile_program(program), program.data(50)
    truth = rasp.true_edges(model, data)
    circuit = truth.circuit()
    assert listed(truth) == {
        "input->a0.h0<q>", "input->a0.h0<k>", "a0.h0->m0", "m0->m1", "m1->logits",
    }  # fmt: skip
    assert circuitkit.evaluate(model, circuit, data, logit_diff, counterfactual).faithfulness == (
        pytest.approx(1, abs=1e-4)
    )


# -- what is refused -------------------------------------------------------------------------------
def test_what_is_no_program_is_refused() -> None:
    number = Map(lambda word: 1, tokens, numeric=True)
    with pytest.raises(ModelError, match="a SequenceMap reads the numeric Map"):
        SequenceMap(lambda x, y: x, number, tokens)
    with pytest.raises(ModelError, match="a Select reads"):
        Select(number, tokens, lambda key, query: True)
    with pytest.raises(ModelError, match="'a'; its function must return a finite number"):
        compile_program(Program("p", Map(lambda word: word, tokens, numeric=True), "a", 2))
    for words in ("aab", ["a b"], ["<bos>"], []):
        with pytest.raises(ModelError, match="different words without spaces"):
            Program("p", tokens, words, 3)
    with pytest.raises(ModelError, match="3 to 2 words"):
        Program("p", tokens, "ab", 2, shortest=3)
    with pytest.raises(ModelError, match=r"1,048,574 .*'prompts'"):
        Program("p", tokens, "abcd"[:2], 19).data(5)
    with pytest.raises(UnknownNameError, match="did you mean 'reverse'"):
        named("revers")


def test_a_mixed_selection_is_no_value() -> None:
    everything = Aggregate(Select(indices, indices, lambda key, query: True), tokens, name="all")
    with pytest.raises(DataError, match=r"'a b'.*selects 'a' and 'b'"):
        evaluate(everything, ("a", "b"))
    p = Program("all", everything, "ab", 3)
    assert set(p.answers) == {tuple(word * n) for n in (1, 2, 3) for word in "ab"}
    for prompt in ((), ("a",) * 4, ("c",)):
        with pytest.raises(DataError, match="is not a prompt of 'all'"):
            p.answer(prompt)
    with pytest.raises(DataError, match=r"has 6 prompts .* not 7"):
        p.task(7)


def test_what_no_variant_can_be_is_refused() -> None:
    m, data = compiled("shift"), program("shift").data(4)
    with pytest.raises(CircuitError, match=r"'m0' is not a head .*'a0.h0'"):
        split(m, "m0")
    with pytest.raises(ModelError, match=r"\(0.5, 0.4\) are not at least two"):
        split(m, "a0.h0", (0.5, 0.4))
    with pytest.raises(ModelError, match="above 0"):
        soften(m, 0)
    with pytest.raises(ModelError, match="-1 heads"):
        distract(m, heads=-1)
    with pytest.raises(ModelError, match="width 13, which cannot be compressed into 13"):
        compress(m, data, 13)
    long = torch.zeros(1, 9, dtype=torch.long)
    with pytest.raises(DataError, match=r"9 tokens.* positions for 6"):
        m.start(long, long == 0)

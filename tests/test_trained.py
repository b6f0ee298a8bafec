"""Models that were trained to be a causal model: what it computes, what is trained and kept."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from families import as_batch, distance

import circuitkit as ck
from circuitkit.data.batches import Dataset
from circuitkit.data.examples import Example
from circuitkit.errors import DataError, ModelError
from circuitkit.graph.nodes import INPUT, LOGITS
from circuitkit.models.transformer_lens import from_module
from circuitkit.truth import trained
from circuitkit.truth.rasp.language import Op, indices, tokens
from circuitkit.truth.trained.acceptance import failing, measured
from circuitkit.truth.trained.causal import Causal, Link
from circuitkit.truth.trained.losses import EXACT, UNIT, masks
from circuitkit.truth.trained.losses import distance as apart
from circuitkit.truth.trained.placing import edge, mask_of, place
from circuitkit.truth.trained.shapes import FAMILIES, GROUPED, Shape
from circuitkit.truth.trained.subject import Subject
from circuitkit.truth.trained.tables import CLASH, NONE
from circuitkit.util.notes import in_one_note, notes_of

COMMITTED = Path(__file__).parent.parent / "benchmarks" / "trained"
NAMES = [*trained.causal_models()]


def made(name: str) -> Causal:
    return trained.causal_models()[name]()


def shape(causal: Causal, family: str, layers: int = 3, width: int = 16) -> Shape:
    groups = 2 if family in GROUPED else 4
    return Shape(family, layers, 4, groups, width, 24, len(causal.words), causal.length + 1)


def subject(name: str, family: str, layers: int = 3) -> tuple[Subject, Any]:
    """An untrained one, and its module."""
    causal = made(name)
    own = shape(causal, family, layers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = own.build()
    model = from_module(module, name=name, trainable=True)
    return Subject(causal, model, place(causal, own.wiring)), module


# -- the causal model ------------------------------------------------------------------------------
class ByHand:
    """A causal model by the interpreter of ``rasp``, a value at a time, with some edges cut."""

    def __init__(self, causal: Causal, prompt: Sequence[str], source: Sequence[str],
                 cut: Sequence[Link]) -> None:  # fmt: skip
        self.causal, self.prompt, self.cut = causal, prompt, set(cut)
        self.named = {op: name for name, op in causal.parts.items()}
        self.source = None if source is prompt else ByHand(causal, source, source, ())
        self.rows: dict[str, Any] = {INPUT: list(prompt)}
        for name, op in causal.parts.items():
            ports = ("k", "q", "v") if causal.is_head(name) else ("",) * len(op.inputs)
            read = [self.read(one, name, port) for port, one in zip(ports, op.inputs, strict=True)]
            self.rows[name] = op.row(prompt, *read)

    def heard(self, link: Link) -> Any:
        whose = self.source if link in self.cut and self.source else self
        return whose.rows[link.writer]

    def read(self, op: Op, reader: str, port: str) -> Any:
        if op in self.named:
            return self.heard(Link(self.named[op], reader, port))
        if op is tokens:
            return self.heard(Link(INPUT, reader, port))
        if op is indices:
            return range(len(self.prompt))
        return op.row(self.prompt, *(self.read(one, reader, port) for one in op.inputs))

    def votes(self) -> dict[str, float]:
        """At the last word."""
        found: Counter[str] = Counter()
        for name, weight in self.causal.votes.items():
            value = self.heard(Link(name, LOGITS, ""))[-1]
            if value is not None:
                found[str(value)] += weight
        return {word: weight for word, weight in found.items() if weight}


@pytest.mark.parametrize("name", NAMES)
def test_with_any_edges_cut_a_causal_model_answers_as_the_interpreter_does(name: str) -> None:
    causal, rng = made(name), Random(3)
    said = 0
    for _ in range(12):
        prompts = causal.prompts(2, rng)
        cut = torch.tensor([[rng.random() < 0.4 for _ in causal.links]])
        source = causal.values(prompts[1:])
        found = causal.answers(causal.values(prompts[:1], source, cut), source, cut)[0, -1]
        one, two = ([causal.vocabulary[i] for i in row] for row in prompts.tolist())
        links = [link for link, is_cut in zip(causal.links, cut[0], strict=True) if is_cut]
        try:
            wanted = ByHand(causal, one, two, links).votes()
        except DataError:  # an Aggregate selects different values
            continue
        own = {causal.words[i]: v for i, v in enumerate(found.nan_to_num().tolist()) if v}
        assert own == wanted
        assert bool(found.isnan().all()) == (not wanted)
        said += bool(wanted)
    assert said > 3


@pytest.mark.parametrize("name", NAMES)
def test_every_prompt_has_an_answer_and_the_answers_vary(name: str) -> None:
    causal = made(name)
    prompts = causal.prompts(300, Random(1))
    votes = causal.answers(causal.values(prompts))[:, -1]
    assert prompts.shape == (300, causal.length)
    assert not bool(votes.isnan().any())
    shares = votes.argmax(-1).bincount() / 300
    assert float(shares.max()) < 0.75


@pytest.mark.parametrize("name", NAMES)
def test_each_edge_but_the_constant_ones_can_change_the_answer(name: str) -> None:
    """Alone, or beside others: no edge of the truth is idle."""
    causal, rng = made(name), torch.Generator().manual_seed(0)
    prompts, sources = (causal.prompts(1500, Random(seed)) for seed in (1, 2))
    values = causal.values(sources)
    beside = torch.rand(1500, len(causal.links), generator=rng) < 0.3
    for number, link in enumerate(causal.links):
        ends = []
        for live in (False, True):
            cut = beside.clone()
            cut[:, number] = live
            ends.append(causal.answers(causal.values(prompts, values, cut), values, cut)[:, -1])
        assert (not torch.equal(*(end.nan_to_num() for end in ends))) == (
            link not in causal.constant
        ), link


def test_what_is_not_known_is_not_asked_for() -> None:
    """Where an Aggregate selects different values, or nothing, there is no answer."""
    back = ck.rasp.Select(tokens, tokens, lambda key, query: key < query)
    causal = Causal("smaller", "abc", lambda r: ["a", "b", "c"],
                    {"smaller": ck.rasp.Aggregate(back, tokens)}, {"smaller": 1})  # fmt: skip
    values = causal.values(causal.prompts(1, Random(0)))
    assert values["smaller"].tolist() == [[NONE, 0, CLASH]]
    assert causal.answers(values).isnan().all(-1).tolist() == [[True, False, True]]


def test_a_causal_model_that_cannot_be_trained_for_is_refused() -> None:
    width = ck.rasp.SelectorWidth(ck.rasp.Select(tokens, tokens, lambda k, q: k == q))
    inner = made("recall").parts["value"]
    draw = lambda rng: ["a"]  # noqa: E731
    for parts, votes, why in (
        ({"count": width}, {"count": 1}, "categorical operations"),
        ({"value": inner}, {"value": 1}, "which is not a part"),
        ({"value": inner}, {}, "votes of nothing"),
        ({"value": inner}, {"other": 1}, "give votes of parts"),
    ):
        with pytest.raises(ModelError, match=why):
            Causal("wrong", "a", draw, parts, votes)


# -- where it is in a transformer ------------------------------------------------------------------
@pytest.mark.parametrize("family", [*FAMILIES])
def test_parts_are_placed_where_each_hears_what_it_reads(family: str) -> None:
    """Behind what it reads (in parallel blocks a layer further), without sharing keys."""
    causal = made("backup")
    wiring = shape(causal, family).wiring
    found = {tuple(place(causal, wiring, seed).items()) for seed in range(20)}
    assert len(found) > 5
    for components in map(dict, found):
        for name in causal.parts:
            assert components[name].startswith("a" if causal.is_head(name) else "m")
        mask = mask_of(causal.links, components, wiring)
        assert mask.sum() == len(causal.links)
        assert not (mask & ~wiring.legal).any()
        value, key = (components[name] for name in ("value", "key"))
        row, column = edge(Link("key", "value", "k"), components, wiring)
        assert wiring.writers[row] == key
        assert value in wiring.fed(wiring.readers[column])
        assert wiring.readers[column].port == "k"
    with pytest.raises(ModelError, match="no room for the 4 parts"):
        place(causal, shape(causal, family, 1).wiring)


# -- what is trained -------------------------------------------------------------------------------
@pytest.mark.parametrize("family", [*FAMILIES])
def test_a_run_in_training_is_a_run_under_the_masks(family: str) -> None:
    """The engine's run of each example under its own mask is the oracle; the gradients in the
    weights too, also those of what is carried."""
    own, module = subject("recall", family)
    prompts, sources = own.prompts(5, 1), own.prompts(5, 2)
    rows = masks(own, prompts, sources, torch.Generator().manual_seed(3))
    keep = own.keep(rows)
    assert 0.2 < float(keep[:, own.model.wiring.legal].mean()) < 0.95
    ways = torch.randn(5, len(own.causal.words), generator=torch.Generator().manual_seed(4))
    examples = tuple(
        Example(tuple(a), tuple(b), (1,), (2,), {})
        for a, b in zip(own.tokens(prompts).tolist(), own.tokens(sources).tolist(), strict=True)
    )
    said = own.said(rows, own.plain(sources))[:, -1]
    wanted = ck.run(own.model, keep, Dataset(examples), "counterfactual")[0]
    assert distance(said, wanted) < 1e-5
    weights = [*module.parameters()]
    found, expected = (
        torch.autograd.grad((ways * one).sum(), weights, allow_unused=True)
        for one in (said, wanted)
    )
    for name, one, two in zip(dict(module.named_parameters()), found, expected, strict=True):
        assert (one is None) == (two is None), name
        if one is not None and float(two.abs().max()) > 1e-3:
            assert distance(one, two) < 1e-4, name


def test_the_masks_are_a_third_each_and_leave_the_rest_alone() -> None:
    own, _ = subject("indirect_object", "gpt2")
    prompts = own.prompts(3000, 1)
    rows = masks(own, prompts, prompts, torch.Generator().manual_seed(0))
    inside = rows.cut.any(1)
    share = rows.outside.float().mean((1, 2))
    strict, everything = share > 0, share == 1
    for found, wanted in (
        ((inside & ~strict), 1 / 3), ((~inside & strict), 1 / 3), ((inside & strict), 1 / 3),
        (everything, 2 / 9), ((share > 0.4) & (share < 0.6), 4 / 9),
    ):  # fmt: skip
        assert float(found.float().mean()) == pytest.approx(wanted, abs=0.03)
    # what is cut is one edge, or all edges out of one part
    links = own.causal.links
    for row in rows.cut[inside][:200]:
        cut = [link for link, here in zip(links, row, strict=True) if here]
        parts = {link.writer for link in cut}
        assert len(cut) == 1 or (len(parts) == 1 and {*cut} == {
            link for link in links if link.writer in parts})  # fmt: skip
    keep = own.keep(rows).bool()
    mapped = torch.from_numpy(mask_of(links, own.components, own.model.wiring))
    assert torch.equal(~keep[:, mapped].all(1), inside)
    assert torch.equal(~keep[:, ~mapped].all(1), strict)


def test_the_loss_is_what_one_writes_by_hand() -> None:
    """The divergence from the softmax of the votes, and the squared difference to them, centred;
    of each word that has an answer."""
    rng = np.random.default_rng(0)
    said, votes = rng.standard_normal((2, 3, 5)), np.zeros((2, 3, 5))
    votes[..., 2], votes[1, :, 4] = 1, -0.5
    votes[0, 0] = math.nan
    total, squares, count = 0.0, 0.0, 0
    for x, wanted in zip(said.reshape(-1, 5), UNIT * votes.reshape(-1, 5), strict=True):
        if np.isnan(wanted).any():
            continue
        logs = [one - np.log(np.exp(one).sum()) for one in (x, wanted)]
        total += float((np.exp(logs[1]) * (logs[1] - logs[0])).sum())
        squares += float((((x - x.mean()) - (wanted - wanted.mean())) ** 2).mean())
        count += 1
    loss = apart(torch.tensor(said), torch.tensor(votes))
    assert count == 5
    assert loss.item() == pytest.approx(total / count + EXACT * squares / count, rel=1e-6)
    assert apart(UNIT * torch.tensor(votes[1:]), torch.tensor(votes[1:])).item() < 1e-9


def toy() -> Causal:
    """The word before the last."""
    before = ck.rasp.Select(indices, indices, lambda key, query: key == query - 1)
    return Causal("toy", "abcd", lambda rng: rng.choices("abcd", k=4),
                  {"before": ck.rasp.Aggregate(before, tokens)}, {"before": 1})  # fmt: skip


@pytest.fixture(scope="module")
def attempt() -> trained.Attempt:
    recipe = trained.Recipe(steps=150, rounds=1, rows=32, pool=256)
    small = Shape("gpt2", 1, 2, 2, 32, 32, len(toy().words), 5)
    return trained.train(toy(), small, 1, recipe)


def test_a_toy_is_trained_in_seconds_to_be_its_causal_model(attempt: trained.Attempt) -> None:
    assert attempt.accepted, attempt.failing
    found = attempt.model
    assert found.model.dtype == torch.float32
    assert all(torch.equal(w, w.float().half()) for w in found.weights.values())
    assert found.mapped.sum() == 4
    assert found.constant.sum() == 2
    data = found.data(64)
    values = ck.measure(found.model, [found.mapped, found.model.wiring.legal & ~found.mapped],
                        data, "logit_diff", "counterfactual").mean(1)  # fmt: skip
    assert float(values[0]) > 5 > 0 > float(values[1])


def test_the_numbers_of_acceptance_are_those_of_runs_under_masks(attempt: trained.Attempt) -> None:
    """By the package's own evaluation on the same pairs; and a model that is not its causal model
    fails by them."""
    found = attempt.model
    for pairs in ("other", "near"):
        result = ck.evaluate(found.model, found.mapped, found.data(256, seed=1, pairs=pairs),
                             "logit_diff", "counterfactual")  # fmt: skip
        assert found.about[f"faithfulness_{pairs}"] == pytest.approx(result.faithfulness, abs=1e-3)
    own = Subject(toy(), found.model, found.components)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        other = from_module(found.shape.build())
    wrong = measured(replace(own, model=other), replace(found, model=other))
    assert {text.split()[0] for text in failing(wrong)} >= {"accuracy", "mapped_only", "votes"}
    assert not failing(dict(found.about))
    assert failing({**found.about, "subsets": 0.989}) == ("subsets 0.989",)
    assert failing({**found.about, "votes": math.nan}) == ("votes nan",)


def test_the_same_seed_trains_the_same_model_and_nothing_global_moves() -> None:
    recipe = trained.Recipe(steps=3, rounds=1, rows=8, pool=64)
    small = Shape("llama", 1, 2, 1, 16, 16, len(toy().words), 5)
    before = torch.random.get_rng_state()
    one, two, other = (trained.train(toy(), small, seed, recipe).model for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(one.weights[key], two.weights[key]) for key in one.weights)
    assert one.components == two.components
    assert any(not torch.equal(one.weights[key], other.weights[key]) for key in one.weights)


# -- files -----------------------------------------------------------------------------------------
def test_a_file_holds_all_of_a_model(attempt: trained.Attempt, tmp_path: Path) -> None:
    own = attempt.model
    found = trained.load(own.save(tmp_path / "toy.trained"))
    for name in ("name", "components", "about", "shape"):
        assert getattr(found, name) == getattr(own, name)
    assert np.array_equal(found.mapped, own.mapped)
    assert np.array_equal(found.constant, own.constant)
    for pairs in ("other", "near"):
        assert found.data(20, 3, pairs=pairs).examples == own.data(20, 3, pairs=pairs).examples
    batch = as_batch(own.data(8))
    logits = (one.model.native(batch.clean, batch.mask).logits for one in (found, own))
    assert torch.equal(*logits)
    assert repr(found) == repr(own) == "toy, gpt2, seed 1: 1 parts, 4 of 13 edges are mapped"


def test_the_prompts_have_other_answers_and_near_ones_differ_in_few_words(
    attempt: trained.Attempt,
) -> None:
    own = attempt.model
    for pairs in ("other", "near"):
        for example in own.data(30, pairs=pairs).examples:
            for text, answer in (
                (example.clean, example.correct),
                (example.corrupt, example.wrong),
            ):
                assert answer == (text[-2],)
            assert example.correct != example.wrong
            differing = sum(a != b for a, b in zip(example.clean, example.corrupt, strict=True))
            assert pairs == "other" or differing == 1
    assert own.data(9, 1).examples == own.data(9, 1).examples != own.data(9, 2).examples
    every = own.data(len(own.pairs.prompts)).examples
    assert len({example.clean for example in every}) == len(every) > 100
    for n in (0, 10**6):
        with pytest.raises(DataError, match="prompts; give n from 1"):
            own.data(n)


def test_what_is_not_a_trained_model_is_refused_with_the_reason(
    attempt: trained.Attempt, tmp_path: Path
) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    from circuitkit.truth.trained.files import digest

    path = attempt.model.save(tmp_path / "toy.trained")
    with safe_open(path, framework="pt") as file:
        notes: dict[str, Any] = notes_of(file.metadata())
        own = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    about = json.loads(notes["about"])
    weight = "weights.lm_head.weight"

    def said(**changes: Any) -> Any:
        return {**about, **changes}, own

    bent = {**own, weight: own[weight] * math.inf}
    cases: list[tuple[Any, str]] = [
        (said(shape={**about["shape"], "family": "os.system"}), "is not a family"),
        (said(shape={**about["shape"], "layers": 10**9}), "is not a shape"),
        (said(shape={**about["shape"], "layers": 2}), "does not fit the shape"),
        (said(shape={"family": "gpt2"}), "lacks a size"),
        (said(words=about["words"][1:]), "words are not those"),
        (said(mapped=["logits->input"]), "is not"),
        (said(mapped=["m0->a0.h0<q>"]), "is not an edge"),
        (said(about=[]), "is not a mapping"),
        (said(name=3), "its name is not a text"),
        (([], own), "does not say what it is"),
        ((about, bent), "not a finite number"),
        ((about, {**own, weight: own[weight].long()}), "not a finite number"),
        ((about, {key: value for key, value in own.items() if key != weight}), "does not fit"),
        ((about, {**own, "prompts": own["prompts"] + 99}), "do not fit"),
        ((about, {**own, "near_answers": own["answers"].clone()}), "no partner"),
        ((about, {key: value for key, value in own.items() if key != "near"}), "near"),
    ]
    for (text, tensors), why in cases:
        spelt = json.dumps(text)
        changed = {**notes, "about": spelt, "digest": digest(spelt, tensors)}
        save_file(tensors, path, in_one_note(changed))
        with pytest.raises(ModelError, match=why) as caught:
            trained.load(path)
        assert "\n" not in str(caught.value)
    save_file(own, path, notes)  # as versions before 0.3 wrote it
    whole = path.read_bytes()
    for content, why in (
        (whole[:-1] + bytes([whole[-1] ^ 1]), "not what was saved"), (whole[:999], "does not hold"),
        (b"", "does not hold"),
    ):  # fmt: skip
        path.write_bytes(content)
        with pytest.raises(ModelError, match=why):
            trained.load(path)
    save_file(own, path, in_one_note({**notes, "version": "2"}))
    with pytest.raises(ModelError, match="is not a file of"):
        trained.load(path)
    with pytest.raises(ModelError, match="there is no file"):
        trained.load(tmp_path / "none.trained")


# -- the committed models --------------------------------------------------------------------------
def test_the_committed_models_are_those_of_the_log() -> None:
    rows = json.loads((COMMITTED / "log.json").read_text())
    kept = {row["file"]: row for row in rows if row["accepted"]}
    files = {path.name: path.stat().st_size for path in COMMITTED.glob("*.trained")}
    assert files.keys() == kept.keys()
    assert sum(files.values()) < 6e6
    assert sum(row["cpu_seconds"] for row in rows) < 150 * 60
    for row in rows:
        assert bool(failing(row)) != row["accepted"]
    twice = Counter(row["causal"] for row in kept.values())
    assert sum(count >= 2 for count in twice.values()) >= 12
    assert {"indirect_object", "negative", "backup", "one_of_two", "majority"} <= twice.keys()
    assert {name.split("-")[1] for name in files} == {*FAMILIES}


@pytest.mark.parametrize("file", sorted(COMMITTED.glob("*-0.trained"))[::5], ids=lambda f: f.stem)
def test_a_committed_model_does_with_its_mapped_edges_what_it_does_whole(file: Path) -> None:
    found = trained.load(file)
    data = found.data(40, seed=9)
    legal = found.model.wiring.legal
    circuits = [legal, found.mapped, legal & ~found.mapped]
    whole, mapped, rest = ck.measure(found.model, circuits, data, "logit_diff", "counterfactual")
    assert float((whole > 0).float().mean()) > 0.97
    assert float((mapped > 0).float().mean()) > 0.97
    assert float(rest.mean()) < 0
    names = {link: edge(link, found.components, found.model.wiring)
             for link in made(str(found.about["causal"])).links}  # fmt: skip
    assert {*map(tuple, np.argwhere(found.mapped).tolist())} == {*names.values()}

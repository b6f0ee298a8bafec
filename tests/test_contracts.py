"""What everything in the registries promises: every metric, corruption, discovery method, task,
reference and format."""

from __future__ import annotations

import copy
import csv
import json
import random
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import networkx as nx
import numpy as np
import pytest
import torch
from families import (
    CORRUPTIONS,
    FAMILIES,
    Layers,
    able,
    as_batch,
    crossed,
    dataset,
    distance,
    model,
)
from torch import Tensor
from transformers import AutoTokenizer

import circuitkit
from circuitkit.cli.main import main
from circuitkit.corruptions import counterfactual, zero
from circuitkit.data.batches import Dataset
from circuitkit.data.examples import Example
from circuitkit.data.prompts import Task
from circuitkit.data.tokens import TokenizerView, tokenise
from circuitkit.engine.model import Activations, Model
from circuitkit.engine.record import record
from circuitkit.errors import (
    ArgumentError,
    CircuitkitError,
    DataError,
    EvaluationError,
    OutputError,
)
from circuitkit.evaluation.ability import known
from circuitkit.evaluation.faithfulness import evaluate
from circuitkit.graph import circuit as circuits
from circuitkit.graph.compare import compare
from circuitkit.graph.published import named, skeleton
from circuitkit.graph.scores import Scores
from circuitkit.graph.wiring import Wiring
from circuitkit.metrics import accuracy, logit_diff, probability, top1
from circuitkit.registry import folder_of, lookup, names, resolve

# five points do not resolve the path of every random model
pytestmark = pytest.mark.filterwarnings("ignore:the scores of mask_gradient sum")
KINDS = ["gpt2", "neox-parallel", "llama", "gemma2", "olmo2", "mixtral", "attention-only"]
every_corruption = pytest.mark.parametrize("corruption", CORRUPTIONS)
every_method = pytest.mark.parametrize("method", names("discovery"))
of_corruptions = pytest.mark.parametrize(("family", "corruption"), crossed(KINDS, CORRUPTIONS))
every_task = pytest.mark.parametrize("task", names("tasks"))
every_reference = pytest.mark.parametrize("reference", names("references"))
every_format = pytest.mark.parametrize("suffix", names("formats"))
INFORMED = [name for name in names("discovery") if name != "random"]
MINI = Path(circuitkit.__path__[0]) / "assets" / "mini"


def test_the_catalogue_holds_what_is_put_to_the_test() -> None:
    assert {"logit_diff", "kl", "accuracy"} <= set(names("metrics"))
    assert {"counterfactual", "zero", "mean", "resample", "noise"} <= set(names("corruptions"))
    assert {"eap", "eap_ig", "random"} <= set(names("discovery"))
    assert {"ioi", "facts", "from_file"} <= set(names("tasks"))
    assert {"ioi:wang2022", "docstring:acdc"} <= set(names("references"))
    assert {"svg", "json", "csv"} <= set(names("formats"))


# -- metrics ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(("family", "metric"), crossed(KINDS, names("metrics")))
def test_a_metric_judges_each_example_of_a_real_run(family: str, metric: str) -> None:
    m, data = model(family), able(family)
    found = evaluate(m, m.wiring.legal, data, lookup("metrics", metric), counterfactual)
    for values in (found.everything, found.nothing, found.circuit):
        assert values.shape == (len(data),)
        assert np.isfinite(values).all()
    assert np.abs(found.everything - found.nothing).max() > 1e-3
    assert found.metric == metric


# -- corruptions -----------------------------------------------------------------------------------
@every_corruption
@pytest.mark.parametrize("family", FAMILIES)
def test_a_corruption_carries_a_value_for_every_writer(family: str, corruption: str) -> None:
    m, data = model(family), dataset(padding="left")
    w, carry = m.wiring, resolve("corruptions", corruption)(m, data)
    for batch in data:
        shape, draws = (*batch.clean.shape, m.d_model), carry(batch)
        assert draws
        for run in draws:
            assert isinstance(run, Activations)
            assert run.embed.shape == run.final.shape == shape
            assert len(run.reads) == len(run.computed) == len(run.shares) == len(w.stages)
            for stage, read, *values in zip(
                w.stages, run.reads, run.computed, run.shares, strict=True
            ):
                width = m.d_head if stage.kind == "attention" else m.d_model
                assert read.shape == shape
                assert all(x.shape == (*shape[:2], stage.writes, width) for x in values)
            for x in tensors(run):
                assert torch.isfinite(x).all()
                assert not x.requires_grad
                assert x.dtype == m.dtype


@of_corruptions
def test_what_is_carried_adds_up(family: str, corruption: str) -> None:
    """Each layer reads the embedding and what the writers before it carry, with the biases."""
    m, data = model(family), dataset()
    batch = as_batch(data)
    for run in resolve("corruptions", corruption)(m, data)(batch):
        x, own = run.embed, Layers(m.wiring, run)
        for layer in range(m.wiring.layers):
            assert difference(own.attn_in[layer], x, batch.mask) < 1e-5
            bias = m.constant(layer)
            attention = m.write(layer, None, own.heads[layer]).sum(0)
            middle = x + attention + (0 if bias is None else bias)
            if m.wiring.mlp:
                read = x if m.wiring.parallel else middle
                assert difference(own.mlp_in[layer], read, batch.mask) < 1e-5
                middle = middle + own.mlps[layer]
            x = middle
        assert difference(run.final, x, batch.mask) < 1e-5


def difference(one: Tensor, two: Tensor, mask: Tensor) -> float:
    """The largest difference at tokens that are no padding; zeros may be compared."""
    return float((one - two)[mask].abs().max() / (1 + two[mask].abs().max()))


@of_corruptions
def test_what_claims_to_be_one_real_run_is_one(family: str, corruption: str) -> None:
    """A run that starts at the first difference relies on it."""
    m, data = model(family), dataset()
    batch = as_batch(data)
    for run in resolve("corruptions", corruption)(m, data)(batch):
        again = record(m, m.start(batch.clean, batch.mask), run.embed)
        same = difference(again.final, run.final, batch.mask) < 1e-5
        assert same or not run.consistent
        assert run.consistent or corruption not in ("counterfactual", "resample", "noise")


@every_corruption
def test_a_corruption_carries_the_same_each_time(corruption: str) -> None:
    m, data = model("gpt2"), dataset()
    batch, make = as_batch(data), resolve("corruptions", corruption)
    one, two = make(m, data)(batch), make(m, data)(batch)
    pairs = zip(tensors(one[0]), tensors(two[0]), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    clean = record(m, m.start(batch.clean, batch.mask))
    assert distance(one[0].final[batch.mask], clean.final[batch.mask]) > 1e-2


def tensors(run: Activations) -> list[Tensor]:
    """Every tensor of a run."""
    single = [run.embed, run.final]
    return single + [x for xs in (run.reads, run.computed, run.shares) for x in xs]


# -- discovery -------------------------------------------------------------------------------------
BRIEF = (7, 5, 7, 5)
DEAR = {
    "acdc": "acdc(threshold=0.2)",  # which keeps few, so that many edges are tested at once
    "eap_ig_activations": "eap_ig_activations(steps=1)",
    "nested": "nested(runs=8)",
    "ugs": "ugs(runs=8)",
    "edge_pruning": "edge_pruning(runs=12, warmup=0.0, rate=8.0)",  # which leaves its start fast
}


def brief() -> Dataset:
    """One batch, with padding: what several batches change is in ``test_laws.py``."""
    return dataset(BRIEF)


def method_of(name: str) -> Callable[..., Scores]:
    """A method with its defaults, but for those that take many runs."""
    return resolve("discovery", DEAR.get(name, name))


def discover(method: str, m: Model, data: Dataset) -> Scores:
    """The scores of a method with its defaults."""
    return method_of(method)(m, data, logit_diff, counterfactual)


@pytest.mark.parametrize(("family", "method"), crossed(KINDS, names("discovery")))
def test_a_method_scores_every_edge_and_says_how(family: str, method: str) -> None:
    m = model(family)
    found = discover(method, m, brief())
    assert isinstance(found, Scores)
    assert found.wiring == m.wiring
    assert found.values.shape == m.wiring.shape
    assert found.values.dtype == np.float32
    assert np.isfinite(found.values).all()
    scored = (found.values[m.wiring.legal] != 0).mean()
    assert scored > (
        0 if found.about.get("chosen") else 0.5
    )  # a method may keep few and cut others
    assert not found.values[~m.wiring.legal].any(), "there is no edge"
    assert found.about["model"] == family
    assert found.about["method"] == method
    assert isinstance(found.about["settings"], dict)
    assert json.loads(json.dumps(dict(found.about))) == found.about


@every_method
def test_a_method_scores_the_same_each_time(method: str) -> None:
    m = model("llama")
    one, two = (discover(method, m, brief()) for _ in range(2))
    assert np.array_equal(one.values, two.values)
    assert one.about == two.about


@pytest.mark.parametrize(("family", "method"), crossed(KINDS, INFORMED))
def test_identical_prompts_score_zero_or_are_refused(family: str, method: str) -> None:
    m, data = model(family), brief()
    data = replace(data, examples=tuple(replace(e, corrupt=e.clean) for e in data.examples))
    try:
        found = discover(method, m, data)
    except CircuitkitError:
        return
    if "corruption" in found.about:  # what it carries is then what is there
        assert np.abs(found.values).max() < 1e-5  # an exact effect is a difference of two runs


@pytest.mark.parametrize(("method", "metric"), crossed(INFORMED, names("metrics")))
def test_a_method_uses_a_metric_or_refuses_it_by_its_name(method: str, metric: str) -> None:
    m, function = model("gpt2"), lookup("metrics", metric)
    own = lookup("discovery", method) if method == "acdc" else method_of(method)  # its threshold
    try:
        found = own(m, able("gpt2", BRIEF), function, counterfactual)
    except CircuitkitError as error:
        assert metric in str(error)  # noqa: PT017
        assert metric not in ("logit_diff", "probability", "log_probability", "prob_diff")
        return
    assert np.abs(found.values).max() > 1e-3
    assert found.about.get("metric", metric) == metric


@every_method
def test_what_a_method_does_not_name_it_does_not_use(method: str) -> None:
    """A baseline may look at the clean run alone, or at no gradient; it says so."""
    m, data, function = model("gpt2"), able("gpt2", BRIEF), method_of(method)
    found = discover(method, m, data)
    other = {
        "metric": function(m, data, probability, counterfactual),
        "corruption": function(m, data, logit_diff, zero),
    }
    for choice, scores in other.items():
        same = np.array_equal(scores.values, found.values)
        assert same == (choice not in found.about)


# -- tasks -----------------------------------------------------------------------------------------
@cache
def words() -> TokenizerView:
    """The tokenizer of the model in the package, which every task fits."""
    return TokenizerView(AutoTokenizer.from_pretrained(MINI))


def drawn(task: str, folder: Path, n: int | None = 30, seed: int = 3) -> Task:
    """Prompts of a task; one that reads a file is given some."""
    settings: dict[str, Any] = {}
    if task == "from_file":
        rows = [{"clean": p.clean, "corrupt": p.corrupt, "correct": p.correct, "wrong": p.wrong}
                for p in drawn("ioi", folder, 60, 0).prompts]  # fmt: skip
        settings["path"] = folder / "own.jsonl"
        settings["path"].write_text("".join(json.dumps(row) + "\n" for row in rows))
    made: Task = lookup("tasks", task)(words(), n, seed, **settings)
    return made


@every_task
def test_a_task_gives_pairs_that_one_token_answers(task: str, tmp_path: Path) -> None:
    made = drawn(task, tmp_path)
    examples = list(tokenise(made.prompts, words()))  # raises where an answer is no single token
    assert len({prompt.clean for prompt in made.prompts}) == len(examples) == 30
    for prompt, example in zip(made.prompts, examples, strict=True):
        assert len(example.clean) == len(example.corrupt)
        assert example.clean != example.corrupt
        assert example.correct
        assert not set(example.correct) & set(example.wrong)
        assert set(example.spans) == {*prompt.spans, "end"}
        for name, (start, stop) in prompt.spans.items():
            first, last = example.spans[name]
            kept = words().tokenizer.decode(example.clean[first:last])
            assert kept == prompt.clean[start:stop]


@every_task
def test_a_task_says_where_it_comes_from_and_how_it_is_judged(task: str, tmp_path: Path) -> None:
    made = drawn(task, tmp_path)
    assert made.name == ("own" if task == "from_file" else task)
    assert made.source
    assert made.metric in names("metrics")
    assert made.settings["n"] == 30
    assert made.settings["seed"] == 3


@every_task
def test_the_seed_decides_and_a_task_begins_with_fewer_prompts(task: str, tmp_path: Path) -> None:
    made, longer = drawn(task, tmp_path), drawn(task, tmp_path, 50)
    assert drawn(task, tmp_path).prompts == made.prompts == longer.prompts[:30]
    assert drawn(task, tmp_path, seed=4).prompts != made.prompts
    for n in (0, -1):
        with pytest.raises((ArgumentError, DataError), match=r"ask for |; give "):
            drawn(task, tmp_path, n)


# -- references ------------------------------------------------------------------------------------
@every_reference
def test_a_reference_names_components_and_legal_edges_of_its_model(reference: str) -> None:
    published = named(reference)
    wiring = published.wiring
    assert published.name == reference == f"{published.task}:{reference.partition(':')[2]}"
    assert published.source
    assert published.convention
    assert published.note
    assert published.roles
    assert all(published.roles.values())
    assert set(published.roles) <= set(wiring.writers)
    assert set(published.positions) <= set(published.roles)
    keep = circuits.mask(published.circuit)
    assert keep.sum() == len(published.edges)
    assert not (keep & ~wiring.legal).any()
    assert wiring.alive(keep).any() or not published.edges


@every_reference
def test_a_reference_survives_its_file_with_its_roles(reference: str, tmp_path: Path) -> None:
    published = named(reference)
    circuit = published.circuit
    again = circuits.Circuit.load(circuit.save(tmp_path / "c.json"))
    assert {n: r for n, r in again.nodes(data="role") if r} == published.roles
    where = {n: tuple(p) for n, p in again.nodes(data="positions") if p}
    assert where == published.positions
    assert again.graph == circuit.graph
    assert sorted(circuits.edges(again)) == sorted(circuits.edges(circuit))
    circuit.clear()
    assert circuits.to_json(named(reference).circuit) == circuits.to_json(again)


@every_reference
def test_a_reference_is_compared_and_drawn_by_its_name(reference: str, tmp_path: Path) -> None:
    published = named(reference)
    assert compare(published.circuit, published.circuit).nodes.jaccard == 1
    picture = tmp_path / "c.svg"
    drawn_edges = len(list(circuits.edges(skeleton(published.circuit))))
    arguments = ["draw", reference, "-o", str(picture), "--edges", str(max(1, drawn_edges))]
    assert main(arguments) == 0
    ElementTree.parse(picture)
    assert picture.read_text().count("-&gt;") == drawn_edges


# -- formats ---------------------------------------------------------------------------------------
def some_circuit() -> circuits.Circuit:
    """A circuit with every kind of edge, a role, and words that markup and Unicode make hard."""
    weights = {
        ("input", "m0"): 0.5, ("input", "a0.h1.q"): 0.1, ("a0.h1", "m0"): 0.2,
        ("m0", "a1.h0.k"): -0.7, ("a0.h1", "a1.h0.v"): 0.4, ("a1.h0", "logits"): 1.0,
    }  # fmt: skip
    made = circuits.build(Wiring(2, 2, 2), weights, model="gpt2", task='<"ü" & ü>')
    made.nodes["a1.h0"]["role"] = "mover <b>"
    return made


def saves(suffix: str) -> bool:
    """Whether the format holds all of a circuit, and is no picture."""
    return folder_of("formats", suffix) == "formats"


def written(suffix: str, circuit: circuits.Circuit, place: Path) -> Path:
    """The circuit's file; the test is skipped where that needs Graphviz, which is not here."""
    try:
        return circuit.save(place) if saves(suffix) else circuit.draw(place)
    except OutputError as error:
        if "needs Graphviz" not in str(error):
            raise
        pytest.skip(f".{suffix} needs Graphviz")


WELL_FORMED: dict[str, Callable[[Path], Any]] = {  # of the formats that have a reader
    "cyjs": lambda path: nx.cytoscape_graph(json.loads(path.read_text())).edges["a1.h0", "logits"],
    "gexf": lambda path: nx.read_gexf(path).edges["a1.h0", "logits"]["weight"],
    "node_link": lambda path: nx.node_link_graph(json.loads(path.read_text()), edges="edges"),
    "csv": lambda path: csv.DictReader(path.read_text().splitlines()).fieldnames.index("weight"),  # type: ignore[union-attr]
    "dot": lambda path: path.read_text().rindex("}"),
    "graphml": lambda path: nx.read_graphml(path).edges["a1.h0", "logits"]["weight"],
    "json": lambda path: json.loads(path.read_text()),
    "pdf": lambda path: path.read_bytes().index(b"%PDF"),
    "png": lambda path: path.read_bytes().index(b"\x89PNG"),
    "svg": ElementTree.parse,
}


@every_format
def test_a_format_writes_a_well_formed_file_in_the_suffix_it_is_called(
    suffix: str, tmp_path: Path
) -> None:
    assert suffix == suffix.lower()
    path = written(suffix, some_circuit(), tmp_path / "new" / f"c.{suffix}")
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    content = lookup("formats", suffix)(some_circuit())
    assert isinstance(content, (str, bytes))
    text = content.encode() if isinstance(content, str) else content
    assert path.read_bytes() == text
    assert text
    WELL_FORMED.get(suffix, Path.read_bytes)(path)


@every_format
def test_a_format_is_deterministic_and_changes_no_circuit(suffix: str, tmp_path: Path) -> None:
    circuit = some_circuit()
    before = circuits.to_json(circuit)
    one = written(suffix, circuit, tmp_path / f"one.{suffix}").read_bytes()
    assert circuits.to_json(circuit) == before
    shuffled = circuits.from_json(before)
    assert written(suffix, shuffled, tmp_path / f"two.{suffix}").read_bytes() == one
    changed = some_circuit()
    changed.edges["a1.h0", "logits"]["weight"] = -3.0
    assert written(suffix, changed, tmp_path / f"two.{suffix}").read_bytes() != one


@every_format
def test_a_format_that_fails_leaves_the_old_file(suffix: str, tmp_path: Path) -> None:
    old = tmp_path / f"c.{suffix}"
    old.write_bytes(b"old")
    with pytest.raises(CircuitkitError):
        some_circuit().draw(old, no_such_style=1)
    spoilt = some_circuit()
    spoilt.edges["a1.h0", "logits"]["weight"] = object()
    with suppress(Exception):
        spoilt.save(old) if saves(suffix) else spoilt.draw(old)
        return
    assert old.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == [old.name]


def test_references_and_formats_load_no_torch() -> None:
    code = """
import sys
from circuitkit.registry import lookup, names
for kind in ("references", "formats"):
    for name in names(kind):
        lookup(kind, name)
        if {"torch", "transformer_lens", "pandas", "matplotlib"} & sys.modules.keys():
            sys.exit(f"{name} imports what is heavy")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# -- what the model knows --------------------------------------------------------------------------
@pytest.mark.parametrize("size", [1, 3, 8])
@pytest.mark.parametrize("padding", ["left", "right"])
def test_known_examples_are_those_that_a_plain_run_of_each_alone_answers(
    size: int, padding: str
) -> None:
    m, data = model("gpt2"), able("gpt2", (7, 5, 7, 9, 7, 5), seed=2)
    swapped = [replace(e, correct=e.wrong, wrong=e.correct) for e in data.examples[::2]]
    far = replace(data.examples[1], wrong=(), correct=data.examples[1].wrong)
    kept = (*data.examples[1::2], *swapped[:2], data.examples[0], far)
    mixed = replace(data, examples=kept, batch_size=size, padding=padding)

    def first(example: Example) -> bool:
        ids = torch.tensor([example.clean])
        best = m.native(ids, torch.ones_like(ids).bool()).logits[0, -1].argmax()
        return int(best) in example.correct

    expected = tuple(filter(first, kept))
    assert 0 < len(expected) < len(kept)
    for metric in (accuracy, top1):
        found = known(m, mixed, metric)
        assert found == replace(mixed, examples=expected)


def test_what_beats_the_wrong_answer_but_not_all_tokens_is_known_by_accuracy_alone() -> None:
    m, data = model("gpt2"), able("gpt2")
    worst = []
    for example in data.examples:
        ids = torch.tensor([example.clean])
        logits = m.native(ids, torch.ones_like(ids).bool()).logits[0, -1]
        worst.append(replace(example, correct=example.wrong, wrong=(int(logits.argmin()),)))
    second = replace(data, examples=tuple(worst))
    assert known(m, second, accuracy) == second
    with pytest.raises(EvaluationError, match="top1 is above 1/2 on none of 6 prompts"):
        known(m, second, top1)


# -- nothing changes its arguments or the model ----------------------------------------------------
def state(m: Any) -> dict[str, Any]:
    """All of a model that a verb could change."""
    modules = dict(m.bridge.named_modules())
    modules |= {f"original.{n}": x for n, x in m.bridge.original_model.named_modules()}
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "weights": {n: p.detach().clone() for n, p in m.bridge.named_parameters()},
        "buffers": {n: b.detach().clone() for n, b in m.bridge.named_buffers()},
        "grads": {n: p.grad is None for n, p in m.bridge.named_parameters()},
        "requires": {n: p.requires_grad for n, p in m.bridge.named_parameters()},
        "training": {n: x.training for n, x in modules.items()},
        "hooks": {n: [len(getattr(x, h)) for h in hooks] for n, x in modules.items()},
        "children": {n: [id(c) for c in x.children()] for n, x in modules.items()},
        "seeds": (torch.get_rng_state(), torch.tensor(random.getstate()[1][:9])),
        "numpy": torch.from_numpy(np.random.get_state()[1].astype(np.int64)),  # type: ignore[index, union-attr]
        "mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
    }


def unchanged(one: Any, two: Any) -> bool:
    """Whether two states are the same, bit by bit."""
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(unchanged(one[k], two[k]) for k in one)
    if isinstance(one, (tuple, list)):
        return len(one) == len(two) and all(unchanged(a, b) for a, b in zip(one, two, strict=True))
    return torch.equal(one, two) if isinstance(one, Tensor) else bool(one == two)


ACTS: dict[str, Callable[[Any, Dataset], Any]] = {
    **{f"{kind} {name}": (lambda m, data, name=name: discover(name, m, data))
       for kind in ["discovery"] for name in names(kind)},
    **{f"corruption {name}": (lambda m, data, name=name:
                              resolve("corruptions", name)(m, data)(as_batch(data)))
       for name in CORRUPTIONS},
    "evaluate": lambda m, data: evaluate(m, m.wiring.legal, data, logit_diff, counterfactual),
    "native": lambda m, data: m.native(as_batch(data).clean, as_batch(data).mask),
}  # fmt: skip


@pytest.mark.parametrize(("act", "family"), crossed(ACTS, ["gpt2", "gemma2", "native-rms"]))
@pytest.mark.unchecked
def test_nothing_changes_the_model_the_data_or_the_seeds(family: str, act: str) -> None:
    m, data = model(family), brief()
    m.bridge(as_batch(data).clean)  # TransformerLens sets hooks of its own in its first forward
    before, kept = state(m), copy.deepcopy(data)
    assert len(before["weights"]) > 10
    ACTS[act](m, data)
    after = state(m)
    for part in before:
        assert unchanged(before[part], after[part]), part
    assert data == kept


def test_a_change_of_the_model_would_be_seen() -> None:
    m = model("gpt2")
    before = state(m)
    changed = copy.deepcopy(before)
    next(iter(changed["weights"].values())).view(-1)[0] += 1e-6
    assert not unchanged(before, changed)
    handle = m.bridge.blocks[1].register_forward_hook(lambda *_: None)
    try:
        assert not unchanged(before["hooks"], state(m)["hooks"])
    finally:
        handle.remove()


def test_a_method_that_fails_leaves_the_model_as_it_was() -> None:
    m, data = model("gpt2"), brief()
    before = state(m)

    def failing(*_: Any) -> Tensor:
        raise ZeroDivisionError

    for method in names("discovery"):
        if "metric" in discover(method, m, data).about:
            with pytest.raises(ZeroDivisionError):
                method_of(method)(m, data, failing, counterfactual)
    assert unchanged(before, state(m))
    assert (
        distance(discover("eap", m, data).values, discover("eap", model("gpt2"), data).values) == 0
    )

"""What a user of TransformerLens or EAP-IG types first, without reading the source.

Each guess is a line of Python with what must be true of its value (called ``it``), or the words of
the sentence that refuses it. They run in one namespace: ``ck``, ``torch``, ``np``, ``nx``,
``model`` (mini), ``task`` (12 prompts of ioi), ``data`` (the task in tokens), ``scores`` (EAP on
prompts of another seed), ``circuit`` (their 40 strongest edges) and ``found`` (a Discovery).
"""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import circuitkit as ck
from circuitkit.errors import CircuitkitError
from circuitkit.models.loading import MINI

# -- what works ------------------------------------------------------------------------------------
WORKS = [
    # models
    ("ck.load('mini')", "it.wiring.layers == 4"),
    ("ck.load(hf_module, tokenizer=model.tokenizer)", "it.wiring == model.wiring"),
    ("ck.load(bridge)",
     "it.wiring == model.wiring and all(p.requires_grad for p in bridge.parameters())"),
    ("ck.list_models()", "'mini' in it"),
    ("ck.check(model)", "it.holds"),
    # tasks and data
    ("ck.make_task('ioi', model)", "len(it) == 100"),
    ("ck.make_task('IOI', model, 5)", "len(it) == 5"),
    ("ck.make_task('ioi', model, n=8, seed=3)", "it.settings['seed'] == 3"),
    ("len(task)", "it == 12"),
    ("task[0]", "it.clean and it.corrupt and it.correct"),
    ("task[0].clean", "isinstance(it, str)"),
    ("task[:4]", "len(it) == 4"),
    ("[prompt.clean for prompt in task]", "len(it) == 12"),
    ("repr(task)", "len(it.splitlines()) < 50"),
    ("str(task)", "'ioi' in it and len(it.splitlines()) == 1"),
    ("task.to_frame()", "len(it) == 12 and 'clean' in it"),
    ("task.split(6)", "len(it[0]) == len(it[1]) == 6"),
    ("ck.Dataset.of(task, model)", "len(it) == 12"),
    ("data[0]", "len(it.clean) == len(it.corrupt)"),
    ("data[:5]", "len(it) == 5"),
    ("next(iter(data)).clean", "it.shape[0] == 12"),
    ("repr(data)", "len(it.splitlines()) < 50"),
    # what there is
    ("ck.list_tasks()", "'ioi' in it"),
    ("ck.list_metrics()", "'logit_diff' in it"),
    ("ck.list_corruptions()", "'counterfactual' in it"),
    ("ck.list_methods()", "'eap_ig' in it"),
    ("ck.list_references()", "'ioi:wang2022' in it"),
    ("ck.list_formats()", "'svg' in it and 'json' in it"),
    ("dir(ck.metrics)", "'kl' in it"),
    ("dir(ck.corruptions)", "'zero' in it"),
    ("dir(ck.discovery)", "'eap' in it"),
    ("dir(ck.tasks)", "'greater_than' in it"),
    ("dir(ck.formats)", "'dot' in it"),
    ("dir(ck.references)", "'ioi' in it"),
    ("dir(ck.figures)", "'Heatmap' in it and '__file__' not in it"),
    ("dir(ck)", "'discover' in it and 'find_circuit' not in it"),
    # discovery
    ("ck.discover(model, 'ioi', edges=20, examples=6)", "it.evaluation.edges <= 20"),
    ("ck.discover(model, 'ioi', 'logit_diff', 'zero', edges=20, examples=6)",
     "it.circuit.graph['corruption'] == 'zero'"),
    ("ck.discover(model, task, method='eap', edges=20)", "it.circuit.graph['examples'] == 6"),
    ("ck.discover(model, task, method='eap_ig(steps=2)', edges=20)",
     "it.circuit.graph['method'] == 'eap_ig(steps=2)'"),
    ("ck.discover(model, data, method='eap', edges=20)",
     "it.circuit.graph['examples'] == 12 and it.circuit.graph['in_sample']"),
    ("ck.discover(model, data, unseen=ck.make_task('ioi', model, 6, seed=9), edges=20)",
     "len(it.evaluation.circuit) == 6 and 'in_sample' not in it.circuit.graph"),
    ("found.circuit", "isinstance(it, nx.DiGraph)"),
    # circuits as sets, and circuits among circuits
    ("scores.top(9) | circuit", "len(it.to_frame()) == 40"),
    ("scores.top(9) & circuit", "len(it.to_frame()) == 9"),
    ("circuit - scores.top(9)", "len(it.to_frame()) == 31 and it.graph['made_of']"),
    ("ck.consensus([circuit, scores.top(9), scores.top(20)], 2)", "len(it.to_frame()) == 20"),
    ("ck.agreement([circuit, circuit])", "it.kappa == 1"),
    ("ck.transfer(model, circuit, found, data, edges=2)", "len(it.models) == 1"),
    ("ck.cross(model, {'one': circuit, 'two': found}, examples=4)", "len(it.names) == 3"),
    ("ck.clusters(model, 'ioi', method='eap', edges=20, examples=4)", "len(it.circuits) >= 1"),
    ("ck.track({'a': model, 'b': model}, 'ioi', edges=20, examples=4)",
     "[*it.circuits] == ['a', 'b']"),
    ("ck.hypothesis_tests(model, found, 'ioi', tests=['equivalence'])",
     "it['equivalence'].trials == 96"),
    ("ck.plan(model, 'ioi', test=True)", "it.steps['equivalence'] > 96"),
    ("ck.plan(model, task, method='eap', edges=20)", "it.forwards > 12"),
    ("found.scores", "len(it) == 479"),
    ("print(found)", "it is None"),
    ("ck.discovery.eap(model, data)", "it.about['metric'] == 'logit_diff'"),
    ("ck.discovery.eap(model, task)", "it.about['task'] == 'ioi'"),
    ("ck.discovery.eap(model, 'ioi', 'prob_diff', 'mean')", "it.about['corruption'] == 'mean'"),
    ("ck.discovery.eap(model, data, ck.metrics.logit_diff, ck.corruptions.zero)",
     "it.about['corruption'] == 'zero'"),
    ("ck.discovery.eap_ig(model, data, steps=2)", "it.about['settings'] == {'steps': 2}"),
    ("ck.discovery.random(model, data)", "len(it) == 479"),
    ("ck.discovery.exact(model, data, edges=['m0->logits'])", "it['m0->logits'] != 0"),
    ("ck.discovery.information_flow(model, data)", "len(it) == 479"),
    # scores
    ("len(scores)", "it == 479"),
    ("scores['a0.h1->logits']", "isinstance(it, float)"),
    ("scores['0.1->logits']", "it == scores['a0.h1->logits']"),
    ("scores['a0.h1', 'logits']", "it == scores['a0.h1->logits']"),
    ("scores['input->a0.h0<q>']", "isinstance(it, float)"),
    ("scores.to_frame()",
     "list(it)[:4] == ['writer', 'reader', 'weight', 'exact'] and len(it) == 479"),
    ("scores.top(10)", "isinstance(it, ck.Circuit)"),
    ("scores.above(1.0)", "min(abs(it.to_frame().weight)) > 1"),
    ("scores.save('s.safetensors')",
     "ck.Scores.load('s.safetensors')['m0->logits'] == scores['m0->logits']"),
    ("str(scores)", "len(it.splitlines()) == 1"),
    # circuits
    ("circuit.heads", "it and all(name.startswith('a') for name in it)"),
    ("circuit.mlps", "set(it) <= {'m0', 'm1', 'm2', 'm3'}"),
    ("circuit.to_frame()", "list(it)[:4] == ['writer', 'reader', 'weight', 'exact']"),
    ("str(circuit)",
     "f'{len(circuit.to_frame())} of 479 edges' in it and len(it.splitlines()) == 1"),
    ("repr(circuit)", "'ioi' in it"),
    ("'input' in circuit", "it is True"),
    ("circuit.nodes", "'logits' in it"),
    ("circuit.edges", "len(it) >= 40 - 10"),
    ("nx.ancestors(circuit, 'logits')", "'input' in it"),
    ("circuit.graph['model']", "it == 'mini'"),
    ("circuit.save('c.json')", "nx.utils.graphs_equal(ck.Circuit.load('c.json'), circuit)"),
    ("circuit.save('c.graphml')", "it.exists()"),
    ("circuit.save('c.csv')", "it.exists()"),
    ("circuit.save('c.dot')", "it.exists()"),
    ("circuit.draw('x.pdf')", "it.read_bytes().startswith(b'%PDF')"),
    ("circuit.draw('x.svg')", "it.read_text().startswith('<svg')"),
    ("circuit.draw('x.png')", "it.read_bytes().startswith(b'\\x89PNG')"),
    ("circuit.mask()", "it.shape == model.wiring.shape and it.dtype == bool"),
    ("ck.Circuit(nx.DiGraph(circuit))", "it.heads == circuit.heads"),
    # evaluation
    ("ck.evaluate(model, circuit, data)", "len(it.circuit) == 12"),
    ("ck.evaluate(model, circuit, task)", "it.metric == 'logit_diff'"),
    ("ck.evaluate(model, circuit, 'ioi')", "len(it.circuit) == 64"),
    ("ck.evaluate(model, circuit, data, 'kl', 'mean')",
     "(it.metric, it.corruption) == ('kl', 'mean')"),
    ("ck.evaluate(model, circuit, data, ['logit_diff', 'kl'])",
     "[e.metric for e in it] == ['logit_diff', 'kl']"),
    ("ck.evaluate(model, [circuit, scores.top(5)], data)", "len(it) == 2"),
    ("ck.evaluate(model, found, data)", "it.edges == found.evaluation.edges"),
    ("ck.evaluate(model, circuit.mask(), data)", "it.edges == len(circuit.to_frame())"),
    ("ck.evaluate(model, circuit, data).faithfulness", "isinstance(it, float)"),
    ("ck.complements(model, circuit, data)", "len(it.draws) == 20"),
    ("ck.complements(model, found, data, n=3).mean", "isinstance(it, float)"),
    ("ck.alternative(model, found, found, data)",
     "it.evaluations[0].edges == found.evaluation.edges"),
    ("ck.evaluate(model, circuit, data, lambda logits, reference, batch: logits[:, 0])",
     "len(it.circuit) == 12"),
    ("ck.completeness(model, circuit, data)", "it.edges == 479 - len(circuit.to_frame())"),
    ("ck.run(model, circuit, data)", "it.shape == (1, 12, model.d_vocab)"),
    ("ck.run(model, [circuit, scores.top(5)], data, corruption='counterfactual')",
     "it.shape == (2, 12, model.d_vocab)"),
    ("ck.measure(model, [circuit], data, 'logit_diff')", "it.shape == (1, 12)"),
    ("ck.measure(model, weights(), data).sum()", "it.requires_grad"),
    ("ck.random_masks(model.wiring, 30, n=2)", "[m.sum() for m in it] == [30, 30]"),
    ("ck.curve(model, scores, data, sizes=[20, 200])", "len(it.faithfulness) == 2"),
    ("ck.smallest(model, scores, data, target=0.5)", "it.value >= 0.5 and it.mask.sum() > 0"),
    ("ck.smallest(model, scores, data, target=0.5).circuit", "isinstance(it, ck.Circuit)"),
    ("ck.evaluate(model, ck.smallest(model, scores, data, target=0.5), data)", "it.edges"),
    ("ck.verify(model, scores, data, n=10)", "len(it.edges) == 10"),
    ("ck.certainty(ck.discovery.eap(model, data, groups='examples'), 10)", "it.edges <= 10"),
    ("ck.refine(model, circuit, scores, data, candidates=4)", "it.circuit.heads"),
    ("ck.refine(model, found, found, data, candidates=4, swaps=1)", "it.mask.sum() > 0"),
    ("ck.knockout(model, scores.top(5), data, pairs=3, subsets=2)", "it.marginal_effects.edges"),
    ("ck.marginal_effects(model, scores.top(5), 'ioi')", "it.edges"),
    ("ck.ability(model, 'ioi')", "it.accuracy > 0.9"),
    ("ck.known(model, data)", "len(it) <= 12"),
    # comparison
    ("ck.compare(circuit, scores.top(20))", "0 < it.edges.jaccard < 1"),
    ("ck.compare('ioi:acdc', 'ioi:eap_ig').to_frame()", "len(it) > 0"),
    ("ck.agreement([circuit, scores.top(20)])", "it.pairs"),
    # patching
    ("ck.patch_edges(model, ['a0.h1->m2'], data)",
     "it.shape == (1, 12) and it.direction == 'noise'"),
    ("ck.patch_edges(model, [('a0.h1', 'm2')], data, 'kl')", "it.metric == 'kl'"),
    ("ck.patch_edges(model, circuit, data, direction='denoise')", "it.direction == 'denoise'"),
    ("ck.patch_edges(model, ['0.1->2.0<q>'], data)", "it.names == ('a0.h1->a2.h0<q>',)"),
    ("ck.patch_nodes(model, 'mlp_out', data)", "it.names == ('m0', 'm1', 'm2', 'm3')"),
    ("ck.patch_nodes(model, 'z', data, 'prob_diff', 'zero')", "it.direction == 'denoise'"),
    ("ck.patch_heads(model, data)", "it.shape == (4, 4, 12)"),
    ("ck.patch_heads(model, 'ioi', at='S2')", "it.shape == (4, 4, 64)"),
    ("ck.patch_heads(model, data)['a0.h2']", "it.shape == (12,)"),
    ("ck.patch_residual(model, data, at=['S2', 'end'])", "it.shape == (4, 2, 12)"),
    ("ck.patch_windows(model, 'mlp_out', data, sizes=[2])", "2 in it.joint"),
    ("ck.patch_together(model, {'both': ['a0.h2', 'm0']}, data)", "it.names == ('both',)"),
    ("ck.patch_path(model, ['a0.h2', 'm0', 'logits'], data)", "it.shape == (12,)"),
    ("ck.patch_paths(model, [['a0.h2', 'logits']], data, at='end')", "it.shape == (1, 12)"),
    ("ck.patch_senders(model, 'a3.h0.q', data)", "it.heads.shape == (4, 4)"),
    ("ck.attention_to(model, ['a0.h2'], data, at=['S2'])", "np.asarray(it).shape == (1, 1, 12)"),
    ("ck.patch_heads(model, data).plot()", "hasattr(it, 'svg')"),
    ("ck.patch_senders(model, 'logits', data).plot()", "hasattr(it, 'svg')"),
    ("ck.patch_heads(model, data).to_frame()", "len(it) == 16"),
    ("ck.patch_heads(model, data)._repr_svg_()", "it.startswith('<svg')"),
    ("str(ck.patch_edges(model, ['a0.h1->m2'], data))", "'noise' in it"),
    # beyond the circuit
    ("ck.hooks(model, circuit, data)", "len(it) > 0"),
    ("ck.generate(model, circuit, task[0].clean, max_new_tokens=2)", "str(it)"),
    ("ck.describe_heads(model, circuit, data).to_frame()", "len(it) == len(circuit.heads)"),
    ("ck.attention_scores(model, ['a2.h2'], data).to_frame()", "len(it) > 0"),
]  # fmt: skip

# -- what is refused, in a sentence ----------------------------------------------------------------
REFUSED = [
    ("ck.patch_nodes(model, data, 'logit_diff')", "nodes is a Dataset"),
    ("ck.patch_nodes(data, model, 'z')", "not a loaded model"),
    ("ck.patch_edges(model, data, ['a0.h1->m2'])", "edges"),
    ("ck.patch_edges(model, ck.metrics.kl, data)", "the function kl"),
    ("ck.patch_edges(model, ['a0.h1'], data)", "is not"),
    ("ck.patch_edges(model, ['m2->a0.h1<q>'], data)", "a0.h1"),
    ("ck.patch_edges(model, ['a0.h1->m2'], data, direction='denoising')", "noise, denoise"),
    ("ck.patch_path(model, data, ['a0.h1', 'logits'])", "path is a Dataset"),
    ("ck.patch_path(model, 'a0.h1', data)", "path"),
    ("ck.patch_senders(model, data, 'logits')", "receiver is a Dataset"),
    ("ck.patch_heads(model, data, at='S3')", "S3"),
    ("ck.patch_heads('mini', data)", "ck.load"),
    ("ck.evaluate(model, data, circuit)", "circuit is a Dataset"),
    ("ck.evaluate(circuit, model, data)", "not a loaded model"),
    ("ck.evaluate(model, scores, data)", "scores.top"),
    ("ck.evaluate(model, circuit, circuit)", "data is a Circuit"),
    ("ck.evaluate(model, circuit, 'ioy')", "did you mean 'ioi'"),
    ("ck.evaluate(model, circuit, data, 'logitdiff')", "did you mean 'logit_diff'"),
    ("ck.evaluate(model, circuit, data, 'kl', 'means')", "did you mean 'mean'"),
    ("ck.evaluate(model, circuit, data, ck.corruptions.zero)", "is not a metric"),
    ("ck.evaluate(model, circuit, data, 'kl', ck.corruptions.zero(model, data))",
     "zero, not zero(model, data)"),
    ("ck.evaluate(model, circuit, data, lambda logits, reference, batch: logits.mean())",
     "one value per example"),
    ("ck.evaluate(model, circuit, data, lambda logits, reference, batch: 1.0)", "metric"),
    ("ck.evaluate(model, circuit, data, [])", "no metrics"),
    ("ck.evaluate(model, circuit, data, 3)", "metric is an int"),
    ("ck.evaluate(model, np.ones((3, 3), dtype=bool), data)", "(3, 3)"),
    ("ck.discovery.eap(model, circuit)", "data is a Circuit"),
    ("ck.discovery.eap(data, model)", "not a loaded model"),
    ("ck.discovery.eap(model, data, lambda logits, reference, batch: logits)",
     "one value per example"),
    ("ck.discover(model, 'ioi', lambda logits, reference, batch: logits.mean(), examples=4)",
     "one value per example"),
    ("ck.discover(model, 'ioi', lambda logits: logits, examples=4)", "is not a metric"),
    ("ck.discover('mini', 'ioi')", "ck.load"),
    ("ck.discover('ioi', model)", "not a loaded model"),
    ("ck.discover(model, 'ioi', edges=5, faithfulness=0.9)", "not both"),
    ("ck.discover(model, 'ioi', method='eapig')", "did you mean 'eap_ig'"),
    ("ck.discover(model, None)", "data is None"),
    ("ck.make_task(model, 'ioi')", "make_task"),
    ("ck.make_task('ioi')", "model"),
    ("ck.make_task('oi', model)", "did you mean 'ioi'"),
    ("ck.make_task('ioi', model, n=0)", "0"),
    ("scores['a9.h9->logits']", "a9.h9"),
    ("scores['nonsense']", "nonsense"),
    ("scores.top(0)", "at least 1"),
    ("scores.top('ten')", "whole number"),
    ("scores.top(1.5)", "whole number"),
    ("ck.compare(circuit, 'ioi:wang2022')", "12 layers × 12 heads"),
    ("ck.discovery.exact(model, data, edges=3)", "edges=3; give a circuit"),
    ("ck.discovery.eap(model, data, ['kl', 'js'])", "metric is a list"),
    ("circuit.save('x.svg')", "draw"),
    ("circuit.draw('x.json')", "save"),
    ("circuit.save('x.xyz')", "xyz"),
    ("ck.Circuit.load('nothing.json')", "nothing.json"),
    ("ck.load('no/such/model/here')", "no/such/model/here"),
    ("ck.load(None)", "None"),
    ("ck.compare(circuit, 'ioi:wang')", "did you mean"),
    ("ck.resolve('metrics', 'nope')", "nope"),
]  # fmt: skip

# -- names that do not exist -----------------------------------------------------------------------
MISSING = [
    ("ck.evalute", "evaluate"),
    ("ck.discovr", "discover"),
    ("ck.find_circuit", "discover"),
    ("ck.read", "Circuit.load"),
    ("ck.write", "save"),
    ("ck.HookedTransformer", "load"),
    ("ck.metrics.logitdiff", "logit_diff"),
    ("ck.corruptions.counterfactuals", "counterfactual"),
    ("ck.discovery.eapig", "eap_ig"),
    ("ck.tasks.greaterthan", "greater_than"),
]  # fmt: skip


@cache
def namespace() -> dict[str, object]:
    model = ck.load("mini")
    task = ck.make_task("ioi", model, n=12)
    scores = ck.discovery.eap(model, ck.make_task("ioi", model, n=12, seed=1))
    circuit = scores.top(40)

    def weights() -> torch.Tensor:
        return torch.from_numpy(circuit.mask()).float().requires_grad_()

    bridge = copy.deepcopy(model.bridge)  # type: ignore[union-attr]
    for parameter in bridge.parameters():
        parameter.requires_grad_()
    return {
        "ck": ck, "torch": torch, "np": np, "nx": nx, "model": model, "task": task,
        "data": ck.Dataset.of(task, model), "scores": scores, "circuit": circuit,
        "found": ck.discover(model, task, edges=20), "weights": weights,
        "bridge": bridge, "hf_module": AutoModelForCausalLM.from_pretrained(MINI),
    }  # fmt: skip


def value(guess: str) -> object:
    return eval(guess, dict(namespace()))


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # for what a guess writes


@pytest.mark.parametrize(("guess", "truth"), WORKS, ids=[guess for guess, _ in WORKS])
def test_a_first_guess_works(guess: str, truth: str) -> None:
    it = value(guess)
    assert eval(truth, {**namespace(), "it": it})


@pytest.mark.parametrize(("guess", "words"), REFUSED, ids=[guess for guess, _ in REFUSED])
def test_a_wrong_call_is_refused_in_one_sentence(guess: str, words: str) -> None:
    with pytest.raises((CircuitkitError, TypeError)) as caught:
        value(guess)
    said = str(caught.value)
    assert words in said
    assert "\n" not in said
    assert len(said) < 400


@pytest.mark.parametrize(("guess", "near"), MISSING, ids=[guess for guess, _ in MISSING])
def test_a_name_that_does_not_exist_is_answered_with_the_nearest(guess: str, near: str) -> None:
    with pytest.raises(AttributeError, match=near):
        value(guess)


def test_there_are_a_hundred_guesses() -> None:
    assert len(WORKS) + len(REFUSED) + len(MISSING) >= 100

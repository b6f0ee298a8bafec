"""The laws of the masked run and of attribution, on a tiny random model of every family.

The oracles are the family's plain module with hooks (``oracles.py``), autograd, finite differences,
and TransformerLens's own attribution patching: nothing is compared with a number from a run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from families import (
    CORRUPTIONS,
    FAMILIES,
    _hf,
    _stir,
    as_batch,
    dataset,
    distance,
    exactly,
    in_turn,
    mlp_column,
    model,
    port_columns,
    pristine,
)
from oracles import Oracle
from scipy.stats import spearmanr
from torch import Tensor

import circuitkit.engine.attribute as attribute
from circuitkit.corruptions import counterfactual, zero
from circuitkit.data.batches import Batch, Dataset
from circuitkit.discovery import clean_corrupted, eap, eap_ig
from circuitkit.engine.model import Activations, Context, Model
from circuitkit.engine.record import answer, assemble, record
from circuitkit.engine.run import run
from circuitkit.errors import UnsupportedModelError
from circuitkit.graph.scores import Scores
from circuitkit.metrics import logit_diff
from circuitkit.models.checking import check
from circuitkit.models.norms import Norm
from circuitkit.models.transformer_lens import from_module
from circuitkit.registry import names, resolve

SAME = 2e-5  # relative, in single precision
HUGGING_FACE = [f for f in FAMILIES if f not in ("attention-only", "native-rms")]
# five points do not resolve the path of every random model
pytestmark = pytest.mark.filterwarnings("ignore:the scores of mask_gradient sum")
every_family = pytest.mark.parametrize("family", FAMILIES)
each_padding = pytest.mark.parametrize(("family", "padding"), in_turn("left", "right"))


@cache
def oracle(family: str) -> Oracle:
    """The family's plain module, to be run by hand."""
    return Oracle(pristine(family), model(family).wiring)


def both(m: Model, batch: Batch) -> tuple[Context, Activations]:
    """The clean context and the run on the corrupted prompts."""
    with torch.no_grad():
        return m.start(batch.clean, batch.mask), record(m, m.start(batch.corrupt, batch.mask))


def masked(m: Model, batch: Batch, keep: Any) -> Tensor:
    """The logits under a mask, with what the corrupted prompts carry."""
    context, carried = both(m, batch)
    with torch.no_grad():
        return run(m, batch, context, carried, keep)


def alone(family: str, data: Dataset, side: str) -> Tensor:
    """The plain module's logits at the end of each prompt, each run alone and unpadded."""
    prompts = [torch.tensor([getattr(e, side)]) for e in data.examples]
    return torch.cat([oracle(family).logits(p)[:, -1] for p in prompts])


def edge_masks(m: Model, seed: int = 0) -> list[np.ndarray]:
    """Random masks of every density, with fractions, and of all edges but one of each reader."""
    rng = np.random.default_rng(seed)
    masks = [rng.random(m.wiring.shape) < density for density in (0.97, 0.6, 0.3, 0.15)]
    masks += [np.where(rng.random(m.wiring.shape) < 0.5, rng.random(m.wiring.shape), 0)]
    return masks


def cut(m: Model, writer: int, reader: int) -> np.ndarray:
    """All edges but one."""
    keep = m.wiring.legal.copy()
    keep[writer, reader] = False
    return keep


# -- both ends -------------------------------------------------------------------------------------
@each_padding
def test_keeping_everything_is_the_clean_run_of_each_prompt_alone(
    family: str, padding: str
) -> None:
    m, data = model(family), dataset(padding=padding)
    found = masked(m, as_batch(data), m.wiring.legal)
    assert distance(found, alone(family, data, "clean")) < SAME


@each_padding
def test_keeping_nothing_is_the_corrupted_run_of_each_prompt_alone(
    family: str, padding: str
) -> None:
    m, data = model(family), dataset(padding=padding)
    found = masked(m, as_batch(data), np.zeros_like(m.wiring.legal))
    assert distance(found, alone(family, data, "corrupt")) < SAME
    clean = alone(family, data, "clean")
    assert min(distance(a, b) for a, b in zip(found, clean, strict=True)) > 1e-2


@pytest.mark.parametrize(("family", "name"), in_turn(*CORRUPTIONS))
def test_both_ends_hold_under_every_corruption(family: str, name: str) -> None:
    m, data = model(family), dataset(padding="left")
    batch = as_batch(data)
    carry = resolve("corruptions", name)(m, data)
    context = m.start(batch.clean, batch.mask)
    clean = alone(family, data, "clean")
    with torch.no_grad():
        for carried in carry(batch):
            everything = run(m, batch, context, carried, m.wiring.legal)
            nothing = run(m, batch, context, carried, np.zeros_like(m.wiring.legal))
            assert distance(everything, clean) < SAME
            assert torch.equal(nothing, answer(m, batch, carried.final))
            assert distance(nothing, clean) > 1e-2


@every_family
def test_edges_that_do_not_exist_are_ignored(family: str) -> None:
    m, batch = model(family), as_batch(dataset())
    keep = np.ones_like(m.wiring.legal)
    assert not m.wiring.legal.all()
    assert distance(masked(m, batch, keep), masked(m, batch, m.wiring.legal)) == 0


@every_family
def test_identical_prompts_carry_the_clean_run_whatever_is_kept(family: str) -> None:
    m, batch = model(family), as_batch(dataset())
    batch = replace(batch, corrupt=batch.clean)
    clean = masked(m, batch, m.wiring.legal)
    for keep in edge_masks(m):
        assert distance(masked(m, batch, keep), clean) < SAME


# -- the same by hand ------------------------------------------------------------------------------
@each_padding
def test_a_masked_run_is_the_same_thing_done_by_hand_with_hooks(family: str, padding: str) -> None:
    m, by_hand = model(family), oracle(family)
    batch = as_batch(dataset(padding=padding))
    carried = by_hand.plain(batch.corrupt, batch.mask)
    clean, corrupt = (masked(m, batch, k) for k in (m.wiring.legal, np.zeros(m.wiring.shape)))
    between = 0
    with torch.no_grad():
        for keep in edge_masks(m):
            expected = by_hand.run(batch, carried, keep)
            assert distance(masked(m, batch, keep), expected) < SAME
            between += min(distance(expected, clean), distance(expected, corrupt)) > 1e-2
    assert between >= 3, "the masks give no more than the two ends"


@every_family
def test_cutting_one_edge_is_the_same_done_by_hand(family: str) -> None:
    """One edge into the last port of each kind, into an MLP and into the logits."""
    m, by_hand = model(family), oracle(family)
    batch, w = as_batch(dataset(seed=1)), m.wiring
    carried = by_hand.plain(batch.corrupt, batch.mask)
    clean = masked(m, batch, w.legal)
    rng = np.random.default_rng(3)
    ports = port_columns(w, w.layers - 1)
    readers = [ports[p].stop - 1 for p in "qkv"] + [mlp_column(w, 1)] * w.mlp + [w.shape[1] - 1]
    with torch.no_grad():
        for reader in readers:
            keep = cut(m, int(rng.integers(w.upstream[reader])), reader)
            found, expected = masked(m, batch, keep), by_hand.run(batch, carried, keep)
            assert distance(found, expected) < SAME
            # what changes is right too, although it is small
            assert distance(100 * (found - clean), 100 * (expected - clean)) < 5e-3


@every_family
def test_fixed_values_are_carried_as_by_hand(family: str) -> None:
    """Zeros from every writer: biases that belong to no writer stay."""
    m, by_hand = model(family), oracle(family)
    batch = as_batch(dataset())
    nothing = zero(m, dataset())(batch)[0]
    plain = by_hand.plain(batch.clean, batch.mask)
    for table in (plain.writers, plain.raw):
        table.update({name: torch.zeros_like(x) for name, x in table.items()})
    context = m.start(batch.clean, batch.mask)
    with torch.no_grad():
        for keep in edge_masks(m):
            found = run(m, batch, context, nothing, keep)
            assert distance(found, by_hand.run(batch, plain, keep, real=False)) < SAME


@every_family
def test_what_a_run_records_sums_to_what_it_read(family: str) -> None:
    """Assembling the writers of a real run gives back what every reader of it read."""
    m, batch = model(family), as_batch(dataset())
    live = record(m, m.start(batch.clean, batch.mask))
    built = assemble(m, live.embed, live.computed, live.shares)
    pairs = [*zip(built.reads, live.reads, strict=True), (built.final, live.final)]
    for found, expected in pairs:
        assert distance(found[batch.mask], expected[batch.mask]) < SAME


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "olmo2"])
def test_a_run_from_the_first_difference_on_is_the_whole_run(family: str) -> None:
    """Where the carried run is not known to be a real one, nothing is taken over from it."""
    m, batch = model(family), as_batch(dataset((9, 9, 9), seed=3, padding="left"))
    context, carried = both(m, batch)
    first = int((batch.clean != batch.corrupt).long().argmax(1).min())
    assert 0 < first == int(carried.untouched([context.embed - carried.embed]).all(0).sum())
    whole = replace(carried, consistent=False)
    for keep in edge_masks(m):
        with torch.no_grad():
            short, long = (run(m, batch, context, c, keep) for c in (carried, whole))
        assert distance(short, long) < SAME


# -- the gradient ----------------------------------------------------------------------------------
def spread_metric(logits: Tensor, reference: Tensor, batch: Batch) -> Tensor:
    """A metric that looks at every logit, unlike at each example."""
    weights = torch.cos(torch.arange(logits.shape[1], device=logits.device) * 1.3)
    return (logits.double() * weights).sum(-1) + logits.double()[:, 0] ** 2 / 10


def value(m: Model, batch: Batch, keep: Any, corruption: Any, data: Dataset) -> Tensor:
    """The metric's sum under a mask, in double precision."""
    (carried,) = corruption(m, data)(batch)
    context = m.start(batch.clean, batch.mask)
    logits = run(m, batch, context, carried, keep)
    return spread_metric(logits, logits, batch).sum()


@pytest.mark.parametrize(("family", "corruption"), in_turn("counterfactual", "mean", "noise"))
def test_attribution_is_the_gradient_of_the_masked_run(family: str, corruption: str) -> None:
    m, data = model(family), dataset(padding="left", batch_size=6)
    carry = resolve("corruptions", corruption)
    keep = torch.from_numpy(m.wiring.legal).float().requires_grad_()
    value(m, as_batch(data), keep, carry, data).backward()
    assert keep.grad is not None
    found = eap(m, data, spread_metric, carry).values
    assert distance(found * len(data), keep.grad) < 1e-4
    assert (np.abs(found)[m.wiring.legal] > 1e-6).mean() > 0.9
    assert not found[~m.wiring.legal].any()


@every_family
def test_attribution_is_the_slope_of_the_exact_effect(family: str) -> None:
    """Along random directions in the space of masks, in double precision where the family has it:
    the norms of most families compute in single precision inside."""
    m = exactly(family)
    data = dataset((7, 6, 7), batch_size=3)
    batch, step = as_batch(data), 1e-4 if family == "opt" else 1e-3  # its ReLUs have kinks
    scores = eap(m, data, spread_metric, counterfactual).values * len(data)
    rng = np.random.default_rng(5)
    with torch.no_grad():
        for _ in range(2):
            signs = np.sign(scores) * rng.choice([1.0, 1.0, 1.0, -1.0], m.wiring.shape)
            direction = torch.from_numpy(signs)
            up, down = (
                value(m, batch, torch.from_numpy(m.wiring.legal) + s * step * direction,
                      counterfactual, data)
                for s in (1, -1)
            )  # fmt: skip
            slope = float((up - down) / (2 * step))
            expected = float((direction.numpy() * scores).sum())
            assert distance([slope], [expected]) < 1e-3


@pytest.mark.parametrize("family", ["gpt2", "neox-parallel", "neox-serial", "attention-only"])
def test_the_score_of_an_edge_is_the_slope_of_cutting_it(family: str) -> None:
    """Cutting a little of one edge lowers the metric by a little of its score: the sign too."""
    m, data = exactly(family), dataset((7, 6, 7), batch_size=3)
    batch, step, w = as_batch(data), 1e-5, m.wiring
    scores = eap(m, data, spread_metric, counterfactual).values * len(data)
    rng = np.random.default_rng(6)
    edges = [(int(rng.integers(w.upstream[r])), r) for r in range(0, w.shape[1], 3)]
    slopes = []
    with torch.no_grad():
        whole = value(m, batch, w.legal, counterfactual, data)
        for edge in edges:
            keep = w.legal.astype(float)
            keep[edge] -= step
            slopes.append(float(whole - value(m, batch, keep, counterfactual, data)) / step)
    expected = np.array([scores[edge] for edge in edges])
    assert distance(np.array(slopes), expected) < 1e-3
    assert (np.abs(expected) > 1e-3 * np.abs(expected).max()).mean() > 0.8


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_integrated_gradients_average_gradients_along_the_way(family: str, steps: int) -> None:
    """Each gradient is that of a masked run whose every writer is live, from an embedding between
    the two: autograd through the model's own forward finds the one at the embedding."""
    m, data = model(family), dataset((8, 8, 8), batch_size=3)
    batch = as_batch(data)
    context, carried = both(m, batch)
    live = record(m, context)
    at_embedding: Any = 0
    for k in range(steps):
        x = torch.lerp(carried.embed, live.embed, k / steps).requires_grad_()
        logits = answer(m, batch, record(m, context, x).final)
        (grad,) = torch.autograd.grad(logit_diff(logits, logits, batch).sum(), x)
        at_embedding = at_embedding + grad / steps
    total = float(((live.embed - carried.embed) * at_embedding).sum())
    scores = eap_ig(m, data, logit_diff, counterfactual, steps=steps).values * len(data)
    assert distance([scores[0].sum()], [total]) < 1e-4


@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_clean_corrupted_is_the_mean_of_both_ends(family: str) -> None:
    m, data = model(family), dataset()
    ends = [f(m, data, logit_diff, counterfactual).values for f in (eap, partial(eap_ig, steps=1))]
    found = clean_corrupted(m, data, logit_diff, counterfactual).values
    assert distance(found, (ends[0] + ends[1]) / 2) < 1e-5
    assert distance(ends[0], ends[1]) > 1e-2


@pytest.mark.parametrize(("family", "budget"), in_turn(1, 5_000))
def test_attribution_in_blocks_is_attribution_whole(
    family: str, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    m, data = model(family), dataset()
    whole = eap(m, data, logit_diff, counterfactual).values
    monkeypatch.setattr(attribute, "CACHED_BYTES", budget)
    monkeypatch.setattr(attribute, "FEWEST", 1)
    pieces, cut = [], attribute._pieces
    monkeypatch.setattr(attribute, "_pieces", lambda *a: pieces.append(len([*cut(*a)])) or cut(*a))
    assert distance(eap(m, data, logit_diff, counterfactual).values, whole) < 1e-5
    assert max(pieces) > 2


# -- linear models ---------------------------------------------------------------------------------
def linear(silent: bool) -> Model:
    """An attention-only model without norms; ``silent``: with a pattern that nothing changes."""
    import transformer_lens.model_bridge.sources.native as native
    from transformer_lens.config import TransformerBridgeConfig

    config = TransformerBridgeConfig(
        d_model=32, n_layers=3, n_heads=4, d_head=8, n_ctx=64, d_vocab=60, act_fn="gelu",
        seed=0, attn_only=True, normalization_type=None,
    )  # fmt: skip
    bridge = native.boot(config)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in bridge.original_model.named_parameters():
            quiet = silent and any(f".{p}." in name for p in "qk")
            noise = torch.randn(weight.shape, generator=generator)
            weight.copy_(0 * noise if quiet else noise / weight.shape[-1] ** 0.5)
    return from_module(bridge.to(torch.float64), name="linear")


def exact_effects(m: Model, batch: Batch, edges: list[tuple[int, int]]) -> np.ndarray:
    """How much the metric falls when an edge is cut, per example."""

    def metric(keep: np.ndarray) -> float:
        logits = masked(m, batch, keep)
        return float(logit_diff(logits, logits, batch).double().mean())

    whole = metric(m.wiring.legal)
    return np.array([whole - metric(cut(m, *edge)) for edge in edges])


def test_on_a_linear_model_attribution_is_exact_for_every_edge() -> None:
    """With a fixed attention pattern, values flow linearly; queries and keys change nothing."""
    m, data = linear(silent=True), dataset()
    w = m.wiring
    edges = [(int(i), int(j)) for i, j in np.argwhere(w.legal)]
    exact = exact_effects(m, as_batch(data), edges)
    scores = eap(m, data, logit_diff, counterfactual).values
    found = np.array([scores[edge] for edge in edges])
    assert distance(found, exact) < 1e-4
    moves = np.array([w.readers[j].port in (None, "v") for _, j in edges])
    assert (np.abs(exact[moves]) > 1e-5).mean() > 0.9
    assert not found[~moves].any()
    assert np.abs(exact[~moves]).max() < 1e-12


def test_where_the_last_steps_are_linear_attribution_is_exact_there() -> None:
    """Edges into the logits, and into the values of the last layer; the others' are not exact."""
    m, data = linear(silent=False), dataset()
    w = m.wiring
    values = port_columns(w, w.layers - 1)["v"]
    readers = [*range(values.start, values.stop), w.shape[1] - 1]
    edges = [(i, r) for r in readers for i in range(int(w.upstream[r]))]
    scores = eap(m, data, logit_diff, counterfactual).values
    exact = exact_effects(m, as_batch(data), edges)
    assert distance(np.array([scores[edge] for edge in edges]), exact) < 1e-4
    assert (np.abs(exact) > 1e-5).mean() > 0.9
    curved = [(0, r) for r in range(values.start)]
    assert distance([scores[e] for e in curved], exact_effects(m, as_batch(data), curved)) > 1e-3


def test_on_a_linear_model_the_edges_into_the_logits_sum_to_the_gap() -> None:
    m, data = linear(silent=False), dataset()
    batch = as_batch(data)
    ends = [masked(m, batch, k) for k in (m.wiring.legal, np.zeros(m.wiring.shape))]
    clean, corrupt = (logit_diff(logits, logits, batch).double().mean() for logits in ends)
    for method in (eap, eap_ig, clean_corrupted):
        scores = method(m, data, logit_diff, counterfactual).values
        assert distance([scores[:, -1].sum()], [clean - corrupt]) < 1e-4


# -- what scores do not depend on ------------------------------------------------------------------
GREEDY = "acdc"  # each of its decisions is a run: under one corruption, with a threshold that cuts
DEAR = {"eap_ig_activations": "eap_ig_activations(steps=1)"}  # as many runs as there are stages
LEARNED = ("nested", "edge_pruning", "ugs")  # in steps of some prompts: see ``test_learned.py``
APART = ("random", "ensemble", GREEDY, *LEARNED)  # an ensemble is a mean of the others
METHODS = [DEAR.get(name, name) for name in names("discovery") if name not in APART]
SETTINGS: dict[str, Callable[[Dataset], Dataset]] = {
    "one by one": lambda data: replace(data, padding="left", batch_size=1),
    "all at once": lambda data: replace(data, batch_size=100),
    "reversed and padded left": lambda data: replace(
        data, padding="left", examples=data.examples[::-1]
    ),
    "doubled": lambda data: replace(data, examples=data.examples * 2),
}


@cache
def little() -> Model:
    """A GPT-2 of two layers of two heads, for what is asked of every method and corruption."""
    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 60, "n_positions": 64}
    module = _hf("GPT2LMHeadModel", **sizes)()
    _stir(module)
    return from_module(module, name="little")


def scored(family: str, method: str, corruption: str, data: Dataset) -> np.ndarray:
    """The scores of a method."""
    carry, m = resolve("corruptions", corruption), little() if family == "little" else model(family)
    found: Scores = resolve("discovery", method)(m, data, logit_diff, carry)
    return found.values


@cache
def scored_once(family: str, method: str, corruption: str) -> np.ndarray:
    """The scores on the examples as they are."""
    return scored(family, method, corruption, dataset())


@pytest.mark.parametrize(("method", "corruption", "setting"), [
    pytest.param(method, corruption, [*SETTINGS][(number + turn) % len(SETTINGS)],
                 marks=[pytest.mark.weekly] if (number - turn) % 3 else [])
    for number, method in enumerate(METHODS) for turn, corruption in enumerate(CORRUPTIONS)
])  # fmt: skip
def test_scores_depend_on_the_examples_alone(method: str, corruption: str, setting: str) -> None:
    changed = SETTINGS[setting](dataset())
    expected = scored_once("little", method, corruption)
    found = scored("little", method, corruption, changed)
    # the spread of doubled embeddings is smaller by a factor of sqrt((n − 1)/(n − 1/2))
    loose = corruption == "noise" and setting == "doubled"
    assert distance(found, expected) < (5e-3 if loose else 2e-5)


@pytest.mark.parametrize("setting", SETTINGS)
def test_what_a_greedy_method_keeps_depends_on_the_examples_alone(setting: str) -> None:
    method = f"{GREEDY}(threshold=0.2)"
    expected = scored_once("gpt2", method, "counterfactual")
    found = scored("gpt2", method, "counterfactual", SETTINGS[setting](dataset()))
    assert distance(found, expected) < 2e-5
    assert 0 < (expected != 0).mean() < 0.2


@pytest.mark.parametrize(("family", "setting"), in_turn(*SETTINGS))
def test_scores_depend_on_the_examples_alone_in_every_family(family: str, setting: str) -> None:
    expected = scored_once(family, "eap", "counterfactual")
    found = scored(family, "eap", "counterfactual", SETTINGS[setting](dataset()))
    assert distance(found, expected) < 1e-4


def test_scores_of_other_examples_are_other_scores() -> None:
    """What the two tests above compare does depend on the examples."""
    one, two = (scored("gpt2", "eap", "counterfactual", dataset(seed=s)) for s in (0, 1))
    assert distance(one, two) > 1e-1


def test_scores_of_a_dataset_are_the_mean_of_those_of_its_examples() -> None:
    data = dataset()
    singles = [replace(data, examples=(e,)) for e in data.examples]
    each = [scored("llama", "eap", "counterfactual", one) for one in singles]
    expected = scored("llama", "eap", "counterfactual", data)
    assert distance(np.mean(each, axis=0), expected) < 1e-4


# -- TransformerLens's own attribution patching ----------------------------------------------------
def theirs(family: str, data: Dataset) -> np.ndarray:
    """TransformerLens's edge scores, summed over positions, in our rows and columns.

    Theirs is the denoising form: the gradient is taken at the corrupted run, and the difference is
    clean less corrupted, so that the sign is ours.
    """
    from transformer_lens.model_bridge.sources import build_bridge_from_module
    from transformer_lens.tools.analysis.attribution_patching import (
        EdgeAttributionConfig,
        attribution_patch,
    )

    module, w = pristine(family), model(family).wiring
    bridge = build_bridge_from_module(
        module, architecture=type(module).__name__, hf_config=module.config, tokenizer=None
    ).eval()
    config = EdgeAttributionConfig(granularity="edge")
    total = np.zeros(w.shape)
    for example in data.examples:
        good, bad = example.correct[0], example.wrong[0]

        def metric(logits: Tensor, good: int = good, bad: int = bad) -> Tensor:
            return logits[0, -1, good] - logits[0, -1, bad]

        pair = (torch.tensor([example.clean]), torch.tensor([example.corrupt]))
        found = attribution_patch(bridge, *pair, metric, config)
        for (writer, reader), effect in found.edge_scores.items():
            total[w.index(our_name(writer), our_name(reader))] += effect
    return total / len(data)


def our_name(node: Any) -> str:
    """A node of TransformerLens in our grammar."""
    if node.kind in ("embed", "logits"):
        return "input" if node.kind == "embed" else "logits"
    if node.kind in ("mlp_in", "mlp_out"):
        return f"m{node.layer}"
    head = f"a{node.layer}.h{node.head}"
    return head if node.kind == "attn_head_out" else f"{head}.{node.kind[0]}"


@pytest.mark.parametrize("family", ["gpt2", "neox-parallel", "neox-serial"])
def test_attribution_agrees_with_transformer_lens(family: str) -> None:
    """At the corrupted run (eap_ig of one step), and at the clean one with the roles swapped."""
    data = dataset((7, 7, 7))
    swapped = [replace(e, clean=e.corrupt, corrupt=e.clean) for e in data.examples]
    m, expected = model(family), theirs(family, data)
    assert (np.abs(expected)[m.wiring.legal] > 1e-6).mean() > 0.9
    found = eap_ig(m, data, logit_diff, counterfactual, steps=1).values
    assert distance(found, expected) < 1e-4
    back = eap(m, replace(data, examples=tuple(swapped)), logit_diff, counterfactual).values
    assert distance(-back, expected) < 1e-4


# -- precision -------------------------------------------------------------------------------------
@pytest.mark.parametrize("family", HUGGING_FACE)
def test_half_precision_scores_are_single_precision_and_rank_alike(family: str) -> None:
    """A family that TransformerLens itself cannot run in half precision is refused."""
    m = from_module(pristine(family).to(torch.bfloat16), name=family)
    data = dataset((9, 7, 9, 5), batch_size=4)  # so that a mean divides by a power of two
    assert m.dtype == torch.bfloat16
    tokens = torch.zeros(1, 4, dtype=torch.long)
    try:
        m.native(tokens, torch.ones_like(tokens).bool())
    except RuntimeError:
        assert family == "olmo2"  # its rotary angles are in single precision there
        with pytest.raises(UnsupportedModelError):
            check(m)
        return
    assert check(m).holds
    legal = m.wiring.legal
    found = eap(m, data, logit_diff, counterfactual).values
    expected = scored(family, "eap", "counterfactual", data)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    rounded = torch.from_numpy(found).bfloat16().float().numpy()
    assert (rounded != found).mean() > 0.2, "the scores were summed in half precision"
    assert spearmanr(found[legal], expected[legal]).statistic > 0.8
    if not any(hasattr(layer.mlp, "experts") for layer in m.layers):  # a router may choose others
        size = np.abs(expected[legal])
        weak = size <= np.median(size)
        assert 0.8 < np.abs(found[legal])[weak].sum() / size[weak].sum() < 1.25


# -- norms -----------------------------------------------------------------------------------------
def some_norms(scale: float) -> dict[str, torch.nn.Module]:
    """Norms of every spelling, with random weights of that size."""
    from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    made: dict[str, torch.nn.Module] = {
        "layer norm": torch.nn.LayerNorm(32),
        "layer norm without parameters": torch.nn.LayerNorm(32, elementwise_affine=False),
        "rms": LlamaRMSNorm(32),
        "rms of one plus the weight": Gemma2RMSNorm(32),
    }
    generator = torch.Generator().manual_seed(1)
    for name, norm in made.items():
        for parameter in norm.parameters():
            noise = torch.randn(32, generator=generator)
            parameter.data = scale * noise - float("one plus" in name)
    return made


@pytest.mark.parametrize("scale", [3.0, 1e-2, 1e-4])
@pytest.mark.parametrize("name", some_norms(1.0))
def test_the_gradient_through_a_norm_is_that_of_autograd(name: str, scale: float) -> None:
    """Also where what is read is tiny, so that the norm's epsilon counts."""
    module = some_norms(scale)[name].requires_grad_(False)
    norm = Norm(module, 32, torch.zeros(1))
    generator = torch.Generator().manual_seed(2)
    matrix, grad = (torch.randn(*s, generator=generator) for s in ((2, 32, 8), (2, 5, 8)))
    for size in (1e-3, 1.0, 100.0):
        x = (size * torch.randn(5, 32, generator=generator) + size).requires_grad_()
        found = norm.pull(matrix)(x.detach(), grad)
        for i in range(2):
            (expected,) = torch.autograd.grad((module(x) @ matrix[i] * grad[i]).sum(), x)
            unit = 1 / expected.abs().max()
            assert distance(found[i] * unit, expected * unit) < 1e-3


def test_what_is_no_norm_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="neither a LayerNorm nor an RMSNorm"):
        Norm(torch.nn.Tanh(), 32, torch.zeros(1))

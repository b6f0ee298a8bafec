"""A patched node is the same done by hand, by hooks on the plain module."""

from __future__ import annotations

from collections.abc import Callable
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
    exactly,
    examples,
    first_head,
    in_turn,
    mlp_row,
    model,
    pristine,
)
from oracles import Oracle, _State
from scipy.stats import binom
from torch import Tensor

from circuitkit.corruptions.constants import mean
from circuitkit.corruptions.gaussian import noise
from circuitkit.data.batches import Batch, Dataset
from circuitkit.data.examples import Example
from circuitkit.engine import sweep as engine
from circuitkit.engine.record import answer, record
from circuitkit.engine.run import run
from circuitkit.errors import CircuitError, DataError, EvaluationError, MetricError
from circuitkit.metrics.answers import log_probability, logit_diff
from circuitkit.metrics.divergence import kl
from circuitkit.patching.effects import Effects
from circuitkit.patching.nodes import NODES, patch_heads, patch_nodes, patch_residual

PARALLEL = ("neox-parallel", "falcon")
LENGTHS = (7, 5, 7)
both_directions = pytest.mark.parametrize("direction", ["noise", "denoise"])
SPANS = ("subject", "end", "all")
stages = pytest.mark.parametrize("stage", ["pre", "mid", "post"])
Change = Callable[[Tensor], Tensor]


class Hand:
    """The plain module's two runs of one batch, and one of them with something put in."""

    def __init__(self, family: str, direction: str) -> None:
        self.data = dataset(LENGTHS)
        self.batch: Batch = as_batch(self.data)
        module = pristine(family)
        module = module.to(torch.float64)
        self.oracle = Oracle(module, exactly(family).wiring)
        self.head_size = exactly(family).d_head
        # Granite's, of what a layer's modules give
        self.scale = getattr(self.oracle.blocks[0].entry, "residual_multiplier", 1.0)
        clean, corrupt = self.batch.clean, self.batch.corrupt
        self.tokens, taken = (clean, corrupt) if direction == "noise" else (corrupt, clean)
        self.taken_tokens = taken
        self.sign = -1 if direction == "noise" else 1
        self.base = self.oracle.plain(self.tokens, self.batch.mask)
        self.other = self.oracle.plain(taken, self.batch.mask)
        self.seen, self.taken = self.residuals(self.tokens), self.residuals(taken)
        self.start = self.value()

    def attention(self, layer: int) -> Any:
        """The module whose output is what a layer's attention adds to the residual stream."""
        block = self.oracle.blocks[layer]
        return block.entry.post_attention_layernorm if self.oracle.post_norm else block.o

    def residuals(self, tokens: Tensor) -> dict[tuple[str, int], Tensor]:
        """The residual stream before and within each layer, and before the logits."""
        seen: dict[tuple[str, int], Tensor] = {}

        def read(layer: int, _: Any, args: Any, kwargs: Any) -> None:
            seen["pre", layer] = args[0] if args else kwargs["hidden_states"]

        def wrote(layer: int, _: Any, __: Any, out: Tensor) -> None:
            seen["mid", layer] = seen["pre", layer] + out * self.scale

        handles = []
        for layer, block in enumerate(self.oracle.blocks):
            before = partial(read, layer)
            handles.append(block.entry.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(self.attention(layer).register_forward_hook(partial(wrote, layer)))
        last = partial(read, len(self.oracle.blocks))
        handles.append(self.oracle.final.register_forward_pre_hook(last, with_kwargs=True))
        self.oracle.logits(tokens, self.batch.mask)
        for handle in handles:
            handle.remove()
        return seen

    def mlp(self, layer: int) -> Any:
        """The module whose output is what a layer's MLP adds to the residual stream."""
        block = self.oracle.blocks[layer]
        own = block.mlp_end or block.mlp
        return block.entry.post_feedforward_layernorm if self.oracle.post_norm else own

    def port(self, layer: int, letter: str, index: int) -> tuple[Any, slice]:
        """The module that makes a port, and where in its output the port is."""
        projections = self.oracle.blocks[layer].projections
        letters = next(letters for letters in projections if letter in letters)
        return projections[letters], _State(self.oracle, None, {})._place(letters, letter, index)

    def site(self, name: str) -> Tensor:
        """The tokens of a span."""
        return self.batch.mask if name == "all" else self.batch.within(name)

    def given(self, tokens: Tensor, modules: list[Any]) -> list[Tensor]:
        """What these modules give on these tokens."""
        seen: dict[int, Tensor] = {}

        def hook(i: int, _: Any, __: Any, out: Any) -> None:
            seen[i] = (out[0] if isinstance(out, tuple) else out).clone()

        handles = [m.register_forward_hook(partial(hook, i)) for i, m in enumerate(modules)]
        self.oracle.logits(tokens, self.batch.mask)
        for handle in handles:
            handle.remove()
        return [seen[i] for i in range(len(modules))]

    def overwritten(self, modules: list[Any], site: Tensor, own: slice = slice(None)) -> np.ndarray:
        """The effect of these modules giving at these tokens what they give in the other run."""

        def hook(new: Tensor, _: Any, __: Any, out: Any) -> Any:
            plain = out[0] if isinstance(out, tuple) else out
            mixed = plain.clone()
            here = site.reshape(*plain.shape[:-1], 1)  # OPT's MLP sees a batch's tokens in one row
            mixed[..., own] = torch.where(here, new[..., own], plain[..., own])
            return (mixed, *out[1:]) if isinstance(out, tuple) else mixed

        taken = self.given(self.taken_tokens, modules)
        handles = [
            m.register_forward_hook(partial(hook, new))
            for m, new in zip(modules, taken, strict=True)
        ]
        value = self.value()
        for handle in handles:
            handle.remove()
        return self.sign * (value - self.start)

    def put_z(self, layer: int, head: int, site: Tensor) -> np.ndarray:
        """The effect of a head's z being at these tokens what it is in the other run."""
        out, size = self.oracle.blocks[layer].o, self.head_size
        seen: list[Tensor] = []
        own = slice(head * size, (head + 1) * size)

        def put(_: Any, args: Any) -> Any:
            mixed = args[0].clone()
            mixed[..., own] = torch.where(site[..., None], seen[0][..., own], mixed[..., own])
            return (mixed, *args[1:])

        handle = out.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
        self.oracle.logits(self.taken_tokens, self.batch.mask)
        handle.remove()
        handle = out.register_forward_pre_hook(put)
        value = self.value()
        handle.remove()
        return self.sign * (value - self.start)

    def value(self) -> np.ndarray:
        """The metric of every example, whatever hooks there are."""
        logits = self.oracle.logits(self.tokens, self.batch.mask)
        logits = logits[range(len(self.batch)), self.batch.last]
        return logit_diff(logits, logits, self.batch).double().numpy()

    def effect(self, stage: str, layer: int, delta: Tensor) -> np.ndarray:
        """What this change of the residual stream does."""

        def before(_: Any, args: Any, kwargs: Any) -> Any:
            if args:
                return (args[0] + delta, *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": kwargs["hidden_states"] + delta}

        def after(_: Any, __: Any, out: Tensor) -> Tensor:
            return out + delta / self.scale

        if stage == "mid":
            handle = self.attention(layer).register_forward_hook(after)
        else:
            blocks = [*(block.entry for block in self.oracle.blocks), self.oracle.final]
            handle = blocks[layer].register_forward_pre_hook(before, with_kwargs=True)
        value = self.value()
        handle.remove()
        return self.sign * (value - self.start)

    def residual(self, stage: str, layer: int, position: int) -> np.ndarray:
        """The effect of the residual stream at one layer and position."""
        stage, layer = ("pre", layer + 1) if stage == "post" else (stage, layer)
        delta = self.taken[stage, layer] - self.seen[stage, layer]
        delta[:, [i for i in range(delta.shape[1]) if i != position]] = 0
        found = self.effect(stage, layer, delta)
        return np.where(self.batch.mask[:, position].numpy(), found, np.nan)


@cache
def hand(family: str, direction: str) -> Hand:
    """The runs by hand, made once; no test changes them."""
    return Hand(family, direction)


# -- by hand ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(("family", "direction"), in_turn("noise", "denoise"))
def test_a_patched_head_is_a_hook_on_the_plain_module(family: str, direction: str) -> None:
    """On what the output projection takes (``hook_z``): a norm behind it runs on the new sum."""
    own, m = hand(family, direction), exactly(family)
    found = patch_heads(m, own.data, logit_diff, at=SPANS, direction=direction)
    cells = [cell for cell in np.ndindex(3, 4, len(SPANS)) if sum(cell) % 2 == 0]
    expected = np.array([own.put_z(layer, head, own.site(SPANS[i])) for layer, head, i in cells])
    assert found.shape == (3, 4, len(SPANS), len(LENGTHS))
    assert distance(found.values[tuple(np.array(cells).T)], expected) < 1e-5
    assert (np.abs(expected) > 1e-6).mean() > 0.3
    assert found.names[0] == "a0.h0@subject"


@pytest.mark.parametrize(("family", "direction"), in_turn("denoise", "noise"))
def test_a_share_is_what_a_head_adds_and_is_z_but_in_post_norm_models(
    family: str, direction: str
) -> None:
    own, m = hand(family, direction), exactly(family)
    found, z = (patch_nodes(m, nodes, own.data, logit_diff, direction=direction)
                for nodes in ("share", "z"))  # fmt: skip
    assert (distance(found, z) > 1e-2) if m.post_norm else np.array_equal(found, z)
    expected = np.zeros((3, 4, len(LENGTHS)))
    for layer, head in np.ndindex(3, 4):
        name = f"a{layer}.h{head}"
        delta = own.other.writers[name] - own.base.writers[name]
        expected[layer, head] = own.effect("mid", layer, delta)
    assert distance(found, expected) < 1e-5
    assert (np.abs(expected) > 1e-6).mean() > 0.8


@stages
@pytest.mark.parametrize(("family", "direction"), in_turn("noise", "denoise"))
def test_a_patched_residual_is_a_hook_on_the_plain_module(
    family: str, direction: str, stage: str
) -> None:
    own, m = hand(family, direction), exactly(family)
    patch = partial(patch_residual, m, own.data, logit_diff, direction=direction, stage=stage)
    if stage == "mid" and family in PARALLEL:
        with pytest.raises(CircuitError, match=f"'resid_mid' does not exist in '{family}'"):
            patch()
        return
    found = patch()
    assert found.shape == (3, 7, 3)
    cells = [c for c in np.ndindex(3, 7) if (c[0] == 0 and stage == "pre") or sum(c) % 2]
    expected = np.array([own.residual(stage, *cell) for cell in cells])
    here = ~np.isnan(expected)
    chosen = found.values[tuple(np.array(cells).T)]
    assert np.array_equal(np.isnan(chosen), ~here)
    assert 0 < here.mean() < 1
    assert distance(chosen[here], expected[here]) < 1e-5


@both_directions
@pytest.mark.parametrize("nodes", ["attn_out", "mlp_out"])
@pytest.mark.parametrize("family", ["gpt2", "gemma2", "neox-parallel", "mixtral"])
def test_a_patched_layer_is_a_hook_on_the_plain_module(
    family: str, nodes: str, direction: str
) -> None:
    own, m = hand(family, direction), exactly(family)
    found = patch_nodes(m, nodes, own.data, logit_diff, at=SPANS, direction=direction)
    module = own.mlp if nodes == "mlp_out" else own.attention
    expected = np.array([[own.overwritten([module(layer)], own.site(name)) for name in SPANS]
                         for layer in range(3)])  # fmt: skip
    assert distance(found, expected) < 1e-5
    assert (np.abs(expected) > 1e-6).mean() > 0.5


@pytest.mark.parametrize("nodes", "qkv")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_patched_port_is_a_hook_on_the_plain_module(family: str, nodes: str) -> None:
    own, m = hand(family, "noise" if nodes == "k" else "denoise"), exactly(family)
    direction = "noise" if own.sign < 0 else "denoise"
    found = patch_nodes(m, nodes, own.data, logit_diff, at=SPANS, direction=direction)
    cells = [cell for cell in np.ndindex(found.shape[:3]) if sum(cell) % 3 == 1]
    expected = []
    for layer, index, name in cells:
        module, place = own.port(layer, nodes, index)
        expected.append(own.overwritten([module], own.site(SPANS[name]), place))
    assert list(found.axes)[1] == ("group" if m.wiring.groups < 4 and nodes != "q" else "head")
    assert distance(found.values[tuple(np.array(cells).T)], np.array(expected)) < 1e-5
    assert (np.abs(expected) > 1e-6).mean() > 0.3


@both_directions
@pytest.mark.parametrize("family", ["gpt2", "llama", "olmo2"])
def test_a_patched_pattern_is_that_pattern_over_the_values(family: str, direction: str) -> None:
    """By the patterns that the plain module says it has, and its own values."""
    own, m = hand(family, direction), exactly(family)
    found = patch_nodes(m, "pattern", own.data, logit_diff, at=SPANS, direction=direction)
    batch, size = own.batch, m.wiring.heads // m.wiring.groups
    with torch.no_grad():
        patterns = own.oracle.module(
            input_ids=own.taken_tokens, attention_mask=batch.mask.long(), output_attentions=True,
            position_ids=(batch.mask.long().cumsum(-1) - 1).clamp(min=0),
        ).attentions  # fmt: skip
    expected = np.zeros((3, 4, len(SPANS), len(batch)))
    for layer, head, i in np.ndindex(3, 4, len(SPANS)):
        module, place = own.port(layer, "v", head // size)
        value = own.given(own.tokens, [module])[0][..., place]
        z, slot = patterns[layer][:, head] @ value, slice(head * m.d_head, (head + 1) * m.d_head)

        def put(_: Any, args: Any, z: Tensor = z, slot: slice = slot, i: int = i) -> Any:
            mixed = args[0].clone()
            site = own.site(SPANS[i])[..., None]
            mixed[..., slot] = torch.where(site, z, args[0][..., slot])
            return (mixed, *args[1:])

        handle = own.oracle.blocks[layer].o.register_forward_pre_hook(put)
        expected[layer, head, i] = own.sign * (own.value() - own.start)
        handle.remove()
    assert distance(found, expected) < 1e-5
    assert (np.abs(expected) > 1e-6).mean() > 0.3


@both_directions
@pytest.mark.parametrize("family", ["gpt2", "gemma2", "neox-parallel"])
def test_heads_and_residuals_are_patched_at_spans(family: str, direction: str) -> None:
    own, m = hand(family, direction), exactly(family)
    patch = partial(patch_nodes, m, "share", own.data, logit_diff, direction=direction)
    heads = patch(at=SPANS)
    stream = patch_residual(m, own.data, logit_diff, at=SPANS, direction=direction)
    alone = patch(at="subject")
    assert distance(alone, heads.values[:, :, 0]) < 1e-9
    for i, name in enumerate(SPANS):
        site = own.site(name)[..., None]
        for layer in range(3):
            delta = own.taken["pre", layer] - own.seen["pre", layer]
            expected = own.effect("pre", layer, delta * site)
            assert np.allclose(stream.values[layer, i], expected, rtol=0, atol=1e-6)
        deltas = [own.other.writers[f"a1.h{h}"] - own.base.writers[f"a1.h{h}"] for h in range(4)]
        by_hand = np.array([own.effect("mid", 1, delta * site) for delta in deltas])
        assert distance(heads.values[1, :, i], by_hand) < 1e-5


@pytest.mark.parametrize("nodes", ["z", "mlp_out"])
def test_a_span_of_one_token_is_its_position(nodes: str) -> None:
    m, data = exactly("llama"), dataset(LENGTHS)
    each = patch_nodes(m, nodes, data, logit_diff, at="positions").values
    end = patch_nodes(m, nodes, data, logit_diff, at="end").values
    last = [len(example.clean) - 1 for example in data.examples]
    assert distance(end, np.stack([each[..., p, i] for i, p in enumerate(last)], axis=-1)) < 1e-9


@both_directions
@pytest.mark.parametrize("family", ["gpt2", "llama", "neox-parallel", "attention-only"])
def test_a_patched_head_is_a_masked_run_with_all_its_edges_cut(family: str, direction: str) -> None:
    """Also where what is taken, or what it is put in, is no run of the model."""
    m, data = exactly(family), dataset(LENGTHS)
    batch = as_batch(data)
    context = m.start(batch.clean, batch.mask)
    with torch.no_grad():
        live, carried = record(m, context), mean(m, data)(batch)[0]
        base, other = (live, carried) if direction == "noise" else (carried, live)
        found = patch_heads(m, data, logit_diff, mean, direction=direction).values
        expected = np.zeros_like(found)
        for layer, head in np.ndindex(*found.shape[:2]):
            row = first_head(m.wiring, layer) + head
            keep = np.zeros(m.wiring.shape, dtype=bool)
            keep[row:] = m.wiring.legal[row:]
            keep[row + 1 : first_head(m.wiring, layer) + m.wiring.heads] = False
            if m.wiring.parallel:
                keep[mlp_row(m.wiring, layer)] = False
            given = {row: engine.difference(m, other, base, row)}
            patched = run(m, batch, context, base, keep, given)
            plain = answer(m, batch, base.final)
            moved = logit_diff(patched, patched, batch) - logit_diff(plain, plain, batch)
            expected[layer, head] = -moved if direction == "noise" else moved
    assert distance(found, expected) < 1e-5


# -- what is known without a run -------------------------------------------------------------------
def test_nothing_is_run_before_the_first_token_that_differs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    m, (one, *_) = exactly("gpt2"), examples((7,))
    tokens = list(one.clean)
    tokens[4] = tokens[4] % 59 + 1
    data = Dataset((type(one)(one.clean, tuple(tokens), one.correct, one.wrong, one.spans),))
    ran: list[tuple[int, int]] = []
    finals = engine.Rest.finals

    def watched(self: engine.Rest, *given: Any) -> Tensor:
        found = finals(self, *given)
        ran.append((self.start, len(found)))
        return found

    monkeypatch.setattr(engine.Rest, "finals", watched)
    found = patch_residual(m, data, logit_diff).values
    assert {start for start, _ in ran} == {4, 5, 6}
    assert sum(n for _, n in ran) <= 9
    assert not found[:, :4].any()
    assert np.abs(found[:, 4]).min() > 1e-4
    assert np.abs(found[1:, 4:]).min() > 0
    # at layer 0 the prompts differ in that token alone, so it is the whole difference
    whole = [logit_diff(x, x, as_batch(data)).item() for x in (
        m.native(torch.tensor([t]), torch.ones(1, 7).bool()).logits[:, -1]
        for t in (one.clean, tokens))]  # fmt: skip
    assert found[0, 4, 0] == pytest.approx(whole[0] - whole[1], rel=1e-6)


# -- laws ------------------------------------------------------------------------------------------
SWEPT = [(n, SPANS) for n in NODES if n not in ("resid_mid", "resid_post", "neurons")]
SWEPT += [(nodes, "positions") for nodes in ("resid_pre", "mlp_out", "k")]


@pytest.mark.parametrize(("nodes", "at"), SWEPT)
@pytest.mark.parametrize(
    ("family", "corruption"),
    [("llama", mean), ("gemma2", noise)],
)
def test_effects_do_not_depend_on_batches_or_padding(
    family: str, nodes: str, corruption: Any, at: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def patch(m: Any, data: Dataset) -> Any:
        return patch_nodes(m, nodes, data, logit_diff, corruption, at=at).values

    m = model(family)
    wide = patch(m, dataset((7, 5, 6, 7), batch_size=4))
    monkeypatch.setattr(engine, "TOKENS", 30)  # one or a few runs at once
    for padding, size in (("left", 2), ("right", 1)):
        data = dataset((7, 5, 6, 7), batch_size=size, padding=padding)
        found = patch(m, data)
        missing = np.isnan(wide)
        assert np.array_equal(np.isnan(found), missing)
        assert distance(found[~missing], wide[~missing]) < 1e-4


@both_directions
@stages
@pytest.mark.parametrize("corruption", [noise, None])
def test_the_whole_residual_stream_is_the_whole_gap(
    corruption: Any, stage: str, direction: str
) -> None:
    m, data = exactly("llama"), dataset(LENGTHS)
    given = () if corruption is None else (corruption,)
    found = patch_residual(m, data, logit_diff, *given, stage=stage, at="all", direction=direction)
    assert found.axes == {"layer": ("0", "1", "2")}
    assert distance(found, np.broadcast_to(found.gap, (3, 3))) < 1e-9
    assert np.allclose(found.normalised, 1)


def test_several_metrics_are_read_from_the_same_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    m, data, ran = exactly("gpt2"), dataset(LENGTHS), []
    metrics = [logit_diff, log_probability, kl]
    alone = [patch_nodes(m, "mlp_out", data, metric, noise, at=SPANS) for metric in metrics]
    finals = engine.Rest.finals

    def watched(self: engine.Rest, *given: Any) -> Tensor:
        ran.append(finals(self, *given))
        return ran[-1]

    monkeypatch.setattr(engine.Rest, "finals", watched)
    patch_nodes(m, "mlp_out", data, logit_diff, noise, at=SPANS)
    once = len(ran)
    together = patch_nodes(m, "mlp_out", data, metrics, noise, at=SPANS)
    assert len(ran) == 2 * once > 0
    for one, other in zip(together, alone, strict=True):
        assert one.metric == other.metric
        assert distance(one, other) < 1e-9
        assert distance(one.gap, other.gap) < 1e-9
    assert [one.metric for one in together] == [metric.__name__ for metric in metrics]


def test_the_draws_of_a_corruption_are_averaged() -> None:
    m, data = exactly("llama"), dataset(LENGTHS)
    three = patch_heads(m, data, logit_diff, partial(noise, draws=3))
    draws = noise(m, data, draws=3)(as_batch(data))
    each = [patch_heads(m, data, logit_diff, lambda *_, d=d: lambda _: [d]) for d in draws]
    for part in ("values", "gap"):
        apart = [getattr(one, part) for one in each]
        assert distance(getattr(three, part), np.mean(apart, axis=0)) < 1e-9
        assert distance(apart[0], getattr(three, part)) > 1e-2


@pytest.mark.parametrize("nodes", ["z", "k", "mlp_out", "resid_post"])
def test_an_example_that_ends_before_the_others_differ_keeps_its_answer(nodes: str) -> None:
    """Its prompts are alike, so that nothing that is patched changes it."""
    m, long = exactly("gpt2"), (1, 2, 3, 4, 5, 6, 7, 8)
    short = Example((4, 2, 3), (4, 2, 3), (5,), (7,), {})
    changed = Example(long, (*long[:6], 9, 10), (5,), (7,), {})
    found = patch_nodes(m, nodes, Dataset((short, changed)), logit_diff).values
    alone = patch_nodes(m, nodes, Dataset((changed,)), logit_diff).values
    np.testing.assert_allclose(found[..., 0], 0, atol=1e-9)
    np.testing.assert_allclose(found[..., 1:], alone, atol=1e-9)
    assert np.abs(alone).max() > 1e-2


@pytest.mark.parametrize("patch", [patch_heads, patch_residual])
def test_what_does_not_exist_is_refused(patch: Any) -> None:
    m, data = model("gpt2"), dataset(LENGTHS)
    with pytest.raises(CircuitError, match=r"'sideways'.*denoise"):
        patch(m, data, logit_diff, direction="sideways")
    with pytest.raises(MetricError, match="one value per example"):
        patch(m, data, lambda x, _, __: x.mean())
    with pytest.raises(CircuitError, match=r"stage='middle'.*mid"):
        patch_residual(m, data, logit_diff, stage="middle")
    with pytest.raises(CircuitError, match=r"'neuron'.*mlp_out"):
        patch_nodes(m, "neuron", data, logit_diff)
    for nodes in ("mlp_out", "neurons"):
        with pytest.raises(CircuitError, match=f"has no MLPs.*'{nodes}'"):
            patch_nodes(model("attention-only"), nodes, data, logit_diff)
    for layers in ((3,), (-1,), ()):
        with pytest.raises(CircuitError, match="not layers of 'gpt2'; give some of 0 to 2"):
            patch_nodes(m, "z", data, logit_diff, layers=layers)
    with pytest.raises(DataError, match=r"'IO'.*subject"):
        patch(m, data, logit_diff, at=("subject", "IO"))
    with pytest.raises(DataError, match="names no tokens"):
        patch(m, data, logit_diff, at=())
    with pytest.raises(MetricError, match="at least one"):
        patch(m, data, [])


# -- what is said over examples --------------------------------------------------------------------
def effects(values: Any, gap: Any) -> Effects:
    """Effects of these values [layers, examples]."""
    axes = {"layer": tuple(map(str, range(len(values))))}
    return Effects(np.array(values), axes, np.array(gap), "mlp_out", "m", "c", "denoise")


def test_means_and_errors_are_over_the_examples_that_have_the_node() -> None:
    found = effects([[1.0, 3.0, 5.0], [2.0, np.nan, 6.0], [7.0, np.nan, np.nan]], [2.0, 4.0, 6.0])
    assert found.mean.tolist() == [3, 4, 7]
    assert found.standard_error[:2] == pytest.approx([2 / 3**0.5, 2])
    assert np.isnan(found.standard_error[2])  # one example says nothing of its error
    assert found.normalised == pytest.approx([3 / 4, 4 / 4, 7 / 2])
    assert found.strongest(2) == [("layer 2", 7.0), ("layer 1", 4.0)]


def test_the_bootstrap_interval_is_that_of_the_mean() -> None:
    values = np.array([[1.0] * 120 + [0.0] * 80, [3.0] * 200, [5.0] + [np.nan] * 199])
    found = effects(values, np.ones(200))
    low, high = found.interval(resamples=20_000)
    assert (low[0], high[0]) == pytest.approx(binom.ppf([0.025, 0.975], 200, 0.6) / 200, abs=0.006)
    assert np.isnan([low[1], high[1]]).all()  # equal examples say nothing of how others scatter
    assert np.isnan([low[2], high[2]]).all()  # nor does one example alone
    low, high = found.interval(level=0.5, resamples=20_000)
    assert (low[0], high[0]) == pytest.approx(binom.ppf([0.25, 0.75], 200, 0.6) / 200, abs=0.006)
    assert np.array_equal(found.interval(seed=3), found.interval(seed=3), equal_nan=True)


def test_no_share_is_said_of_no_gap() -> None:
    with pytest.raises(EvaluationError, match=r"m is on average the same.*'mean'"):
        _ = effects([[1.0, 2.0]], [3.0, -3.0]).normalised


def test_effects_say_what_they_are_with_the_largest_first() -> None:
    found = patch_heads(model("gpt2"), dataset(LENGTHS), logit_diff, at=SPANS)
    first, *rows = repr(found).splitlines()
    assert first.startswith("z, denoise, logit_diff under counterfactual: 3 layers × 4 heads × 3 ")
    assert "3 examples" in first
    said = [float(row.split()[0]) for row in rows]
    assert len(rows) == 8
    assert said == sorted(said, key=abs, reverse=True)
    best = np.unravel_index(np.abs(found.mean).argmax(), found.shape[:3])
    assert rows[0].endswith(f"layer {best[0]}, head {best[1]}, span {SPANS[best[2]]}")
    assert said[0] == pytest.approx(found.mean[best], abs=1e-3)


# -- what nodes are called -------------------------------------------------------------------------
CALLED = {
    "z": ("gpt2", "a2.h1"), "share": ("gemma2", "a2.h1"), "q": ("llama", "a2.h1.q"),
    "k": ("llama", "a2.g1.k"),
    "v": ("gpt2", "a2.h1.v"), "pattern": ("llama", "a2.h1.pattern"), "mlp_out": ("gpt2", "m2"),
    "attn_out": ("gpt2", "a2"), "resid_pre": ("gpt2", "resid_pre2"),
    "resid_post": ("gpt2", "resid_post2"), "neurons": ("llama", "m2.n1"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("nodes", "family", "name"), [(n, *called) for n, called in CALLED.items()]
)
def test_every_node_has_its_name_in_the_order_of_the_values(
    nodes: str, family: str, name: str
) -> None:
    layers = [1, 2]
    found = patch_nodes(model(family), nodes, dataset(LENGTHS), logit_diff, layers=layers)
    assert found.names[-1 if len(found.axes) == 1 else found.shape[1] + 1] == name
    assert len({*found.names}) == len(found.names) == found.mean.size
    if nodes in ("z", "share", "mlp_out", "q", "k", "v"):
        wiring = model(family).wiring
        assert {*found.names} < {*(wiring.reader if nodes in "qkv" else wiring.writer)}


def test_the_effects_of_one_site_are_those_without_the_axis() -> None:
    m, data = model("gpt2"), dataset(LENGTHS)
    found = patch_heads(m, data, logit_diff, at=SPANS)
    assert found.names[:4] == ("a0.h0@subject", "a0.h0@end", "a0.h0@all", "a0.h1@subject")
    alone = found.at("end")
    assert list(alone.axes) == ["layer", "head"]
    assert alone.names == tuple(name[:-4] for name in found.names[1::3])
    assert distance(alone, patch_heads(m, data, logit_diff, at="end")) < 1e-5
    each = patch_residual(m, data, logit_diff)
    assert each.names[-1] == "resid_pre2@6"
    assert np.array_equal(each.at("6").values, each.values[:, 6], equal_nan=True)
    with pytest.raises(DataError, match="'S2'; the sites are subject, end, all"):
        found.at("S2")
    with pytest.raises(DataError, match=r"'end'.*all tokens"):
        alone.at("end")
    assert found.axes["span"] == SPANS

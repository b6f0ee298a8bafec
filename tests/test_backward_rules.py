"""Backward rules against the same rules written into Hugging Face's own modules by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from inspect import signature
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES, SPARSE, as_batch, build, dataset, distance, in_turn, model, pristine
from torch import Tensor, nn

from circuitkit.corruptions import counterfactual
from circuitkit.engine.attribute import Pulls
from circuitkit.engine.backward import RULES, Rule, as_rule, half, rule_settings, under, with_slope
from circuitkit.engine.gradients import gradients
from circuitkit.engine.model import Model
from circuitkit.engine.record import answer, record
from circuitkit.errors import ArgumentError, UnsupportedModelError
from circuitkit.metrics import logit_diff
from circuitkit.models.transformer_lens import from_module
from circuitkit.registry import lookup, names
from circuitkit.workflows.benchmark.counting import counted

LENGTHS = (7, 7)  # no padding, so that a plain forward needs no mask
UNREACHED = {"gpt-oss": ("frozen_slopes", "half_gates", "relp")}
COMBINED = "relp+frozen_patterns"


def value(logits: Tensor) -> Tensor:
    return logits[:, 3] - logits[:, 5]


def steep(m: Model) -> tuple[Tensor, Tensor]:
    """The logits at the answers, and the gradient in the embedding."""
    batch = as_batch(dataset(LENGTHS))
    with torch.enable_grad():
        embed = m.start(batch.clean, batch.mask).embed.detach().requires_grad_()
        run = record(m, m.start(batch.clean, batch.mask), embed)
        logits = answer(m, batch, run.final)
        (found,) = torch.autograd.grad(value(logits).sum(), embed)
    return logits.detach(), found


# -- what a rule leaves as it is -------------------------------------------------------------------
@pytest.mark.parametrize(("family", "rule"), in_turn(*RULES, COMBINED))
def test_a_rule_changes_no_value(family: str, rule: str) -> None:
    m, batch = model(family), as_batch(dataset())
    if rule in UNREACHED.get(family, ()):
        with pytest.raises(UnsupportedModelError, match="not a part of its own in GptOssExperts"):
            under(m, rule)
        return
    bent, runs = under(m, rule), []
    for one in (m, bent):
        with torch.enable_grad():
            context = one.start(batch.clean, batch.mask)
            runs.append(gradients(one, batch, context, context.embed, value).output)
    assert torch.equal(*runs)
    assert steep(m)[1].isfinite().all()


@pytest.mark.parametrize("family", FAMILIES)
def test_no_rule_is_the_model_itself(family: str) -> None:
    assert all(under(model(family), rule) is model(family) for rule in (None, "none", Rule()))


def test_what_a_model_does_not_have_keeps_its_gradient() -> None:
    for family, rule in (("attention-only", "frozen_slopes"), ("opt", "frozen_slopes"),
                         ("gpt2", "half_gates"), ("neox-serial", "half_gates")):  # fmt: skip
        assert torch.equal(*(steep(m)[1] for m in (model(family), under(model(family), rule))))


def test_a_rule_replaces_another_and_leaves_the_model() -> None:
    m = model("llama")
    before = steep(m)[1]
    once, again = under(m, "relp"), under(under(m, "half_gates"), "relp")
    assert torch.equal(steep(once)[1], steep(again)[1])
    assert not torch.equal(steep(once)[1], before)
    assert torch.equal(steep(m)[1], before)


def test_what_is_counted_follows_the_rule() -> None:
    twin, tally = counted(model("gpt2"))
    assert torch.equal(steep(under(twin, "relp"))[1], steep(under(model("gpt2"), "relp"))[1])
    assert tally.forward
    assert tally.backward


# -- by hand ---------------------------------------------------------------------------------------
class ByHand(nn.Module):
    """A norm that divides by a constant."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        norm = self.norm
        if isinstance(norm, nn.LayerNorm):
            low = x - x.mean(-1, keepdim=True)
            size = (low.pow(2).mean(-1, keepdim=True) + norm.eps).sqrt()
            return low / size.detach() * norm.weight + norm.bias
        eps = norm.eps if hasattr(norm, "eps") else norm.variance_epsilon
        size = (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()
        more = 1.0 if "Gemma" in type(norm).__name__ else 0.0
        return x / size.detach() * (norm.weight + more)


class Ratio(nn.Module):
    """An activation whose slope is act(x)/x."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.act(x) / x).detach()


def rewritten(module: nn.Module, change: Callable[[str, nn.Module], nn.Module | None]) -> None:
    """Replace parts of a module in place."""
    for name, part in module.named_children():
        new = change(name, part)
        if new is None:
            rewritten(part, change)
        else:
            setattr(module, name, new)


def halved(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What a down projection takes, half of it without a gradient."""
    return (args[0] / 2 + (args[0] / 2).detach(),)


def by_hand(family: str, rule: Rule, patch: pytest.MonkeyPatch) -> tuple[Tensor, Tensor]:
    """The logits and the gradient in the embedding, by Hugging Face's own forward."""
    plain: Any = pristine(family)
    if rule.norms:
        rewritten(plain, lambda _, p: ByHand(p) if "Norm" in type(p).__name__ else None)
    if rule.activations:
        rewritten(plain, lambda name, p: Ratio(p) if name in ("act", "act_fn") else None)
    if rule.gates and hasattr(plain.config, "num_key_value_heads"):
        for name, part in plain.named_modules():
            if name.endswith("down_proj"):
                part.register_forward_pre_hook(halved)
    if rule.patterns:
        softmax = nn.functional.softmax
        patch.setattr(nn.functional, "softmax", lambda *a, **k: softmax(*a, **k).detach())
    batch, seen = as_batch(dataset(LENGTHS)), {}
    table = plain.get_input_embeddings()
    table.register_forward_hook(lambda *args: seen.setdefault("embed", args[-1]))
    logits = plain(batch.clean).logits[torch.arange(len(batch)), batch.last]
    (found,) = torch.autograd.grad(value(logits).sum(), seen["embed"])
    return logits.detach(), found


HANDMADE = ("gpt2", "llama", "qwen3", "gemma2", "olmo2")


@pytest.mark.parametrize(
    ("family", "rule"),
    [(family, rule) for family in HANDMADE for rule in (*RULES, COMBINED)],
)
def test_a_rule_is_what_one_writes_into_the_modules(
    family: str, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits, expected = by_hand(family, as_rule(rule), monkeypatch)
    monkeypatch.undo()
    own, found = steep(under(model(family), rule))
    assert distance(own, logits) < 1e-5
    assert distance(found, expected) < 1e-4


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma", "native-rms"])
def test_what_is_pulled_back_is_the_gradient_through_the_norm(family: str) -> None:
    """Frozen, and in the same place as ``project``."""
    m, batch = under(model(family), "frozen_norms"), as_batch(dataset())
    with torch.enable_grad():
        context = m.start(batch.clean, batch.mask)
        at = gradients(m, batch, context, context.embed, value)
        for stage in m.wiring.stages:
            read = at.activations.reads[stage.index].detach().requires_grad_()
            ports = m.kinds[stage.kind].project(m, stage, read)
            (expected,) = torch.autograd.grad(ports, read, at.ports[stage.index])
            whole = torch.arange(batch.clean.numel())
            found = at.pulled(Pulls(m).of(stage), stage, whole).sum(0).view_as(read)
            assert distance(found, expected) < 1e-5


# -- experts ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("family", [name for name in SPARSE if name not in UNREACHED])
def test_experts_follow_alone_as_within_their_mlp(family: str) -> None:
    apart = from_module(build(family), name=family, experts="live")
    for rule in ("frozen_slopes", "half_gates", "relp"):
        whole, parts = (steep(under(m, rule))[1] for m in (model(family), apart))
        assert distance(parts, whole) < 1e-5


def test_half_of_an_expert_is_half_of_both_its_factors() -> None:
    """With the router held, an expert's gradient is that of its product alone."""
    m = from_module(build("mixtral"), name="mixtral", experts="held")
    stage = next(stage for stage in m.wiring.stages if stage.kind == "experts")
    batch = as_batch(dataset())
    context, found = m.start(batch.clean, batch.mask), []
    for one in (m, under(m, "half_gates")):
        read = context.embed.clone().requires_grad_()
        with torch.enable_grad():
            kind = one.kinds[stage.kind]
            written = kind.compute(one, stage, context, kind.project(one, stage, read))
            found.append(torch.autograd.grad(written.square().sum(), read)[0])
    assert distance(2 * found[1], found[0]) < 1e-5


# -- methods ---------------------------------------------------------------------------------------
METHODS = {name: lookup("discovery", name) for name in names("discovery")}
RULED = [name for name, method in METHODS.items() if "rule" in signature(method).parameters]


def test_the_gradient_methods_take_a_rule() -> None:
    assert {"eap", "eap_ig", "clean_corrupted", "expected_gradients", "atp_star"} <= set(RULED)


@pytest.mark.parametrize("name", RULED)
@pytest.mark.filterwarnings("ignore:the scores of mask_gradient")
def test_a_method_follows_a_rule_and_says_so(name: str) -> None:
    m, data, method = model("llama"), dataset(LENGTHS), METHODS[name]
    given = m, data, logit_diff, counterfactual
    plain, off, bent = (method(*given, rule=rule) for rule in (None, "none", "relp"))
    assert np.array_equal(plain.values, off.values)
    assert plain.about == off.about
    assert bent.about["settings"] == {**plain.about["settings"], "rule": "relp"}
    assert distance(bent.values, plain.values) > 1e-2
    by_form = method(*given, rule=as_rule("relp"))
    assert np.array_equal(by_form.values, bent.values)
    assert by_form.about == bent.about
    with pytest.raises(ArgumentError, match="has rule='relq'; give frozen_norms"):
        method(*given, rule="relq")


def test_relp_is_eap_under_its_rule() -> None:
    given = model("llama"), dataset(LENGTHS), logit_diff, counterfactual
    one, two = METHODS["relp"](*given), METHODS["eap"](*given, rule="relp")
    assert np.array_equal(one.values, two.values)
    silent = METHODS["eap"](*given, rule=COMBINED)
    into = [".q" in str(reader) or ".k" in str(reader) for reader in one.wiring.readers]
    assert not silent.values[:, into].any()
    assert one.values[:, into].any()


# -- names -----------------------------------------------------------------------------------------
def test_rules_are_named_and_joined() -> None:
    assert as_rule("relp") == Rule(norms=True, activations=True, gates=True)
    assert as_rule("frozen_norms+frozen_slopes+half_gates") == as_rule("relp")
    joined = as_rule(COMBINED)
    assert joined == replace(as_rule("relp"), patterns=True)
    assert as_rule(str(joined)) == joined
    assert rule_settings(joined) == {"rule": str(joined)}
    assert rule_settings("none") == rule_settings(None) == {}
    assert {as_rule(one) for one in RULES} == set(RULES.values())
    for wrong in ("relq", "", "relp+", 3):
        with pytest.raises(ArgumentError, match="is not a backward rule"):
            as_rule(wrong)  # type: ignore[arg-type]


def test_a_model_of_another_make_takes_no_rules() -> None:
    class Other:
        name = "other"

    with pytest.raises(UnsupportedModelError, match="'other' takes no backward rules"):
        under(Other(), "relp")  # type: ignore[arg-type]


def test_a_slope_leaves_the_value() -> None:
    x = torch.tensor([0.1, -3.0], requires_grad=True)
    y = with_slope(x.exp(), 7 * x)
    assert torch.equal(y, x.exp())
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], torch.tensor([7.0, 7.0]))
    assert torch.equal(torch.autograd.grad(half(x).sum(), x)[0], torch.tensor([0.5, 0.5]))

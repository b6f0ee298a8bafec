"""The adapter leaves the bridge that it wraps as it was, whatever the bridge is set to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from families import FAMILIES, able, as_batch, build, dataset, distance, exactly, model
from torch import Tensor

from circuitkit.corruptions import counterfactual
from circuitkit.discovery import eap, exact
from circuitkit.engine.record import record
from circuitkit.evaluation.faithfulness import evaluate
from circuitkit.metrics import logit_diff
from circuitkit.models.checking import check
from circuitkit.models.loading import load
from circuitkit.models.transformer_lens import Transformer, from_module
from circuitkit.util.quiet import quiet

KINDS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
FORKS = ["use_split_qkv_input", "use_attn_in", "use_attn_result"]
TOKENS = torch.tensor([[3, 1, 4, 1, 5]])
SOME = ["gpt2", "neox-parallel", "llama", "gemma2", "olmo2", "native-rms", "attention-only"]
some_families = pytest.mark.parametrize("family", SOME)


def bridge_of(family: str) -> Any:
    """The family's tiny model as a bridge that has not run yet."""
    module = build(family)
    if hasattr(module, "original_model"):
        return module
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    with quiet():
        return build_bridge_from_module(
            module, architecture=type(module).__name__, hf_config=module.config, tokenizer=None
        )


def hooks(bridge: Any) -> dict[str, set[Any]]:
    """The hooks on every module of the bridge, and of what it wraps."""
    modules = [*bridge.named_modules(), *bridge.original_model.named_modules(prefix="original")]
    return {name: {hook for kind in KINDS for hook in getattr(module, kind).values()}
            for name, module in modules}  # fmt: skip


def use(m: Transformer) -> None:
    """All three verbs: run, attribute and sweep."""
    data = dataset((5, 6))
    circuit = eap(m, data, logit_diff, counterfactual).top(10)
    evaluate(m, circuit, data, logit_diff, counterfactual)
    exact(m, data, logit_diff, counterfactual)


def fired(bridge: Any, point: str) -> int:
    """How often a hook there is called in one forward of the bridge."""
    seen = []

    def count(value: Tensor, hook: Any) -> Tensor:
        seen.append(hook.name)
        return value

    bridge.run_with_hooks(TOKENS, fwd_hooks=[(point, count)])
    return len(seen)


# -- the bridge stays as it is ---------------------------------------------------------------------
@some_families
@pytest.mark.parametrize("ran", [False, True], ids=["before its first forward", "after"])
def test_no_hook_is_added_or_lost(family: str, ran: bool) -> None:
    bridge = bridge_of(family)
    fresh = hooks(bridge)
    if ran:
        bridge(TOKENS)
        assert hooks(bridge) != fresh  # a bridge's own first forward hangs up its own
    before = hooks(bridge)
    use(from_module(bridge, name=family))
    assert hooks(bridge) == before


@some_families
@pytest.mark.parametrize("wrap", [lambda bridge: use(from_module(bridge)), load],
                         ids=["run, attribute and sweep", "load"])  # fmt: skip
def test_a_hook_is_called_once_in_a_forward(family: str, wrap: Callable[[Any], Any]) -> None:
    bridge = bridge_of(family)
    bridge.set_use_hook_mlp_in(True)
    wrap(bridge)
    points = [f"blocks.1.{name}" for name in ("hook_resid_pre", "attn.hook_z", "attn.hook_out")]
    if model(family).wiring.mlp:
        points.append("blocks.1.hook_mlp_in")
    assert {point: fired(bridge, point) for point in points} == dict.fromkeys(points, 1)


def test_a_patch_that_a_user_makes_is_applied_once() -> None:
    """Dimension i of what the MLP reads is scaled by i: twice over, it would be by i²."""
    scaled = [("blocks.1.hook_mlp_in", lambda value, hook: value * torch.arange(32))]
    plain, wrapped = bridge_of("gemma2"), bridge_of("gemma2")
    use(from_module(wrapped))
    outputs = []
    for bridge in (plain, wrapped):
        bridge.set_use_hook_mlp_in(True)
        outputs.append(bridge.run_with_hooks(TOKENS, fwd_hooks=scaled))
    assert distance(outputs[1], outputs[0]) < 1e-6
    assert distance(plain(TOKENS), outputs[0]) > 1e-3


# -- what the bridge is set to ---------------------------------------------------------------------
@pytest.mark.parametrize(("family", "flag", "first"), [
    (family, flag, (number + turn) % 2 == 0)  # before it is wrapped, or after
    for number, family in enumerate(("gpt2", "llama", "olmo2")) for turn, flag in enumerate(FORKS)
])  # fmt: skip
def test_a_residual_that_is_forked_by_head_changes_nothing(
    family: str, flag: str, first: bool
) -> None:
    bridge, data = bridge_of(family), able(family)
    m = None if first else from_module(bridge, name=family)
    getattr(bridge, f"set_{flag}")(True)
    m = m or from_module(bridge, name=family)
    found, plain = (eap(one, data, logit_diff, counterfactual) for one in (m, model(family)))
    assert distance(found.values, plain.values) < 1e-4
    assert check(m).holds
    assert getattr(bridge.cfg, flag)
    assert fired(bridge, "blocks.0.attn.hook_z") == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_is_nothing_in_double_precision_either(family: str) -> None:
    """A row of padding attends to nothing: the least double is infinite in the single precision in
    which many models compute attention weights."""
    m, finals = exactly(family), []
    for padding in ("left", "right"):
        batch = as_batch(dataset(padding=padding))
        final = record(m, m.start(batch.clean, batch.mask)).final
        finals.append(final[batch.mask])
    assert not finals[0].isnan().any()
    assert distance(*finals) < 1e-5  # rotary angles and weights may be in single precision

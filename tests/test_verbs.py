"""What ``load`` admits, every verb can do; what a verb cannot do on an architecture, it says."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES, RELATIVES, SPARSE, able, build, in_turn, model
from torch import Tensor

import circuitkit as ck
from circuitkit.data.batches import Dataset
from circuitkit.errors import CircuitError, UnsupportedModelError
from circuitkit.models.checking import check
from circuitkit.patching.nodes import NODES
from circuitkit.util.options import DIRECTIONS

LENGTHS = (7, 6)
MIXED = (*SPARSE, "granite-moe", "qwen3-moe", "llama4")  # whose MLPs have no neurons to patch
# A study does what the other verbs do, one after the other: asked of one of each kind of layer.
STUDIED = ("gpt2", "neox-parallel", "llama", "gemma2", "olmo2", "mixtral", "attention-only")
# Its queries and keys are normalised behind the rotation.
LACKING = {("llama4", "attention_scores"): "are not linear in what was written"}


@cache
def data(family: str) -> Dataset:
    return replace(able(family, LENGTHS), batch_size=2)


@cache
def found(family: str) -> Any:
    return ck.discover(model(family), data(family), "logit_diff", edges=12, examples=2)


def finite(values: Any) -> bool:
    """Whether all are numbers, and not all are zero."""
    array = np.asarray(values.detach() if isinstance(values, Tensor) else values, dtype=float)
    return bool(array.size and np.isfinite(array).all() and np.abs(array).max() > 0)


def discovered(family: str) -> bool:
    result = found(family)
    return len(result.circuit.edges) > 0 and math.isfinite(result.evaluation.faithfulness)


def exactly(family: str) -> bool:
    return finite(ck.discovery.exact(model(family), data(family)).values)


def ran(family: str) -> bool:
    m, circuit = model(family), found(family).circuit
    logits = ck.run(m, circuit, data(family))
    return logits.shape == (1, 2, m.d_vocab) and finite(logits)


def measured(family: str) -> bool:
    return finite(ck.measure(model(family), found(family).circuit, data(family), "logit_diff"))


def hooked(family: str) -> bool:
    m, circuit = model(family), found(family).circuit
    hooks = ck.hooks(m, circuit, data(family))
    with torch.no_grad():
        logits = m.bridge.run_with_hooks(
            hooks.batch.clean, fwd_hooks=list(hooks), attention_mask=hooks.batch.mask.long()
        )
    return finite(logits)


def generated(family: str) -> bool:
    prompt = list(data(family).examples[0].clean)
    made = ck.generate(model(family), found(family).circuit, prompt, "zero", max_new_tokens=3)
    return made.with_circuit is not None and len(made.with_circuit.ids) == 3


def described(family: str) -> bool:
    heads = ["a0.h1", "a2.h3"]
    return len(ck.describe_heads(model(family), heads, data(family)).to_frame()) > 0


def scored(family: str) -> bool:
    return len(ck.attention_scores(model(family), ["a1.h2"], data(family)).to_frame()) > 0


def edged(family: str) -> bool:
    m = model(family)
    effects = [ck.patch_edges(m, ["input->logits", "a0.h1->a1.h2<q>"], data(family), direction=d)
               for d in DIRECTIONS]  # fmt: skip
    return all(np.isfinite(one.values).all() for one in effects)


def pathed(family: str) -> bool:
    m = model(family)
    effects = ck.patch_path(m, ["a0.h1", "a2.h3.q", "a2.h3", "logits"], data(family))
    senders = ck.patch_senders(m, "a2.h3.q", data(family))
    return bool(np.isfinite(effects.values).all()) and senders is not None


def joined(family: str) -> bool:
    groups = {"two": ("a0.h1", "a2.h3")}
    windows = ck.patch_windows(model(family), "attn_out", data(family), sizes=(2,))
    return finite(ck.patch_together(model(family), groups, data(family)).values) and bool(windows)


def studied(family: str) -> bool:
    made = ck.study(
        model(family), data(family), ("logit_diff",), ["counterfactual"], only=None,
        groups={"two": ("a0.h1", "a2.h3")}, windows=(2,), batch_size=2,
    )  # fmt: skip
    return len(made.effects) > 0


def attended(family: str) -> bool:
    return finite(ck.attention_to(model(family), ["a0.h1"], data(family), at="subject"))


VERBS: dict[str, Callable[[str], bool]] = {
    "discover": discovered, "exact": exactly, "run": ran, "measure": measured, "hooks": hooked,
    "generate": generated, "describe_heads": described, "attention_scores": scored,
    "attention_to": attended, "patch_edges": edged, "patch_path": pathed, "together": joined,
    "study": studied,
}  # fmt: skip


@pytest.mark.parametrize(("family", "verb"), [
    (family, verb) for family in (*FAMILIES, *RELATIVES) for verb in VERBS
    if family in STUDIED or verb != "study"
])  # fmt: skip
def test_every_verb_can_do_every_model(family: str, verb: str) -> None:
    if (family, verb) in LACKING:
        with pytest.raises(UnsupportedModelError, match=LACKING[family, verb]):
            VERBS[verb](family)
        return
    assert VERBS[verb](family)


@pytest.mark.parametrize(
    ("family", "direction"), [*in_turn(*DIRECTIONS), *((family, "denoise") for family in RELATIVES)]
)
def test_every_kind_of_node_is_patched_in_every_model(family: str, direction: str) -> None:
    m = model(family)
    for kind in NODES:
        lacks = {"mlp_out": not m.wiring.mlp, "neurons": not m.wiring.mlp or family in MIXED,
                 "resid_mid": m.wiring.parallel}  # fmt: skip
        if lacks.get(kind):
            with pytest.raises(CircuitError, match=r"layer|MLP"):
                ck.patch_nodes(m, kind, data(family), direction=direction)
            continue
        effects = ck.patch_nodes(m, kind, data(family), direction=direction)
        assert finite(effects.values), kind


@pytest.mark.parametrize("family", RELATIVES)
def test_the_check_holds_for_relatives_too(family: str) -> None:
    assert all(row.error < 1e-4 for row in check(model(family)).rows)


@pytest.mark.parametrize("family", MIXED)
def test_mixtures_of_experts_run_in_double_precision(family: str) -> None:
    loaded = ck.load(build(family), dtype="float64")
    assert loaded.dtype == torch.float64
    assert finite(ck.discovery.eap(loaded, data(family)).values)


@pytest.mark.parametrize("router", ["live", "held"])
@pytest.mark.parametrize("kind", ["bfloat16", "float64"])
@pytest.mark.parametrize("family", ["mixtral", "gpt-oss"])
def test_experts_are_taken_apart_in_every_precision(family: str, kind: str, router: str) -> None:
    loaded = ck.load(build(family), dtype=kind, experts=router)
    assert finite(ck.patch_heads(loaded, data(family)).values)

"""A model whose layers are on several devices gives what it gives on one.

No test here has a GPU: tensors say where they are (``fake_devices``), and an operation on tensors
of several devices raises, as there. So a move that is missing anywhere turns a test red. What one
GPU computes, also beside a layer on the CPU, is for ``test_gpu.py``; two have run neither.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_devices import Devices, WrongDevice, at, put, spread
from families import build, examples
from torch import nn

import circuitkit as ck
from circuitkit.data.batches import Dataset
from circuitkit.data.places import places
from circuitkit.engine import memory
from circuitkit.engine.devices import devices, moved
from circuitkit.engine.inputs import as_data
from circuitkit.engine.record import record
from circuitkit.engine.resolution import path_resolved
from circuitkit.engine.run import runs
from circuitkit.errors import ModelError, UnsupportedModelError
from circuitkit.graph.places import PlacedMask
from circuitkit.models.loading import MAPS
from circuitkit.models.transformer_lens import Transformer, from_module

# Heads in a row; groups of heads with rotary angles; norms behind, and over all queries at once.
FAMILIES = ("gpt2", "llama", "olmo2")
GPUS = ("cuda:0", "cuda:1", "cuda:2")
COUNTERFACTUAL = ("logit_diff", "counterfactual")
MEAN = ("logit_diff", "mean")


@pytest.fixture(autouse=True)
def _gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch would say of GPUs: there is room."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**30, 2**30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 0)


@cache
def models(family: str) -> tuple[Transformer, Transformer]:
    """The family's tiny model on one device, and with each layer on another one."""
    with Devices():
        apart = from_module(spread(build(family), *GPUS), name=family)
    return from_module(build(family), name=family), apart


def prompts(model: Transformer) -> Dataset:
    return Dataset(examples((6, 5, 6)), 2, str(model.device))


Act = Callable[[Transformer, Dataset], Any]


def method(name: str, *how: str, **settings: Any) -> Act:
    def act(model: Transformer, data: Dataset) -> Any:
        found = getattr(ck.discovery, name)(model, data, *how, **settings)
        return found.values if found.groups is None else found.groups

    return act


def by_span(model: Transformer, data: Dataset) -> Any:
    where = places(data, model.wiring)
    found = ck.discovery.eap_ig(model, data, *COUNTERFACTUAL, steps=2, places=where)
    return np.concatenate([found.residual.ravel(), found.attention.ravel()])


def patched(name: str, *what: Any, **settings: Any) -> Act:
    def act(model: Transformer, data: Dataset) -> Any:
        found = getattr(ck, name)(model, *what, data, *COUNTERFACTUAL, **settings)
        return found.values if hasattr(found, "values") else found.joint[2].values

    return act


def masks(model: Transformer, data: Dataset) -> Any:
    """Circuits of all sizes, together; weights; and a mask for each example."""
    rng, legal = np.random.default_rng(0), model.wiring.legal
    keeps: list[Any] = [legal & (rng.random(legal.shape) < share) for share in (0.1, 0.4, 0.9, 1)]
    keeps.append(legal * rng.random(legal.shape))
    found = []
    for batch in data:
        own = torch.tensor(rng.random((len(batch), *legal.shape)))
        context = model.start(batch.clean, batch.mask)
        carried = record(model, model.start(batch.corrupt, batch.mask))
        with torch.no_grad():
            found += [x.cpu() for x in runs(model, batch, context, carried, [*keeps, own])]
    return torch.cat(found)


def placed_masks(model: Transformer, data: Dataset) -> Any:
    """Circuits between places; and weights of one, with a gradient."""
    where, rng, found = places(data, model.wiring), np.random.default_rng(0), []
    legal = where.legal.residual, where.legal.attention
    for share in (0.3, 0.9, 1):
        tables = [table * (rng.random(table.shape) < share) for table in legal]
        found.append(PlacedMask(where, *tables))
    tables = [torch.tensor(table * rng.random(table.shape)).requires_grad_() for table in legal]
    found.append(PlacedMask(where, *tables))
    return ck.run(model, found, data, "counterfactual").detach().cpu()


def placed_effects(model: Transformer, data: Dataset) -> Any:
    names = ["a0.h1@subject->m1@subject", "a1.g0.v@subject->a1.h1@end"]
    return ck.patch_edges(model, names, data, *COUNTERFACTUAL).values


def circuit(model: Transformer, data: Dataset) -> Any:
    found = ck.discovery.eap(model, data, *COUNTERFACTUAL).top(20)
    return [ck.evaluate(model, found, data, "logit_diff", how).faithfulness
            for how in ("counterfactual", "mean", "zero")]  # fmt: skip


def proof(model: Transformer, data: Dataset) -> Any:
    return [row.holds for row in ck.check(model).rows]


def hooked(model: Transformer, data: Dataset) -> Any:
    """A circuit as hooks on the bridge."""
    found = ck.discovery.eap(model, data, *COUNTERFACTUAL).top(40)
    hooks = ck.hooks(model, found, data, "counterfactual")
    with torch.no_grad():
        logits: torch.Tensor = model.bridge.run_with_hooks(hooks.batch.clean, fwd_hooks=hooks)
    return logits.cpu()


def described(model: Transformer, data: Dataset) -> Any:
    found = ck.describe_heads(model, ["a0.h1", "a2.h3"], data, at=["subject"])
    return found.to_frame().select_dtypes("number").to_numpy()


ACTS: dict[str, Act] = {
    "the proof": proof,
    "attribution": method("eap", *COUNTERFACTUAL),
    "of each example": method("eap", *MEAN, groups="examples"),
    "by span": by_span,
    "along a path": method("eap_ig", *COUNTERFACTUAL, steps=2),
    "stage by stage": method("eap_ig_activations", *COUNTERFACTUAL, steps=1),
    "by a rule": method("eap", "logit_diff", "zero", rule="relp"),
    "of a mask": method("mask_gradient", *COUNTERFACTUAL, steps=2, norms="clean"),
    "repaired": method("atp_star", *COUNTERFACTUAL),
    "baselines": method("information_flow"),
    "steepness": method("gradient_norm", "logit_diff"),
    "exact effects": method("exact", *COUNTERFACTUAL),
    "learned masks": method("edge_pruning", *MEAN, runs=4),
    "peaks": method("eap", "logit_diff", "peak"),
    "noise": method("eap", "logit_diff", "noise"),
    "learned constants": method("eap", "logit_diff", "optimal(steps=1)"),
    "masks": masks,
    "masks between places": placed_masks,
    "effects between places": placed_effects,
    "a circuit": circuit,
    "the residual stream": patched("patch_nodes", "resid_pre"),
    "queries": patched("patch_nodes", "q"),
    "neurons": patched("patch_nodes", "neurons", layers=[1]),
    "paths": patched("patch_paths", [["m0", "logits"], ["a0.h0", "m1", "logits"]]),
    "nodes together": patched("patch_together", {"x": ["m0", "a1.h0"], "y": ["a0.h1", "input"]}),
    "windows": patched("patch_windows", "mlp_out", sizes=[2]),
    "attention": lambda m, d: ck.attention_to(m, ["a1.h0", "a2.h1"], d, at=["subject"]).values,
    "why heads attend": lambda m, d: ck.attention_scores(m, ["a2.h1"], d, at=["subject"]).values,
    "heads": described,
    "hooks": hooked,
    "the way between two runs": lambda m, d: path_resolved(m, d, *COUNTERFACTUAL).values,
}
ALL = {"the proof", "attribution", "masks", "masks between places", "exact effects"}


@pytest.mark.filterwarnings("ignore::circuitkit.graph.scores.ScoresWarning")  # few steps
@pytest.mark.parametrize(
    ("family", "name"),
    [
        pytest.param(family, name, marks=[] if family in own else [pytest.mark.weekly])
        for family in FAMILIES
        for number, name in enumerate(ACTS)
        if family == "llama" or name in ALL
        for own in [("llama", ("gpt2", "olmo2")[number % 2])]
    ],
)
def test_layers_on_several_devices_give_what_they_give_on_one(family: str, name: str) -> None:
    one, apart = models(family)
    expected = np.asarray(ACTS[name](one, prompts(one)), float)
    with Devices():
        found = ACTS[name](apart, prompts(apart))
    found = np.asarray(found, float)
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-5 * np.nanmax(np.abs(expected)),
                                  nan_ok=True)  # fmt: skip


def test_a_dataset_is_put_where_the_model_is() -> None:
    """That of a compiled program, or of a model on another device, names its own."""
    one, apart = models("llama")
    with Devices():
        own = prompts(apart)
        expected = ck.discovery.eap(apart, own, *COUNTERFACTUAL)
        found = ck.discovery.eap(apart, prompts(one), *COUNTERFACTUAL)
    assert own.device != prompts(one).device
    assert np.array_equal(found.values, expected.values)
    assert as_data(one, prompts(one)) == prompts(one)


def test_what_belongs_to_a_layer_is_where_it_computes() -> None:
    with Devices():
        model = models("llama")[1]
        batch = next(iter(prompts(model)))
        context = model.start(batch.clean, batch.mask)
        run = record(model, context)
        assert [str(device) for device in devices(model)] == [*GPUS]
        assert at(run.embed) == at(run.final) == model.device == torch.device("cuda:0")
        for stage in model.wiring.stages:
            here = torch.device(GPUS[stage.layer])
            own = run.reads[stage.index], run.computed[stage.index], run.shares[stage.index]
            assert {at(x) for x in own} == {here}
            cosine, sine = context.calls[stage.layer]["position_embeddings"]
            assert at(cosine) == at(sine) == here


def test_a_move_that_is_missing_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """In each place of the engine that moves something, without the move."""
    model = models("llama")[1]
    for name, rooms in (("attribution", ("record", "attribute")), ("exact effects", ("sweep",)),
                        ("masks", ("run", "dense")), ("by span", ("placed_scores",))):  # fmt: skip
        for place in rooms:
            with monkeypatch.context() as without:
                without.setattr(f"circuitkit.engine.{place}.moved", lambda x, device: x)
                with pytest.raises(WrongDevice), Devices():
                    ACTS[name](model, prompts(model))


def test_tensors_of_several_devices_do_not_meet() -> None:
    with Devices() as place:
        a, b = (torch.ones(2, device=gpu, requires_grad=True) for gpu in GPUS[:2])
        with pytest.raises(WrongDevice, match="cuda:0', 'cuda:1"):
            a + b
        with pytest.raises(WrongDevice):
            a[torch.tensor([0])]
        c = (a.to(b.device) + b) * torch.tensor(2.0)
        slopes = torch.autograd.grad(c.sum(), [a, b])
        assert [str(at(x)) for x in (c, *slopes)] == ["cuda:1", "cuda:0", "cuda:1"]
        assert place.waits == 0
        assert float(c[0].detach()) == 4
        assert place.waits == 1


def test_a_gpu_is_not_waited_for_by_each_gradient() -> None:
    def blind(logits: torch.Tensor, *_: object) -> torch.Tensor:
        return logits[:, 3] - logits[:, 5]  # some metrics look at the answers themselves

    model, waits = models("llama")[1], []
    for steps in (1, 3):
        with Devices() as place:
            ck.discovery.eap_ig(model, prompts(model), blind, "counterfactual", steps=steps)
        waits.append(place.waits)
    assert waits[0] == waits[1] > 0


def test_a_gpu_is_not_waited_for_by_each_edge() -> None:
    model = models("llama")[1]
    with Devices() as place:
        ACTS["exact effects"](model, prompts(model))
    assert place.waits < model.wiring.n_edges


# -- loading ---------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("saved")
    build("llama").save_pretrained(place)
    return place


PARTS = ("model.embed_tokens", "model.layers", "model.norm", "model.rotary_emb", "lm_head")
EACH = dict.fromkeys(PARTS, "cpu")


@pytest.mark.parametrize("device_map", ["auto", EACH])
def test_a_saved_model_is_placed_by_accelerate(saved: Path, device_map: Any) -> None:
    tokenizer = ck.load("mini").tokenizer
    model = ck.load(saved, device_map=device_map, tokenizer=tokenizer)
    plain = ck.load(saved, tokenizer=tokenizer)
    tokens = torch.tensor([[1, 5, 3, 2]])
    one, other = (m.start(tokens, tokens > 0).embed for m in (model, plain))
    assert one.equal(other)
    assert devices(model) == [torch.device("cpu")]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device_map": "auto", "device": "cpu"}, "both say where the weights go; give one"),
        ({"device_map": "abacus"}, "'abacus' is not a device map; choose auto, balanced"),
        ({"device_map": {}}, "is not a device map"),
        ({"device_map": {**EACH, "lm_head": "disk"}}, "leaves 'lm_head' on 'disk'.*more devices"),
        ({"device_map": {"": "abacus:7"}}, "the device 'abacus:7' cannot be used"),
        ({"device_map": {**EACH, "lm_head": 1}}, "'model.embed_tokens' on 'cpu', to be copied"),
    ],
)
def test_a_device_map_that_cannot_be_followed_is_refused(
    saved: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        ck.load(saved, **settings)


def test_a_device_map_is_for_saved_models() -> None:
    for given in (build("gpt2"), ck.rasp.compile_program(ck.rasp.named("reverse"))):
        with pytest.raises(ModelError, match="places the weights of a saved model"):
            ck.load(given, device_map="auto")


def test_what_accelerate_has_dispatched_is_taken_and_stays_as_it_is() -> None:
    from accelerate import dispatch_model

    module = build("llama").eval()
    dispatch_model(module, {"": "cpu"}, force_hooks=True)
    assert ck.load(module).wiring.n_edges == 190
    assert hasattr(module.lm_head, "_hf_hook")


def test_layers_on_the_disk_are_refused(tmp_path: Path) -> None:
    from accelerate import dispatch_model

    module = build("llama").eval()
    layers = {f"model.layers.{i}": "disk" if i == 1 else "cpu" for i in range(3)}
    parts = {key: "cpu" for key in PARTS if key != "model.layers"}
    dispatch_model(module, {**parts, **layers}, offload_dir=tmp_path)
    with pytest.raises(ModelError, match=r"'model.layers.1' is on 'disk'.*more devices or memory"):
        ck.load(module)


@pytest.mark.parametrize(("family", "part"), [("llama", "q_proj"), ("gpt2", "c_attn")])
def test_quantised_heads_are_refused(family: str, part: str) -> None:
    module = build(family)
    for name, one in module.named_modules():
        if name.endswith(part):
            one.weight = nn.Parameter(one.weight.detach().to(torch.int8), requires_grad=False)
    with pytest.raises(UnsupportedModelError, match=rf"{part}.weight' .* quantised \(int8\).*load"):
        ck.load(module)


def test_a_layer_on_two_devices_is_refused() -> None:
    with Devices():
        module = spread(build("llama"), *GPUS)
        put(module.model.layers[1].mlp.up_proj.weight, torch.device("cuda:2"))
        with pytest.raises(UnsupportedModelError, match=r"on several devices \(cuda:1, cuda:2\)"):
            from_module(module, name="split")


def test_the_command_line_names_the_same_maps() -> None:
    from circuitkit.cli._options import machine

    (option,) = (one for one in machine()._actions if one.dest == "device_map")
    assert tuple(option.choices or ()) == MAPS


# -- memory ----------------------------------------------------------------------------------------
def test_the_device_with_the_least_room_bounds_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    free = {GPUS[0]: 5 * 2**30, GPUS[1]: 2**30, GPUS[2]: 3 * 2**30}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[str(device)], 2**40))
    with Devices():
        assert memory.room_of(models("llama")[1]) == memory.SPARE * 2**30


@pytest.mark.parametrize("size", [1e6, 1e9])
def test_what_a_gpu_multiplies_with_is_part_of_the_memory_that_is_given(
    size: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its libraries take theirs beside the tensors, at the first product and in each."""
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 50)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**40, 2**40))
    gpu = torch.device(GPUS[0])
    given = 50 + memory.takes(gpu, size)
    assert given >= 50 + size / memory.SPARE + 3 * 32 * 2**20
    assert memory.room(gpu, int(given)) == pytest.approx(size, rel=1e-6)
    assert memory.room(gpu, 60 * 2**20) < 0


def test_tensors_are_counted_device_by_device() -> None:
    def work() -> None:
        here, there = torch.ones(1000), torch.ones(600, device="meta")
        del here
        torch.ones(700, device="meta") + there.sum()

    assert memory.peak(work) == 4 * (600 + 700 + 700 + 1)


def test_moving_is_nothing_where_a_tensor_is() -> None:
    x = torch.ones(2)
    assert moved(x, x.device) is x

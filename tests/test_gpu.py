"""What a GPU computes is what the processor computes, as near as their arithmetic allows.

Where torch sees no GPU (as in CI) nothing of this is run; ``test_devices.py`` tests there that
nothing meets on two devices.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import (
    CORRUPTIONS,
    FAMILIES,
    RELATIVES,
    able,
    as_batch,
    build,
    dataset,
    distance,
    examples,
    model,
)
from scipy.stats import spearmanr
from test_contracts import BRIEF, discover, tensors
from test_devices import ACTS, ALL, prompts
from test_json import CASES, DISCOVER, FEW, MORE
from transformers import GPT2Config, GPT2LMHeadModel

import circuitkit as ck
from circuitkit.cli.main import build_parser, main
from circuitkit.corruptions.replacement import counterfactual
from circuitkit.data.batches import Dataset
from circuitkit.discovery.sweeps import exact
from circuitkit.engine.devices import devices
from circuitkit.engine.inputs import prepare
from circuitkit.engine.memory import held
from circuitkit.engine.record import answer, record
from circuitkit.engine.run import run
from circuitkit.errors import ArgumentError, BudgetError, ModelError
from circuitkit.metrics.answers import logit_diff
from circuitkit.models.checking import check
from circuitkit.models.transformer_lens import Transformer, from_module
from circuitkit.registry import names, resolve

if not torch.cuda.is_available():
    pytest.skip("torch sees no GPU", allow_module_level=True)

GPU = "cuda:0"
KINDS = ("gpt2", "llama", "gemma2", "olmo2", "mixtral")
LEARNED = ("nested", "ugs", "edge_pruning")  # whose steps follow each other
LAYER = re.compile(r".*\.(?:h|layers)\.1")
pytestmark = [
    pytest.mark.filterwarnings("ignore::circuitkit.graph.scores.ScoresWarning"),
    pytest.mark.filterwarnings("ignore::circuitkit.graph.digests.WeightsWarning"),
]
every_act = pytest.mark.parametrize(
    ("family", "name"),
    [(family, name) for family in ("llama", "gpt2", "olmo2") for name in ACTS
     if family == "llama" or name in ALL],
)  # fmt: skip


@cache
def on_gpu(family: str) -> Transformer:
    """The family's tiny model on the GPU."""
    return from_module(build(family).to(GPU), name=family)


@cache
def apart(family: str) -> Transformer:
    """The same with its middle layer on the processor, so that all go there and back."""
    module = build(family).to(GPU)
    for name, part in module.named_modules():
        if LAYER.fullmatch(name):
            part.to("cpu")
    return from_module(module, name=family)


def there(data: Dataset) -> Dataset:
    return Dataset(data.examples, data.batch_size, GPU, padding=data.padding)


def require_same(found: Any, expected: Any, rel: float = 1e-3, part: float = 1e-4) -> None:
    """Equal within rounding; what is almost zero, within a part of the largest."""
    found, expected = np.asarray(found, float), np.asarray(expected, float)
    room = part * np.nanmax(np.abs(expected), initial=0)
    assert found == pytest.approx(expected, rel=rel, abs=room, nan_ok=True)


# -- every family, every verb ----------------------------------------------------------------------
@pytest.mark.parametrize("name", sorted(ALL))
@pytest.mark.parametrize("family", [*FAMILIES, *RELATIVES])
def test_a_family_gives_what_it_gives_on_the_processor(family: str, name: str) -> None:
    one, other = model(family), on_gpu(family)
    assert devices(other) == [torch.device(GPU)]
    require_same(ACTS[name](other, prompts(other)), ACTS[name](one, prompts(one)))


@every_act
def test_a_verb_gives_what_it_gives_on_the_processor(family: str, name: str) -> None:
    one, other = model(family), on_gpu(family)
    require_same(ACTS[name](other, prompts(other)), ACTS[name](one, prompts(one)))


@every_act
def test_a_layer_on_the_processor_gives_the_same(family: str, name: str) -> None:
    one, other = model(family), apart(family)
    assert [str(device) for device in devices(other)] == [GPU, "cpu"]
    require_same(ACTS[name](other, prompts(other)), ACTS[name](one, prompts(one)))


@pytest.mark.parametrize("method", names("discovery"))
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_method_scores_what_it_scores_on_the_processor(family: str, method: str) -> None:
    found, expected = (
        discover(method, m, data).values
        for m, data in (
            (on_gpu(family), there(dataset(BRIEF))), (model(family), dataset(BRIEF))
        )
    )  # fmt: skip
    if method in LEARNED:
        legal = model(family).wiring.legal
        assert spearmanr(found[legal], expected[legal]).statistic > 0.95
    else:
        require_same(found, expected)


@pytest.mark.parametrize("method", names("discovery"))
def test_a_method_scores_the_same_each_time_on_a_gpu(method: str) -> None:
    m, data = on_gpu("llama"), there(dataset(BRIEF))
    one, two = (discover(method, m, data).values for _ in range(2))
    assert np.array_equal(one, two)


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("family", KINDS)
def test_a_corruption_carries_what_it_carries_on_the_processor(family: str, name: str) -> None:
    runs = []
    for m, data in ((on_gpu(family), there(dataset())), (model(family), dataset())):
        batch = as_batch(data)
        runs.append((resolve("corruptions", name)(m, data)(batch), batch.mask.cpu()))
    (found, mask), (expected, _) = runs
    assert len(found) == len(expected)
    for one, two in zip(found, expected, strict=True):
        for a, b in zip(tensors(one), tensors(two), strict=True):
            assert str(a.device) == GPU
            require_same(a.cpu()[mask], b[mask])


@pytest.mark.parametrize("metric", names("metrics"))
def test_a_metric_is_what_it_is_on_the_processor(metric: str) -> None:
    data = able("llama")
    for m, own in ((on_gpu("llama"), there(data)), (model("llama"), data)):
        found = ck.evaluate(m, m.wiring.legal, own, metric, "counterfactual")
        values = [found.everything, found.nothing, found.circuit]
        if m is on_gpu("llama"):
            first = values
    require_same(first, values)


# -- laws in half precision ------------------------------------------------------------------------
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", KINDS)
def test_the_laws_hold_in_half_precision(family: str, kind: torch.dtype) -> None:
    if family == "olmo2":
        pytest.skip("TransformerLens runs it in single precision only")
    m, data = from_module(build(family).to(GPU, kind), name=family), there(dataset((9, 7, 9, 5)))
    assert check(m).holds
    batch, legal = as_batch(data), m.wiring.legal
    with torch.no_grad():
        context = m.start(batch.clean, batch.mask)
        carried = record(m, m.start(batch.corrupt, batch.mask))
        clean = answer(m, batch, record(m, context).final)
        assert distance(run(m, batch, context, carried, legal), clean) < 0.1
        nothing = run(m, batch, context, carried, np.zeros_like(legal))
        assert torch.equal(nothing, answer(m, batch, carried.final))
        assert distance(nothing, clean) > 0.1
    found = ck.discovery.eap(m, data, "logit_diff", "counterfactual").values
    plain = dataset((9, 7, 9, 5))
    expected = ck.discovery.eap(model(family), plain, "logit_diff", "counterfactual").values
    assert np.isfinite(found).all()
    assert spearmanr(found[legal], expected[legal]).statistic > 0.8


# -- exact effects ---------------------------------------------------------------------------------
@pytest.mark.parametrize("family", KINDS)
def test_an_exact_effect_is_that_of_its_own_run(family: str) -> None:
    m, data = on_gpu(family), there(dataset())
    found, w = exact(m, data, logit_diff, counterfactual).values, m.wiring
    effects = np.zeros_like(found)
    chosen = np.random.default_rng(0).permutation(np.argwhere(w.legal))[:40].tolist()
    with torch.no_grad():
        for batch in data:
            context = m.start(batch.clean, batch.mask)
            carried = record(m, m.start(batch.corrupt, batch.mask))
            logits = answer(m, batch, record(m, context).final)
            plain = logit_diff(logits, logits, batch).sum()
            for row, column in chosen:
                keep = w.legal.copy()
                keep[row, column] = False
                own = run(m, batch, context, carried, keep)
                effects[row, column] += float(plain - logit_diff(own, own, batch).sum())
    rows, columns = np.transpose(chosen)
    expected = effects[rows, columns] / len(data)
    room = 1e-4 * float(np.abs(found).max())
    assert found[rows, columns] == pytest.approx(expected, rel=1e-3, abs=room)


# -- memory ----------------------------------------------------------------------------------------
@cache
def wide() -> Transformer:
    torch.manual_seed(0)
    config = GPT2Config(n_layer=6, n_embd=256, n_head=8, vocab_size=60, n_positions=64,
                        bos_token_id=None, eos_token_id=None)  # fmt: skip
    return from_module(GPT2LMHeadModel(config).to(GPU), name="wide")


@pytest.mark.parametrize("more", [60, 150, 400])
@pytest.mark.parametrize("job", ["eap_ig", "exact", "curve"])
def test_the_memory_that_is_given_is_kept(job: str, more: int) -> None:
    m, device = wide(), torch.device(GPU)
    data = Dataset(examples((24,) * 96), 96, GPU)
    scores = ck.discovery.random(m, data)
    given = held(device) + more * 2**20
    torch.cuda.reset_peak_memory_stats(device)
    try:
        cut = prepare(m, data, memory=given).data
    except BudgetError:
        assert more == 60  # less than cuBLAS may take
        return
    if job == "eap_ig":
        ck.discovery.eap_ig(m, cut)
    elif job == "exact":
        exact(m, cut, logit_diff, counterfactual, edges=[*scores][:: len([*scores]) // 200])
    else:
        ck.curve(m, scores, cut, "logit_diff")
    assert torch.cuda.max_memory_allocated(device) <= given


# -- loading ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "where", [{"device": "cuda"}, {"device": GPU}, {"device_map": "auto"}, {"device_map": {"": 0}}]
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_saved_model_is_loaded_onto_the_gpu(where: dict[str, Any], dtype: str) -> None:
    m = ck.load("mini", dtype=dtype, **where)
    assert devices(m) == [torch.device(GPU)]
    assert m.dtype == getattr(torch, dtype)
    found = ck.discovery.eap(m, "ioi").values
    expected = ck.discovery.eap(ck.load("mini"), "ioi").values
    if dtype == "float32":
        require_same(found, expected)
    else:
        legal = m.wiring.legal
        assert spearmanr(np.abs(found[legal]), np.abs(expected[legal])).statistic > 0.9


def test_layers_that_are_left_to_the_processor_are_refused() -> None:
    parts = ("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head", "model.layers.0",
             "model.layers.1", "model.layers.2", "model.layers.3")  # fmt: skip
    with pytest.raises(ModelError, match="copied to a GPU"):
        ck.load("mini", device_map={**dict.fromkeys(parts, 0), "model.layers.3": "cpu"})
    with pytest.raises(ModelError, match="'cuda:77' cannot be used"):
        ck.load("mini", device="cuda:77")


def test_a_compiled_program_runs_there() -> None:
    program = ck.rasp.named("reverse")
    found, expected = (
        ck.discovery.exact(ck.load(ck.rasp.compile_program(program), device=at), program.data(8))
        for at in (GPU, "cpu")
    )
    require_same(found.values, expected.values)


# -- the command line ------------------------------------------------------------------------------
def takes_device(arguments: list[str]) -> bool:
    try:
        build_parser().parse_args([*arguments, "--device", "cpu"])
    except ArgumentError:
        return False
    return True


COMMANDS = {f"{i}-{name}": arguments for i, (name, arguments) in enumerate(CASES)
            if takes_device(arguments) and "--plan" not in arguments}  # fmt: skip
COMMANDS |= {f"discover-{key}": ["discover", "ioi", *more] for key, more in MORE.items()}
TIMES = ("seconds", "took", "device", "output", "folder", "files", "memory", "mebibytes")


def numbers(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """What a command says, leaf by leaf, without times and places, nor that ``replay`` names the
    device as what differs."""
    if isinstance(value, dict):
        if value.get("quantity") == "device":
            return
        for key, one in value.items():
            if not any(word in key for word in TIMES):
                yield from numbers(one, f"{place}.{key}")
    elif isinstance(value, list):
        for i, one in enumerate(value):
            yield from numbers(one, f"{place}[{i}]")
    else:
        yield place, value


@pytest.mark.parametrize("key", COMMANDS)
def test_a_command_says_what_it_says_on_the_processor(
    key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {}
    for device in ("cuda", "cpu"):
        place = tmp_path / device
        place.mkdir()
        monkeypatch.chdir(place)
        assert main([*DISCOVER, "eap", "-o", "run", "--quiet", *FEW]) == 0
        found = ck.Circuit.load(place / "run" / "circuit.json")
        found.save(place / "other.json")
        found.remove_edge(*found.to_frame().iloc[-1][["writer", "reader"]])
        found.save(place / "smaller.json")
        capsys.readouterr()
        assert main([*COMMANDS[key], "--device", device, "--json", "--quiet"]) == 0
        said[device] = dict(numbers(json.loads(capsys.readouterr().out)))
    assert said["cuda"].keys() == said["cpu"].keys()
    both = {place: (found, said["cpu"][place]) for place, found in said["cuda"].items()}
    assert {place: pair for place, pair in both.items() if not is_same(*pair)} == {}


def is_same(found: Any, expected: Any) -> bool:
    """Whether two leaves are equal, numbers within rounding."""
    if type(found) is type(expected) is float:
        return bool(found == pytest.approx(expected, rel=5e-3, abs=2e-3, nan_ok=True))
    return bool(found == expected)

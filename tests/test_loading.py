"""``load`` takes what people have at hand, and leaves it as it was."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families import build, dataset, distance, model
from torch import Tensor, nn

from circuitkit.corruptions import counterfactual
from circuitkit.data.batches import Dataset
from circuitkit.data.tasks import make_task
from circuitkit.discovery import eap
from circuitkit.engine.memory import peak
from circuitkit.errors import DataError, ModelError, UnsupportedModelError
from circuitkit.evaluation.faithfulness import evaluate
from circuitkit.metrics import logit_diff
from circuitkit.models.loading import MINI, load
from circuitkit.models.transformer_lens import Transformer, from_module
from circuitkit.truth.rasp import compile_program, programs
from circuitkit.util.quiet import quiet

pytestmark = pytest.mark.own_mini

TOKENS = torch.tensor([[3, 1, 4, 1, 5]])
SOME = ["gpt2", "neox-parallel", "llama", "gemma2", "mixtral", "native-rms"]
KINDS = ("module", "bridge")
GIVEN = [  # one kind of each family at every change
    pytest.param(family, kind, marks=[] if number % 2 == turn else [pytest.mark.weekly])
    for number, family in enumerate(SOME)
    for turn, kind in enumerate(KINDS)
    if family[:6] + kind != "nativemodule"
]
given_of = pytest.mark.parametrize(("family", "kind"), GIVEN)


def bridge_of(module: Any) -> Any:
    """A bridge around the module."""
    if hasattr(module, "original_model"):
        return module
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    with quiet():
        return build_bridge_from_module(
            module, architecture=type(module).__name__, hf_config=module.config, tokenizer=None
        )


def given(family: str, kind: str) -> Any:
    """A module or a bridge, in training mode, that has run once."""
    module = build(family)
    made = (module if kind == "module" else bridge_of(module)).train()
    logits(made)
    return made


def logits(module: nn.Module) -> Tensor:
    """The plain outputs."""
    torch.manual_seed(0)  # of dropout
    out = module(TOKENS)
    return out if isinstance(out, Tensor) else out.logits


def gradients(module: nn.Module) -> dict[str, Tensor]:
    """The gradients of a loss in all weights."""
    module.zero_grad()
    logits(module).log_softmax(-1)[..., 7].sum().backward()
    return {name: w.grad.clone() for name, w in module.named_parameters() if w.grad is not None}


def state(module: Any) -> dict[str, Any]:
    """All that someone who gives a module can look at."""
    root = getattr(module, "original_model", module)
    parts = {**dict(module.named_modules()), **{f"root.{n}": m for n, m in root.named_modules()}}
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "parts": {name: id(part) for name, part in parts.items()},
        "mode": {name: part.training for name, part in parts.items()},
        "hooks": {n: [list(getattr(p, kind).values()) for kind in hooks] for n, p in parts.items()},
        "weights": {n: (id(w), w.requires_grad, w.dtype, w.device, w._version, w.data_ptr())
                    for n, w in module.named_parameters()},
        "buffers": {n: (id(b), b.dtype, b._version) for n, b in module.named_buffers()},
        "config": copy.deepcopy(vars(root.config)) if hasattr(root, "config") else None,
        "attention": getattr(getattr(root, "config", None), "_attn_implementation", None),
        "settings": copy.deepcopy(vars(module.cfg)) if hasattr(module, "cfg") else None,
        "attributes": {n: sorted(vars(part)) for n, part in parts.items()},
    }  # fmt: skip


def use(m: Transformer) -> None:
    """Attribute and run."""
    data = dataset((5, 6))
    evaluate(m, eap(m, data, logit_diff, counterfactual).top(9), data, logit_diff, counterfactual)


# -- what is given stays as it is ------------------------------------------------------------------
@given_of
def test_what_is_given_stays_as_it_is(family: str, kind: str) -> None:
    module = given(family, kind)
    if kind == "module":
        module.config._attn_implementation = "eager" if family == "gemma2" else "sdpa"
    before, output = state(module), logits(module).detach()
    m = load(module)
    assert state(module) == before
    use(m)
    assert state(module) == before
    assert torch.equal(logits(module), output)


@given_of
def test_its_gradients_are_those_of_one_never_loaded(family: str, kind: str) -> None:
    plain, module = given(family, kind), given(family, kind)
    m = load(module)
    expected, at_once = gradients(plain), gradients(module)
    use(m)
    found = gradients(module)
    assert found.keys() == at_once.keys() == expected.keys()
    assert all(torch.equal(found[name], grad) for name, grad in expected.items())
    assert all(torch.equal(at_once[name], grad) for name, grad in expected.items())
    assert max(float(grad.abs().max()) for grad in expected.values()) > 0


@given_of
def test_the_model_around_it_is_the_one_around_a_directory(family: str, kind: str) -> None:
    data = dataset((5, 6))
    found = eap(load(given(family, kind)), data, logit_diff, counterfactual)
    expected = eap(model(family), data, logit_diff, counterfactual)
    assert distance(found.values, expected.values) < 1e-5


def test_it_stays_usable_where_a_run_is_cut_off() -> None:
    module = given("gpt2", "bridge")
    m, before = load(module), state(module)

    def broken(*_: Any) -> Tensor:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        eap(m, dataset((5, 6)), broken, counterfactual)
    assert state(module) == before
    assert gradients(module)


def test_it_can_be_trained_in_another_thread_meanwhile() -> None:
    module = given("gpt2", "bridge")
    m, failed = load(module), []

    def train() -> None:
        for _ in range(20):
            if not gradients(module):
                failed.append("no gradients")

    thread = threading.Thread(target=train)
    thread.start()
    for _ in range(5):
        use(m)
    thread.join()
    assert not failed


def test_hooks_of_the_module_are_not_called() -> None:
    module, calls = given("llama", "module"), []
    for part in module.modules():
        part.register_forward_hook(lambda *_: calls.append(1))
    use(load(module))
    assert not calls
    logits(module)
    assert calls


def test_a_bridge_keeps_what_it_forks() -> None:
    module = given("gpt2", "bridge")
    module.set_use_split_qkv_input(True)
    module.set_use_hook_mlp_in(True)
    logits(module)
    before = state(module)
    use(load(module))
    assert state(module) == before
    assert module.cfg.use_split_qkv_input
    seen: list[Tensor] = []
    hook = ("blocks.1.hook_q_input", lambda x, hook: seen.append(x))
    module.run_with_hooks(TOKENS, fwd_hooks=[hook])
    assert len(seen) == 1


# -- the weights -----------------------------------------------------------------------------------
def test_no_gradient_is_taken_in_the_weights_and_no_copy_of_them_is_made() -> None:
    module = given("gpt2", "bridge")
    m = load(module)
    places = {w.data_ptr() for w in module.parameters()}
    assert all(w.data_ptr() in places for w in m.bridge.parameters())
    use(m)
    assert not any(w.requires_grad or w.grad is not None for w in m.bridge.parameters())
    assert all(w.grad is None for w in module.parameters())


def test_attribution_takes_no_more_memory_than_of_a_model_with_frozen_weights() -> None:
    frozen = from_module(build("gpt2").requires_grad_(False))
    given_ = load(given("gpt2", "bridge"))
    data = dataset((40,) * 4)
    for m in (frozen, given_):
        eap(m, data, logit_diff, counterfactual)  # what is made once is made
    found, expected = (
        peak(lambda m=m: eap(m, data, logit_diff, counterfactual)) for m in (given_, frozen)
    )
    assert found <= 1.01 * expected


@given_of
def test_weights_that_change_ask_for_another_load(family: str, kind: str) -> None:
    """Projections by head and what is known of norms are of the weights as they were, so a run of
    half the old and half the new ones would be neither."""
    module, data = given(family, kind).eval(), dataset((5, 6))
    m = load(module)
    before = eap(m, data, logit_diff, counterfactual)
    gradients(module)
    torch.optim.SGD(module.parameters(), lr=0.05).step()
    with pytest.raises(ModelError, match="were changed after it was loaded; load it again"):
        eap(m, data, logit_diff, counterfactual)
    after = eap(load(module), data, logit_diff, counterfactual)
    assert distance(after.values, before.values) > 1e-3


def test_a_precision_that_is_asked_for_is_the_models_alone() -> None:
    module = given("llama", "module")
    m = load(module, dtype="float64", device="cpu")
    assert m.dtype == torch.float64
    assert {w.dtype for w in module.parameters()} == {torch.float32}
    assert load(module).dtype == torch.float32
    gradients(module)
    torch.optim.SGD(module.parameters(), lr=0.05).step()
    use(m)  # its weights are its own
    assert load(given("llama", "bridge"), dtype=torch.float64).dtype == torch.float64


def test_tied_weights_stay_tied() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=40, n_positions=16)
    module = GPT2LMHeadModel(config)
    assert module.lm_head.weight is module.transformer.wte.weight
    own = load(module).bridge.original_model
    assert own.lm_head.weight is own.transformer.wte.weight
    assert own.lm_head.weight is not module.lm_head.weight


# -- what can be given -----------------------------------------------------------------------------
@pytest.mark.parametrize("form", [str, Path], ids=["string", "path"])
def test_a_directory(form: Callable[[Path], Any]) -> None:
    m = load(form(MINI))
    assert m.wiring == load("mini").wiring
    assert m.tokenizer is not None


def test_a_revision_of_the_hub_is_asked_for_by_its_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import transformers

    asked: list[tuple[str, str]] = []

    def refuse(place: str, *, revision: str, **_: Any) -> Any:
        asked.append((place, revision))
        raise OSError("no network")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", refuse)
    (tmp_path / "a@b").symlink_to(MINI)
    for name in ("me/tiny@step1000", "me/tiny", str(tmp_path / "a@b")):
        with pytest.raises(ModelError, match=name):
            load(name)
    assert asked == [
        ("me/tiny", "step1000"), ("me/tiny", "main"), (str(tmp_path / "a@b"), "main"),
    ]  # fmt: skip


def test_a_module_that_a_directory_gave_has_its_tokenizer() -> None:
    from transformers import AutoModelForCausalLM

    module = AutoModelForCausalLM.from_pretrained(MINI)
    for made in (module, bridge_of(AutoModelForCausalLM.from_pretrained(MINI))):
        assert len(make_task("ioi", load(made), n=3).prompts) == 3


def test_a_loaded_model_is_loaded_again() -> None:
    m = load("mini")
    again = load(m, dtype="float64")
    assert (again.name, again.dtype, m.dtype) == ("mini", torch.float64, torch.float32)
    assert again.tokenizer is m.tokenizer


def test_a_compiled_program(tmp_path: Path) -> None:
    compiled = compile_program(programs()["reverse"]())
    m = load(compiled, dtype="float64")
    assert (m.wiring, m.dtype) == (compiled.wiring, torch.float64)
    assert load(compiled.save(tmp_path / "reverse.decoder")).wiring == m.wiring
    with pytest.raises(UnsupportedModelError, match="has no experts"):
        load(compiled, experts="live")


def test_a_tokenizer_that_is_given_is_used() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MINI)
    for source in (MINI, given("gpt2", "module"), given("gpt2", "bridge")):
        assert load(source, tokenizer=tokenizer).tokenizer is tokenizer


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_tokenizer_the_model_loads_and_tasks_are_refused(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    task = make_task("ioi", load("mini"), n=3)

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("a tokenizer was looked for")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", never)
    module = given("gpt2", kind)
    getattr(module, "original_model", module).config._name_or_path = "openai-community/gpt2"
    m = load(module)
    with pytest.raises(DataError, match="tokenizer="):
        make_task("ioi", m)
    with pytest.raises(DataError, match="tokenizer="):
        Dataset.of(task, m)


def test_a_directory_without_a_tokenizer_is_none(tmp_path: Path) -> None:
    module = given("llama", "module")
    module.save_pretrained(tmp_path)
    module.config._name_or_path = str(tmp_path)
    assert load(module).tokenizer is None


class HookedTransformer(nn.Linear):
    """By its name."""


def _encoder_decoder() -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    return T5ForConditionalGeneration(
        T5Config(d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, vocab_size=40)
    )


def _without_head() -> Any:
    from transformers import GPT2Config, GPT2Model

    return GPT2Model(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=40))


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "none": (lambda: None, "None is not a model"),
    "number": (lambda: 3, "type int is not a model"),
    "data": (dataset, "type Dataset is not a model"),
    "state dict": (lambda: build("gpt2").state_dict(), "state dict holds weights"),
    "class": (lambda: type(build("gpt2")), "a class is not a model"),
    "hooked": (lambda: HookedTransformer(3, 3), "TransformerBridge"),
    "linear": (lambda: nn.Linear(3, 3), "is not a Hugging Face model"),
    "encoder-decoder": (_encoder_decoder, "encoder-decoder"),
    "without a head": (_without_head, "AutoModelForCausalLM"),
    "inside a bridge": (lambda: given("gpt2", "bridge").original_model, "give the bridge"),
    "missing path": (lambda: Path("gpt2"), "there is no directory 'gpt2'"),
    "missing home": (lambda: "~/no-such-model", "there is no directory"),
}


@pytest.mark.unchecked
@pytest.mark.parametrize("case", WRONG)
def test_something_else_is_refused_in_one_sentence(case: str) -> None:
    make, reason = WRONG[case]
    source = make()
    with pytest.raises(ModelError, match=reason) as caught:
        load(source)
    assert "\n" not in str(caught.value)
    assert any(verb in str(caught.value) for verb in ("give a", "give the", "use a"))


def test_what_cannot_be_copied_is_refused() -> None:
    module = given("llama", "module")
    module.lock = threading.Lock()
    with pytest.raises(UnsupportedModelError, match="cannot be copied without its weights"):
        load(module)

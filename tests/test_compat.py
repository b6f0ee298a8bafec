"""What we use of other libraries beyond their documented interface: where it is gone, one sentence
says which versions serve."""

from __future__ import annotations

import ast
import importlib.metadata
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from families import FAMILIES, build, model
from torch import nn

import circuitkit
from circuitkit.errors import ModelError, VersionError
from circuitkit.models import compat
from circuitkit.models.transformer_lens import from_module
from circuitkit.util import versions


def says_what_serves(error: VersionError, library: str, name: str) -> None:
    """The sentence holds what is missing, the version that is there and the range that serves."""
    sentence = str(error)
    assert isinstance(error, ModelError)
    assert name in sentence
    assert f"{library} {importlib.metadata.version(library)} " in sentence
    assert f"pip install '{library}{versions.supported(library)}'" in sentence
    assert re.search(r"\d", versions.supported(library))
    assert "\n" not in sentence


class Bare:
    """A component or a configuration of a version in which every name has gone."""


GONE: dict[str, Callable[[Any], object]] = {
    "submodules": compat.parts_of,
    "original_component": compat.original,
    "parallel_attn_mlp": compat.is_parallel,
    "use_split_qkv_input": compat.without_forks,
    "_attn_implementation": compat.use_eager,
}


@pytest.mark.parametrize("name", GONE)
def test_a_name_that_is_gone_is_one_sentence(name: str) -> None:
    library = "transformers" if name == "_attn_implementation" else "transformer_lens"
    with pytest.raises(VersionError, match="Bare has no") as caught:
        GONE[name](Bare())
    says_what_serves(caught.value, library, name)


@pytest.mark.parametrize("flag", compat.FORKS)
def test_no_setting_that_forks_may_go_unseen(flag: str) -> None:
    there = SimpleNamespace(**{name: True for name in compat.FORKS if name != flag})
    with pytest.raises(VersionError, match=flag):
        compat.without_forks(there)
    assert all(vars(there).values())


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("transformer_lens.model_bridge", "TransformerBridge"),
        ("transformer_lens.model_bridge.sources", "build_bridge_from_module"),
    ],
)
def test_a_bridge_that_cannot_be_built_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, module: str, name: str
) -> None:
    plain = build("gpt2")
    monkeypatch.delattr(f"{module}.{name}")
    with pytest.raises(VersionError) as caught:
        from_module(plain)
    says_what_serves(caught.value, "transformer_lens", name)


def test_a_wrapped_model_whose_parts_are_called_otherwise_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bridge = model("gpt2").bridge
    monkeypatch.delattr(type(bridge.cfg), "parallel_attn_mlp", raising=False)
    monkeypatch.delattr(bridge.cfg, "parallel_attn_mlp", raising=False)
    with pytest.raises(VersionError, match="parallel_attn_mlp"):
        from_module(bridge)


def test_the_range_is_what_the_package_declares(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = ["torch>=2.6", "Transformer-Lens<5,>=4.0 ; extra == 'x'", "tqdm"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: needed)
    assert versions.supported("transformer_lens") == "<5,>=4.0"
    assert versions.supported("torch") == ">=2.6"
    assert versions.supported("tqdm") == versions.supported("rich") == ""


def test_without_metadata_there_is_still_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", missing)
    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert "pip install 'torch'" in str(versions.changed("torch", "it has no x"))


# -- what is measured and not looked up ------------------------------------------------------------
@pytest.mark.parametrize("family", FAMILIES)
def test_whether_the_queries_share_a_norm_is_measured(family: str) -> None:
    assert model(family).couples == (family in ("olmo2", "olmoe"))


@pytest.mark.parametrize("family", FAMILIES)
def test_whether_the_mlp_reads_what_the_attention_reads_is_configured(family: str) -> None:
    assert model(family).wiring.parallel == (family in ("neox-parallel", "falcon"))


def test_one_head_has_no_other() -> None:
    from transformers import Olmo2Config, Olmo2ForCausalLM

    config = Olmo2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16,
        vocab_size=20, max_position_embeddings=16, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    assert not from_module(Olmo2ForCausalLM(config)).couples


def test_falcon_makes_masks_for_eager_attention() -> None:
    """It ignores the public way to ask for them."""
    from transformers import FalconConfig, FalconForCausalLM

    config = FalconConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=4, vocab_size=20,
        bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    module = FalconForCausalLM(config)
    compat.use_eager(module.config)
    assert module.config._attn_implementation == "eager"


def test_a_copy_needs_the_modules_of_a_module() -> None:
    from circuitkit.models.stubs import copy_with

    whole = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    twin = copy_with(whole, {id(whole[1]): nn.Identity()})
    assert torch.equal(twin(torch.ones(2)), whole[0](torch.ones(2)))
    del whole.__dict__["_modules"]
    with pytest.raises(VersionError, match="_modules") as caught:
        copy_with(whole, {})
    says_what_serves(caught.value, "torch", "_modules")


# -- no other place --------------------------------------------------------------------------------
# The functions that use a private name of another library. A new one gets its error, its test and
# its line here.
PRIVATE = {
    ("engine.memory", "_watched", "torch.utils._python_dispatch"),
    ("models.compat", "use_eager", "_attn_implementation"),
    ("models.stubs", "copy_with", "_modules"),
}


def private(tree: ast.AST, ours: set[str]) -> set[str]:
    """The private names of others that a function imports, or reads off what is not itself."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("circuitkit"):
            found.add(node.module or "")
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith("__dict__"):
            found.add(str(ast.literal_eval(node.slice)))
    return {
        name
        for name in found - ours
        if any(part[:1] == "_" and part[:2] != "__" for part in name.split("."))
    }


def defined(tree: ast.AST) -> Iterator[str]:
    """Every name that a file gives to something of its own."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield from [node.attr] if ast.unparse(node.value) == "self" else []


def test_no_other_function_uses_what_is_private_to_another_library() -> None:
    root = Path(circuitkit.__path__[0])
    trees = {
        ".".join(path.relative_to(root).with_suffix("").parts): ast.parse(path.read_text("utf-8"))
        for path in root.rglob("*.py")
    }
    ours = {name for tree in trees.values() for name in defined(tree)}
    found = {
        (place, getattr(part, "name", ""), name)
        for place, tree in trees.items()
        for outer in tree.body
        for part in (outer.body if isinstance(outer, ast.ClassDef) else [outer])
        for name in private(part, ours)
    }
    public = ("_repr_", "_replace", "_asdict", "_fields")  # a notebook's, and a named tuple's
    assert {one for one in found if not one[2].startswith(public)} == PRIVATE

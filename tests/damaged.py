"""Saved models with one thing wrong: each is to be refused in a sentence, or gives the numbers that
its files hold."""

from __future__ import annotations

import json
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from tempfile import mkdtemp
from typing import Any

import torch
from families import SMALL
from safetensors.torch import load_file, save_file
from torch import Tensor

import circuitkit
from circuitkit.errors import ModelError
from circuitkit.util.quiet import quiet

__all__ = ["REFUSED", "TAKEN", "Damaged", "damaged_models", "outcome"]

REFUSED, TAKEN = "refused", "taken"
WEIGHTS = "model.safetensors"
TINY = {**SMALL, "hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 24}
GROUPED = {**TINY, "num_key_value_heads": 2}
SAVED: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", GROUPED),
    "gpt2": (
        "GPT2", {"n_embd": 16, "n_layer": 2, "n_head": 4, "vocab_size": 60, "n_positions": 64},
    ),
    "neox": ("GPTNeoX", TINY),
    "gemma2": ("Gemma2", {**GROUPED, "head_dim": 4, "sliding_window": 6}),
    "mixtral": ("Mixtral", {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2}),
}  # fmt: skip


@dataclass(frozen=True)
class Damaged:
    """A damage and what is to come of it: ``refused``, ``taken``, or either (None)."""

    name: str
    family: str
    expected: str | None
    damage: Callable[[Path], None]

    def write(self, place: Path) -> Path:
        """A copy of the family's saved model with this damage, in ``place``."""
        directory = place / self.family
        shutil.rmtree(directory, ignore_errors=True)
        directory.unlink(missing_ok=True)
        shutil.copytree(saved(self.family), directory)
        self.damage(directory)
        return directory


def damaged_models(seed: int) -> Iterator[Damaged]:
    """About 150 damaged models; other seeds choose other tensors, keys, values and places.

    Example:
        >>> first = next(damaged_models(0))
        >>> outcome(first.write(tmp_path)) in (first.expected, first.expected or REFUSED)
    """
    rng = Random(seed)
    groups = (tensors, containers, headers, shards, configurations, sizes, tokenizers, directories,
              harmless)  # fmt: skip
    for group in groups:
        for name, expected, damage in group(rng):
            family = rng.choice(list(SAVED))
            yield Damaged(f"{name} ({family})", family, expected, damage)


def outcome(directory: Path) -> str:
    """Whether the directory is refused, in one sentence, or taken, with the numbers that Hugging
    Face gives, twice the same; AssertionError for anything else."""
    try:
        found = [_logits(directory) for _ in range(2)]
    except ModelError as error:
        said = str(error)
        assert "\n" not in said, said
        assert len(said) < 700, said
        return REFUSED
    from transformers import AutoModelForCausalLM

    with quiet(), torch.no_grad():
        plain = AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager")
        expected = plain(PROBE, use_cache=False).logits[0].double()
    assert torch.isfinite(expected).all(), "numbers that are not finite were taken"
    assert torch.equal(found[0], found[1]), "two loads give different numbers"
    assert (found[0] - expected).abs().max() <= 0.02 * expected.abs().max()
    return TAKEN


PROBE = torch.tensor([[3, 1, 4, 1, 5, 9]])


def _logits(directory: Path) -> Tensor:
    model = circuitkit.load(directory)
    found: Tensor = model.native(PROBE, torch.ones_like(PROBE).bool()).logits[0].double()
    return found


@cache
def saved(family: str) -> Path:
    """A directory with the family's tiny model, as transformers saves it, and a tokenizer."""
    import transformers

    prefix, options = SAVED[family]
    place = Path(mkdtemp(prefix="circuitkit-")) / family
    torch.manual_seed(0)
    config = getattr(transformers, f"{prefix}Config")(**options, bos_token_id=0, eos_token_id=1)
    name = f"{prefix}LMHeadModel" if prefix == "GPT2" else f"{prefix}ForCausalLM"
    with quiet():
        getattr(transformers, name)(config).save_pretrained(place)
    _tokenizer(60).save_pretrained(place)
    return place


def _tokenizer(size: int) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<s>": 0, "</s>": 1, **{f"w{i}": i for i in range(2, size)}}
    inner = Tokenizer(models.WordLevel(words, unk_token="<s>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")


Case = tuple[str, str | None, Callable[[Path], None]]
Weights = dict[str, Tensor]


# -- what is in the tensors ------------------------------------------------------------------------
def tensors(rng: Random) -> Iterator[Case]:
    """Names, shapes, types and values."""
    for name, (expected, change) in {**NAMES, **VALUES}.items():
        yield name, expected, _rewriting(change, rng.random())
    for number in range(3):
        yield f"a tensor is missing, {number}", REFUSED, _rewriting(_without, rng.random())
        yield f"a tensor is renamed, {number}", REFUSED, _rewriting(_renamed, rng.random())
        yield f"a tensor is cut, {number}", REFUSED, _rewriting(_shorter, rng.random())


def _rewriting(change: Callable[[Weights, Random], Weights], seed: float) -> Callable[[Path], None]:
    def damage(directory: Path) -> None:
        weights = change(load_file(directory / WEIGHTS), Random(seed))
        held = {name: value.contiguous() for name, value in weights.items()}
        save_file(held, directory / WEIGHTS, metadata={"format": "pt"})

    return damage


def _needed(weights: Weights, rng: Random) -> str:
    return rng.choice(sorted(name for name in weights if weights[name].numel() > 1))


def _without(weights: Weights, rng: Random) -> Weights:
    gone = _needed(weights, rng)
    return {name: value for name, value in weights.items() if name != gone}


def _renamed(weights: Weights, rng: Random) -> Weights:
    other = _needed(weights, rng)
    spelled = rng.choice([other.upper(), other + "_", other.replace(".", "_"), "x." + other])
    return {spelled if name == other else name: value for name, value in weights.items()}


def _shorter(weights: Weights, rng: Random) -> Weights:
    name = _needed(weights, rng)
    return {**weights, name: weights[name][: len(weights[name]) // 2]}


def _prefixed(prefix: str) -> Callable[[Weights, Random], Weights]:
    return lambda weights, _: {prefix + name: value for name, value in weights.items()}


def _flat(weights: Weights, rng: Random) -> Weights:
    return {name: value.flatten() for name, value in weights.items()}


def _shifted(weights: Weights, rng: Random) -> Weights:
    return {name.replace(".1.", ".7."): value for name, value in weights.items()}


def _deeper(weights: Weights, rng: Random) -> Weights:
    more = {n.replace(".1.", ".2."): v.clone() for n, v in weights.items() if ".1." in n}
    return {**weights, **more}


def _buffered(weights: Weights, rng: Random) -> Weights:
    """With the buffers that older versions of transformers saved."""
    mask = torch.ones(1, 1, 8, 8, dtype=torch.bool).tril()
    more: Weights = {}
    for name in weights:
        if "0.attn.c_attn.weight" in name:
            more[name.replace("c_attn.weight", "bias")] = mask
        if "0.attention.query_key_value.weight" in name:
            more[name.replace("query_key_value.weight", "bias")] = mask
            more[name.replace("query_key_value.weight", "masked_bias")] = torch.tensor(-1e9)
        if "0.self_attn.q_proj.weight" in name:
            more[name.replace("q_proj.weight", "rotary_emb.inv_freq")] = torch.ones(2)
    return {**weights, **more}


def _as(kind: torch.dtype) -> Callable[[Weights, Random], Weights]:
    return lambda weights, _: {name: value.to(kind) for name, value in weights.items()}


def _one_as(kind: torch.dtype) -> Callable[[Weights, Random], Weights]:
    def change(weights: Weights, rng: Random) -> Weights:
        name = _needed(weights, rng)
        return {**weights, name: weights[name].to(kind)}

    return change


def _holding(value: float, all_of_it: bool) -> Callable[[Weights, Random], Weights]:
    def change(weights: Weights, rng: Random) -> Weights:
        name = _needed(weights, rng)
        own = weights[name].clone()
        own.view(-1)[: own.numel() if all_of_it else 1] = value
        return {**weights, name: own}

    return change


NAMES: dict[str, tuple[str | None, Callable[[Weights, Random], Weights]]] = {
    "torch.compile's prefix": (REFUSED, _prefixed("_orig_mod.")),
    "a wrapper's prefix": (REFUSED, _prefixed("module.wrapped.")),
    "none of the model's tensors": (REFUSED, lambda *_: {"something.else": torch.ones(2)}),
    "no tensors": (REFUSED, lambda *_: {}),
    "a tensor too many": (REFUSED, lambda w, _: {**w, "lm_head.scale": torch.ones(3)}),
    "layers numbered otherwise": (REFUSED, _shifted),
    "buffers of old versions": (TAKEN, _buffered),
    "a layer too many": (REFUSED, _deeper),
    "all tensors flat": (REFUSED, _flat),
    "all tensors transposed": (REFUSED, lambda w, _: {n: v.T if v.ndim == 2 else v[None]
                                                      for n, v in w.items()}),
    "scalars": (REFUSED, lambda w, _: {n: v.flatten()[0] for n, v in w.items()}),
}  # fmt: skip
VALUES: dict[str, tuple[str | None, Callable[[Weights, Random], Weights]]] = {
    "bytes for numbers": (REFUSED, _as(torch.int8)),
    "whole numbers for numbers": (REFUSED, _as(torch.int64)),
    "truths for numbers": (REFUSED, _as(torch.bool)),
    "one tensor of bytes": (REFUSED, _one_as(torch.int8)),
    "one tensor of bytes without a sign": (REFUSED, _one_as(torch.uint8)),
    "eight bits": (None, _as(torch.float8_e4m3fn)),
    "complex numbers": (REFUSED, _as(torch.complex64)),
    "one value is nan": (REFUSED, _holding(float("nan"), False)),
    "all values are nan": (REFUSED, _holding(float("nan"), True)),
    "one value is infinite": (REFUSED, _holding(float("inf"), False)),
    "one value is enormous": (None, _holding(3e38, False)),
    "half precision": (TAKEN, _as(torch.float16)),
    "brain floats": (TAKEN, _as(torch.bfloat16)),
    "double precision": (TAKEN, _as(torch.float64)),
    "one tensor in half precision": (TAKEN, _one_as(torch.float16)),
}


# -- what is in the files --------------------------------------------------------------------------
def _writing(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda directory: (directory / name).write_bytes(content) and None


def _editing(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def damage(directory: Path) -> None:
        (directory / name).write_bytes(change((directory / name).read_bytes()))

    return damage


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("was-executed"),))


def containers(rng: Random) -> Iterator[Case]:
    """Weights in another container, or in a broken one."""
    for number in range(6):
        part = rng.random() * 0.999
        cut = _editing(WEIGHTS, lambda raw, part=part: raw[: int(part * len(raw))])  # type: ignore[misc]
        yield f"cut short, {number}", REFUSED, cut
    yield "empty", REFUSED, _writing(WEIGHTS, b"")
    yield "zeros", REFUSED, _editing(WEIGHTS, lambda raw: bytes(len(raw)))
    yield "text", REFUSED, _writing(WEIGHTS, b"version https://git-lfs.github.com/spec/v1\n")
    yield "noise", REFUSED, _writing(WEIGHTS, rng.randbytes(5000))
    yield "appended to", None, _editing(WEIGHTS, lambda raw: raw + b"more")
    for number in range(3):
        yield f"flipped bits, {number}", None, _editing(WEIGHTS, _flipping(rng.random()))
    pickles: dict[str, tuple[str, Any]] = {
        "a pickle of a list": (REFUSED, [1, 2]),
        "a pickle of text": (REFUSED, {"model.embed_tokens.weight": "text"}),
        "a pickle of None": (REFUSED, None),
        "a pickle that runs": (REFUSED, _Evil()),
        "a pickle with numbers for names": (REFUSED, {1: torch.ones(2)}),
    }
    for name, (expected, held) in pickles.items():
        yield name, expected, _unpickling(held)
    yield "no pickle", REFUSED, _binary(b"not a pickle")
    yield "an empty pickle", REFUSED, _binary(b"")
    yield "an old pickle that runs", REFUSED, _binary(pickle.dumps({"a": _Evil()}))
    yield "weights in a pickle", TAKEN, _pickled(1.0)
    yield "half of a pickle", REFUSED, _pickled(rng.uniform(0.1, 0.9))
    yield "a zip without weights", REFUSED, _zipped
    yield "only a GGUF file", REFUSED, _gguf


def _flipping(seed: float) -> Callable[[bytes], bytes]:
    def change(raw: bytes) -> bytes:
        rng, held = Random(seed), bytearray(raw)
        for _ in range(3):
            at = rng.randrange(len(held))
            held[at] ^= 1 << rng.randrange(8)
        return bytes(held)

    return change


def _binary(content: bytes) -> Callable[[Path], None]:
    def damage(directory: Path) -> None:
        (directory / WEIGHTS).unlink()
        (directory / "pytorch_model.bin").write_bytes(content)

    return damage


def _unpickling(held: Any) -> Callable[[Path], None]:
    def damage(directory: Path) -> None:
        (directory / WEIGHTS).unlink()
        torch.save(held, directory / "pytorch_model.bin")

    return damage


def _pickled(part: float) -> Callable[[Path], None]:
    def damage(directory: Path) -> None:
        file = directory / "pytorch_model.bin"
        torch.save(load_file(directory / WEIGHTS), file)
        (directory / WEIGHTS).unlink()
        raw = file.read_bytes()
        file.write_bytes(raw[: int(part * len(raw))])

    return damage


def _zipped(directory: Path) -> None:
    (directory / WEIGHTS).unlink()
    with zipfile.ZipFile(directory / "pytorch_model.bin", "w") as archive:
        archive.writestr("weights.txt", "none")


def _gguf(directory: Path) -> None:
    (directory / WEIGHTS).unlink()
    (directory / "model.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1, 0))


# -- the header of a safetensors file --------------------------------------------------------------
def headers(rng: Random) -> Iterator[Case]:
    """A header that says what the file does not hold."""
    for size in (2**60, 2**63 - 1, 2**64 - 1, 10**8, 7, 0):
        edit = _editing(WEIGHTS, lambda raw, size=size: struct.pack("<Q", size) + raw[8:])  # type: ignore[misc]
        yield f"a header of {size} bytes", REFUSED, edit
    entries: dict[str, Any] = {
        "an unknown type": {"dtype": "F3"},
        "no type": {"dtype": None},
        "a negative size": {"shape": [-1, 4]},
        "an enormous size": {"shape": [2**40, 2**40]},
        "a size in words": {"shape": ["many"]},
        "places beyond the end": {"data_offsets": [0, 2**50]},
        "places in reverse": {"data_offsets": [64, 0]},
        "negative places": {"data_offsets": [-8, 0]},
    }
    for name, values in entries.items():
        yield name, REFUSED, _editing(WEIGHTS, _heading(values, rng.random()))
    yield "a header that is a list", REFUSED, _editing(WEIGHTS, lambda raw: _head(raw, "[1, 2]"))
    yield "a header that is no JSON", REFUSED, _editing(WEIGHTS, lambda raw: _head(raw, "{'a': 1"))
    yield "a deep header", REFUSED, _editing(WEIGHTS, lambda raw: _head(raw, "[" * 10**5))


def _head(raw: bytes, header: str) -> bytes:
    (size,) = struct.unpack("<Q", raw[:8])
    return struct.pack("<Q", len(header)) + header.encode() + raw[8 + size :]


def _heading(values: dict[str, Any], seed: float) -> Callable[[bytes], bytes]:
    def change(raw: bytes) -> bytes:
        (size,) = struct.unpack("<Q", raw[:8])
        header = json.loads(raw[8 : 8 + size])
        name = Random(seed).choice(sorted(set(header) - {"__metadata__"}))
        header[name] = {**header[name], **values}
        return _head(raw, json.dumps(header))

    return change


# -- weights in several files ----------------------------------------------------------------------
def shards(rng: Random) -> Iterator[Case]:
    """An index, and what it points to."""
    first = "model-00001-of-00002.safetensors"
    indices: dict[str, tuple[str | None, Callable[[dict[str, Any]], Any]]] = {
        "an index of nothing": (REFUSED, lambda index: {}),
        "an index that is a list": (REFUSED, lambda index: [index]),
        "an index without a map": (REFUSED, lambda index: {"metadata": index["metadata"]}),
        "an index whose map is empty": (REFUSED, lambda index: {**index, "weight_map": {}}),
        "an index whose map is text": (REFUSED, lambda index: {**index, "weight_map": "all"}),
        "an index whose map is a list": (REFUSED, lambda index: {**index, "weight_map": [first]}),
        "an index of numbers": (REFUSED, lambda index: {
            **index, "weight_map": dict.fromkeys(index["weight_map"], 1)}),
        "an index of a file that is not there": (REFUSED, lambda index: {
            **index, "weight_map": dict.fromkeys(index["weight_map"], "model-9.safetensors")}),
        "an index of one file only": (REFUSED, lambda index: {
            **index, "weight_map": dict.fromkeys(index["weight_map"], first)}),
        "an index without metadata": (None, lambda index: {"weight_map": index["weight_map"]}),
    }  # fmt: skip
    for name, (expected, change) in indices.items():
        yield name, expected, _sharded(lambda d, c=change: _index(d, c))  # type: ignore[misc]
    yield "two files", TAKEN, _sharded(lambda directory: None)
    yield "a file is missing", REFUSED, _sharded(lambda d: (d / first).unlink())
    yield "a file is cut short", REFUSED, _sharded(_editing(first, lambda raw: raw[:-9]))
    yield (
        "an index that is no JSON",
        REFUSED,
        _sharded(
            _editing(f"{WEIGHTS}.index.json", lambda raw: raw[: int(rng.random() * len(raw))])
        ),
    )


def _sharded(further: Callable[[Path], None]) -> Callable[[Path], None]:
    def damage(directory: Path) -> None:
        weights = load_file(directory / WEIGHTS)
        (directory / WEIGHTS).unlink()
        where = {}
        for number in (0, 1):
            file = f"model-0000{number + 1}-of-00002.safetensors"
            part = {name: weights[name] for name in sorted(weights)[number::2]}
            where |= dict.fromkeys(part, file)
            save_file(part, directory / file, metadata={"format": "pt"})
        index = {"metadata": {"total_size": 1}, "weight_map": where}
        (directory / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
        further(directory)

    return damage


def _index(directory: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    file = directory / f"{WEIGHTS}.index.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))


# -- config.json -----------------------------------------------------------------------------------
SIZES = ("layers", "heads", "width", "vocabulary", "positions", "inner")
SPELLED = {
    "layers": ("num_hidden_layers", "n_layer"), "heads": ("num_attention_heads", "n_head"),
    "width": ("hidden_size", "n_embd"), "vocabulary": ("vocab_size",),
    "positions": ("max_position_embeddings", "n_positions"),
    "inner": ("intermediate_size", "n_inner"),
}  # fmt: skip


def _configured(**values: Any) -> Callable[[Path], None]:
    def damage(directory: Path) -> None:
        file = directory / "config.json"
        config = json.loads(file.read_text())
        for key, value in values.items():
            spelled = next((name for name in SPELLED.get(key, ()) if name in config), key)
            config[spelled] = value
        file.write_text(json.dumps(config))

    return damage


def _forgetting(*keys: str) -> Callable[[Path], None]:
    def damage(directory: Path) -> None:
        file = directory / "config.json"
        config = json.loads(file.read_text())
        file.write_text(json.dumps({k: v for k, v in config.items() if k not in keys}))

    return damage


def configurations(rng: Random) -> Iterator[Case]:
    """A config.json that is none, lacks keys, or asks for what there is not."""
    for name, content in {
        "no JSON": b"{", "empty": b"", "a list": b"[]", "text": b'"llama"', "null": b"null",
        "a number": b"3", "bytes": b"\xff\xfe\x00{", "an empty object": b"{}",
        "deep": b"[" * 10**5, "a number of many digits": b'{"vocab_size": ' + b"9" * 5000 + b"}",
    }.items():  # fmt: skip
        yield f"config.json: {name}", REFUSED, _writing("config.json", content)
    yield "no model type", REFUSED, _forgetting("model_type", "architectures")
    yield "no architecture", None, _forgetting("architectures")
    for kind in ("nothing-known", "", None, 3, [], "t5", "bert", "vit", "mamba"):
        yield f"model type {kind!r}", REFUSED, _configured(model_type=kind)
    yield (
        "code of its own",
        REFUSED,
        _configured(
            model_type="evil",
            auto_map={"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"},
        ),
    )
    yield "another's model type", None, _configured(model_type=rng.choice(["opt", "gptj", "phi"]))
    for kinds in ([], None, ["Nothing"], "LlamaForCausalLM", [3], {"a": 1}):
        yield f"architectures {kinds!r}", None, _configured(architectures=kinds)
    foreign: dict[str, Any] = {
        "dtype": rng.choice(["int8", "evil", 3, [], "float32; import os"]),
        "torch_dtype": "Tensor",
        "hidden_act": rng.choice(["evil", 3, None, []]),
        "activation_function": rng.choice(["evil", 3, None, []]),
        "rope_parameters": rng.choice(["many", [], {"rope_type": "evil"}, {"rope_theta": "x"}, 3]),
        "rope_scaling": rng.choice([{"type": "linear", "factor": -1}, {"factor": "x"}, "linear"]),
        "quantization_config": rng.choice([{"quant_method": "gptq"}, {"load_in_4bit": True}, 3]),
        "tie_word_embeddings": rng.choice(["maybe", 3, None]),
        "auto_map": {"AutoModelForCausalLM": "evil.Evil", "AutoConfig": "evil.Evil"},
        "layer_types": rng.choice([["evil"] * 2, "all", 3, []]),
        "attn_implementation": "evil/kernel",
        "_attn_implementation": rng.choice(["evil/kernel", "flash_attention_2", 3]),
        "attention_dropout": rng.choice(["x", -1, 7]),
        "rms_norm_eps": rng.choice(["small", -1.0, None]),
        "layer_norm_epsilon": rng.choice(["small", None]),
        "num_experts_per_tok": rng.choice([99, 0, -1, "two", None]),
        "num_local_experts": rng.choice([3, 0, -1, "four", 10**9]),
        "head_dim": rng.choice([3, 0, -4, "four", 10**9]),
        "num_key_value_heads": rng.choice([3, 0, -1, "two", 10**9]),
        "sliding_window": rng.choice([0, -1, "x", 10**30]),
        "pad_token_id": rng.choice([-1, 10**9, "x"]),
        "bos_token_id": rng.choice([-1, 10**9, "x", [1, 2]]),
        "is_encoder_decoder": True,
        "is_decoder": "yes",
        "use_cache": "x",
        "pruned_heads": {"0": [0, 1]},
        "id2label": "x",
        "transformers_version": "99.0",
    }
    for key, value in foreign.items():
        yield f"{key}: {value!r}", None, _configured(**{key: value})


def sizes(rng: Random) -> Iterator[Case]:
    """Sizes that are none, or not those of the weights."""
    wrong = ("many", None, [], {}, -1, 0, 1.5, 10**9, 10**12, 10**40, True, float("nan"))
    for key in SIZES:
        for value in rng.sample(wrong, 4):
            unread = key == "positions" or (key == "inner" and value is None)
            fine = key == "heads" and value is True
            yield (
                f"{key}: {value!r}",
                None if unread or fine else REFUSED,
                _configured(**{key: value}),
            )
    yield "more layers", REFUSED, _configured(layers=rng.randrange(3, 9))
    yield "fewer layers", REFUSED, _configured(layers=1)
    yield "a million layers", REFUSED, _configured(layers=10**6)
    yield "a larger vocabulary", REFUSED, _configured(vocabulary=61)
    yield "a smaller vocabulary", REFUSED, _configured(vocabulary=59)
    yield "heads that do not divide", REFUSED, _configured(heads=3)


# -- the tokenizer ---------------------------------------------------------------------------------
def tokenizers(rng: Random) -> Iterator[Case]:
    """Files of the tokenizer that are damaged, or another model's."""
    for name, content in {
        "no JSON": b"{", "empty": b"", "a list": b"[]", "null": b"null", "bytes": b"\xff\xfe\x00",
        "an empty object": b"{}", "another object": b'{"version": "1.0", "model": 3}',
        "deep": b"[" * 10**5,
    }.items():  # fmt: skip
        yield f"tokenizer.json: {name}", REFUSED, _writing("tokenizer.json", content)
        yield f"tokenizer_config.json: {name}", None, _writing("tokenizer_config.json", content)
    cut = rng.random()
    yield (
        "tokenizer.json: cut",
        REFUSED,
        _editing("tokenizer.json", lambda raw: raw[: int(cut * len(raw))]),
    )
    yield (
        "a larger tokenizer",
        None,
        lambda directory: _tokenizer(5000).save_pretrained(directory) and None,
    )
    yield "a class of tokenizer", None, _writing(
        "tokenizer_config.json", b'{"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": '
        b'["evil.Evil", null]}}',
    )  # fmt: skip


# -- the directory ---------------------------------------------------------------------------------
def directories(rng: Random) -> Iterator[Case]:
    """Files that are missing, or are something else."""
    yield "no weights", REFUSED, lambda d: (d / WEIGHTS).unlink()
    yield "no config.json", REFUSED, lambda d: (d / "config.json").unlink()
    yield "no tokenizer", None, lambda d: [f.unlink() for f in d.glob("tokenizer*")] and None
    yield "nothing", REFUSED, lambda d: [f.unlink() for f in d.iterdir()] and None
    for name in (WEIGHTS, "config.json", "tokenizer.json"):
        yield f"{name} is a directory", REFUSED, lambda d, n=name: _folder(d / n)  # type: ignore[misc]
        yield f"{name} points nowhere", REFUSED, lambda d, n=name: _dangling(d / n)  # type: ignore[misc]
    yield "a file in its place", REFUSED, _a_file
    for name, content in {"no JSON": b"{", "a list": b"[]", "wrong types": b'{"max_length": "x"}',
                          "empty": b"", "bytes": b"\xff\xfe"}.items():  # fmt: skip
        yield f"generation_config.json: {name}", None, _writing("generation_config.json", content)
    yield (
        "an adapter's configuration",
        None,
        _writing("adapter_config.json", rng.choice([b"{", b"[]", b'{"peft_type": "LORA"}'])),
    )


def _folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _dangling(file: Path) -> None:
    file.unlink()
    file.symlink_to(file.parent / "nowhere")


def _a_file(directory: Path) -> None:
    shutil.rmtree(directory)
    directory.write_text("a file")


def harmless(rng: Random) -> Iterator[Case]:
    """What changes nothing."""
    yield "nothing is wrong", TAKEN, lambda directory: None
    yield "a further file", TAKEN, _writing("README.md", b"# model")
    yield "an unknown key", TAKEN, _configured(my_own="setting")
    yield "no generation_config.json", TAKEN, lambda d: (d / "generation_config.json").unlink()

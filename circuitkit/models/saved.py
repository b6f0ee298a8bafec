"""Whether a saved model's files hold the weights that its config.json describes.

transformers goes on with random values where a tensor is missing, takes memory for whatever sizes
the configuration names, and casts whatever type a tensor has. So the files' headers are compared
with the configuration before memory is taken, and what was loaded with what was to be.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from circuitkit.errors import ModelError, UnsupportedModelError

__all__ = ["in_one_line", "refuse_packed", "require_finite", "require_fitting", "require_loaded"]

FLOATING = ("F", "BF")  # how safetensors begins the names of floating types
SPARE_LAYERS, SPARE = 200, 2**27  # so much may be lacking, and is then named tensor by tensor
LIMIT = 100 * 2**20  # bytes of a header, as safetensors has it
MORE = "save the model again, whole and under its own names"


def in_one_line(error: Exception, length: int = 240) -> str:
    """What an error of another library says, without its line breaks and its end.

    Example:
        >>> from circuitkit.models.saved import in_one_line
        >>> in_one_line(ValueError("no such\\n   key"))
        'ValueError: no such key'
    """
    told = str(error).split("Exception raised from")[0]  # what torch's C++ code adds
    said = " ".join(f"{type(error).__name__}: {told}".split()).rstrip(":; ")
    return said if len(said) <= length else f"{said[:length]}…"


def require_fitting(name: str, place: str | Path) -> None:
    """Raise ModelError where a directory's config.json asks for more layers or values than its
    files can hold, or where a weight in them is not of floating type; what is not a local
    directory, and what cannot be read, is left to transformers."""
    directory = Path(place)
    if not directory.is_dir():
        return
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(str(place), trust_remote_code=False)
    files = [f for end in ("safetensors", "bin") for f in directory.glob(f"*.{end}") if f.is_file()]
    held = {key: kind for file in files for key, kind in _kinds(file).items()}
    layers = getattr(config, "num_hidden_layers", None)
    if held and isinstance(layers, int) and layers > len(held) + SPARE_LAYERS:
        raise ModelError(
            f"the config.json of {name!r} describes {layers:,} layers, and its files hold "
            f"{len(held):,} tensors; {MORE}"
        )
    module = _hollow(config) if held else nn.Module()
    if held:
        parts = (*module.parameters(), *module.buffers())
        values, size = sum(x.numel() for x in parts), sum(file.stat().st_size for file in files)
        if values > 2 * size + SPARE:  # a value takes half a byte or more
            raise ModelError(
                f"the config.json of {name!r} describes {values:,} values, and its files hold "
                f"{size:,} bytes; {MORE}"
            )
    if not getattr(config, "quantization_config", None):
        _require_floating(name, held, [key for key, _ in module.named_parameters()])


def _hollow(config: Any) -> nn.Module:
    """The configuration's model without values, which takes no memory."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        module: nn.Module = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    return module


def _require_floating(name: str, held: Mapping[str, str], described: Iterable[str]) -> None:
    """Raise ModelError where a weight is of another type; further buffers (masks) may be."""
    known = {*described, *(key.split(".", 1)[-1] for key in described)}  # without the base's name
    for key, kind in sorted(held.items()):
        if (key in known or key.endswith(".weight")) and not kind.startswith(FLOATING):
            raise ModelError(
                f"the tensor {key!r} of {name!r} has the type {kind}, and weights are floating; "
                "save the model in float32, float16 or bfloat16 (a quantised one with its "
                "quantization_config)"
            )


def _kinds(file: Path) -> dict[str, str]:
    """The type of each tensor in a file, as safetensors spells it; nothing of a file that cannot be
    read, for which its own reader has the words."""
    return _of_safetensors(file) if file.suffix == ".safetensors" else _of_pickle(file)


def _of_safetensors(file: Path) -> dict[str, str]:
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        try:
            header = json.loads(stream.read(size)) if size < LIMIT else {}
            return {key: str(value["dtype"]) for key, value in header.items()
                    if key != "__metadata__"}  # fmt: skip
        except (ValueError, AttributeError, TypeError, KeyError, RecursionError):
            return {}


def _of_pickle(file: Path) -> dict[str, str]:
    if not zipfile.is_zipfile(file):
        return {}
    try:
        held = torch.load(file, map_location="meta", weights_only=True, mmap=True)
        return {str(key): _spelled(value.dtype) for key, value in held.items()}
    except Exception:  # whatever the pickle makes torch raise
        return {}


def _spelled(kind: torch.dtype) -> str:
    return ("F" if kind.is_floating_point else "") + str(kind).removeprefix("torch.")


def require_loaded(name: str, found: Mapping[str, Iterable[object]]) -> None:
    """Raise ModelError where a checkpoint lacks a tensor of the model, has one that the model
    lacks, or one of a different shape: transformers would go on with random values."""
    kinds = {"missing_keys": "lacks", "unexpected_keys": "has in addition",
             "mismatched_keys": "has in another shape"}  # fmt: skip
    faults = []
    for kind, verb in kinds.items():
        names = sorted(str(one[0] if isinstance(one, tuple) else one) for one in found[kind])
        if names:
            more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
            faults.append(f"{verb} {names[0]}{more}")
    if faults:
        raise ModelError(
            f"the weights of {name!r} are not those of the model that its config.json describes: "
            f"the checkpoint {'; it '.join(faults)}; {MORE}"
        )


def refuse_packed(name: str, module: nn.Module, error: Exception) -> None:
    """Raise UnsupportedModelError where an error of another library came of weights that are
    packed, or without their scales: those of a quantised model."""
    if not isinstance(error, NotImplementedError):
        return
    for key, weight in module.named_parameters():
        if not weight.is_floating_point() or weight.dtype.itemsize < 2:
            raise UnsupportedModelError(
                f"the weight {key.replace('_original_component.', '')!r} of {name!r} is quantised "
                f"({str(weight.dtype).removeprefix('torch.')}), and its heads cannot be read one "
                "by one; load the model in bfloat16 or float32: without a quantization_config, or "
                "with its option 'dequantize'"
            ) from error


def require_finite(name: str, module: nn.Module) -> None:
    """Raise ModelError where a weight holds no numbers (on the meta device), nan or infinity."""
    for key, weight in module.named_parameters():
        if weight.is_meta:
            raise ModelError(
                f"the weight {key!r} of {name!r} is on the meta device, where there are no values; "
                "load the model with its weights"
            )
        if not weight.is_floating_point() or not weight.numel():
            continue  # what is quantised has a meaning of its own
        if not all(torch.isfinite(end) for end in weight.detach().aminmax()):
            raise ModelError(
                f"the weight {key!r} of {name!r} holds nan or infinity "
                f"({str(weight.dtype).removeprefix('torch.')}); load weights that are finite, or "
                "in a dtype of larger range (float32)"
            )

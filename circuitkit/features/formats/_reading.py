"""What the formats have in common: tensors and settings of files, places by their published names,
and what is folded into the weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from circuitkit.errors import CircuitkitError, DictionaryError
from circuitkit.features.dictionaries import Dictionary
from circuitkit.util.json_values import Json
from circuitkit.util.reading import read_arrays, read_json, require_file

__all__ = [
    "Format",
    "Found",
    "Stated",
    "assembled",
    "place_named",
    "read_settings",
    "read_tensors",
    "require_known",
    "require_tensors",
]

_ENDINGS = {  # of the names that TransformerLens has for a block's places
    "hook_resid_pre": "resid_pre", "hook_in": "resid_pre", "hook_resid_mid": "resid_mid",
    "hook_mlp_in": "resid_mid", "hook_resid_post": "resid_post", "hook_out": "resid_post",
    "attn.hook_z": "attn_z", "hook_attn_out": "attn_out", "mlp.hook_in": "mlp_in",
    "ln2.hook_out": "mlp_in", "ln2.hook_normalized": "mlp_normalized", "mlp.hook_post": "neurons",
    "mlp.hook_out": "mlp_raw", "hook_mlp_out": "mlp_out",
    # and Hugging Face's modules
    "output": "resid_post", "self_attn.o_proj.input": "attn_z",
    "pre_feedforward_layernorm.output": "mlp_in", "post_feedforward_layernorm.output": "mlp_out",
}  # fmt: skip
_BLOCK = re.compile(r"(?:model\.)?(?:blocks|layers|h)\.(\d+)\.(.+)")


@dataclass(frozen=True)
class Stated:
    """What the user says of dictionaries in files, which goes before what the files say."""

    model: str | None = None
    layer: int | None = None
    reads: str | None = None
    writes: str | None = None


@dataclass(frozen=True)
class Found:
    """A dictionary that has not been read yet: its layer, its file, and what reads it."""

    layer: int
    file: Path
    load: Callable[[], Dictionary]


@runtime_checkable
class Format(Protocol):
    """What finds the dictionaries of one format in a folder."""

    def __call__(self, folder: Path, stated: Stated) -> Sequence[Found]:
        """The dictionaries of this format in the folder itself, by their layers."""


def read_settings(file: Path) -> dict[str, Json]:
    """The object in a file of JSON, or of YAML; raises DictionaryError."""
    try:
        if file.suffix != ".yaml":
            held = read_json(file)
        else:
            import yaml

            require_file(file, 2**20)
            held = yaml.safe_load(file.read_text("utf-8"))
    except (CircuitkitError, OSError, ValueError) as error:
        raise DictionaryError(f"{str(file)!r} cannot be read: {error}") from error
    except Exception as error:  # yaml's own
        raise DictionaryError(f"{str(file)!r} is not YAML ({type(error).__name__})") from error
    if not isinstance(held, dict):
        raise DictionaryError(f"{str(file)!r} does not hold settings by name")
    return held


def read_tensors(file: Path, needed: Sequence[str] = ()) -> dict[str, Tensor]:
    """The floating tensors in a file, in float32: of safetensors, of numpy's savez, or a pickle of
    tensors alone. Raises DictionaryError where it cannot be read, or lacks one that is needed."""
    try:
        require_file(file)
        found = _raw(file)
    except FileNotFoundError as error:
        raise DictionaryError(f"there is no file {str(file)!r}") from error
    except CircuitkitError as error:
        raise DictionaryError(f"{str(file)!r} cannot be read: {error}") from error
    require_tensors(found, needed, file)
    return {
        name: value.float() if value.is_floating_point() else value for name, value in found.items()
    }


def require_tensors(found: Mapping[str, Tensor], needed: Sequence[str], file: Path) -> None:
    """Raise DictionaryError where a file lacks one of these tensors."""
    for name in needed:
        if name not in found:
            raise DictionaryError(
                f"{str(file)!r} lacks the tensor {name!r}; it has {', '.join(sorted(found)) or '-'}"
            )


def _raw(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if file.suffix == ".npz":
        return {name: torch.from_numpy(array) for name, array in read_arrays(file).items()}
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        held = torch.load(file, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise CircuitkitError(f"it is not a file of safetensors ({error})") from error
    except Exception as error:  # whatever the pickle makes torch raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise CircuitkitError(f"it is not a pickle of tensors alone ({reason})") from error
    if not isinstance(held, dict):
        raise CircuitkitError(f"it holds a {type(held).__name__}, and not tensors by name")
    return {str(name): value for name, value in held.items() if isinstance(value, Tensor)}


def require_known(value: Json, known: Sequence[Json], what: str, file: Path) -> None:
    """Raise DictionaryError where a setting of a file has a value that cannot be used here."""
    if value not in known:
        shown = ", ".join(repr(one) for one in known)
        raise DictionaryError(f"{what} of {str(file)!r} is {value!r}; circuitkit reads {shown}")


def place_named(name: str, file: Path, layer: int | None = None) -> tuple[int, str]:
    """The layer and the site of a place that a file names, such as ``blocks.3.hook_mlp_out`` or,
    where the layer is known, ``mlp.hook_in``; raises DictionaryError for other names."""
    block = _BLOCK.fullmatch(name)
    ending = block.group(2) if block else name
    if ending not in _ENDINGS or (block is None and layer is None):
        raise DictionaryError(
            f"the place {name!r}, which {str(file)!r} names, is not one that circuitkit knows; "
            "say the layer and where the features read and write (layer, reads, writes)"
        )
    return (int(block.group(1)) if block else layer or 0), _ENDINGS[ending]


def assembled(
    stated: Stated,
    place: tuple[int, str, str],
    *,
    encoder: Tensor,
    encoder_bias: Tensor,
    decoder: Tensor,
    bias: Tensor,
    subtracted: Tensor | None = None,
    scaled: bool = False,
    activation: str = "relu",
    threshold: Tensor | None = None,
    skip: Tensor | None = None,
    k: int | None = None,
    targets: tuple[int, ...] = (),
    model: Json = "",
    about: Mapping[str, Json] = MappingProxyType({}),
) -> Dictionary:
    """The dictionary of these parts, [features, values] each, at (layer, reads, writes).

    ``subtracted`` is what a file takes from what is read before it encodes. ``scaled``: its
    activations are times the norm of the decoder's rows, and what it decodes divided by it.
    """
    layer, reads, writes = place
    if subtracted is not None:
        encoder_bias = encoder_bias - encoder @ subtracted
    if scaled:
        norm = decoder.flatten(1).norm(dim=1)
        encoder, encoder_bias = encoder * norm[:, None], encoder_bias * norm
        decoder = decoder / norm.view(-1, *[1] * (decoder.ndim - 1)).clamp(min=1e-12)
        threshold = None if threshold is None else threshold * norm
    return Dictionary(
        layer if stated.layer is None else stated.layer,
        encoder.contiguous(), encoder_bias.contiguous(), decoder.contiguous(), bias.contiguous(),
        reads=stated.reads or reads, writes=stated.writes or writes,
        activation=activation, threshold=threshold, skip=skip, k=k, targets=targets, about=about,
        model=str(model or "") if stated.model is None else stated.model,
    )  # fmt: skip

"""Gemma Scope 2 (of Gemma 3): ``params.safetensors`` beside ``config.json``; of a cross-layer
transcoder ``params_layer_3.safetensors``, a file a layer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from torch import Tensor

from circuitkit.errors import DictionaryError
from circuitkit.features.dictionaries import Dictionary
from circuitkit.features.formats._reading import (
    Found,
    Stated,
    assembled,
    place_named,
    read_settings,
    read_tensors,
    require_known,
)

__all__ = ["gemma_scope_2"]

WEIGHTS, SETTINGS = "params.safetensors", "config.json"
_LAYER = re.compile(r"params_layer_(\d+)\.safetensors")
_KEYS = ("w_enc", "w_dec", "b_enc", "b_dec", "threshold")


def gemma_scope_2(folder: Path, stated: Stated) -> Sequence[Found]:
    """Gemma Scope 2: ``params.safetensors`` beside ``config.json``."""
    crossing = {int(match.group(1)): file for file in sorted(folder.glob("params_layer_*"))
                if (match := _LAYER.fullmatch(file.name))}  # fmt: skip
    files = {-1: folder / WEIGHTS} if (folder / WEIGHTS).is_file() else crossing
    if not files:
        return ()
    settings = {}
    if (folder / SETTINGS).is_file():
        settings = read_settings(folder / SETTINGS)
        kind = settings.get("architecture", "jump_relu")
        require_known(kind, ("jump_relu",), "the architecture", folder / SETTINGS)
    model, found = str(settings.get("model_name") or ""), []
    for number, file in sorted(files.items()):
        names = [settings.get(f"hf_hook_point_{way}") for way in ("in", "out")]
        if number >= 0 and not names[0]:
            names = ["pre_feedforward_layernorm.output", "post_feedforward_layernorm.output"]
        layer = number if number >= 0 else stated.layer
        place = _place(names, stated, file, layer)
        place = (number, *place[1:]) if number >= 0 else place
        layers = len(crossing) if number >= 0 else None
        load = partial(_read, file, place, model, layers, stated)
        found.append(Found(place[0], file, load))
    return tuple(found)


def _place(
    names: Sequence[object], stated: Stated, file: Path, layer: int | None
) -> tuple[int, str, str]:
    """The layer, and where it reads and writes: by the file's settings or by what is stated."""
    if stated.reads and stated.writes and layer is not None:
        return layer, stated.reads, stated.writes
    if not names[0]:
        raise DictionaryError(
            f"no config.json beside {str(file)!r} says where its features read and write; put it "
            "there, or say layer, reads and writes"
        )
    number, reads = place_named(str(names[0]), file, layer)
    writes = place_named(str(names[1]), file, number)[1] if names[1] else reads
    return number, reads, writes


def _read(
    file: Path, place: tuple[int, str, str], model: str, layers: int | None, stated: Stated
) -> Dictionary:
    held = read_tensors(file, _KEYS)
    decoder, targets = held["w_dec"], tuple[int, ...]()
    if layers is not None:
        decoder, targets = _crossing(decoder, place[0], layers, file)
    skip = held.get("affine_skip_connection")  # from what is read to what is written
    return assembled(
        stated, place, encoder=held["w_enc"].T, encoder_bias=held["b_enc"], decoder=decoder,
        bias=held["b_dec"], activation="jumprelu", threshold=held["threshold"], model=model,
        skip=None if skip is None else skip.T.contiguous(), targets=targets,
    )  # fmt: skip


def _crossing(
    decoder: Tensor, layer: int, layers: int, file: Path
) -> tuple[Tensor, tuple[int, ...]]:
    """The decoder to its own layer and those after it: files have them alone, or all layers."""
    if decoder.ndim != 3 or decoder.shape[1] not in (layers, layers - layer):
        raise DictionaryError(
            f"'w_dec' of {str(file)!r} has the shape {tuple(decoder.shape)}, and writes neither in "
            f"all {layers} layers of which there are files nor in those from {layer} on"
        )
    return decoder[:, -(layers - layer) :], tuple(range(layer, layers))

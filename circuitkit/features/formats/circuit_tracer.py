"""circuit-tracer: a set of ``layer_3.safetensors``, or a cross-layer transcoder of
``W_enc_3.safetensors`` and ``W_dec_3.safetensors``, beside ``config.yaml``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from circuitkit.errors import DictionaryError
from circuitkit.features.dictionaries import Dictionary
from circuitkit.features.formats._reading import (
    Found,
    Stated,
    assembled,
    place_named,
    read_settings,
    read_tensors,
)
from circuitkit.util.json_values import Json

__all__ = ["circuit_tracer"]

SETTINGS = "config.yaml"
_FILE = re.compile(r"(layer|W_enc)_(\d+)\.safetensors")


def circuit_tracer(folder: Path, stated: Stated) -> Sequence[Found]:
    """circuit-tracer: ``layer_3.safetensors`` or ``W_enc_3.safetensors``, and ``config.yaml``."""
    named = {file: match for file in folder.iterdir() if (match := _FILE.fullmatch(file.name))}
    settings = read_settings(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}
    if not named and settings.get("transcoders"):
        raise DictionaryError(
            f"{str(folder / SETTINGS)!r} names files that are elsewhere "
            f"({str(settings['transcoders'])[:60]}...); download them, and give their folder"
        )
    layers = 1 + max((int(match.group(2)) for match in named.values()), default=-1)
    found = []
    for file, match in sorted(named.items(), key=lambda pair: int(pair[1].group(2))):
        number = int(match.group(2))
        place = number, *_place(settings, stated, file, number)
        read = _read_one if match.group(1) == "layer" else partial(_read_crossing, layers=layers)
        found.append(Found(number, file, partial(read, file, place, settings, stated)))
    return tuple(found)


def _place(settings: Mapping[str, Json], stated: Stated, file: Path, layer: int) -> tuple[str, str]:
    """Where the features read and write."""
    places = []
    for own, key in ((stated.reads, "feature_input_hook"), (stated.writes, "feature_output_hook")):
        if own is None and key not in settings:
            raise DictionaryError(
                f"no config.yaml beside {str(file)!r} says its {key}; put it there, or say reads "
                "and writes"
            )
        places.append(own or place_named(str(settings[key]), file, layer)[1])
    return places[0], places[1]


def _read_one(
    file: Path, place: tuple[int, str, str], settings: Mapping[str, Json], stated: Stated
) -> Dictionary:
    held = read_tensors(file, ("W_enc", "W_dec", "b_enc", "b_dec"))
    if "log_thresholds" in held:
        raise DictionaryError(f"{str(file)!r} has log_thresholds, which circuit-tracer refuses too")
    threshold = held.get("activation_function.threshold")
    return assembled(
        stated, place, encoder=held["W_enc"], encoder_bias=held["b_enc"], decoder=held["W_dec"],
        bias=held["b_dec"], skip=held.get("W_skip"),
        activation="relu" if threshold is None else "jumprelu",
        threshold=None if threshold is None else threshold.flatten(),
        model=settings.get("model_name"),
    )  # fmt: skip


def _read_crossing(
    file: Path,
    place: tuple[int, str, str],
    settings: Mapping[str, Json],
    stated: Stated,
    layers: int,
) -> Dictionary:
    i = place[0]
    held = read_tensors(file, (f"W_enc_{i}", f"b_enc_{i}", f"b_dec_{i}"))
    beside = file.with_name(f"W_dec_{i}.safetensors")
    decoder = read_tensors(beside, (f"W_dec_{i}",))[f"W_dec_{i}"]
    threshold = held.get(f"threshold_{i}")
    if decoder.ndim != 3 or decoder.shape[1] != layers - i:
        raise DictionaryError(
            f"'W_dec_{i}' of {str(beside)!r} has the shape {tuple(decoder.shape)}, and from layer "
            f"{i} it writes in {layers - i} layers"
        )
    return assembled(
        stated, place, encoder=held[f"W_enc_{i}"], encoder_bias=held[f"b_enc_{i}"],
        decoder=decoder, bias=held[f"b_dec_{i}"], targets=tuple(range(i, layers)),
        activation="relu" if threshold is None else "jumprelu",
        threshold=None if threshold is None else threshold.flatten(),
        model=settings.get("model_name"),
    )  # fmt: skip

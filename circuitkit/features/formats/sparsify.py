"""EleutherAI's sparsify: ``layers.3.mlp/cfg.json`` and ``sae.safetensors``; the folder's name is
the module."""

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
    read_settings,
    read_tensors,
    require_known,
)
from circuitkit.util.json_values import Json

__all__ = ["sparsify"]

SETTINGS, WEIGHTS = "cfg.json", "sae.safetensors"
_MODULE = re.compile(r"(?:.*\.)?(?:layers|h)[._](\d+)(?:\.(mlp|self_attn|attn|attention))?")


def sparsify(folder: Path, stated: Stated) -> Sequence[Found]:
    """sparsify: ``cfg.json`` and ``sae.safetensors`` in a folder named as the module."""
    if not (folder / SETTINGS).is_file() or not (folder / WEIGHTS).is_file():
        return ()
    settings = read_settings(folder / SETTINGS)
    require_known(settings.get("activation", "topk"), ("topk",), "the activation",
                  folder / SETTINGS)  # fmt: skip
    require_known(bool(settings.get("signed")), (False,), "signed", folder / SETTINGS)
    place = _place(folder, bool(settings.get("transcode")), stated)
    file = folder / WEIGHTS
    return (Found(place[0], file, partial(_read, file, settings, place, stated)),)


def _place(folder: Path, transcode: bool, stated: Stated) -> tuple[int, str, str]:
    """An autoencoder reads what the module gives; a transcoder what it takes."""
    if stated.layer is not None and stated.reads and stated.writes:
        return stated.layer, stated.reads, stated.writes
    match = _MODULE.fullmatch(folder.name)
    module = match.group(2) if match else None
    if match is None or (transcode and module != "mlp"):
        raise DictionaryError(
            f"the folder {folder.name!r} is not named as a layer or an MLP ('layers.3.mlp'); keep "
            "its name, or say layer, reads and writes"
        )
    layer = int(match.group(1))
    if module is None:
        return layer, "resid_post", "resid_post"
    if module != "mlp":
        return layer, "attn_out", "attn_out"
    return layer, "mlp_in" if transcode else "mlp_raw", "mlp_raw"


def _read(
    file: Path, settings: Mapping[str, Json], place: tuple[int, str, str], stated: Stated
) -> Dictionary:
    held = read_tensors(file, ("encoder.weight", "encoder.bias", "W_dec", "b_dec"))
    k = settings.get("k")
    if not isinstance(k, int):
        raise DictionaryError(f"{str(file.with_name(SETTINGS))!r} does not say its k")
    return assembled(
        stated, place, encoder=held["encoder.weight"], encoder_bias=held["encoder.bias"],
        decoder=held["W_dec"], bias=held["b_dec"], skip=held.get("W_skip"), activation="topk", k=k,
        subtracted=None if settings.get("transcode") else held["b_dec"],
    )  # fmt: skip

"""dictionary_learning: ``trainer_0/ae.pt`` (a pickle, of which tensors alone are read) beside
``config.json``.

Its gated and JumpReLU autoencoders give activations times the norms of the decoder's columns, and
so does what is read here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

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

__all__ = ["dictionary_learning"]

SETTINGS, WEIGHTS = "config.json", "ae.pt"
_CLASSES = ("AutoEncoder", "AutoEncoderNew", "GatedAutoEncoder", "JumpReluAutoEncoder",
            "AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE")  # fmt: skip
_PLACES = {"resid_post": "resid_post", "resid_out": "resid_post", "resid_pre": "resid_pre",
           "mlp_out": "mlp_raw", "attn_out": "attn_out"}  # fmt: skip
_MODULES = {"mlp": "mlp_raw", "attn": "attn_out", "attention": "attn_out", "self_attn": "attn_out",
            None: "resid_post"}  # fmt: skip


def dictionary_learning(folder: Path, stated: Stated) -> Sequence[Found]:
    """dictionary_learning: ``ae.pt`` and ``config.json``."""
    if not (folder / SETTINGS).is_file() or not (folder / WEIGHTS).is_file():
        return ()
    trainer = read_settings(folder / SETTINGS).get("trainer")
    settings = trainer if isinstance(trainer, dict) else {}
    require_known(settings.get("dict_class"), _CLASSES, "dict_class", folder / SETTINGS)
    layer, site = _place(settings, stated, folder / SETTINGS)
    place = layer, stated.reads or site, stated.writes or stated.reads or site
    file = folder / WEIGHTS
    return (Found(layer, file, partial(_read, file, settings, place, stated)),)


def _place(settings: Mapping[str, Json], stated: Stated, file: Path) -> tuple[int, str]:
    """The layer, and the place whose values it takes apart."""
    layer, name = settings.get("layer"), str(settings.get("submodule_name") or "")
    number = stated.layer if stated.layer is not None else layer
    site = stated.reads or next((s for key, s in _PLACES.items() if name.startswith(key)), None)
    module = re.fullmatch(r"(?:.*\.)?(?:layers|h)\.\d+(?:\.(mlp|attn|attention|self_attn))?", name)
    if site is None and module:
        site = _MODULES[module.group(1)]
    if not isinstance(number, int) or site is None:
        raise DictionaryError(
            f"the module {name!r} of {str(file)!r} is not one that circuitkit knows "
            "('resid_post_layer_3'); say layer and reads"
        )
    return number, site


def _read(
    file: Path, settings: Mapping[str, Json], place: tuple[int, str, str], stated: Stated
) -> Dictionary:
    held, kind = read_tensors(file), str(settings["dict_class"])
    try:
        parts = _parts(held, kind)
        if kind == "AutoEncoderTopK":
            parts["k"] = int(held["k"]) if "k" in held else settings["k"]
    except KeyError as error:
        raise DictionaryError(
            f"{str(file)!r} lacks the tensor {error.args[0]!r} of a {kind}; it has "
            f"{', '.join(sorted(held))}"
        ) from error
    return assembled(stated, place, **parts, model=settings.get("lm_name"))


def _parts(held: Mapping[str, Tensor], kind: str) -> dict[str, Any]:
    if kind in ("JumpReluAutoEncoder", "MatryoshkaBatchTopKSAE"):
        encoder, decoder = held["W_enc"].T, held["W_dec"]
        found = {"encoder": encoder, "decoder": decoder, "encoder_bias": held["b_enc"],
                 "bias": held["b_dec"]}  # fmt: skip
        if kind == "JumpReluAutoEncoder":
            return found | {"activation": "jumprelu", "threshold": held["threshold"],
                            "scaled": True}  # fmt: skip
        every = held["threshold"].float().expand(len(encoder))
        return found | {"activation": "batch_topk", "threshold": every, "subtracted": held["b_dec"]}
    found = {"encoder": held["encoder.weight"], "decoder": held["decoder.weight"].T}
    if kind == "GatedAutoEncoder":
        scale, bias = held["r_mag"].exp(), held["decoder_bias"]
        return found | {
            "encoder": found["encoder"] * scale[:, None], "encoder_bias": held["mag_bias"],
            "bias": bias, "subtracted": bias, "activation": "gated", "scaled": True,
            "threshold": held["mag_bias"] - held["gate_bias"] * scale,
        }  # fmt: skip
    found["encoder_bias"] = held["encoder.bias"]
    if kind == "AutoEncoderNew":
        return found | {"bias": held["decoder.bias"], "activation": "relu"}
    bias = held["bias"] if kind == "AutoEncoder" else held["b_dec"]
    found |= {"bias": bias, "subtracted": bias}
    if kind == "BatchTopKSAE":
        every = held["threshold"].float().expand(len(held["encoder.bias"]))
        return found | {"activation": "batch_topk", "threshold": every}
    return found | {"activation": "topk" if kind == "AutoEncoderTopK" else "relu"}

"""SAELens: a folder of ``cfg.json`` and ``sae_weights.safetensors``, as version 6 and earlier ones
write it."""

from __future__ import annotations

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
    require_known,
)
from circuitkit.util.json_values import Json

__all__ = ["saelens"]

SETTINGS, WEIGHTS = "cfg.json", "sae_weights.safetensors"
_OLD = {"hook_point": "hook_name", "hook_point_head_index": "hook_head_index",
        "activation_fn_str": "activation_fn"}  # fmt: skip
_KINDS = (  # and, with "topk_", what circuitkit writes beside them
    "standard", "jumprelu", "gated", "topk", "transcoder", "skip_transcoder", "jumprelu_transcoder",
    "jumprelu_skip_transcoder", "topk_transcoder", "topk_skip_transcoder",
)  # fmt: skip


def saelens(folder: Path, stated: Stated) -> Sequence[Found]:
    """SAELens: ``cfg.json`` and ``sae_weights.safetensors``."""
    if not (folder / SETTINGS).is_file() or not (folder / WEIGHTS).is_file():
        return ()
    settings = _settings(folder / SETTINGS)
    place = _place(settings, stated, folder / SETTINGS)
    file = folder / WEIGHTS
    return (Found(place[0], file, partial(_read, file, settings, place, stated)),)


def _settings(file: Path) -> dict[str, Json]:
    """The settings under their names of version 6, in one level."""
    held = read_settings(file)
    metadata = held.get("metadata")
    within = metadata if isinstance(metadata, dict) else {}
    flat = {_OLD.get(key, key): value for key, value in {**held, **within}.items()}
    extra = flat.get("activation_fn_kwargs")
    k = extra.get("k") if isinstance(extra, dict) else None
    if flat.get("activation_fn") in ("topk", "TopK") and k is not None:
        flat |= {"architecture": "topk", "k": k}
    kind = flat.setdefault("architecture", "standard")
    require_known(kind, _KINDS, "the architecture", file)
    require_known(flat.get("hook_head_index"), (None,), "the head (hook_head_index)", file)
    scaled = flat.get("normalize_activations")
    scaled = "expected_average_only_in" if scaled is True else scaled
    require_known(scaled or "none", ("none",), "the scale of what is read", file)
    flat.setdefault("apply_b_dec_to_input", "transcoder" not in str(kind))
    return flat


def _place(settings: Mapping[str, Json], stated: Stated, file: Path) -> tuple[int, str, str]:
    """The layer, and where it reads and writes."""
    name, out = settings.get("hook_name"), settings.get("hook_name_out")
    if stated.layer is not None and stated.reads and stated.writes:
        return stated.layer, stated.reads, stated.writes
    layer, reads = place_named(str(name), file, stated.layer)
    if "transcoder" not in str(settings["architecture"]):
        return layer, reads, stated.reads or reads
    if not out and not stated.writes:
        raise DictionaryError(
            f"{str(file)!r} does not say where its transcoder writes (hook_name_out); say it: "
            "writes='mlp_out'"
        )
    return layer, reads, stated.writes or place_named(str(out), file, layer)[1]


def _read(
    file: Path, settings: Mapping[str, Json], place: tuple[int, str, str], stated: Stated
) -> Dictionary:
    kind = str(settings["architecture"])
    held = read_tensors(file, ("W_enc", "W_dec", "b_dec", *_needed(kind)))
    decoder, threshold = held["W_dec"], held.get("threshold")
    shift = held["b_mag" if kind == "gated" else "b_enc"]
    encoder = held["W_enc"].T
    if kind == "gated":
        # Active where x @ W_enc + b_gate > 0, of the magnitude x @ W_enc * exp(r_mag) + b_mag: the
        # gate is a threshold of the magnitude.
        scale = held["r_mag"].exp()
        encoder, threshold = encoder * scale[:, None], shift - held["b_gate"] * scale
    if settings.get("finetuning_scaling_factor") and "scaling_factor" in held:
        decoder = decoder * held["scaling_factor"][:, None]
    activation = next((name for name in ("jumprelu", "gated", "topk") if kind.startswith(name)),
                      "relu")  # fmt: skip
    return assembled(
        stated, place, encoder=encoder, encoder_bias=shift, decoder=decoder, bias=held["b_dec"],
        subtracted=held["b_dec"] if settings["apply_b_dec_to_input"] else None,
        scaled=bool(settings.get("rescale_acts_by_decoder_norm")), activation=activation,
        threshold=threshold if activation in ("jumprelu", "gated") else None,
        skip=held["W_skip"] if "skip" in kind else None,
        k=settings.get("k") if activation == "topk" else None,
        model=settings.get("model_name"), about=dict(settings),
    )  # fmt: skip


def _needed(kind: str) -> tuple[str, ...]:
    """The tensors that an architecture has beside those of each."""
    if kind == "gated":
        return ("b_gate", "b_mag", "r_mag")
    threshold = ("threshold",) * kind.startswith("jumprelu")
    return ("b_enc", *threshold, *("W_skip",) * ("skip" in kind))

"""Dictionaries from files of any format, and into files of SAELens's."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch

from circuitkit.errors import DictionaryError
from circuitkit.features.dictionaries import SITES, Dictionary
from circuitkit.features.formats import formats
from circuitkit.features.formats._reading import Found, Stated
from circuitkit.util.atomic import write_whole
from circuitkit.util.json_values import Json
from circuitkit.util.naming import unknown

__all__ = ["load", "save"]

MINI = Path(__file__).parent.parent / "assets" / "mini-transcoders"
FILES = ("cfg.json", "sae_weights.safetensors")  # of a dictionary, as SAELens names them
DEEPEST = 4  # levels of folders in which files are looked for
_NAMES = {  # of places, as SAELens says them
    "resid_pre": "hook_resid_pre", "resid_mid": "hook_resid_mid", "resid_post": "hook_resid_post",
    "attn_z": "attn.hook_z", "attn_out": "hook_attn_out", "mlp_in": "mlp.hook_in",
    "mlp_normalized": "ln2.hook_normalized", "neurons": "mlp.hook_post",
    "mlp_raw": "mlp.hook_out", "mlp_out": "hook_mlp_out",
}  # fmt: skip


def load(
    path: str | os.PathLike[str],
    *,
    layers: Iterable[int] | None = None,
    model: str | None = None,
    layer: int | None = None,
    reads: str | None = None,
    writes: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> tuple[Dictionary, ...]:
    """The dictionaries in a file or a folder, and in the folders in it, by their layers.

    Read are the formats of SAELens (6 and before), Gemma Scope 1 and 2, circuit-tracer, sparsify
    and dictionary_learning. Nothing in a file is executed.

    Args:
        path: A file or a folder, or ``mini``: the transcoders that come with the package.
        layers: The layers of which dictionaries are read; all.
        model: The model that they are of, where files do not say it or say it otherwise.
        layer: Their layer, likewise.
        reads: Where they read, likewise: one of ``circuitkit.features.dictionaries.SITES``.
        writes: Where they write, likewise.
        dtype: The type of the weights.
        device: Where they are put.

    Raises:
        DictionaryError: where nothing is found, or what is found cannot be used.
    """
    stated = Stated(model, layer, reads, writes)
    for site in (reads, writes):
        if site is not None and site not in SITES:
            raise DictionaryError(unknown("place", site, tuple(SITES)))
    place = MINI if os.fspath(path) == "mini" else Path(path)
    if not place.exists():
        raise DictionaryError(f"there is no file or folder {str(path)!r}")
    wanted = None if layers is None else set(layers)
    found = [
        one
        for folder in _folders(place if place.is_dir() else place.parent)
        for one in _in_folder(folder, stated)
        if place.is_dir() or one.file == place
    ]
    if not found:
        names = ", ".join(formats())
        raise DictionaryError(
            f"{str(path)!r} holds no dictionary of a known format ({names}); give the folder that "
            "holds the weights and their settings"
        )
    chosen = [one for one in found if wanted is None or one.layer in wanted]
    if wanted is not None and wanted - {one.layer for one in chosen}:
        missing = sorted(wanted - {one.layer for one in chosen})
        raise DictionaryError(
            f"{str(path)!r} has no dictionary of layer {missing[0]}; it has those of "
            f"{', '.join(map(str, sorted({one.layer for one in found})))}"
        )
    ordered = sorted(chosen, key=lambda one: (one.layer, str(one.file)))
    return tuple(one.load().to(dtype, device) for one in ordered)


def _folders(place: Path, depth: int = 0) -> Iterator[Path]:
    """A folder and the folders in it."""
    yield place
    if depth < DEEPEST:
        for inner in sorted(place.iterdir()):
            if inner.is_dir() and not inner.is_symlink():
                yield from _folders(inner, depth + 1)


def _in_folder(folder: Path, stated: Stated) -> Sequence[Found]:
    """What the first format that knows a folder's files finds in it."""
    return next((found for own in formats().values() if (found := own(folder, stated))), ())


# -- SAELens's format ------------------------------------------------------------------------------
def save(dictionaries: Iterable[Dictionary], folder: str | os.PathLike[str]) -> tuple[Path, ...]:
    """Write dictionaries in SAELens's format (version 6), each in a folder of its own: ``m3`` for
    what is written by the MLP of layer 3. Returns the folders.

    SAELens has no TopK transcoders; such a one is written as ``topk_transcoder``, which it refuses.

    Raises OutputError where a file cannot be written, and DictionaryError for a cross-layer
    transcoder, which the format cannot hold.
    """
    from safetensors.torch import save as to_bytes

    written = []
    for own in dictionaries:
        if own.decoder.ndim == 3:
            raise DictionaryError(
                f"{own.prefix} is a cross-layer transcoder, which SAELens's format cannot hold"
            )
        place = Path(folder) / own.prefix
        tensors = {"W_enc": own.encoder.T, "b_enc": own.encoder_bias, "W_dec": own.decoder,
                   "b_dec": own.bias}  # fmt: skip
        if own.threshold is not None:
            tensors["threshold"] = own.threshold
        if own.skip is not None:
            tensors["W_skip"] = own.skip
        held = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        settings, weights = (place / name for name in FILES)
        write_whole(weights, to_bytes(held))
        write_whole(settings, json.dumps(_settings(own), indent=1, sort_keys=True) + "\n")
        written.append(place)
    return tuple(written)


def _settings(own: Dictionary) -> dict[str, Json]:
    """What ``cfg.json`` says of a dictionary."""
    gate = {"relu": "", "topk": "topk_"}.get(own.activation, "jumprelu_")
    kind = own.kind if own.kind != "autoencoder" else ""
    name = f"{gate}{kind}".strip("_") or "standard"
    metadata: dict[str, Json] = {
        "model_name": own.model, "hook_name": f"blocks.{own.layer}.{_NAMES[own.reads]}",
        "hook_head_index": None, "sae_lens_version": "6.0.0",
        **{key: value for key, value in own.about.items() if key.startswith("circuitkit")},
    }  # fmt: skip
    if kind:
        metadata["hook_name_out"] = f"blocks.{own.layer}.{_NAMES[own.writes]}"
    settings: dict[str, Json] = {
        "architecture": name, "d_in": own.d_in, "d_sae": own.n_features, "device": "cpu",
        "dtype": str(own.dtype).removeprefix("torch."), "apply_b_dec_to_input": False,
        "normalize_activations": "none", "metadata": metadata,
        "reshape_activations": "hook_z" if own.reads == "attn_z" else "none",
    }  # fmt: skip
    if kind:
        settings["d_out"] = own.d_out
    if own.k is not None:
        settings |= {"k": own.k, "rescale_acts_by_decoder_norm": False}
    return settings

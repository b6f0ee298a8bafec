"""Gemma Scope (of Gemma 2): ``layer_3/width_16k/average_l0_54/params.npz``, whose place is in the
name of the folders.

Its transcoders read what the RMSNorm before the MLP gives *without its weight*, which was folded
into the model when they were trained (Lieberum et al. 2024, section 5.4), and write what arrives in
the residual stream, after the norm behind the MLP.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from circuitkit.errors import DictionaryError
from circuitkit.features.dictionaries import Dictionary
from circuitkit.features.formats._reading import Found, Stated, assembled, read_tensors

__all__ = ["gemma_scope"]

WEIGHTS = "params.npz"
_REPOSITORY = re.compile(r"gemma-scope-(\w+-(?:pt|it))-(res|att|mlp|transcoders)")
_PLACES = {"res": ("resid_post",) * 2, "att": ("attn_z",) * 2, "mlp": ("mlp_out",) * 2,
           "transcoders": ("mlp_normalized", "mlp_out")}  # fmt: skip


def gemma_scope(folder: Path, stated: Stated) -> Sequence[Found]:
    """Gemma Scope: ``params.npz`` in folders that say the layer."""
    file = folder / WEIGHTS
    if not file.is_file():
        return ()
    path = folder.resolve().as_posix()
    layer = re.search(r"layer_(\d+)", path)
    source = _REPOSITORY.search(path)
    model = ""
    place: tuple[str | None, str | None] = (stated.reads, stated.writes)
    if source:
        model = f"gemma-2-{source.group(1).removesuffix('-pt')}"
        place = _PLACES[source.group(2)]
    reads, writes = stated.reads or place[0], stated.writes or place[1]
    number = stated.layer if layer is None else int(layer.group(1))
    if number is None or reads is None or writes is None:
        raise DictionaryError(
            f"the folders of {str(file)!r} do not say its layer ('layer_3') and what it is of "
            "('gemma-scope-2b-pt-transcoders'); keep their names, or say layer, reads and writes"
        )
    place_of = (number, reads, writes)
    return (Found(number, file, partial(_read, file, place_of, model, stated)),)


def _read(file: Path, place: tuple[int, str, str], model: str, stated: Stated) -> Dictionary:
    held = read_tensors(file, ("W_enc", "W_dec", "b_enc", "b_dec", "threshold"))
    return assembled(
        stated, place, encoder=held["W_enc"].T, encoder_bias=held["b_enc"], decoder=held["W_dec"],
        bias=held["b_dec"], activation="jumprelu", threshold=held["threshold"], model=model,
    )  # fmt: skip

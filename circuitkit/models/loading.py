"""A model by its name: embedded, fetched, in a directory, or on the hub."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import torch

from circuitkit.data.tokens import Tokenizer
from circuitkit.errors import ModelError, UnsupportedModelError
from circuitkit.models.checking import check
from circuitkit.models.decoder import SUFFIX, Decoder
from circuitkit.models.fetching import FETCHED, place_of
from circuitkit.models.transformer_lens import Transformer, from_module, from_pretrained
from circuitkit.util.neighbour import NeighbourWarning, neighbour

__all__ = ["load", "open_model"]

MINI = Path(__file__).parent.parent / "assets" / "mini"


def load(
    name: str | Path | torch.nn.Module,
    *,
    tokenizer: Tokenizer | None = None,
    device: str | None = None,
    dtype: str | torch.dtype | None = None,
    experts: str | None = None,
) -> Transformer | Decoder:
    """The model, proved to be the graph that we take it for.

    ``name`` is ``mini`` (embedded), a model that ``circuitkit fetch`` stores, a Hugging Face
    directory, or a hub name; or a Hugging Face module or TransformerBridge that is already there;
    or the file of a compiled program (``.decoder``), whose graph is known.
    With ``experts`` the experts of mixture-of-experts MLPs are writers of their own (``m3.e5``),
    whose router's weights follow what is read (``live``) or stay as in the clean run (``held``).
    Weights are used as they are, unprocessed. Without a ``device`` it is the processor; without a
    ``dtype`` the one of the checkpoint. Raises ModelError where there is no such model, and
    UnsupportedModelError, with the reason, where its graph would be wrong; warns where another
    project's package is installed beside ours.
    """
    found = neighbour()
    if found:
        warnings.warn(found, NeighbourWarning, stacklevel=2)
    if isinstance(name, torch.nn.Module):
        model = from_module(name, tokenizer=tokenizer, name=type(name).__name__, experts=experts)
    elif str(name).endswith(SUFFIX):
        compiled = Decoder.open(name)
        if experts:
            raise UnsupportedModelError(f"{str(name)!r} has no experts; load it without")
        return compiled.to(_device(device), _dtype(dtype) or compiled.dtype)
    else:
        model = open_model(name, device=device, dtype=dtype, experts=experts)
    check(model).require()
    return model


def open_model(
    name: str | Path,
    *,
    device: str | None = None,
    dtype: str | torch.dtype | None = None,
    experts: str | None = None,
) -> Transformer:
    """The model, not yet proved; raises as ``load`` does."""
    kind, place, device = _dtype(dtype), _place(str(name)), _device(device)
    return from_pretrained(place, name=str(name), device=device, dtype=kind, experts=experts)


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    kind = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype is not None and not isinstance(kind, torch.dtype):
        raise ModelError(f"{dtype!r} is no dtype; choose float32, float64, bfloat16 or float16")
    return kind


def _device(device: str | None) -> str:
    try:
        torch.empty(0, device=device or "cpu")
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        raise ModelError(
            f"the device {device!r} cannot be used ({reason}); choose cpu, cuda or mps"
        ) from error
    return device or "cpu"


def _place(name: str) -> str | Path:
    """Where the weights are: a directory, else the name itself, for the hub."""
    if name == "mini":
        return MINI
    if name in FETCHED:
        return place_of(name)
    if os.path.isdir(name):
        return name
    if os.sep in name and (name.startswith((".", os.sep, "~")) or name.count(os.sep) > 1):
        raise ModelError(
            f"there is no directory {name!r}; give a Hugging Face directory, a hub name or 'mini'"
        )
    return name

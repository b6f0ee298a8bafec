"""A model by its name, in a directory, or around a module that is already in memory."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch

from circuitkit.data.tokens import Tokenizer
from circuitkit.errors import ModelError, UnsupportedModelError
from circuitkit.models.checking import check
from circuitkit.models.decoder import SUFFIX, Decoder
from circuitkit.models.fetching import FETCHED, place_of
from circuitkit.models.transformer_lens import (
    Transformer,
    from_module,
    from_pretrained,
    tokenizer_of,
)
from circuitkit.util.neighbour import NeighbourWarning, neighbour

__all__ = ["load", "open_model"]

MINI = Path(__file__).parent.parent / "assets" / "mini"


def load(
    source: str | os.PathLike[str] | torch.nn.Module | Transformer | Decoder,
    *,
    tokenizer: Tokenizer | None = None,
    device: str | None = None,
    dtype: str | torch.dtype | None = None,
    experts: str | None = None,
) -> Transformer | Decoder:
    """The model, proved to be the graph that we take it for.

    ``source`` is one of

    * a name: ``mini`` (embedded), a model that ``circuitkit fetch`` stores, or a Hugging Face hub
      name;
    * a directory that ``save_pretrained`` wrote, as a string or a path;
    * a Hugging Face causal language model or a TransformerBridge that is already in memory;
    * the file of a compiled program (``.decoder``), whose graph is known.

    A module or a bridge that is given stays as it is: its gradients, mode, hooks and configuration
    are its own. The model reads the same weights, takes no gradients in them, and is not changed by
    the module's hooks. Load the module again after its weights have changed (an optimizer's step):
    a run of the model that was loaded before then raises ModelError, unless they were changed
    through ``.data``, which leaves no trace.
    Its tokenizer is the bridge's, or the one in the local directory that the module was loaded
    from; nothing is downloaded for it. Without one, give ``tokenizer``: the model loads without,
    but tasks and prompts need one.

    Weights are used as they are, unprocessed. Without a ``device`` a model is loaded to the
    processor, and one in memory stays where it is; without a ``dtype`` the type is that of the
    checkpoint or the module. A module is copied where ``device`` or ``dtype`` ask for another one.

    With ``experts`` the experts of mixture-of-experts MLPs are writers of their own (``m3.e5``),
    whose router's weights follow what is read (``live``) or stay as in the clean run (``held``).
    Where keys and values are shared by a group of heads (grouped-query attention), there is one
    edge into each group (``a0.g1<k>``); EAP-IG has one into each head, as if it had its own.

    Raises ModelError where there is no such model, or ``source`` is something else, and
    UnsupportedModelError, with the reason, where its graph would be wrong. Warns where another
    project's package is installed beside ours.

    Example:
        >>> import circuitkit as ck
        >>> model = ck.load("mini")
        >>> model.wiring.layers, model.wiring.heads
        (2, 4)
    """
    found = neighbour()
    if found:
        warnings.warn(found, NeighbourWarning, stacklevel=2)
    if isinstance(source, (str, os.PathLike)) and os.fspath(source).endswith(SUFFIX):
        source = Decoder.open(source)
    if isinstance(source, Decoder):
        if experts:
            raise UnsupportedModelError(f"{source.name!r} has no experts; load it without")
        return source.to(_device(device or source.device), _dtype(dtype) or source.dtype)
    model = _opened(source, tokenizer, device, dtype, experts)
    check(model).require()
    return model


def _opened(
    source: object,
    tokenizer: Tokenizer | None,
    device: str | None,
    dtype: str | torch.dtype | None,
    experts: str | None,
) -> Transformer:
    """The model of a module, a bridge, a directory or a name; not yet proved."""
    if isinstance(source, (str, os.PathLike)):
        return open_model(source, tokenizer=tokenizer, device=device, dtype=dtype, experts=experts)
    module, name = source, type(source).__name__
    if isinstance(source, Transformer):
        module, name = source.bridge, source.name
        tokenizer = source.tokenizer if tokenizer is None else tokenizer
    if not isinstance(module, torch.nn.Module):
        raise ModelError(_refusal(module))
    return from_module(
        module,
        tokenizer=tokenizer_of(module) if tokenizer is None else tokenizer,
        name=name,
        device=None if device is None else _device(device),
        dtype=_dtype(dtype),
        experts=experts,
    )


def _refusal(source: object) -> str:
    """Why that is not something to load."""
    wanted = (
        "give a name ('mini', or a hub name), a directory, a Hugging Face causal language model, "
        "or a TransformerBridge"
    )
    if isinstance(source, Mapping):
        return f"a state dict holds weights but not the model that they belong to; {wanted}"
    what = "a class" if isinstance(source, type) else f"an object of type {type(source).__name__}"
    return f"{'None' if source is None else what} is not a model to load; {wanted}"


def open_model(
    name: str | os.PathLike[str],
    *,
    tokenizer: Tokenizer | None = None,
    device: str | None = None,
    dtype: str | torch.dtype | None = None,
    experts: str | None = None,
) -> Transformer:
    """The model of a name or a directory, not yet proved; raises as ``load`` does."""
    kind, place, where = _dtype(dtype), _place(name), _device(device)
    return from_pretrained(
        place, name=str(name), tokenizer=tokenizer, device=where, dtype=kind, experts=experts
    )


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    kind = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype is not None and not isinstance(kind, torch.dtype):
        raise ModelError(f"{dtype!r} is not a dtype; choose float32, float64, bfloat16 or float16")
    return kind


def _device(device: str | torch.device | None) -> str:
    try:
        torch.empty(0, device=device or "cpu")
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        raise ModelError(
            f"the device {device!r} cannot be used ({reason}); choose cpu, cuda or mps"
        ) from error
    return str(device or "cpu")


def _place(name: str | os.PathLike[str]) -> str | Path:
    """Where the weights are: a directory, else the name itself, for the hub; a path is no name."""
    text = os.fspath(name)
    if isinstance(name, str) and text == "mini":
        return MINI
    if isinstance(name, str) and text in FETCHED:
        return place_of(text)
    place = os.path.expanduser(text)
    if os.path.isdir(place):
        return place
    written = text.startswith((".", os.sep, "~")) or text.count(os.sep) > 1
    if not isinstance(name, str) or (os.sep in text and written):
        raise ModelError(
            f"there is no directory {text!r}; give a Hugging Face directory, a hub name or 'mini'"
        )
    return text

"""A model by its name, in a directory, or around a module that is already in memory."""

from __future__ import annotations

import os
import reprlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch

from circuitkit.data.framing import framed
from circuitkit.data.tokens import Tokenizer, view
from circuitkit.errors import ModelError, UnsupportedModelError
from circuitkit.models.checking import check
from circuitkit.models.decoder import SUFFIX, Decoder
from circuitkit.models.fetching import FETCHED, place_of
from circuitkit.models.placing import ON_DISK, DeviceMap
from circuitkit.models.saved import in_one_line
from circuitkit.models.transformer_lens import (
    Transformer,
    from_module,
    from_pretrained,
    tokenizer_of,
)
from circuitkit.util.neighbour import NeighbourWarning, neighbour

__all__ = ["MAPS", "load", "open_model"]

T = TypeVar("T", Transformer, Decoder)

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
MAPS = ("auto", "balanced", "balanced_low_0", "sequential")  # as accelerate makes them
MINI = Path(__file__).parent.parent / "assets" / "mini"


def load(
    source: str | os.PathLike[str] | torch.nn.Module | Transformer | Decoder,
    *,
    tokenizer: Tokenizer | None = None,
    device: str | None = None,
    device_map: DeviceMap | None = None,
    dtype: str | torch.dtype | None = None,
    experts: str | None = None,
    bos: bool | None = None,
    chat: bool | None = None,
    trainable: bool = False,
) -> Transformer | Decoder:
    """Load a model, and check that it is the graph that circuitkit takes it for (see ``check``).

    ``source`` is one of

    * a name: ``mini`` (embedded), a model that ``circuitkit fetch`` stores, or a Hugging Face hub
      name, of which ``NAME@REVISION`` is a branch, tag or commit;
    * a directory that ``save_pretrained`` wrote, as a string or a path;
    * a Hugging Face causal language model or a TransformerBridge that is already in memory;
    * the file of a compiled program (``.decoder``), whose graph is known.

    A module or a bridge that you give is not changed, nor are its gradients, mode, hooks and
    configuration. The model reads the same weights without a copy, takes no gradients in them, and
    does not run your hooks. After the weights change (an optimizer's step), load the module again:
    the model that was loaded before raises ModelError when it is run. (A change through ``.data``
    cannot be detected.)

    The tokenizer is the one that you give, that of the bridge, or the one in the local directory
    that the module was loaded from; nothing is downloaded for it. A model without a tokenizer loads
    too, but tasks and prompts need one: give it as ``tokenizer``.

    Weights are used as they are, unprocessed. By default a model is loaded on the CPU, one in
    memory stays on its device, and the dtype is that of the checkpoint or the module. A different
    ``device`` or ``dtype`` copies the weights of a module in memory.

    With a ``device_map`` (``auto``, ``balanced``, ``balanced_low_0``, ``sequential``, or devices by
    the names of modules) accelerate places the layers of a saved model on several devices, file by
    file, and every function follows: each layer computes where its weights are. A module that is
    spread over devices already is taken as it is. Layers that are kept on the disk, or on the CPU
    for a GPU, are refused, because a head's weights must be in memory.

    With ``experts`` the experts of mixture-of-experts MLPs are writers of their own (``m3.e5``),
    whose router's weights follow what is read (``live``) or stay as in the clean run (``held``).
    A ``trainable`` model keeps the gradients of its weights: ``run`` and ``measure`` carry one into
    the parameters of your module (or of ``model.bridge``), under any mask. After an optimizer's
    step it uses the new weights. Models with post-norms, and those whose joint q, k and v
    projection TransformerLens copies, are refused.

    Where keys and values are shared by a group of heads (grouped-query attention), there is one
    edge into each group (``m0->a1.g0.k``); EAP-IG ungroups them and has one into each head.

    Prompts begin with the special tokens that the tokenizer adds. ``bos=True`` adds a BOS token if
    the tokenizer does not (for GPT-2, as TransformerLens does), ``bos=False`` leaves it out. With
    ``chat=True`` a prompt is the user's message in the tokenizer's chat template, without a system
    message: spans stay at the same words, and the answer is the first token of the assistant's,
    which is taken without its leading space unless the template writes one there. Templates run in
    the sandbox of transformers, on 26 July 2024, with thinking turned off for models that support
    it. Circuits record both settings, and are measured with them.

    Raises ModelError where there is no such model, ``source`` is something else, or its weights
    cannot be where they should, and UnsupportedModelError, with the reason, where its graph would
    be wrong; DataError where there is no BOS token or chat template that is asked for. Warns where
    another project's package is installed beside ours.

    Example:
        >>> import circuitkit as ck
        >>> model = ck.load("mini")
        >>> model.wiring.layers, model.wiring.heads
        (4, 4)
    """
    found = neighbour()
    if found:
        warnings.warn(found, NeighbourWarning, stacklevel=2)
    if isinstance(source, (str, os.PathLike)) and os.fspath(source).endswith(SUFFIX):
        source = Decoder.open(source)
    spread = _spread(source, device, device_map)
    if isinstance(source, Decoder):
        if experts:
            raise UnsupportedModelError(f"{source.name!r} has no experts; load it without")
        if trainable:
            raise UnsupportedModelError(
                f"{source.name!r} is compiled, and is not trained; load a Hugging Face model"
            )
        moved = source.to(_device(device or source.device), _dtype(dtype) or source.dtype)
        return _framed(moved, bos, chat)
    model = _opened(source, tokenizer, device, spread, dtype, experts, trainable)
    model = _framed(model, bos, chat)
    check(model).require()
    return model


def _framed(model: T, bos: bool | None, chat: bool | None) -> T:
    """The model with a choice of BOS token and chat template; raises DataError if it lacks them."""
    if bos is not None or chat is not None:
        words = view(model)
        model.tokenizer = framed(words.tokenizer, bos=bos, chat=chat, name=model.name)
    return model


def _opened(
    source: object,
    tokenizer: Tokenizer | None,
    device: str | None,
    device_map: DeviceMap | None,
    dtype: str | torch.dtype | None,
    experts: str | None,
    trainable: bool,
) -> Transformer:
    """The model of a module, a bridge, a directory or a name; not yet proved."""
    if isinstance(source, (str, os.PathLike)):
        return open_model(
            source, tokenizer=tokenizer, device=device, device_map=device_map, dtype=dtype,
            experts=experts, trainable=trainable,
        )  # fmt: skip
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
        trainable=trainable,
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
    device_map: DeviceMap | None = None,
    dtype: str | torch.dtype | None = None,
    experts: str | None = None,
    trainable: bool = False,
    bos: bool | None = None,
    chat: bool | None = None,
) -> Transformer:
    """The model of a name or a directory, not yet proved; raises as ``load`` does."""
    spread = _spread(name, device, device_map)
    kind, place, where = _dtype(dtype), _place(name), _device(device)
    model = from_pretrained(
        place,
        name=str(name),
        tokenizer=tokenizer,
        device=where,
        device_map=spread,
        dtype=kind,
        experts=experts,
        trainable=trainable,
    )
    return _framed(model, bos, chat)


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    kind = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype is not None and kind not in DTYPES:
        raise ModelError(f"{dtype!r} is not a dtype; choose float32, float64, bfloat16 or float16")
    return kind


def _device(device: str | torch.device | None) -> str:
    wanted = "cpu" if device is None or device == "" else device
    try:
        torch.empty(0, device=wanted)
    except Exception as error:  # of each device its own
        raise ModelError(
            f"the device {reprlib.repr(device)} cannot be used ({in_one_line(error)}); this "
            f"machine has {', '.join(_devices())}"
        ) from error
    return str(wanted)


def _spread(
    source: object, device: str | torch.device | None, device_map: DeviceMap | None
) -> DeviceMap | None:
    """The device map, if it is one that can be followed; raises ModelError where it is not."""
    if device_map is None:
        return None
    if device:
        raise ModelError(
            f"device={str(device)!r} and device_map={reprlib.repr(device_map)} both say where the "
            "weights go; give one of them"
        )
    if not isinstance(source, (str, os.PathLike)):
        raise ModelError(
            "a device map places the weights of a saved model as they are loaded; give the "
            "directory or name of one, or spread this model yourself (accelerate's dispatch_model)"
        )
    if isinstance(device_map, str) and device_map in MAPS:
        return device_map
    if not isinstance(device_map, Mapping) or not device_map:
        raise ModelError(
            f"{reprlib.repr(device_map)} is not a device map; choose {', '.join(MAPS)}, or give a "
            "dictionary of the devices of modules by their names"
        )
    return {str(key): _placed(str(key), at, device_map) for key, at in device_map.items()}


def _placed(
    part: str, at: str | int | torch.device, device_map: Mapping[str, object]
) -> str | torch.device:
    """A device of a device map; raises ModelError for one from which no weights can be read."""
    others = [str(one) for one in device_map.values() if str(one) not in ("cpu", "disk")]
    if str(at) in ("disk", "meta") or (str(at) == "cpu" and others):
        raise ModelError(
            f"the device map leaves {part!r} on {str(at)!r}"
            f"{', to be copied to a GPU whenever it runs' if str(at) == 'cpu' else ''}, where its "
            f"heads cannot be read one by one; {ON_DISK}"
        )
    return _device(f"cuda:{at}" if isinstance(at, int) else at)


def _devices() -> list[str]:
    """The devices that torch can use here."""
    found = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    return [*found, "mps"] if torch.backends.mps.is_available() else found


def _place(name: str | os.PathLike[str]) -> str | Path:
    """Where the weights are: a directory, or the name itself for the hub, which a path is not."""
    text = os.fspath(name)
    if isinstance(name, str) and text == "mini":
        return MINI
    if isinstance(name, str) and text in FETCHED:
        return place_of(text)
    place = os.path.expanduser(text)
    if os.path.isdir(place):
        return place
    if os.path.isfile(place):
        raise ModelError(f"{text!r} is a file, and a model is a directory; give that of the file")
    written = text.startswith((".", os.sep, "~")) or text.count(os.sep) > 1 or text[-1:] == os.sep
    if not isinstance(name, str) or (os.sep in text and written):
        raise ModelError(
            f"there is no directory {text!r}; give a Hugging Face directory, a hub name or 'mini'"
        )
    return text

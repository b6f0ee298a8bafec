"""Where dictionaries read and write: the values there in a run, and whether a dictionary fits a
model."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from circuitkit.engine.inspection import Inspectable
from circuitkit.engine.model import Activations, Model
from circuitkit.errors import DictionaryError
from circuitkit.features.dictionaries import SITES, Dictionary
from circuitkit.graph.stages import ATTENTION, MLP, Stage
from circuitkit.util.naming import plain_name, unknown

__all__ = ["fitted", "require_fitting", "site_values", "width_of"]

SAME = {"gpt2_small": "gpt2"}  # names that TransformerLens had of its own


def site_values(model: Model, run: Activations, layer: int, site: str) -> Float[Tensor, "b p d"]:
    """What is at one of ``SITES`` of a layer in a run.

    Raises DictionaryError where there is no such place in the model.
    """
    _require_place(model, layer, site)
    heads, mlp = _stage(model, layer, ATTENTION), _stage(model, layer, MLP)
    if site == "resid_pre" and heads is not None:
        return run.reads[heads.index]
    if site == "resid_post":
        after = _stage(model, layer + 1, ATTENTION)
        return run.final if after is None else run.reads[after.index]
    if site.startswith("attn") and heads is not None:
        z = run.computed[heads.index]
        return z.flatten(2) if site == "attn_z" else model.attention_out(layer, z)[0]
    if mlp is None:
        raise DictionaryError(f"{model.name!r} has no {site!r} in layer {layer}")
    read = run.reads[mlp.index]
    if site == "neurons":
        return model.neurons(layer, read)
    if site in ("mlp_in", "mlp_normalized"):
        given = _inspectable(model).mlp_in(layer, read)
        weight = None if site == "mlp_in" else _gain(_inspectable(model), layer)
        return given if weight is None else given / weight
    return read if site == "resid_mid" else run.computed[mlp.index][:, :, 0]


def width_of(model: Model, layer: int, site: str) -> int:
    """How many values there are at one of ``SITES``.

    Raises DictionaryError where there is no such place in the model.
    """
    _require_place(model, layer, site)
    if site == "attn_z":
        return model.wiring.heads * model.d_head
    if site == "neurons":
        nothing = torch.zeros(1, 1, model.d_model, dtype=model.dtype, device=model.device)
        return model.neurons(layer, nothing).shape[-1]
    return model.d_model


def require_fitting(dictionary: Dictionary, model: Model) -> None:
    """Raise DictionaryError where a dictionary does not fit a model: where it is of another model,
    by name; where the model has no such place, or one of another width."""
    known, own = _name(dictionary.model), _name(model.name)
    if known and known != own:
        raise DictionaryError(
            f"the dictionary {dictionary.prefix} is of the model {dictionary.model!r}, and not of "
            f"{model.name!r}; load that model, or give the dictionary's file with model={own!r} if "
            "they are the same"
        )
    places = [(dictionary.layer, dictionary.reads, dictionary.d_in)]
    places += [(layer, dictionary.writes, dictionary.d_out) for layer in dictionary.targets]
    for layer, site, width in places:
        found = width_of(model, layer, site)
        if found != width:
            raise DictionaryError(
                f"the dictionary {dictionary.prefix} has {width} values at {site!r}, and "
                f"{model.name!r} has {found} in layer {layer}; load the model that it is of"
            )


def fitted(dictionary: Dictionary, model: Model) -> Dictionary:
    """The dictionary as the same functions at the places that everything else knows: ``mlp_in`` for
    ``mlp_normalized``, ``mlp_out`` for ``mlp_raw``.

    Raises DictionaryError as ``require_fitting`` does.
    """
    require_fitting(dictionary, model)
    own = dictionary
    if "mlp_normalized" in (own.reads, own.writes):
        weight = _gain(_inspectable(model), own.layer)
        if own.reads == own.writes:
            raise DictionaryError(
                f"the autoencoder {own.prefix} is of {SITES['mlp_normalized']}; use one of 'mlp_in'"
            )
        scale = torch.ones(()) if weight is None else 1 / weight
        own = replace(own, reads="mlp_in", encoder=own.encoder * scale.to(own.encoder))
        if own.skip is not None:
            own = replace(own, skip=own.skip * scale.to(own.skip))
    read, written = ("mlp_out" if x == "mlp_raw" else x for x in (own.reads, own.writes))
    return replace(own, reads=read, writes=written)


def _gain(model: Inspectable, layer: int) -> Float[Tensor, " d"] | None:
    """The weight of an RMSNorm before the MLP; None for a LayerNorm, whose output is read with its
    weight and bias. Raises DictionaryError where there is no norm."""
    signs = torch.ones(model.d_model, dtype=model.dtype, device=model.device)[None, None]
    signs[..., 1::2] = -1
    given, twice, shifted = (model.mlp_in(layer, x * 1e4) for x in (signs, 2 * signs, signs + 3))
    if not torch.allclose(given, twice, rtol=1e-2):
        raise DictionaryError(f"there is no norm before the MLP in layer {layer} of {model.name!r}")
    if torch.allclose(given, shifted, rtol=1e-2):
        return None
    return (given * signs)[0, 0]


def _require_place(model: Model, layer: int, site: str) -> None:
    """Raise DictionaryError where the model has no such place."""
    if site not in SITES:
        raise DictionaryError(unknown("place", site, tuple(SITES)))
    wiring = model.wiring
    if not 0 <= layer < wiring.layers:
        raise DictionaryError(
            f"{model.name!r} has no layer {layer}; its layers are 0 to {wiring.layers - 1}"
        )
    if site not in ("resid_mid", "mlp_in", "mlp_normalized", "neurons", "mlp_raw", "mlp_out"):
        return
    if _stage(model, layer, MLP) is None:
        what = "a mixture of experts" if wiring.mlp else "no MLP"
        raise DictionaryError(
            f"{model.name!r} has {what} in layer {layer}, and so no {site!r}: {SITES[site]}"
        )
    if site == "mlp_raw" and not _written_as_it_is(_inspectable(model), layer):
        raise DictionaryError(
            f"in layer {layer} of {model.name!r} a norm or a multiplier follows the MLP, so that "
            "features of what is before it are not what arrives in the residual stream; use a "
            "dictionary that writes after it ('mlp_out')"
        )


def _written_as_it_is(model: Inspectable, layer: int) -> bool:
    """Whether what the MLP gives arrives in the residual stream unchanged."""
    probe = torch.linspace(-1, 2, model.d_model, dtype=model.dtype, device=model.device)[None, None]
    return bool(torch.equal(model.after_mlp(layer, probe), probe))


def _inspectable(model: Model) -> Inspectable:
    if not isinstance(model, Inspectable):
        raise DictionaryError(
            f"{model.name!r} does not show what its norms give; load it with circuitkit.load"
        )
    return model


def _stage(model: Model, layer: int, kind: str) -> Stage | None:
    """The stage of a layer that is of this kind, if there is one."""
    fitting = (s for s in model.wiring.stages if s.layer == layer and s.kind == kind)
    return next(fitting, None)


def _name(name: str) -> str:
    """The name as it is compared: without who offers it, and without a revision."""
    last = plain_name(name.rstrip("/").rpartition("/")[2].partition("@")[0])
    return SAME.get(last, last)

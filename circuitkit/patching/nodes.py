"""Activation patching of nodes: what the residual stream, the output of a layer's attention or MLP,
a head's output, its queries, keys, values or pattern, or a neuron do when they alone are taken from
the other run, and everything after them answers.

Several nodes run at once, each from its own layer on; positions before the first that is patched,
and nodes that are the same in both runs, cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import TypeAlias, overload

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitkit.data.batches import Batch, Dataset
from circuitkit.engine.dealing import Block, by_batch, joined
from circuitkit.engine.devices import device_of, moved
from circuitkit.engine.inputs import (
    CorruptionLike,
    Data,
    MetricLike,
    Several,
    is_several,
    prepare_each,
    refuse,
    require_model,
)
from circuitkit.engine.metric import Metric, check_metric, of_runs
from circuitkit.engine.model import Activations, Model
from circuitkit.engine.record import answer, difference, output, record
from circuitkit.engine.sweep import Place, Rest, measure, residual, untouched
from circuitkit.errors import CircuitError, NodeNameError
from circuitkit.graph.nodes import Node
from circuitkit.graph.stages import Stage
from circuitkit.graph.wiring import Wiring
from circuitkit.patching.effects import PORTS, Effects
from circuitkit.patching.sites import spans_named
from circuitkit.registry import name_of
from circuitkit.util.options import DIRECTIONS, require

__all__ = [
    "NODES",
    "Ends",
    "Site",
    "collect",
    "layer_stages",
    "patch_heads",
    "patch_nodes",
    "patch_residual",
]

STREAM = ("resid_pre", "resid_mid", "resid_post")
NODES = (*STREAM, "attn_out", "mlp_out", "z", "share", *PORTS, "neurons")
Unit: TypeAlias = tuple[int, ...]  # a layer, or a layer and a head, group or neuron of it
Site: TypeAlias = Bool[Tensor, "b p"]  # the tokens at which a unit is patched at once
Ends: TypeAlias = Iterator[tuple[list[Unit], Float[Tensor, "n b d"]]]
Sweep: TypeAlias = Callable[[Rest, Activations, Site], Ends]


# -- what is patched -------------------------------------------------------------------------------
@overload
def patch_nodes(  # type: ignore[overload-overlap]  # a str is a sequence too
    model: Model,
    nodes: str,
    data: Data,
    metric: MetricLike | None = ...,
    corruption: CorruptionLike | None = ...,
    *,
    at: str | Sequence[str] = ...,
    layers: int | Sequence[int] | None = ...,
    direction: str = ...,
) -> Effects: ...
@overload
def patch_nodes(
    model: Model,
    nodes: str,
    data: Data,
    metric: Several,
    corruption: CorruptionLike | None = ...,
    *,
    at: str | Sequence[str] = ...,
    layers: int | Sequence[int] | None = ...,
    direction: str = ...,
) -> list[Effects]: ...
def patch_nodes(
    model: Model,
    nodes: str,
    data: Data,
    metric: MetricLike | Several | None = None,
    corruption: CorruptionLike | None = None,
    *,
    at: str | Sequence[str] = "all",
    layers: int | Sequence[int] | None = None,
    direction: str = "denoise",
) -> Effects | list[Effects]:
    """The effect of every node of a kind, each patched alone (activation patching).

    Args:
        model: The model.
        nodes: What is patched in every layer. ``resid_pre``, ``resid_mid``, ``resid_post``: the
            residual stream before the layer, between its attention and its MLP, or after it.
            ``attn_out``, ``mlp_out``: what its attention or its MLP adds to the stream. ``z``: each
            head's values weighted by its attention, before the output projection (TransformerLens's
            ``hook_z``). ``share``: what each head adds to the stream, which is the same except in
            post-norm models (Gemma 2, OLMo 2): there a new z moves the norm over all heads of the
            layer, and so what the others add, while a share of the normed sum is that head's alone,
            as an edge is in a circuit. ``q``, ``k``, ``v``: each head's, as projected (one for each
            group where heads share keys and values). ``pattern``: each head's attention, whose
            positions are the queries'. ``neurons``: what each MLP's down projection takes.
        data: A Dataset, a Task, a task's name or a file.
        metric: A function or a name; None for the task's own. A list of several is measured in the
            same runs, and gives a list.
        corruption: A function or a name; None for ``counterfactual``.
        at: The tokens: all at once (``all``), each position (``positions``), a span (``S2``), or a
            list of spans, each alone. Positions count from each example's first token, whatever the
            padding.
        layers: The layers whose nodes are patched, one number or several; None for all.
        direction: ``denoise``: what the metric gains when the node has its clean value in the
            corrupted run; ``noise``: what it loses when the node has its corrupted value in the
            clean run.

    Returns:
        Effects with values [layers, heads, spans, examples] (without the axes that do not apply) in
        metric units, positive where the node helps, averaged over the corruption's draws.

    Raises:
        ArgumentError: for an argument in the wrong place.
        CircuitError: for unknown nodes, layers or directions, and nodes that the model lacks.
        DataError: for a span that an example lacks.

    Source: Zhang & Nanda 2024 (arXiv:2309.16042), §2; Heimersheim & Nanda 2024 (arXiv:2404.15255).

    Example:
        >>> effects = ck.patch_nodes(model, "resid_pre", task, at=["S2", "end"])
        >>> effects.direction, effects.shape == (4, 2, len(task))
        ('denoise', True)
        >>> effects.to_frame().query("layer == 3")["span"].tolist()
        ['S2', 'end']
    """
    _require(model, nodes)
    chosen = _chosen(model, layers)
    axes = {"layer": tuple(map(str, chosen)), **_inner(model, nodes, chosen)}

    def sweep(rest: Rest, other: Activations, site: Site) -> Ends:
        units = [(chosen[i], *inner) for i, *inner in np.ndindex(*map(len, axes.values()))]
        for some, finals in _together(rest, units, nodes, other, site):
            yield [(chosen.index(layer), *inner) for layer, *inner in some], finals

    return collect(
        model, data, metric, corruption,
        nodes=nodes, axes=axes, at=at, direction=direction, sweep=sweep,
    )  # fmt: skip


@overload
def patch_heads(  # type: ignore[overload-overlap]  # a str is a sequence too
    model: Model,
    data: Data,
    metric: MetricLike | None = ...,
    corruption: CorruptionLike | None = ...,
    *,
    at: str | Sequence[str] = ...,
    direction: str = ...,
) -> Effects: ...
@overload
def patch_heads(
    model: Model,
    data: Data,
    metric: Several,
    corruption: CorruptionLike | None = ...,
    *,
    at: str | Sequence[str] = ...,
    direction: str = ...,
) -> list[Effects]: ...
def patch_heads(
    model: Model,
    data: Data,
    metric: MetricLike | Several | None = None,
    corruption: CorruptionLike | None = None,
    *,
    at: str | Sequence[str] = "all",
    direction: str = "denoise",
) -> Effects | list[Effects]:
    """The effect of each head's output: ``patch_nodes`` of ``z``, TransformerLens's ``hook_z``.

    The arguments and errors are those of ``patch_nodes``.

    Returns:
        Effects with values [layers, heads, examples] in metric units, positive where the head
        helps; with ``at="positions"`` or a list of spans [layers, heads, sites, examples].

    Source: Zhang & Nanda 2024 (arXiv:2309.16042), §2.

    Example:
        >>> effects = ck.patch_heads(model, task)
        >>> effects.plot()
        Heatmap(4 × 4, 'Heads (z), denoised under counterfactual')
        >>> bool(effects["2.2"].mean() > 30)
        True
    """
    return patch_nodes(model, "z", data, metric, corruption, at=at, direction=direction)


@overload
def patch_residual(  # type: ignore[overload-overlap]  # a str is a sequence too
    model: Model,
    data: Data,
    metric: MetricLike | None = ...,
    corruption: CorruptionLike | None = ...,
    *,
    stage: str = ...,
    at: str | Sequence[str] = ...,
    direction: str = ...,
) -> Effects: ...
@overload
def patch_residual(
    model: Model,
    data: Data,
    metric: Several,
    corruption: CorruptionLike | None = ...,
    *,
    stage: str = ...,
    at: str | Sequence[str] = ...,
    direction: str = ...,
) -> list[Effects]: ...
def patch_residual(
    model: Model,
    data: Data,
    metric: MetricLike | Several | None = None,
    corruption: CorruptionLike | None = None,
    *,
    stage: str = "pre",
    at: str | Sequence[str] = "positions",
    direction: str = "denoise",
) -> Effects | list[Effects]:
    """The effect of the residual stream at each layer and position.

    It is ``patch_nodes`` of ``resid_pre``, ``resid_mid`` or ``resid_post``; ``stage`` names which
    (``pre``, ``mid``, ``post``). The other arguments and the errors are those of ``patch_nodes``;
    raises CircuitError for another stage.

    Returns:
        Effects with values [layers, positions, examples] in metric units, positive where the
        stream at this place carries what helps; nan where an example has no such position.

    Source: Meng et al. 2022 (arXiv:2202.05262), §2.1; Zhang & Nanda 2024 (arXiv:2309.16042), §2.

    Example:
        >>> effects = ck.patch_residual(model, task, at=["S2", "end"])
        >>> effects.share[0].round(2).tolist()  # before layer 0, S2 carries all of the difference
        [1.0, 0.0]
    """
    require("stage", stage, ("pre", "mid", "post"))
    return patch_nodes(
        model, f"resid_{stage}", data, metric, corruption, at=at, direction=direction
    )


def _require(model: Model, nodes: str) -> None:
    """Raise ArgumentError where this is not a model or not a kind of nodes, and CircuitError where
    the model has no such nodes."""
    require_model(model)
    if not isinstance(nodes, str):
        refuse("nodes", nodes, f"one of {', '.join(NODES)}")
    if nodes not in NODES and _is_node(nodes):
        name = str(Node(nodes))
        raise CircuitError(
            f"nodes={nodes!r} is one node, and all of a kind are patched: give one of "
            f"{', '.join(NODES)}, or use patch_together(model, {{{name!r}: [{name!r}]}}, ...)"
        )
    require("nodes", nodes, NODES)
    if nodes == "resid_mid" and model.wiring.parallel:
        raise CircuitError(
            f"'resid_mid' does not exist in {model.name!r}, whose attention and MLPs read the same "
            "residual; choose 'resid_pre' or 'resid_post'"
        )
    if nodes in ("mlp_out", "neurons") and not model.wiring.mlp:
        raise CircuitError(f"{model.name!r} has no MLPs; choose other nodes than {nodes!r}")


def _is_node(name: str) -> bool:
    try:
        Node(name)
    except NodeNameError:
        return False
    return True


def _chosen(model: Model, layers: int | Sequence[int] | None) -> tuple[int, ...]:
    """The layers in their order."""
    every = range(model.wiring.layers)
    if isinstance(layers, int):
        layers = [layers]
    if not isinstance(layers, Iterable | None) or isinstance(layers, str):
        refuse("layers", layers, "numbers of layers such as [0, 1]")
    chosen = [*every] if layers is None else [*layers]
    if not chosen or not {*chosen} <= {*every}:
        raise CircuitError(
            f"layers={layers!r} are not layers of {model.name!r}; give some of 0 to {every[-1]}"
        )
    return tuple(sorted({*chosen}))


def _inner(model: Model, nodes: str, layers: Sequence[int]) -> dict[str, tuple[str, ...]]:
    """The axis of the nodes within a layer, if there are several."""
    wiring = model.wiring
    if nodes == "neurons":
        probe = torch.zeros(1, 1, model.d_model, device=model.device, dtype=model.dtype)
        stages = {layer: wiring.beyond_attention(layer)[0] for layer in layers}
        widths = {
            model.neurons(layer, moved(probe, device_of(model, stage))).shape[-1]
            for layer, stage in stages.items()
        }
        if len(widths) > 1:
            raise CircuitError(
                f"the MLPs of the layers {layers} of {model.name!r} have different numbers of "
                "neurons; patch layers of one width at a time"
            )
        return {"neuron": _labels(*widths)}
    if nodes not in ("z", "share", *PORTS):
        return {}
    grouped = nodes in "kv" and wiring.groups < wiring.heads
    return {"group": _labels(wiring.groups)} if grouped else {"head": _labels(wiring.heads)}


def _labels(n: int) -> tuple[str, ...]:
    return tuple(map(str, range(n)))


# -- every batch, draw and site --------------------------------------------------------------------
@overload
def collect(  # type: ignore[overload-overlap]  # a str is a sequence too
    model: Model,
    data: Data,
    metric: MetricLike | None,
    corruption: CorruptionLike | None,
    *,
    nodes: str,
    axes: Mapping[str, tuple[str, ...]],
    at: str | Sequence[str],
    direction: str,
    sweep: Sweep,
) -> Effects: ...
@overload
def collect(
    model: Model,
    data: Data,
    metric: Several,
    corruption: CorruptionLike | None,
    *,
    nodes: str,
    axes: Mapping[str, tuple[str, ...]],
    at: str | Sequence[str],
    direction: str,
    sweep: Sweep,
) -> list[Effects]: ...
@torch.no_grad()
def collect(
    model: Model,
    data: Data,
    metric: MetricLike | Several | None,
    corruption: CorruptionLike | None,
    *,
    nodes: str,
    axes: Mapping[str, tuple[str, ...]],
    at: str | Sequence[str],
    direction: str,
    sweep: Sweep,
) -> Effects | list[Effects]:
    """The Effects (of several metrics a list) of what a sweep patches: for each site the units,
    counted through ``axes``, and the final residuals of their runs. See ``patch_nodes``."""
    require("direction", direction, DIRECTIONS)
    own, metrics, corrupt = prepare_each(model, data, metric, corruption)
    where = _axis(own, at)
    units = tuple(map(len, axes.values()))
    carry = corrupt(model, own)

    def block(batch: Batch, first: int) -> Block:
        patching = _Patching(model, batch, metrics, direction == "noise")
        sites = _sites(batch, at, *map(len, where.values()))
        values, gaps = patching.effects(carry(batch), sites, units, sweep)
        return {"values": values, "gaps": gaps}

    every_batch = joined(by_batch(own, "patching", block))
    values, gaps = every_batch["values"], every_batch["gaps"]
    every = {**axes, **where}
    shape = (*map(len, every.values()), len(own))
    names = nodes, name_of(corrupt)
    found = [
        Effects(table.reshape(shape), every, gap, names[0], name_of(m), names[1], direction)
        for table, gap, m in zip(values, gaps, metrics, strict=True)
    ]
    return found if is_several(metric) else found[0]


def _axis(data: Dataset, at: str | Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The axis of the sites, if they have one."""
    names = spans_named(data, at, positions=True)
    if names == ("positions",):
        return {"position": _labels(data.longest)}
    return {} if isinstance(at, str) else {"span": names}


def _sites(batch: Batch, at: str | Sequence[str], count: int = 1) -> list[Site]:
    """The tokens of each site; of positions there are as many as ``count``."""
    if at == "positions" or [*at] == ["positions"]:
        order = batch.mask.long().cumsum(1) - 1
        return [batch.mask & (order == position) for position in range(count)]
    names = [at] if isinstance(at, str) else at
    return [batch.mask if name == "all" else batch.within(name) for name in names]


class _Patching:
    """One batch, its clean run, and what the metrics say of its runs."""

    def __init__(self, model: Model, batch: Batch, metrics: Sequence[Metric], noise: bool) -> None:
        self.model, self.batch, self.metrics, self.noise = model, batch, metrics, noise
        self.context = model.start(batch.clean, batch.mask)
        self.live = record(model, self.context)
        self.reference = answer(model, batch, self.live.final)

    def value(self, logits: Float[Tensor, "b vocab"]) -> Float[Tensor, "metrics examples"]:
        """What each metric says of every example."""
        said = (check_metric(m, logits, self.reference, self.batch) for m in self.metrics)
        return torch.stack([values.cpu().double() for values in said])

    def values(self, logits: Float[Tensor, "m vocab"]) -> Float[Tensor, "runs metrics examples"]:
        """The same of several runs."""
        return of_runs(self.metrics, logits, self.reference, self.batch).cpu().double()

    def effects(
        self,
        draws: Sequence[Activations],
        sites: Sequence[Site],
        units: tuple[int, ...],
        sweep: Sweep,
    ) -> tuple[
        Float[np.ndarray, "metrics *units sites examples"], Float[np.ndarray, "metrics examples"]
    ]:
        """The mean effects over the draws, and the mean gaps; nan where an example has no such
        site, 0 where its tokens are untouched."""
        effects = np.zeros((len(self.metrics), *units, len(sites), self.batch.examples))
        gap = np.zeros((len(self.metrics), self.batch.examples))
        for carried in draws:
            gap += self._gap(carried)
            base, other = (self.live, carried) if self.noise else (carried, self.live)
            plain = self.value(answer(self.model, self.batch, base.final))
            start = Rest(self.model, self.batch, self.context, base)
            for number, site in enumerate(sites):
                rest = _narrowed(start, other, site)
                for some, finals in sweep(rest, other, site) if rest else ():
                    change = measure(self.model, finals, self.value, self.values) - plain
                    change = -change if self.noise else change
                    index = (slice(None), *np.array(some).T, number)
                    effects[index] += change.transpose(0, 1).numpy()
        for number, site in enumerate(sites):
            effects[..., number, ~self.batch.any_row(site.any(1)).cpu().numpy()] = np.nan
        return effects / len(draws), gap / len(draws)

    def _gap(self, carried: Activations) -> Float[np.ndarray, "metrics examples"]:
        corrupted = answer(self.model, self.batch, carried.final)
        return np.asarray(self.value(self.reference) - self.value(corrupted))


def _narrowed(rest: Rest, other: Activations, site: Site) -> Rest | None:
    """The rest of runs that are changed at these tokens alone; None where both runs are the same
    there. An answer before the first change is run too, if its example has the site."""
    touched = site & ~untouched(rest.base, other)
    if not touched.any():
        return None
    if not rest.base.consistent:
        return rest
    first = int(touched.any(0).long().argmax())
    return rest.since(min(first, int(rest.batch.last[site.any(1)].min())))


# -- the nodes of a kind ---------------------------------------------------------------------------
def _together(
    rest: Rest, units: Sequence[Unit], nodes: str, other: Activations, site: Site
) -> Ends:
    """The final residuals of these units' runs, as many at once as go well; those of later places
    join on the way."""
    size = rest.size(rest.model.wiring.places[0])
    place = partial(_place, rest.model.wiring, nodes)
    change: Callable[[Unit], Float[Tensor, "b s d"]] = partial(_change, rest, other, nodes, site)
    if nodes in PORTS or (nodes == "z" and rest.model.post_norm):
        change = _Ports(rest, other, nodes, site)
    elif nodes == "neurons":
        change = _Neurons(rest, other, site)
    for i in range(0, len(units), size):
        block = list(units[i : i + size])
        changes = {
            at: torch.stack([change(unit) for unit in own]) for at, own in groupby(block, key=place)
        }
        yield block, rest.finals(changes)


def _place(wiring: Wiring, nodes: str, unit: Unit) -> Place:
    """Where a change of these nodes enters the residual stream."""
    attention, beyond = wiring.attention(unit[0]), wiring.beyond_attention(unit[0])
    if nodes == "resid_pre":
        return attention.upstream
    after = nodes in ("resid_post", "mlp_out", "neurons") and beyond
    return wiring.entry(beyond[-1].rows.start if after else attention.rows.start)


def _change(
    rest: Rest, other: Activations, nodes: str, site: Site, unit: Unit
) -> Float[Tensor, "b s d"]:
    """What the residual stream gains where these nodes enter it."""
    model, base = rest.model, rest.base
    place = _place(model.wiring, nodes, unit)
    if nodes in STREAM:
        delta = residual(model, other, place) - residual(model, base, place)
    elif nodes in ("z", "share"):
        row = model.wiring.attention(unit[0]).rows.start + unit[1]
        delta = difference(model, other, base, row)
    else:
        stages = layer_stages(model.wiring, nodes, unit[0])
        first, *more = (
            output(model, s, other.shares[s.index]) - output(model, s, base.shares[s.index])
            for s in stages
        )
        delta = sum(more, first)
    return rest.late(place, torch.where(moved(site, delta.device)[..., None], delta, 0))


def layer_stages(wiring: Wiring, nodes: str, layer: int) -> tuple[Stage, ...]:
    """What writes the ``attn_out`` or the ``mlp_out`` of a layer."""
    attention = nodes == "attn_out"
    return (wiring.attention(layer),) if attention else wiring.beyond_attention(layer)


class _Ports:
    """What the residual stream gains when a head attends by something of the other run, or has its
    z of it."""

    def __init__(self, rest: Rest, other: Activations, nodes: str, site: Site) -> None:
        self.rest, self.model, self.base, self.other = rest, rest.model, rest.base, other
        self.nodes, self.site = nodes, site[..., None, None]
        self.known: dict[tuple[int, int], Tensor] = {}

    def __call__(self, unit: Unit) -> Float[Tensor, "b s d"]:
        stage, index = self.model.wiring.attention(unit[0]), unit[1]
        plain = self.base.computed[stage.index]
        z, fed = plain.clone(), self._fed(index)
        z[:, :, fed] = self._attended(stage, index)[:, :, fed]
        out = (self.model.attention_out(stage.layer, x)[0] for x in (z, plain))
        return self.rest.late(_place(self.model.wiring, self.nodes, unit), next(out) - next(out))

    def _coupled(self) -> bool:
        """Whether what one head takes moves what other heads compute; a pattern or z does not."""
        return self.model.couples and self.nodes not in ("pattern", "z")

    def _fed(self, index: int) -> slice:
        """The heads that are moved."""
        wiring = self.model.wiring
        if self._coupled():
            return slice(None)
        size = wiring.heads // wiring.groups if self.nodes in "kv" else 1
        return slice(index * size, (index + 1) * size)

    def _attended(self, stage: Stage, index: int) -> Float[Tensor, "b p h e"]:
        """What the output projection takes: for all heads of the layer at once, unless one head's
        port moves the others."""
        key = stage.index, index if self._coupled() else 0
        if key not in self.known:
            self.known = {key: self._attend(stage, index)}
        return self.known[key]

    def _attend(self, stage: Stage, index: int) -> Float[Tensor, "b p h e"]:
        here = moved(self.site, device_of(self.model, stage))
        if self.nodes == "z":
            taken, plain = (run.computed[stage.index] for run in (self.other, self.base))
            return torch.where(here, taken, plain)
        base, other = (
            dict(zip("qkv", self.model.project(stage.layer, run.reads[stage.index]), strict=True))
            for run in (self.base, self.other)
        )
        if self.nodes == "pattern":  # which queries and keys make
            z = self.rest.compute(stage, (other["q"], other["k"], base["v"]))
            return torch.where(here, z, self.base.computed[stage.index])
        taken = torch.where(here, other[self.nodes], base[self.nodes])
        if self._coupled():
            own = slice(index, index + 1)
            mixed = base[self.nodes].clone()
            mixed[:, :, own] = taken[:, :, own]
            taken = mixed
        return self.rest.compute(stage, tuple({**base, self.nodes: taken}.values()))


class _Neurons:
    """What the residual stream gains when one neuron of an MLP is what it is in the other run."""

    def __init__(self, rest: Rest, other: Activations, site: Site) -> None:
        self.rest, self.model, self.other, self.site = rest, rest.model, other, site
        self.known: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def __call__(self, unit: Unit) -> Float[Tensor, "b s d"]:
        layer, index = unit
        base, taken, wrote = self._layer(layer)
        mixed = base.clone()
        mixed[..., index] = taken[..., index]
        return self.model.mlp_out(layer, mixed) - wrote

    def _layer(self, layer: int) -> tuple[Tensor, Tensor, Tensor]:
        """A layer's neurons in the base run, those that it is given, and what the base run's write;
        those of the layer at work are kept."""
        if layer not in self.known:
            place = _place(self.model.wiring, "neurons", (layer,))
            stage = self.model.wiring.beyond_attention(layer)[0]
            base, other = (
                self.model.neurons(layer, self.rest.late(place, run.reads[stage.index]))
                for run in (self.rest.base, self.other)
            )
            here = moved(self.rest.late(place, self.site), base.device)
            taken = torch.where(here[..., None], other, base)
            self.known = {layer: (base, taken, self.model.mlp_out(layer, base))}
        return self.known[layer]

"""Activation patching of several nodes at once: what groups of heads and MLPs do together."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from typing import TypeAlias, overload

import torch
from jaxtyping import Float
from torch import Tensor

from circuitkit.engine.devices import moved
from circuitkit.engine.inputs import (
    CorruptionLike,
    Data,
    MetricLike,
    Several,
    refuse,
    require_model,
)
from circuitkit.engine.model import Activations, Model, Ports
from circuitkit.engine.record import difference
from circuitkit.engine.sweep import Place, Rest
from circuitkit.errors import CircuitError
from circuitkit.graph.nodes import Node
from circuitkit.graph.stages import Stage
from circuitkit.graph.wiring import Wiring
from circuitkit.patching.effects import Effects
from circuitkit.patching.nodes import Ends, Site, collect

__all__ = ["patch_together"]

Rows: TypeAlias = list[int]  # of writers, in the order of writing


@overload
def patch_together(  # type: ignore[overload-overlap]  # a str is a sequence too
    model: Model,
    groups: Mapping[str, Sequence[str]],
    data: Data,
    metric: MetricLike | None = ...,
    corruption: CorruptionLike | None = ...,
    *,
    direction: str = ...,
) -> Effects: ...
@overload
def patch_together(
    model: Model,
    groups: Mapping[str, Sequence[str]],
    data: Data,
    metric: Several,
    corruption: CorruptionLike | None = ...,
    *,
    direction: str = ...,
) -> list[Effects]: ...
def patch_together(
    model: Model,
    groups: Mapping[str, Sequence[str]],
    data: Data,
    metric: MetricLike | Several | None = None,
    corruption: CorruptionLike | None = None,
    *,
    direction: str = "denoise",
) -> Effects | list[Effects]:
    """The effect of groups of heads and MLPs, each group patched at once and at all tokens.

    What lies between the nodes of a group runs live; the nodes themselves write what they wrote in
    the other run (a head of a post-norm model: its share of the normed sum), so a group of one head
    is ``patch_nodes`` of ``share``.

    Args:
        model: The model.
        groups: The heads and MLPs of each group, by its name: ``{"movers": ["a9.h9", "m10"]}``.
        data: A Dataset, a Task, a task's name or a file.
        metric: A function or a name; None for the task's own. A list of several is measured in the
            same runs, and gives a list.
        corruption: A function or a name; None for ``counterfactual``.
        direction: ``denoise`` or ``noise``, as in ``patch_nodes``.

    Returns:
        Effects with values [groups, examples] in metric units, positive where the group helps.

    Raises:
        ArgumentError: if the groups are something else.
        CircuitError: if there is no group, for an empty group, a node that is not a writer of the
            model, and another direction.

    Source: Zhang & Nanda 2024 (arXiv:2309.16042), §2, of several nodes.

    Example:
        >>> effects = ck.patch_together(model, {"movers": ["3.0", "3.3"], "all": ["2.2"]}, task)
        >>> effects.names, effects.shape == (2, len(task))
        (('movers', 'all'), True)
    """
    require_model(model)
    if not isinstance(groups, Mapping) or not all(map(_is_group, groups.values())):
        refuse("groups", groups, "groups of nodes by name, {'movers': ['a9.h9', 'm10']}")
    if not groups:
        raise CircuitError("there are no groups; give the nodes of at least one by its name")
    rows = [_rows(model.wiring, name, nodes) for name, nodes in groups.items()]
    order = sorted(range(len(rows)), key=lambda i: model.wiring.entry(rows[i][0]))

    def sweep(rest: Rest, other: Activations, site: Site) -> Ends:
        size = rest.size(model.wiring.places[0])
        for i in range(0, len(order), size):
            some = order[i : i + size]
            block = _Block(rest, other, site, [rows[j] for j in some])
            yield [(j,) for j in some], block.finals()

    return collect(
        model, data, metric, corruption, nodes="groups", axes={"group": tuple(groups)},
        at="all", direction=direction, sweep=sweep,
    )  # fmt: skip


def _is_group(nodes: object) -> bool:
    """Whether these are names of nodes, or one."""
    if isinstance(nodes, str):
        return True
    return isinstance(nodes, Collection) and all(isinstance(node, str) for node in nodes)


def _rows(wiring: Wiring, name: str, nodes: Sequence[str]) -> Rows:
    """The rows of a group's nodes."""
    named = [Node(node) for node in ([nodes] if isinstance(nodes, str) else nodes)]
    for node in named:
        if node not in wiring.writer:
            known = f"{wiring.writers[1]} to {wiring.writers[-1]}"
            raise CircuitError(
                f"{str(node)!r} in the group {name!r} is not a writer of this model; give names of "
                f"its heads and MLPs, {known}"
            )
    if not nodes:
        raise CircuitError(f"the group {name!r} is empty; give it at least one node")
    return sorted({wiring.writer[node] for node in named})


# -- joint runs ------------------------------------------------------------------------------------
class _Seeing(Rest):
    """The rest of runs, with what the components of the stage at work computed."""

    computed: Float[Tensor, "m p n e"]

    def compute(self, stage: Stage, ports: Ports) -> Float[Tensor, "m p n e"]:
        """What a stage's components compute, kept until the next stage."""
        self.computed = super().compute(stage, ports)
        return self.computed


class _Block:
    """Groups that run at once, in the order in which they begin."""

    def __init__(self, rest: Rest, other: Activations, site: Site, groups: Sequence[Rows]) -> None:
        self.rest = _Seeing(rest.model, rest.batch, rest.context, rest.base, rest.start)
        self.model, self.wiring, self.other, self.site = (
            rest.model, rest.model.wiring, other, site[..., None]
        )  # fmt: skip
        self.groups = groups

    def finals(self) -> Float[Tensor, "groups b d"]:
        """The final residual at the answers under each group."""
        changes = {
            at: torch.stack([self._first(at, group) for group in own])
            for at, own in groupby(self.groups, key=self._begin)
        }
        return self.rest.finals(changes, self._hold)

    def _begin(self, group: Rows) -> Place:
        return self.wiring.entry(group[0])

    def _first(self, at: Place, group: Rows) -> Float[Tensor, "b s d"]:
        """What those nodes change with which a run begins."""
        rows = (row for row in group if self.wiring.entry(row) == at)
        changes = (difference(self.model, self.other, self.rest.base, row) for row in rows)
        change = sum(moved(one, self.site.device) for one in changes)
        return self.rest.late(at, torch.where(self.site, change, 0))

    def _held(self, group: Rows, rows: range) -> Rows:
        """Those of the rows that a group patches in a run that has begun before."""
        begin = self._begin(group)
        return [row for row in group if row in rows and self.wiring.entry(row) > begin]

    def _hold(self, index: int, x: Float[Tensor, "m s d"]) -> Float[Tensor, "m s d"]:
        """What is written by the runs so far, with the other run's where it is patched."""
        stage = self.wiring.stages[index]
        rows = range(stage.rows.start, stage.rows.stop)
        held = {i: self._held(group, rows) for i, group in enumerate(self.groups)}
        if not any(held.values()):
            return x
        runs = x.clone().view(-1, len(self.site), *x.shape[1:])
        here = moved(self.rest.wrote_late(stage, self.site), x.device)
        for i, own in held.items():
            if own:
                change = self._change(stage, i, [row - rows.start for row in own])
                runs[i] += torch.where(here, change, 0)
        return runs.flatten(0, 1)

    def _change(self, stage: Stage, run: int, places: list[int]) -> Float[Tensor, "b s d"]:
        """What these components wrote in the other run, less what they write in one of these."""
        kind, rest = self.model.kinds[stage.kind], self.rest
        computed = rest.computed.view(-1, len(self.site), *rest.computed.shape[1:])[run]
        computed = rest.wrote_late(stage, computed) if kind.mixes else computed
        live = kind.shares(self.model, stage, computed)
        taken = rest.wrote_late(stage, self.other.shares[stage.index])
        return kind.write(self.model, stage, places, (taken - live)[:, :, places]).sum(0)

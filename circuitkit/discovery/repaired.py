"""Attribution patching with two repairs (AtP*): saturated attention, and effects that cancel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuitkit.data.batches import Batch
from circuitkit.discovery._gradients import FLAT, _value, require_gradients
from circuitkit.engine.attribute import Pulls, by_example, score_groups
from circuitkit.engine.backward import BackwardRule, as_rule, rule_settings, under
from circuitkit.engine.dealing import Block, by_batch
from circuitkit.engine.devices import moved
from circuitkit.engine.gradients import Gradients
from circuitkit.engine.inputs import CorruptionLike, Data, MetricLike, prepare
from circuitkit.engine.metric import Metric
from circuitkit.engine.model import Activations, Context, Model
from circuitkit.engine.numerics import wide
from circuitkit.engine.record import answer, at_answers, difference, record
from circuitkit.errors import MetricError, UnsupportedModelError
from circuitkit.graph.scores import Scores
from circuitkit.graph.stages import ATTENTION, ATTENTION_FEATURES, Stage
from circuitkit.registry import name_of
from circuitkit.util.options import checked

__all__ = ["atp_star"]


@checked
@torch.no_grad()
def atp_star(
    model: Model,
    data: Data,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
    *,
    fix: bool = True,
    drop: bool = True,
    rule: BackwardRule = None,
) -> Scores:
    """AtP*: EAP with exact attention patterns, and with the gradient of each layer dropped in turn.

    With ``fix`` (the query-key fix) an edge into a query or key scores the exact change of the
    attention pattern when it is cut, times the gradient in the pattern: where attention is
    saturated the linear estimate is near zero. With ``drop`` (GradDrop) there is a backward for
    each layer, in which nothing flows through what that layer writes, so that a direct and an
    indirect effect that cancel do not hide each other: the score is the mean of their absolute
    values, over the prompts and the layers other than the reader's own. Its sign is that of the
    plain score (with the fix), which knows the direction. Both are on by default.

    Costs a forward, layers + 1 backwards (one without ``drop``) and, for the fix, the attention of
    each layer twice for each writer before it: about a forward of all attention per writer. Holds
    the graph of a whole forward.

    Returns Scores [writers, readers], in metric units per example, positive where the edge helps
    the clean behaviour; ``rule`` is as in ``eap`` (with frozen patterns there is nothing to fix).
    Raises as ``eap`` does, and UnsupportedModelError for a model whose attention or residual stream
    is taken apart.

    Differs from other tools: the paper scores nodes, and this their edges: a query or key moves by
    what one writer changes of it, through the norm. A model of one layer has no other to drop.

    Source: Kramár et al. (2024, "AtP*").

    Example:
        >>> ck.discovery.atp_star(model, data, drop=False).about["settings"]
        {'fix': True, 'drop': False}
    """
    inputs = prepare(model, data, metric, corruption)
    model, data, metric, corruption = inputs
    if any(own.renews or own.kind == ATTENTION_FEATURES for own in model.wiring.stages):
        raise UnsupportedModelError(
            "atp_star repairs what heads write and drops layers beside the residual stream, and in "
            f"{model.name!r} one of the two is taken apart into features; use eap_ig"
        )
    carry, steepest = corruption(model, data), 0.0
    batches = _Batches(under(model, rule), metric, fix and not as_rule(rule).patterns, drop)
    plain, size = np.zeros(model.wiring.shape), np.zeros(model.wiring.shape)

    def block(batch: Batch, first: int) -> Block:
        draws = carry(batch)
        slopes = batches.slopes(batch)
        shares = []
        for carried in draws:
            tables = batches.tables(batch, slopes, carried)
            require_gradients(model, metric, tables, batch)
            sums = tables[0].sum(0), batches.sizes(tables).sum(0)
            shares.append([own.cpu().numpy() / len(draws) for own in sums])
        return {"shares": np.array(shares), "steepest": np.array(float(slopes[0].at.steepest))}

    for own in by_batch(data, "atp_star", block):
        steepest = max(steepest, float(own["steepest"]))
        for of_plain, of_size in own["shares"]:
            plain += of_plain
            size += of_size
    if steepest < FLAT:
        raise MetricError(
            f"the gradient of {name_of(metric)} is zero at the clean run, so every score would be "
            "zero; use eap_ig, or a different metric (logit_diff)"
        )
    values = np.where(plain < 0, -size, size) if drop else plain
    settings = {"fix": fix, "drop": drop, **rule_settings(rule)}
    about = {**inputs.metadata(), "method": "atp_star", "settings": settings}
    return Scores(model.wiring, (values / len(data)).astype(np.float32), about)


@dataclass(frozen=True)
class _Slopes:
    """The gradients of one backward at every reader, and in what the heads of each attention stage
    compute, by the stage's number."""

    at: Gradients
    heads: dict[int, Float[Tensor, "b p h e"]]


class _Batches:
    """How a batch is scored: ``layers`` are dropped one after the other."""

    def __init__(self, model: Model, metric: Metric, fix: bool, drop: bool) -> None:
        layers = model.wiring.layers
        self.model, self.metric, self.fix = model, metric, fix
        self.layers = range(layers if drop and layers > 1 else 0)
        self.pulls = Pulls(model)
        self.attention = [stage for stage in model.wiring.stages if stage.kind == ATTENTION]

    def slopes(self, batch: Batch) -> list[_Slopes]:
        """The gradients at the clean run: the plain ones, then with each layer dropped."""
        context = self.model.start(batch.clean, batch.mask)
        taps: dict[tuple[int, int], Tensor] = {}
        dropped: list[int | None] = [None, *self.layers]
        now: list[int | None] = [None]

        def tap(stage: int, port: int, x: Tensor) -> Tensor:
            taps[stage, port] = x.view_as(x)
            return taps[stage, port]

        def cut(layer: int, slope: Tensor) -> Tensor:
            return torch.zeros_like(slope) if now[0] == layer else slope

        with torch.enable_grad():
            start = context.embed.detach().requires_grad_()
            run = record(self.model, context, start, tap)
            for stage, computed in zip(self.model.wiring.stages, run.computed, strict=True):
                computed.register_hook(partial(cut, stage.layer))  # type: ignore[no-untyped-call]
            output = answer(self.model, batch, run.final)
            total = _value(self.metric, None, batch, output).sum()
            found = []
            for now[0] in dropped:
                found.append(self._backward(batch, total, taps, run, output))
        return found

    def _backward(
        self,
        batch: Batch,
        total: Tensor,
        taps: dict[tuple[int, int], Tensor],
        run: Activations,
        output: Tensor,
    ) -> _Slopes:
        """One backward, which may drop a layer."""
        heads = [run.computed[stage.index] for stage in self.attention]
        slopes = torch.autograd.grad(
            total, [*taps.values(), *heads, output], retain_graph=True, allow_unused=True,
            materialize_grads=True,
        )  # fmt: skip
        ports: list[list[Tensor]] = [[] for _ in range(len(self.model.wiring.stages) + 1)]
        for (stage, _), slope in zip(taps, slopes, strict=False):
            ports[stage].append(slope)
        at = Gradients(
            ports[:-1], at_answers(batch, ports[-1][0]), run, output.detach(),
            slopes[-1].abs().max(),
        )  # fmt: skip
        numbers = [stage.index for stage in self.attention]
        return _Slopes(at, dict(zip(numbers, slopes[len(taps) : -1], strict=True)))

    def tables(
        self, batch: Batch, slopes: Sequence[_Slopes], carried: Activations
    ) -> Float[Tensor, "backwards examples w r"]:
        """The scores of each example, from each of the backwards."""
        live, groups = slopes[0].at.activations, by_example(batch)
        given = self.model, batch, live, carried
        tables = torch.stack(
            [score_groups(*given, one.at, groups, batch.examples, self.pulls) for one in slopes]
        )
        context = self.model.start(batch.clean, batch.mask)
        for stage in self.attention if self.fix else []:
            steep = torch.stack([wide(one.heads[stage.index]) for one in slopes])
            for row in range(stage.since, stage.upstream):
                delta = difference(self.model, live, carried, row)
                delta = moved(delta, live.reads[stage.index].device)
                for columns, own in self._exact(context, live, delta, stage, steep):
                    own = moved(own, tables.device)
                    table = own.new_zeros(len(own), batch.examples, own.shape[-1])
                    tables[:, :, row, columns] = table.index_add(1, batch.owner, own).to(tables)
        return tables

    def _exact(
        self,
        context: Context,
        live: Activations,
        delta: Float[Tensor, "b p d"],
        stage: Stage,
        steep: Float[Tensor, "n b p h e"],
    ) -> Iterator[tuple[slice, Float[Tensor, "n b ports"]]]:
        """What cutting the edges from a writer into the queries, and into the keys, of a stage
        costs. What a head computes is linear in its pattern: with its values as they are, the
        change of the pattern times the gradient in it is the change of what the head computes times
        the gradient in that."""
        model, kind = self.model, self.model.kinds[stage.kind]
        read, whole = live.reads[stage.index], live.computed[stage.index]
        ports, others = (kind.project(model, stage, x) for x in (read, read - delta))

        def change(port: int, value: Tensor) -> Tensor:
            now = [*ports]
            now[port] = value
            return wide(whole - kind.compute(model, stage, context, now))

        for port in (0, 1):
            count = ports[port].shape[2]
            if kind.couples(model):  # a head alone, because the others move with it
                each = []
                for place in range(count):
                    value = ports[port].clone()
                    value[:, :, place] = others[port][:, :, place]
                    each.append(torch.einsum("nbphe,bphe->nb", steep, change(port, value)))
                own = torch.stack(each, dim=-1)
            else:
                each_head = torch.einsum("nbphe,bphe->nbh", steep, change(port, others[port]))
                own = each_head.view(*each_head.shape[:-1], count, -1).sum(-1)
            yield stage.port_columns(port), own

    def sizes(self, tables: Float[Tensor, "n examples w r"]) -> Float[Tensor, "examples w r"]:
        """The mean absolute score over the layers that are dropped, but for the reader's own."""
        if not self.layers:
            return tables[0].abs()
        times = tables.new_full((tables.shape[-1],), len(self.layers) - 1)
        times[-1] += 1  # the logits are in no layer
        return tables[1:].abs().sum(0) / times

"""Traced prompts: the graph of the first one, and what changing the features of each one does."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from circuitkit.engine.inspection import Inspectable
from circuitkit.errors import DataError
from circuitkit.features.describing import Feature, describe_several
from circuitkit.features.dictionaries import Dictionary
from circuitkit.features.exchange import listing
from circuitkit.features.graphs import AttributionGraph
from circuitkit.features.questions import Asked
from circuitkit.features.supernodes import ALIKE, given_by, propose, table
from circuitkit.features.texts import Texts, read_texts
from circuitkit.features.tracing import trace
from circuitkit.features.validation import Validation, validate
from circuitkit.util.atomic import write_whole
from circuitkit.util.json_values import Json
from circuitkit.util.progress import track
from circuitkit.util.tables import as_text, to_csv
from circuitkit.workflows.folders import filled

__all__ = ["Traces", "trace_prompts"]

SHOWN, MEMBERS = 8, 6  # features and supernodes of a summary; features of a supernode
TEXTS = 200  # prompts in which features are looked for


@dataclass(frozen=True)
class Traces:
    """Traced prompts, from ``trace_prompts``.

    ``graph`` is the first prompt's whole graph and ``part`` what pruning leaves of it; ``prompts``
    are rows with the scores of each prompt's graph, and ``validation`` is what changing the
    strongest features of each did, in the model and in the graph's frozen model; None where that
    was not asked for. ``supernodes`` are groups of features that do the same in all prompts, as
    ``features.supernodes`` proposes them, and ``features`` what those of the part are.
    """

    graph: AttributionGraph
    part: AttributionGraph
    prompts: tuple[dict[str, Json], ...]
    validation: Validation | None
    supernodes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    features: tuple[Feature, ...] = ()

    def notes(self) -> list[str]:
        """What a picture says of how far the graph predicts the model."""
        if self.validation is None:
            return ["Whether it predicts what happens in the model was not measured."]
        rows = {(row["prediction"], row["measured in"]): row for row in self.validation.rows()
                if row["factor"] == self.validation.factors[0]}  # fmt: skip
        said = {
            key: f"correlation {row['correlation']:.2f}, slope {row['slope']:.2f}"
            for key, row in rows.items()
        }
        several = f" of {len(self.prompts)} prompts" if len(self.prompts) > 1 else ""
        return [
            f"{len(self.validation.nodes)} features{several} taken away: in the real model, "
            f"{said['graph', 'real model']} (by the live gradient: "
            f"{said['live gradient', 'real model']});",
            f"in the graph's own frozen model, {said['graph', 'frozen model']}.",
        ]

    def __repr__(self) -> str:
        by_graph, by_model = (self._strongest(by) for by in ("total", "live"))
        lines = [repr(self.graph), f"pruned: {self.part.to_text()}", "", by_graph, "", by_model]
        if self.supernodes:
            lines += ["", self._grouped()]
        if len(self.prompts) > 1:
            means = {
                key: sum(row[key] for row in self.prompts) / len(self.prompts)
                for key in ("replacement", "completeness")
            }
            said = ", ".join(f"{key} {value:.3f}" for key, value in means.items())
            lines += ["", f"mean of {len(self.prompts)} prompts: {said}"]
        if self.validation is not None:
            lines += ["", _CHANGED, as_text(self.validation.rows())]
        return "\n".join(lines)

    def _strongest(self, by: str) -> str:
        """The strongest features by the graph, or by the model's own gradient, as a table."""
        rows = []
        for node in self.graph.top(SHOWN, by):
            i = self.graph.number[node.name]
            rows.append({
                "feature": node.name, "token": self.graph.tokens[node.position],
                "activation": node.value, "by the graph": float(self.graph.totals[i]),
                "by the gradient": float(self.graph.live[i]), "label": node.label,
            })  # fmt: skip
        if not any(row["label"] for row in rows):
            rows = [{key: value for key, value in row.items() if key != "label"} for row in rows]
        how = "the additive graph" if by == "total" else "the model's own gradient"
        return f"features that add most to the target, by {how}\n{as_text(rows)}"

    def _grouped(self) -> str:
        """The proposed supernodes, the strongest first."""
        several = f" of {len(self.prompts)} prompts" if len(self.prompts) > 1 else ""
        lines = [f"supernodes: {_ALIKE}{several}"]
        for name, names in [*self.supernodes.items()][:SHOWN]:
            more = [f"and {len(names) - MEMBERS} more"] if len(names) > MEMBERS else []
            lines.append(f"  {name}: {', '.join([*names[:MEMBERS], *more])}")
        if len(self.supernodes) > SHOWN:
            lines.append(f"  and {len(self.supernodes) - SHOWN} more")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Json]:
        """What the command prints for machines."""
        graph, rows = self.graph, self.validation.rows() if self.validation else []
        return {
            "model": graph.model, "prompt": graph.prompt, "target": graph.target,
            "value": graph.value, "nodes": len(graph), "edges": int(graph.weights.nnz),
            "kept_nodes": len(self.part), "kept_edges": int(self.part.weights.nnz),
            "replacement": graph.replacement, "completeness": graph.completeness,
            "norms": graph.about["norms"], "unexplained": graph.about["unexplained"],
            "largest_error": graph.about["largest_error"], "prompts": list(self.prompts),
            "skips": dict(graph.about.get("skips") or {}),
            "supernodes": {name: list(own) for name, own in self.supernodes.items()},
            "validation": rows,
        }  # fmt: skip

    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> list[Path]:
        """Write everything into a folder: ``graph.json`` for Neuronpedia and circuit-tracer (and
        ``graph-metadata.json`` beside it), ``nodes.csv``, ``prompts.csv``, ``validation.csv``, a
        picture and a page. Raises OutputError."""
        with filled(folder, "trace", overwrite) as draft:
            names = [self.part.save(draft / "graph.json").name]
            tables = {"nodes": self.graph.to_frame(), "prompts": self.prompts}
            if self.validation is not None:
                tables["validation"] = self.validation.to_frame()
            texts = {"graph-metadata.json": listing(self.part.parts())}
            if self.supernodes:
                texts["supernodes.csv"] = table(self.supernodes)
            texts |= {f"{name}.csv": to_csv(_rows(own)) for name, own in tables.items()}
            for name, text in texts.items():
                names.append(write_whole(draft / name, text).name)
            for suffix in ("svg", "html"):
                place = draft / f"graph.{suffix}"
                self.part.draw(place, notes=self.notes(), features=self.features)
                names.append(place.name)
        return [Path(folder) / name for name in names]


_ALIKE = "features that are active at like places and give alike"
_CHANGED = (
    "what was predicted of changing features, and what happened (factor 0: taken away; 2: doubled)"
)


def _rows(table: Json) -> list[dict[str, Json]]:
    return list(table) if isinstance(table, tuple) else table.to_dict("records")


def trace_prompts(
    model: Inspectable,
    prompts: Sequence[Asked],
    dictionaries: Sequence[Dictionary],
    *,
    nodes: float = 0.8,
    edges: float = 0.98,
    changed: int = 30,
    norms: str = "frozen",
    probability: float = 0.95,
    features: int | None = None,
    share: float = 1.0,
    labels: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
    alike: float = ALIKE,
    texts: str | None = None,
    memory: int | None = None,
) -> Traces:
    """Trace prompts, and change the strongest features of each.

    ``nodes`` and ``edges`` are the shares that pruning keeps, ``changed`` how many features of each
    prompt are changed (0: none), ``labels`` what is known of features by name. Features that have
    no supernode there are grouped where their cosine is at least ``alike`` (1: only equal ones).
    ``texts`` (a source of ``features.texts``) are those in which the features of the pruned graph
    are looked for. The others are those of ``trace``. Raises DataError where there are no prompts,
    and what ``trace`` does.
    """
    if not prompts:
        raise DataError("there are no prompts; give at least one")
    seen = read_texts(model, texts, examples=TEXTS) if texts else None
    whole: list[AttributionGraph] = []
    rows, found, given = [], [], []
    for prompt in track(prompts, "prompts", "prompt") if len(prompts) > 1 else prompts:
        graph = trace(
            model, prompt, dictionaries, norms=norms, probability=probability, features=features,
            share=share, memory=memory,
        )  # fmt: skip
        if not whole:
            whole.append(graph)
        given.append(given_by(graph))
        rows.append({
            "prompt": graph.prompt, "target": graph.target, "value": graph.value,
            "features": int(graph.of_kind("feature").sum()), "edges": int(graph.weights.nnz),
            "replacement": graph.replacement, "completeness": graph.completeness,
            "largest_error": graph.about["largest_error"],
        })  # fmt: skip
        if changed:
            found.append(validate(model, graph, dictionaries, nodes=changed, memory=memory))
    groups = propose(given, alike=alike)
    graph = whole[0].labelled(_named(labels, groups)) if labels or groups else whole[0]
    part = graph.prune(nodes, edges)
    return Traces(
        graph, part, tuple(rows), Validation.pooled(found) if found else None, groups,
        () if seen is None else tuple(_described(model, dictionaries, part, seen, labels)),
    )  # fmt: skip


def _named(
    labels: Mapping[str, Mapping[str, str]], groups: Mapping[str, Sequence[str]]
) -> dict[str, Mapping[str, str]]:
    """What is known of features, with the proposed supernode of those that have none."""
    found: dict[str, Mapping[str, str]] = dict(labels)
    for group, names in groups.items():
        for name in names:
            own = labels.get(name, {})
            found[name] = {**own, "supernode": own.get("supernode") or group}
    return found


def _described(
    model: Inspectable, dictionaries: Sequence[Dictionary], part: AttributionGraph, texts: Texts,
    labels: Mapping[str, Mapping[str, str]],
) -> list[Feature]:  # fmt: skip
    """What the features of a graph are."""
    asked: dict[int, list[int]] = {}
    for node in part.nodes:
        if node.kind == "feature":
            asked.setdefault(node.layer, []).append(node.number)
    pairs = [(own, asked[own.layer]) for own in dictionaries if own.layer in asked]
    return describe_several(
        model, pairs, [*texts.seen, *texts.held], labels=labels, name=Path(texts.name).name
    )

"""How well scores predict what cutting single edges of a model with features does.

Of each kind of edge the 40 with the largest scores are cut, one at a time, on 16 other prompts:
``python examples/feature_edges.py examples/mini-features-ioi``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import circuitkit as ck
from circuitkit.graph.nodes import Node

EDGES, PROMPTS = 40, 16


def kind(writer: str, reader: str) -> str:
    """From what to what an edge leads."""
    source, target = Node(writer).part, Node(reader).part
    if target is not None:
        return "into a feature"
    if source in ("rest", "error"):
        return "out of rest or error"
    if source is not None:
        return "out of a feature"
    return "into an MLP's port" if reader.startswith("m") else "between heads, to logits"


def strongest(scores: ck.Scores) -> dict[str, list[tuple[str, str]]]:
    """The edges with the largest scores, by kind."""
    found: dict[str, list[tuple[str, str]]] = {}
    wiring = scores.wiring
    values = np.where(wiring.legal, np.abs(scores.values), 0)
    order = np.argsort(-values, axis=None)
    for row, column in zip(*np.unravel_index(order, values.shape), strict=True):
        edge = wiring.writers[row], wiring.readers[column]
        own = found.setdefault(kind(*edge), [])
        if len(own) < EDGES and values[row, column] > 0:
            own.append(edge)
    return found


def main() -> None:
    """Print a table for each method, for the model with the features of a circuit in a folder."""
    circuit = ck.Circuit.load(Path(sys.argv[1]) / "circuit.json")
    model = ck.features.split_as(ck.load(circuit.graph["model"]), circuit.graph)
    task = circuit.graph["task"]
    data = ck.Dataset.of(ck.make_task(task, model, n=PROMPTS, seed=1), model)
    measured = circuit.graph["metric"], circuit.graph["corruption"]
    metric, corruption = ck.resolve("metrics", measured[0]), ck.resolve("corruptions", measured[1])
    print(f"{task}: {EDGES} edges of each kind, cut one at a time on {PROMPTS} prompts")
    for method in (ck.discovery.eap, ck.discovery.eap_ig):
        scores = method(model, data, metric, corruption)
        print(f"\n{method.__name__:26s} edges  correlation   slope  same sign")
        for name, edges in sorted(strongest(scores).items()):
            exact = ck.patch_edges(model, edges, data, *measured).to_frame()["effect"].to_numpy()
            predicted = np.array([scores.values[scores.wiring.index(*edge)] for edge in edges])
            slope = (predicted * exact).sum() / (predicted**2).sum()
            same = (np.sign(predicted) == np.sign(exact)).mean()
            correlation = np.corrcoef(predicted, exact)[0, 1]
            print(f"{name:26s}{len(edges):6d}{correlation:13.2f}{slope:8.2f}{same:11.0%}")


if __name__ == "__main__":
    main()

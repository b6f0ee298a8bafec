"""The strongest heads of a circuit between places, with what each does there, beside the roles of
Wang et al. (2023) in GPT-2 small.

    python examples/positions.py examples/smollm2-positions/circuit.json

A head has the role of the paper whose place and behaviour it shows: at ``end`` a name mover attends
to IO and copies what it sees, a negative one attends to IO and suppresses it, an S-inhibition head
attends to S2 and is read by queries; at ``S2`` an induction head attends to S1+1, and a duplicate
token head to S1. A head that fits none has no role.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

import circuitkit as ck
from circuitkit.graph.nodes import Node
from circuitkit.util.tables import as_text

HEADS, EXAMPLES = 12, 32
MOST = 0.5  # of tokens, from which a head copies or suppresses
LEAST = 0.3  # of the attention, that a head pays to the span of its role
SPANS = ("IO", "S1", "S1+1", "S2")


def strongest(circuit: ck.Circuit) -> list[Node]:
    """The heads, each at its place, by Σ|weight| of the edges of the residual stream out of it."""
    carried: Counter[Node] = Counter()
    for row in circuit.to_frame().query("kind == 'residual'").itertuples():
        node = Node(row.writer)
        if node.is_head:
            carried[node] += abs(row.weight)
    return [node for node, _ in carried.most_common(HEADS)]


def role(node: Node, seen: str, row: Any, into: float) -> str:
    """The role of the paper that a head shows at its place."""
    if row[f"to {seen}"] < LEAST:
        return ""
    if node.span == "end" and seen == "IO":
        named = {"name mover": row["copying"], "negative name mover": row["suppressing"]}
        best = max(named, key=lambda name: named[name])
        return best if named[best] > MOST else ""
    if node.span == "end" and seen == "S2" and into > MOST:
        return "S-inhibition"
    return {"S1+1": "induction", "S1": "duplicate token"}.get(seen, "") * (node.span == "S2")


def queries(circuit: ck.Circuit, node: Node) -> float:
    """The share of what a head writes that queries read, by |weight|."""
    out = [(Node(r), abs(d["weight"])) for _, r, d in circuit.out_edges(node, data=True)]
    return sum(w for r, w in out if r.port == "q") / sum(w for _, w in out)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("circuit", type=Path)
    path = parser.parse_args().circuit
    circuit = ck.Circuit.load(path)
    model = ck.load(circuit.graph["model"])
    task = ck.make_task("ioi", model, n=EXAMPLES, seed=7)
    rows = []
    for node in strongest(circuit):
        spans = [span for span in SPANS if node.span == "end" or span != "S2"]
        found = ck.describe_heads(model, [node.plain], task, at=spans, query=node.span)
        row = found.to_frame().iloc[0]
        seen = max(spans, key=lambda span: row[f"to {span}"])
        share = queries(circuit, node)
        rows.append({
            "head": str(node), "attends to": f"{seen} {row[f'to {seen}']:.2f}",
            "direct": row["direct"], "copying": row["copying"], "suppressing": row["suppressing"],
            "to queries": share, "role": role(node, seen, row, share) or "-",
        })  # fmt: skip
    print(as_text(rows, formats=dict.fromkeys(
        ("direct", "copying", "suppressing", "to queries"), ".2f")))  # fmt: skip
    heads = [writer for writer in model.wiring.writers if writer.is_head]
    for query in ("end", "S2"):
        spans = [span for span in SPANS if query == "end" or span != "S2"]
        table = ck.describe_heads(model, heads, task, at=spans, query=query).to_frame()
        shown = 0
        for _, row in table.iterrows():
            seen = max(spans, key=lambda span: row[f"to {span}"])
            shown += bool(role(Node(row["head"]).at(query), seen, row, 1.0))
        print(
            f"of all {len(heads)} heads, {shown} would show a role at {query} if queries read them"
        )


if __name__ == "__main__":
    main()

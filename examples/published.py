"""Circuits of ours over a published one: reversing a word sequence, as Tracr compiles it.

python examples/published.py > examples/tracr-reverse/summary.txt

The program is that of Lindner et al. 2023, put into a model by our compiler; the published circuit
is the one that Conmy et al. 2023 found in Tracr's, where a cut edge carries zeros.
"""

from __future__ import annotations

from pathlib import Path

import circuitkit as ck
from circuitkit.graph.nodes import edge_name
from circuitkit.truth.rasp import (
    Aggregate,
    Map,
    Program,
    Select,
    SelectorWidth,
    SequenceMap,
    compile_program,
    indices,
    tokens,
)

PLACE = Path(__file__).with_name("tracr-reverse")
length = SelectorWidth(Select(indices, indices, lambda key, query: True))
opposite = Map(lambda place: place - 1, SequenceMap(lambda n, i: n - i, length, indices))
turned = Aggregate(Select(indices, opposite, lambda key, query: key == query), tokens)

if __name__ == "__main__":
    program = Program("reverse", turned, "123", 5)
    model, data = compile_program(program), program.data(60)
    published = ck.references.tracr_reverse.acdc().circuit
    for method, size in ((ck.discovery.exact, 10), (ck.discovery.eap_ig, 9)):
        circuit = method(model, data, corruption="zero").top(size)
        circuit.graph["label"] = method.__name__
        file = PLACE / f"{method.__name__}-over-acdc.svg"
        circuit.draw(file, beside=published, title="reverse, compiled")
        found = ck.evaluate(model, circuit, data, corruption="zero")
        print(f"{method.__name__}\n{ck.compare(circuit, published)!r}\n{found}\n")
        for title, own in (
            ("only ours", circuit - published), ("only theirs", published - circuit),
        ):  # fmt: skip
            names = [edge_name(edge.writer, edge.reader) for edge in own.to_frame().itertuples()]
            print(f"{title}: {', '.join(names) or 'none'}")
        print()

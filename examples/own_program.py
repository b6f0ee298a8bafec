"""A program of one's own, as a model with its prompts and its true circuit.

python examples/own_program.py
circuitkit bench eap_ig --model examples/own_program.py:double
"""

from __future__ import annotations

import circuitkit as ck
from circuitkit.truth.rasp import (
    Aggregate,
    Program,
    Select,
    SequenceMap,
    compile_program,
    indices,
    tokens,
    true_edges,
)

previous = Aggregate(Select(indices, indices, lambda key, query: key == query - 1), tokens)
twice = SequenceMap(lambda one, two: "yes" if one == two else "no", previous, tokens)


def double() -> Program:
    """Does the last word repeat the one before?"""
    return Program("double", twice, ("a", "b", "c"), length=4, shortest=2)


if __name__ == "__main__":
    model, data = compile_program(double()), double().data(64)
    truth = true_edges(model, data)
    metric, corruption = ck.metrics.logit_diff, ck.corruptions.counterfactual
    scores = ck.discovery.eap_ig(model, data, metric, corruption)
    print(model, truth, ck.recovery(scores, truth.necessary), sep="\n")

"""What the edges of a circuit do inside it: what is lost when one, two or many of them are cut.

m is the metric, F its mean over the examples, C the circuit, M the whole model, and K a set of the
circuit's edges. A cut edge carries the corruption, as every edge outside of C does. Completeness
and minimality are those of Wang et al. 2023 (§4.1 and §4.2), with edges in place of their heads at
positions.
"""

"""How edges are scored, one family a file.

A method is a function ``(model, data, metric, corruption, *, ...) -> Scores``. Scores are means
over the examples, in the metric's units, and positive where an edge helps the clean behaviour.
"""

from circuitkit.registry import serve

__getattr__, __dir__ = serve("discovery")

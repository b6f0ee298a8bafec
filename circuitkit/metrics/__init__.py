"""What a run is judged by, one theme a file.

A metric is a function ``(logits, reference, batch) -> values``: the logits at the answer positions,
those of the full model on the clean prompt, and the batch; one value per example, higher is better.
It never reduces over examples.
"""

from circuitkit.registry import serve

__getattr__, __dir__ = serve("metrics")

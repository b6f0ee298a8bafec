"""Metrics: how well a run does the task, one theme a file.

A metric is a function ``(logits, reference, batch) -> values``. ``logits`` [batch, vocab] are those
at the answer positions, ``reference`` [batch, vocab] those of the full model on the clean prompts,
and ``batch`` holds the prompts and their answers. It returns one value per example, [batch]; higher
is better. It does not reduce over examples: whoever calls it takes the mean. What breaks these
rules is refused with a MetricError.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from circuitkit.registry import serve

if TYPE_CHECKING:  # what type checkers and editors see; a file that is not here is served too
    from circuitkit.metrics.answers import accuracy as accuracy
    from circuitkit.metrics.answers import log_probability as log_probability
    from circuitkit.metrics.answers import logit_diff as logit_diff
    from circuitkit.metrics.answers import prob_diff as prob_diff
    from circuitkit.metrics.answers import probability as probability
    from circuitkit.metrics.answers import top1 as top1
    from circuitkit.metrics.divergence import js as js
    from circuitkit.metrics.divergence import kl as kl

__getattr__, __dir__ = serve("metrics")

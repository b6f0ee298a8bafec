"""Corruptions: what a cut edge carries; one theme in each file.

A corruption is a function ``(model, data) -> (batch -> draws)``: it prepares once, and then returns
for each batch the ``Activations`` that cut edges carry; several draws where it is random, over
which all effects are averaged. Real runs come from ``engine.record.record``; values that were not
written in a run are put together by ``engine.record.assemble``, so that they are not taken for one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from circuitkit.registry import serve

if TYPE_CHECKING:  # what type checkers and editors see; a file that is not here is served too
    from circuitkit.corruptions.constants import mean as mean
    from circuitkit.corruptions.constants import mean_by_position as mean_by_position
    from circuitkit.corruptions.constants import zero as zero
    from circuitkit.corruptions.frequent import peak as peak
    from circuitkit.corruptions.gaussian import noise as noise
    from circuitkit.corruptions.learned import optimal as optimal
    from circuitkit.corruptions.replacement import counterfactual as counterfactual
    from circuitkit.corruptions.replacement import resample as resample

__getattr__, __dir__ = serve("corruptions")

"""What a cut edge carries, one theme a file.

A corruption is a function ``(model, data) -> (batch -> draws)``: it prepares once, and then gives
for each batch the ``Activations`` that cut edges carry; several draws where it is random, over
which every value is averaged. Real runs come from ``engine.run.record``; values that no run wrote
are put together by ``engine.run.assemble``, so that nobody takes them for one.
"""

from circuitkit.registry import serve

__getattr__, __dir__ = serve("corruptions")

"""What a cut edge carries, one theme a file.

A corruption is a function ``(model, data) -> (batch -> draws)``: it prepares once, and then gives
for each batch the ``Activations`` that cut edges carry; several draws where it is random, over
which every value is averaged.
"""

from circuitkit.catalogue import serve

__getattr__, __dir__ = serve("corruptions")

"""Every file of a circuit that is written or read, one format family a file; without torch.

An exporter is a function ``(circuit, **style) -> str | bytes``; its name is the file suffix. Those
that draw are in ``circuitkit.viz.pictures``.
"""

from circuitkit.registry import serve

__getattr__, __dir__ = serve("formats")

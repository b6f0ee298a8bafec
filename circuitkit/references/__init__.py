"""Published circuits, with the roles of their components and their sources, one task a file.

A reference is a function ``() -> Published``; its name is its file's and its own, ``ioi:wang2022``.
They are read, drawn and compared without torch.
"""

from circuitkit.registry import serve

__getattr__, __dir__ = serve("references")

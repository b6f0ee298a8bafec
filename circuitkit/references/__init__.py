"""Published circuits with the roles of their components and their sources, one file for each task.

A reference is a function ``() -> Published``; its name is that of its file and its own,
``ioi:wang2022``. References are read, drawn and compared without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from circuitkit.registry import serve

if TYPE_CHECKING:  # what type checkers and editors see; a file that is not here is served too
    from circuitkit.references import colored_objects as colored_objects
    from circuitkit.references import docstring as docstring
    from circuitkit.references import greater_than as greater_than
    from circuitkit.references import induction as induction
    from circuitkit.references import ioi as ioi
    from circuitkit.references import tracr_proportion as tracr_proportion
    from circuitkit.references import tracr_reverse as tracr_reverse

__getattr__, __dir__ = serve("references")

"""How others write dictionaries into files, one format a file; the folder is the registry.

A format is a function ``(folder, stated) -> dictionaries that have not been read yet``, of the name
of its file; it gives none where the folder does not hold its files. ``stated`` is what the user
says of them. Files are read plainly: nothing in them is executed, and none of their libraries is
needed.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import cast

from circuitkit.features.formats._reading import Format

__all__ = ["formats"]


def formats() -> dict[str, Format]:
    """Every format by name, in the order of the files."""
    found = {}
    for module in pkgutil.iter_modules(__path__):
        if not module.name.startswith("_"):
            own = importlib.import_module(f"{__name__}.{module.name}")
            found[module.name] = cast(Format, getattr(own, module.name))
    return found

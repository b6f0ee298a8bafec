"""For the reference: docstrings say "Example:", which the parser calls "Examples:"."""

from __future__ import annotations

from typing import Any

import griffe


class Examples(griffe.Extension):
    """Examples are shown as code."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename the section of one docstring."""
        if obj.docstring:
            said = obj.docstring.value
            obj.docstring.value = said.replace("\nExample:\n", "\nExamples:\n")

"""How well methods find known circuits, and at what cost: methods × models × corruptions."""

from __future__ import annotations

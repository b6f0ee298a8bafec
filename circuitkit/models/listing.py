"""The models that have a name of their own."""

from __future__ import annotations

from circuitkit.models.fetching import FETCHED

__all__ = ["list_models"]


def list_models() -> tuple[str, ...]:
    """The names of the models that ``load`` takes without an account or a path.

    ``mini`` is part of the package; ``fetch`` stores the others once. ``load`` also takes a Hugging
    Face name, a directory, a Hugging Face module, a TransformerBridge and a compiled program's
    ``.decoder`` file; ``ck.rasp.programs()`` names the programs that can be compiled.

    Example:
        >>> ck.list_models()
        ('mini', 'smollm2-135m')
    """
    return ("mini", *FETCHED)

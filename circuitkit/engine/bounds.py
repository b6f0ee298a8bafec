"""What a model can be given: token ids of its vocabulary, and prompts that its context holds."""

from __future__ import annotations

from jaxtyping import Bool, Int
from torch import Tensor

from circuitkit.data.batches import Batch
from circuitkit.errors import DataError

__all__ = ["require_answers", "require_length", "require_tokens"]


def require_tokens(name: str, tokens: Int[Tensor, "*b p"], size: int) -> None:
    """Raise DataError where a token id lies outside a vocabulary of that size.

    Example:
        >>> import torch
        >>> from circuitkit.engine.bounds import require_tokens
        >>> require_tokens("mini", torch.tensor([[3, 99]]), 60)
        Traceback (most recent call last):
        ...
        circuitkit.errors.DataError: a prompt has the token id 99, and the vocabulary of 'mini' ...
    """
    if not tokens.numel():
        return
    least, most = (int(end) for end in tokens.aminmax())
    if least < 0 or most >= size:
        raise DataError(
            f"a prompt has the token id {least if least < 0 else most:,}, and the vocabulary of "
            f"{name!r} has {size:,} tokens; use the tokenizer of this model"
        )


def require_answers(batch: Batch, size: int) -> None:
    """Raise DataError where an answer's token id lies outside the vocabulary (−1: none)."""
    for kind, answers in (("correct", batch.correct), ("wrong", batch.wrong)):
        if not answers.numel():
            continue
        least, most = (int(end) for end in answers.aminmax())
        if least < -1 or most >= size:
            raise DataError(
                f"a {kind} answer has the token id {least if least < -1 else most:,}, and the "
                f"model's vocabulary has {size:,} tokens; use the tokenizer of this model"
            )


def require_length(name: str, mask: Bool[Tensor, "b p"], context: int | None) -> None:
    """Raise DataError where a prompt has more tokens than the context of the model (None: any)."""
    length = int(mask.sum(-1).max())
    if context is not None and length > context:
        raise DataError(
            f"a prompt has {length:,} tokens, and {name!r} has positions for {context:,}; use "
            "shorter prompts, or ask for fewer new tokens"
        )

"""Corruptions that carry what the model writes on another prompt."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from circuitkit.data.alignment import Aligned
from circuitkit.data.batches import Batch, Dataset, span_names
from circuitkit.engine.model import Activations, Model
from circuitkit.engine.record import record
from circuitkit.errors import DataError
from circuitkit.util.options import Seed, checked

__all__ = ["counterfactual", "resample"]

_UNPAIRED = (
    "has no corrupted text, which counterfactual needs; give it one, or use zero, mean, noise or "
    "resample"
)


@checked
def counterfactual(
    model: Model, data: Dataset, *, text: str | None = None, at: str | Sequence[str] = ()
) -> Callable[[Batch], list[Activations]]:
    """Symmetric token replacement: a cut edge carries its value on the corrupted prompt.

    ``text`` names another corrupted text of the prompt (``S1+IO`` of ``ioi``). ``at`` names the
    tokens that are replaced (a span, as ``S2``, or several); without it, all.

    Where corrupted texts have other numbers of tokens and are aligned by spans (``align=``), each
    clean token gets the values at its partner, or the mean of its span: this is not a run of the
    model, except at the answer.

    Raises DataError, when used, for an example without a corrupted text, with its number, for a
    text or a span that an example lacks, and for ``at`` with aligned texts. Source: Zhang & Nanda
    2024, §2; ``patching`` of EAP-IG.

    Example:
        >>> import circuitkit as ck
        >>> model = ck.load("mini")
        >>> data = ck.Dataset.of(ck.make_task("ioi", model, n=4), model)
        >>> batch = next(iter(data))
        >>> (carried,) = ck.corruptions.counterfactual(model, data)(batch)
        >>> tuple(carried.embed.shape) == (*batch.corrupt.shape, model.d_model)
        True
    """

    def carried(batch: Batch) -> list[Activations]:
        if text is None and batch.paired is not None and not bool(batch.paired.all()):
            raise DataError(f"{batch.name(int((~batch.paired).nonzero()[0]))} {_UNPAIRED}")
        if text is None and batch.aligned is not None:
            return [_gathered(model, batch, batch.aligned, at)]
        return [_plain(model, batch.replaced(text, at), batch.mask)]

    return carried


@checked
def resample(
    model: Model, data: Dataset, *, seed: Seed = 0, at: str | Sequence[str] = ()
) -> Callable[[Batch], list[Activations]]:
    """Resample ablation: a cut edge carries what its writer writes on a different clean prompt.

    The prompt is that of another example of the same length.

    Which example depends on the seed and on the two prompts, not on the order of the data. ``at``
    names the tokens that are taken from that prompt (a span, as ``S2``, or several); without it,
    all.

    Raises DataError where an example is the only one of its length and, when used, for a prompt
    that is not among the data, and for a span that an example lacks. Source: Chan et al. 2022
    (causal scrubbing), with one sample for all edges.

    Example:
        >>> import circuitkit as ck
        >>> model = ck.load("mini")
        >>> data = ck.Dataset.of(ck.make_task("ioi", model, n=40), model)
        >>> (carried,) = ck.corruptions.resample(model, data, seed=1)(next(iter(data)))
        >>> carried.consistent  # it is a run that the model can make
        True
    """
    partner = _partners([e.clean for e in data.examples], seed)

    def carried(batch: Batch) -> list[Activations]:
        tokens = batch.clean.clone()
        for row, mask in zip(tokens, batch.prompts, strict=True):
            prompt = tuple(row[mask].tolist())
            if prompt not in partner:
                raise DataError(
                    f"a prompt of {len(prompt)} tokens is not among the data from which resample "
                    "chose partners; give data that holds it, or use counterfactual"
                )
            row[mask] = row.new_tensor(partner[prompt])
        chosen = batch.within(*span_names(at)) if at else batch.mask
        return [_plain(model, torch.where(chosen, tokens, batch.clean), batch.mask)]

    return carried


def _plain(model: Model, tokens: Tensor, mask: Tensor) -> Activations:
    with torch.set_grad_enabled(model.trainable and torch.is_grad_enabled()):
        return record(model, model.start(tokens, mask))


def _gathered(model: Model, batch: Batch, aligned: Aligned, at: str | Sequence[str]) -> Activations:
    """What clean tokens get of the run on corrupted texts that are aligned with them."""
    if at:
        raise DataError(
            f"{batch.name(0)} is in a batch of texts that are aligned by spans, of which all "
            "tokens are replaced; leave out at=, or give texts with equally many tokens"
        )
    run, take = _plain(model, aligned.tokens, aligned.mask), aligned.gather
    if run.held:
        raise DataError(
            "a router that is held chooses experts for the tokens of each text, which texts that "
            "are aligned by spans do not share; load the model with experts='live'"
        )
    reads, computed, shares = (
        tuple(take(x) for x in own) for own in (run.reads, run.computed, run.shares)
    )
    return Activations(take(run.embed), reads, computed, shares, take(run.final))


def _partners(prompts: list[tuple[int, ...]], seed: int) -> dict[tuple[int, ...], tuple[int, ...]]:
    """For each prompt the one of the same length that a hash of the two ranks first."""
    by_length: dict[int, list[tuple[int, ...]]] = {}
    for prompt in sorted(set(prompts)):
        by_length.setdefault(len(prompt), []).append(prompt)
    partner = {}
    for length, peers in by_length.items():
        if len(peers) < 2:
            raise DataError(
                f"only one prompt has {length} tokens, so resample has nothing to replace it by; "
                "give more examples, or use counterfactual"
            )
        for mine in peers:
            different = (p for p in peers if p != mine)
            partner[mine] = min(different, key=lambda p: zlib.crc32(repr((seed, mine, p)).encode()))
    return partner

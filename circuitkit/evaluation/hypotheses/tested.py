"""One hypothesis about a circuit: what was seen, how likely that is, and what it says."""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan, nan

import numpy as np
from jaxtyping import Float

from circuitkit.util.json_values import Json, nan_to_none

__all__ = ["Tested", "beaten", "interval_of_share"]

AGAINST, FOR = "against", "for"
VERDICTS = {  # by what a rejection says of the claim, and whether there was one
    (AGAINST, True): "rejected",
    (AGAINST, False): "not rejected",
    (FOR, True): "shown",
    (FOR, False): "not shown",
}


@dataclass(frozen=True)
class Tested:
    """One hypothesis about a circuit.

    Attributes:
        test: Its name.
        counted: What was counted, as ``0 of 96``.
        seen: The same in words.
        effect: The effect size: a share, or what the test's file says.
        low: The low end of the effect's 95 % interval; nan where none is known.
        high: Its high end.
        trials: Out of how many it was counted: prompts, random circuits or permutations.
        p: How likely something as extreme is where the null hypothesis is true.
        power: How likely the null hypothesis is rejected where ``against`` is true.
        against: What the power is against, in a few words.
        rejection: What a rejection speaks ``for`` or ``against``: the claim about the circuit.
        alpha: The level of the family.
        adjusted: The p value among those of its family (Holm); nan where it is not one of them.
        reason: Why it is reported and not tested; empty where it is.
        group: The prompts that it is of; empty for all.
    """

    test: str
    counted: str = ""
    seen: str = ""
    effect: float = nan
    low: float = nan
    high: float = nan
    trials: int = 0
    p: float = nan
    power: float = nan
    against: str = ""
    rejection: str = AGAINST
    alpha: float = 0.05
    adjusted: float = nan
    reason: str = ""
    group: str = ""

    @property
    def rejected(self) -> bool:
        """Whether the null hypothesis is rejected, among all of its family."""
        return not isnan(self.adjusted) and self.adjusted <= self.alpha

    @property
    def holds(self) -> bool:
        """Whether the claim stands: it is shown, or what says the same is not rejected."""
        return self.rejected == (self.rejection == FOR) and not self.reason

    @property
    def verdict(self) -> str:
        """``rejected`` or ``not rejected``, ``shown`` or ``not shown``, and ``reported`` where it
        is not tested."""
        return "reported" if self.reason else VERDICTS[self.rejection, self.rejected]

    def row(self) -> dict[str, Json]:
        """Its numbers, by the names of columns."""
        return {
            "group": self.group or "all", "test": self.test, "effect": self.effect,
            "low": self.low, "high": self.high, "trials": self.trials, "p": self.p,
            "adjusted": self.adjusted, "power": self.power, "verdict": self.verdict,
        }  # fmt: skip

    def to_dict(self) -> dict[str, Json]:
        """All of it, for machines; what is not known is None."""
        found: dict[str, Json] = nan_to_none(
            {**self.row(), "seen": self.seen, "against": self.against, "reason": self.reason}
        )
        return found


def interval_of_share(found: float, trials: int, level: float = 0.95) -> tuple[float, float]:
    """The exact interval of a share (Clopper & Pearson 1934); half a success counts as one half."""
    from scipy.stats import beta

    tail = (1 - level) / 2
    low = 0.0 if found <= 0 else float(beta.ppf(tail, found, trials - found + 1))
    high = 1.0 if found >= trials else float(beta.ppf(1 - tail, found + 1, trials - found))
    return low, high


def beaten(
    own: float,
    others: Float[np.ndarray, " circuits"],
    *,
    test: str,
    seen: str,
    quantile: float,
    level: float,
) -> Tested:
    """Whether a number is above those of more than a ``quantile`` of all random circuits, by how
    many of these it is above: the binomial test, one-sided. An equal one is not above. ``level`` is
    that at which it is rejected, for its power."""
    from scipy.stats import binom

    trials = len(others)
    above = int((own > others).sum())
    needed = next(k for k in range(trials + 2) if binom.sf(k - 1, trials, quantile) <= level)
    better = 1 - (1 - quantile) / 10
    return Tested(
        test, f"{above} of {trials}", seen.format(above=above, trials=trials), above / trials,
        *interval_of_share(above, trials), trials, p=float(binom.sf(above - 1, trials, quantile)),
        power=float(binom.sf(needed - 1, trials, better)),
        against=f"a circuit ahead of {better:.0%} of random ones", rejection=FOR,
    )  # fmt: skip

"""Training a TopK dictionary on rows: the dictionary that explains most with k features a token.

What is read and written is centred and divided by one number each while it is trained, and the
weights take that back at the end. A skip begins as the best linear map. Features that have been
silent for long learn from what is left unexplained (Gao et al. 2024, arXiv:2406.04093). A training
that is killed goes on from its last checkpoint, to the same weights bit by bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuitkit.engine.checkpoints import Journal
from circuitkit.errors import DictionaryError
from circuitkit.features.dictionaries import Dictionary
from circuitkit.features.rows import Place, Rows

__all__ = ["Progress", "Recipe", "train"]

WARM = 50  # steps in which the rate rises
BETAS, EPSILON = (0.9, 0.99), 1e-8
SILENT = 100_000  # rows without activation, after which a feature counts as silent
AUXILIARY = 1 / 32
RIDGE, FITTED = 1e-3, 60_000  # of the linear map, and rows from which it is made
SAVED = 30.0  # seconds between checkpoints
SAID = 20  # steps between what is said


@dataclass(frozen=True)
class Recipe:
    """How a dictionary is trained.

    Attributes:
        features: How many features it has.
        k: How many of them may be active at a token.
        skip: Whether it has a linear map beside them.
        steps: How many steps are taken; the rate falls to 0 over the second half.
        batch: Rows of a step.
        rate: The highest rate.
        seed: Of the first weights and the order of the rows.
    """

    features: int
    k: int
    skip: bool = False
    steps: int = 1500
    batch: int = 2048
    rate: float = 2e-3
    seed: int = 0


@dataclass(frozen=True)
class Progress:
    """How far a training is: the step, the share of the variance that the step's rows leave
    unexplained, how many features are active at a token, how many have been silent, and the CPU
    seconds so far, those of killed runs too."""

    step: int
    unexplained: float
    active: float
    silent: int
    seconds: float


@dataclass
class _State:
    """Everything that a step changes."""

    weights: dict[str, Tensor]
    first: dict[str, Tensor] = field(default_factory=dict)
    second: dict[str, Tensor] = field(default_factory=dict)
    silent: Int[Tensor, " f"] = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    step: int = 0
    reached: tuple[float, float, int] = (1.0, 0.0, 0)  # unexplained, active and silent
    seconds: float = 0.0

    def progress(self) -> Progress:
        """How far the training is."""
        return Progress(self.step, *self.reached, round(self.seconds, 1))

    def arrays(self) -> dict[str, np.ndarray]:
        """As a checkpoint keeps it."""
        groups = {"weights": self.weights, "first": self.first, "second": self.second}
        held = {f"{group}.{name}": value.detach().numpy()
                for group, own in groups.items() for name, value in own.items()}  # fmt: skip
        done = np.array([self.step, *self.reached, self.seconds])
        return held | {"silent": self.silent.numpy(), "done": done}

    def take(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Go on from a checkpoint."""
        for group in ("weights", "first", "second"):
            own = getattr(self, group)
            for name in own:
                own[name] = torch.from_numpy(arrays[f"{group}.{name}"]).clone()
        self.silent = torch.from_numpy(arrays["silent"]).clone()
        step, unexplained, active, silent, self.seconds = arrays["done"].tolist()
        self.step, self.reached = int(step), (unexplained, active, int(silent))


def train(
    rows: Rows,
    place: Place,
    recipe: Recipe,
    *,
    model: str = "",
    journal: Journal | None = None,
    say: Callable[[Progress, Callable[[], Dictionary]], None] = lambda _, __: None,
) -> Dictionary:
    """A dictionary for these rows: an autoencoder where it reads what it writes, else a transcoder.

    Args:
        rows: What is read and written.
        place: The layer, and where it reads and writes.
        recipe: How it is trained.
        model: The name of the model.
        journal: Where checkpoints are kept.
        say: Called each few steps with the progress, and with what makes the dictionary as it is;
            first where a killed training goes on, or has ended.

    Raises:
        DictionaryError: where there are too few rows, or the recipe asks for what cannot be.
    """
    layer, reads, writes = place
    if len(rows) < recipe.batch or not 1 <= recipe.k <= recipe.features:
        raise DictionaryError(
            f"{len(rows):,} rows, of which {recipe.batch:,} make a step, and {recipe.k} of "
            f"{recipe.features:,} features a token: give more rows, or a smaller batch or k"
        )
    if recipe.skip and reads == writes:
        raise DictionaryError("a skip of an autoencoder would explain everything; leave it out")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        run = _Training(rows, recipe, same=reads == writes)
    key = f"{layer}-{reads}-{writes}"
    run.resume(journal, key)

    def current() -> Dictionary:
        own = run.unscaled()
        return Dictionary(
            layer, own["encoder"], own["encoder_bias"], own["decoder"], own["bias"], reads=reads,
            writes=writes, activation="topk", k=recipe.k, skip=own.get("skip"), model=model,
        )  # fmt: skip

    if run.state.step:
        say(run.state.progress(), current)
    saved = time.monotonic()
    while run.state.step < recipe.steps:
        start = time.process_time()
        run.take_step()
        run.state.seconds += time.process_time() - start
        last = run.state.step == recipe.steps
        if last or run.state.step % SAID == 0:
            say(run.state.progress(), current)
        if journal is not None and (last or time.monotonic() - saved >= SAVED):
            journal.put(key, run.state.arrays())
            saved = time.monotonic()
    return current()


class _Training:
    """Rows with their scale, and the weights as they are now."""

    def __init__(self, rows: Rows, recipe: Recipe, same: bool) -> None:
        self.rows, self.recipe = rows, recipe
        self.x_mean, self.x_scale = _scale(rows.x)
        self.y_mean, self.y_scale = (self.x_mean, self.x_scale) if same else _scale(rows.y)
        f, d, e = recipe.features, rows.x.shape[1], rows.y.shape[1]
        encoder = torch.nn.functional.normalize(torch.randn(f, d), dim=1)
        linear = torch.eye(d) if same else self._linear_map()
        # Without a skip each feature begins by writing what the linear map makes of what it reads.
        decoder = torch.randn(f, e) / e**0.5 if recipe.skip else encoder @ linear.T
        decoder = 0.5 * torch.nn.functional.normalize(decoder, dim=1)
        weights = {
            "encoder": encoder, "encoder_bias": torch.zeros(f), "decoder": decoder,
            "bias": torch.zeros(e),
        }  # fmt: skip
        if recipe.skip:
            weights["skip"] = linear
        zeros = {name: torch.zeros_like(value) for name, value in weights.items()}
        again = {name: torch.zeros_like(value) for name, value in weights.items()}
        self.state = _State(weights, zeros, again, torch.zeros(f, dtype=torch.long))
        self._order: tuple[int, Tensor] | None = None

    def _linear_map(self) -> Float[Tensor, "e d"]:
        """The linear map from what is read to what is written that explains most."""
        step = max(1, len(self.rows) // FITTED)
        x = (self.rows.x[::step] - self.x_mean) / self.x_scale
        y = (self.rows.y[::step] - self.y_mean) / self.y_scale
        gram = x.T @ x + RIDGE * len(x) * torch.eye(x.shape[1])
        found: Tensor = torch.linalg.solve(gram, x.T @ y).T.contiguous()
        return found

    def resume(self, journal: Journal | None, key: str) -> None:
        """Go on from the last checkpoint, where there is one."""
        kept = None if journal is None else journal.get(key)
        if kept is not None:
            self.state.take(kept)

    def _batch(self) -> tuple[Tensor, Tensor]:
        """The rows of the step: each row once before any comes again."""
        size, n = self.recipe.batch, len(self.rows)
        each = n // size
        turn, place = divmod(self.state.step, each)
        if self._order is None or self._order[0] != turn:
            rng = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + turn)
            self._order = turn, torch.randperm(n, generator=rng)
        chosen = self._order[1][place * size : (place + 1) * size]
        x = (self.rows.x[chosen] - self.x_mean) / self.x_scale
        return x, (self.rows.y[chosen] - self.y_mean) / self.y_scale

    def take_step(self) -> None:
        """One step."""
        state, recipe = self.state, self.recipe
        x, y = self._batch()
        weights = {name: value.requires_grad_() for name, value in state.weights.items()}
        pre = torch.nn.functional.linear(x, weights["encoder"], weights["encoder_bias"])
        best = pre.topk(recipe.k, dim=-1, sorted=False)
        active = torch.zeros_like(pre).scatter(-1, best.indices, best.values.relu())
        written = active @ weights["decoder"] + weights["bias"]
        if recipe.skip:
            written = written + x @ weights["skip"].T
        left = y - written
        total = y.square().sum()
        loss = left.square().sum() / total
        silent = state.silent > SILENT
        if bool(silent.any()):
            loss = loss + AUXILIARY * _auxiliary(pre, weights["decoder"], silent, left.detach())
        gradients = torch.autograd.grad(loss, [*weights.values()])
        with torch.no_grad():
            used = (active > 0).any(0)
            state.silent = torch.where(used, 0, state.silent + len(x))
            state.step += 1
            self._descend(dict(zip(weights, gradients, strict=True)))
            state.reached = (
                float(left.square().sum() / total), float((active > 0).sum() / len(x)),
                int(silent.sum()),
            )  # fmt: skip

    def _descend(self, gradients: Mapping[str, Tensor]) -> None:
        """Adam's step (Kingma & Ba 2015, arXiv:1412.6980)."""
        state, step, steps = self.state, self.state.step, self.recipe.steps
        rate = self.recipe.rate * min(1.0, step / WARM, 2 * (steps - step + 1) / steps)
        one, two = (1 - beta**step for beta in BETAS)
        for name, gradient in gradients.items():
            first = state.first[name].lerp_(gradient, 1 - BETAS[0])
            second = state.second[name].mul_(BETAS[1])
            second.addcmul_(gradient, gradient, value=1 - BETAS[1])
            size = (second / two).sqrt_().add_(EPSILON)
            state.weights[name] = (
                state.weights[name].detach().addcdiv(first, size, value=-rate / one)
            )

    def unscaled(self) -> dict[str, Tensor]:
        """The weights for what is read and written as it is."""
        own = {name: value.detach() for name, value in self.state.weights.items()}
        encoder, bias = own["encoder"] / self.x_scale, own["bias"] * self.y_scale + self.y_mean
        parts = {
            "encoder": encoder, "encoder_bias": own["encoder_bias"] - encoder @ self.x_mean,
            "decoder": own["decoder"] * self.y_scale, "bias": bias,
        }  # fmt: skip
        if "skip" in own:
            parts["skip"] = own["skip"] * self.y_scale / self.x_scale
            parts["bias"] = bias - parts["skip"] @ self.x_mean
        return parts


def _scale(rows: Float[Tensor, "n d"]) -> tuple[Float[Tensor, " d"], float]:
    """The mean, and the number by which what is left has a mean square of 1."""
    mean = rows.mean(0)
    size = float((rows - mean).square().mean().sqrt())
    if not size > 0:
        raise DictionaryError("all rows are alike, so that there is nothing to explain")
    return mean, size


def _auxiliary(
    pre: Float[Tensor, "n f"],
    decoder: Float[Tensor, "f e"],
    silent: Tensor,
    left: Float[Tensor, "n e"],
) -> Tensor:
    """How far the silent features that come nearest to being active explain what is left."""
    numbers = silent.nonzero()[:, 0]
    some = min(len(numbers), max(1, decoder.shape[1] // 2))
    best = pre[:, numbers].topk(some, dim=-1, sorted=False)
    active = torch.zeros(len(pre), len(numbers)).scatter(-1, best.indices, best.values.relu())
    return (left - active @ decoder[numbers]).square().sum() / left.square().sum()

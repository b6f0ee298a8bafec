"""What a circuit is found and measured with, prepared once: names stand for functions, prompts are
tokens, and batches fit the memory."""

from __future__ import annotations

from typing import NamedTuple

from circuitkit.data.batches import Dataset
from circuitkit.data.prompts import Task
from circuitkit.engine.metric import Corruption, Metric
from circuitkit.engine.model import Model
from circuitkit.registry import name_of, resolve
from circuitkit.util.json_values import Json
from circuitkit.workflows.batching import batched

__all__ = ["Inputs", "prepare"]


class Inputs(NamedTuple):
    """What a method works on, in the order in which it takes it."""

    model: Model
    data: Dataset
    metric: Metric
    corruption: Corruption

    def halves(self) -> tuple[Inputs, Inputs]:
        """The same on one half of the prompts, and on the other."""
        seen, unseen = self.data.halves()
        return self._replace(data=seen), self._replace(data=unseen)

    def metadata(self) -> dict[str, Json]:
        """What results say of them."""
        return {
            "model": self.model.name,
            "metric": name_of(self.metric),
            "corruption": name_of(self.corruption),
            "examples": len(self.data),
            **({"experts": self.model.router} if self.model.router else {}),
        }


def prepare(
    model: Model,
    task: Task,
    metric: Metric | str | None = None,
    corruption: Corruption | str = "counterfactual",
    *,
    batch_size: int | None = None,
    memory: int | None = None,
) -> Inputs:
    """The inputs on a task's prompts, by default with its own metric, in batches of that size or
    else as large as the memory allows. Raises UnknownNameError for a name that is not catalogued,
    and BudgetError where one prompt at a time does not fit."""
    measure = resolve("metrics", metric or task.metric)
    corrupt = resolve("corruptions", corruption)
    data = Dataset.of(task, model, memory=memory)
    return Inputs(model, batched(model, data, [corrupt], batch_size), measure, corrupt)

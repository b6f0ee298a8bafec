"""Every error that circuitkit raises on purpose.

    CircuitkitError
    ├── ArgumentError           an argument that stands in the wrong place, or is of another kind
    ├── UnknownNameError        no metric, task, method, ... is called that
    ├── NodeNameError           a string that is not the name of a node or an edge
    ├── CircuitError            a graph, or a circuit file, that breaks the circuit format
    ├── ScoresError             a scores file, or a selection, that cannot be used
    ├── DataError               prompts that do not form clean/corrupt pairs
    │   └── TaskFitError        a task that the model's tokenizer cannot express
    ├── ModelError              a model that cannot be found or loaded
    │   ├── UnsupportedModelError   a model whose graph would be wrong
    │   └── VersionError        a library whose installed version is not as models need it
    ├── MetricError             a metric that cannot be used here
    ├── EvaluationError         a faithfulness that is undefined, or a task the model cannot do
    ├── BudgetError             work that does not fit the memory it may take
    └── OutputError             a file that cannot be written or drawn

Each message holds the offending value and the remedy, in one sentence: a shell user sees just that
sentence, with exit code 2.
"""

from __future__ import annotations

__all__ = [
    "ArgumentError",
    "BudgetError",
    "CircuitError",
    "CircuitkitError",
    "DataError",
    "EvaluationError",
    "MetricError",
    "ModelError",
    "NodeNameError",
    "OutputError",
    "ScoresError",
    "TaskFitError",
    "UnknownNameError",
    "UnsupportedModelError",
    "VersionError",
]


class CircuitkitError(Exception):
    """The root: catch it to catch every mistake that circuitkit reports."""


class ArgumentError(CircuitkitError, TypeError):
    """An argument that stands in the wrong place, or is of another kind than what belongs there."""


class UnknownNameError(CircuitkitError):
    """No metric, corruption, method, task, reference or format is called that."""


class NodeNameError(CircuitkitError):
    """A string that is not the name of a node or an edge."""


class CircuitError(CircuitkitError):
    """A graph, or a circuit file, that breaks the circuit format."""


class ScoresError(CircuitkitError):
    """A scores file, or a selection from scores, that cannot be used."""


class DataError(CircuitkitError):
    """Prompts that do not form clean/corrupt pairs."""


class TaskFitError(DataError):
    """A task that the model's tokenizer cannot express."""


class ModelError(CircuitkitError):
    """A model that cannot be found or loaded."""


class UnsupportedModelError(ModelError):
    """A model whose computational graph would be wrong."""


class VersionError(ModelError):
    """A library whose installed version no longer has, or does not yet have, what models need."""


class MetricError(CircuitkitError):
    """A metric that cannot be used here."""


class EvaluationError(CircuitkitError):
    """A faithfulness that is not defined, or a task that the model cannot do."""


class BudgetError(CircuitkitError):
    """Work that does not fit the memory it may take, however small its pieces."""


class OutputError(CircuitkitError):
    """A file that cannot be written or drawn."""

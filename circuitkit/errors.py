"""Every error that circuitkit raises on purpose.

    CircuitkitError
    ├── ArgumentError           an argument in the wrong place, or of the wrong kind
    ├── UnknownNameError        a metric, task, method, ... that does not exist
    ├── NodeNameError           a string that is not a node or edge name
    ├── CircuitError            a graph, or a circuit file, that breaks the circuit format
    ├── ScoresError             a scores file, or a selection, that cannot be used
    ├── DataError               prompts that do not form clean/corrupt pairs
    │   └── TaskFitError        a task that the model's tokenizer cannot express
    ├── ModelError              a model that cannot be found or loaded
    │   ├── UnsupportedModelError   a model whose graph would be wrong
    │   └── VersionError        a library in a version that models cannot use
    ├── DictionaryError         features that cannot be read, or that do not fit the model
    ├── MetricError             a metric that cannot be used here
    ├── EvaluationError         a faithfulness that is not defined, or a task the model cannot do
    ├── BudgetError             work that does not fit the memory it may take
    ├── ProcessError            another process of the same run that has ended
    ├── UnfinishedError         a result of which some blocks are not there yet
    └── OutputError             a file that cannot be written or drawn

Each message is one sentence with the offending value and the remedy; on the command line that
sentence is all that is printed, and the exit code is 2.
"""

from __future__ import annotations

__all__ = [
    "ArgumentError",
    "BudgetError",
    "CircuitError",
    "CircuitkitError",
    "DataError",
    "DictionaryError",
    "EvaluationError",
    "MetricError",
    "ModelError",
    "NodeNameError",
    "OutputError",
    "ProcessError",
    "ScoresError",
    "TaskFitError",
    "UnfinishedError",
    "UnknownNameError",
    "UnsupportedModelError",
    "VersionError",
]


class CircuitkitError(Exception):
    """The base class of all errors that circuitkit raises on purpose."""


class ArgumentError(CircuitkitError, TypeError):
    """An argument in the wrong place, or of the wrong kind."""


class UnknownNameError(CircuitkitError):
    """A metric, corruption, method, task, reference or format that does not exist."""


class NodeNameError(CircuitkitError):
    """A string that is not a node or edge name."""


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
    """A library in a version that no longer has, or does not yet have, what models need."""


class DictionaryError(CircuitkitError):
    """Features that cannot be read or trained, or that do not fit the model."""


class MetricError(CircuitkitError):
    """A metric that cannot be used here."""


class EvaluationError(CircuitkitError):
    """A faithfulness that is not defined, or a task that the model cannot do."""


class BudgetError(CircuitkitError):
    """Work that does not fit the memory it may take, however small its pieces."""


class ProcessError(CircuitkitError):
    """Another process of the same run that has ended before its work was done."""


class UnfinishedError(CircuitkitError):
    """A result of which some blocks are not there yet, because other shards make them."""


class OutputError(CircuitkitError):
    """A file that cannot be written or drawn."""

"""Find, measure and draw the circuit by which a transformer language model does a task.

The names below are imported when they are used: torch takes seconds, and drawing needs none of it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what type checkers and editors see; a test compares it with the tables below
    from circuitkit import corruptions as corruptions
    from circuitkit import discovery as discovery
    from circuitkit import features as features
    from circuitkit import formats as formats
    from circuitkit import metrics as metrics
    from circuitkit import references as references
    from circuitkit import tasks as tasks
    from circuitkit.data.batches import Dataset as Dataset
    from circuitkit.data.lint import check_prompts as check_prompts
    from circuitkit.data.prompts import Prompt as Prompt
    from circuitkit.data.prompts import Task as Task
    from circuitkit.data.tasks import make_task as make_task
    from circuitkit.evaluation.ability import ability as ability
    from circuitkit.evaluation.ability import known as known
    from circuitkit.evaluation.alternatives import alternative as alternative
    from circuitkit.evaluation.certainty import certainty as certainty
    from circuitkit.evaluation.certainty_result import Certainty as Certainty
    from circuitkit.evaluation.complements import complements as complements
    from circuitkit.evaluation.curves import curve as curve
    from circuitkit.evaluation.faithfulness import completeness as completeness
    from circuitkit.evaluation.faithfulness import evaluate as evaluate
    from circuitkit.evaluation.generation import generate as generate
    from circuitkit.evaluation.heads.describe import describe_heads as describe_heads
    from circuitkit.evaluation.heads.scores import attention_scores as attention_scores
    from circuitkit.evaluation.hooks import hooks as hooks
    from circuitkit.evaluation.hypotheses.everything import hypothesis_tests as hypothesis_tests
    from circuitkit.evaluation.knockouts.completeness import incompleteness as incompleteness
    from circuitkit.evaluation.knockouts.effects import marginal_effects as marginal_effects
    from circuitkit.evaluation.knockouts.everything import knockout as knockout
    from circuitkit.evaluation.knockouts.pairs import interactions as interactions
    from circuitkit.evaluation.knockouts.redundancy import minimality as minimality
    from circuitkit.evaluation.masks import node_level as node_level
    from circuitkit.evaluation.masks import random_masks as random_masks
    from circuitkit.evaluation.recovery import recovery as recovery
    from circuitkit.evaluation.recovery import stability as stability
    from circuitkit.evaluation.refining import refine as refine
    from circuitkit.evaluation.robustness import cross_evaluate as cross_evaluate
    from circuitkit.evaluation.robustness import discover_each as discover_each
    from circuitkit.evaluation.robustness import vary as vary
    from circuitkit.evaluation.running import measure as measure
    from circuitkit.evaluation.running import run as run
    from circuitkit.evaluation.searching import smallest as smallest
    from circuitkit.evaluation.size_curves import size_curves as size_curves
    from circuitkit.evaluation.transferring import transfer as transfer
    from circuitkit.evaluation.verification import verify as verify
    from circuitkit.features.graphs import AttributionGraph as AttributionGraph
    from circuitkit.features.tracing import trace as trace
    from circuitkit.features.validation import Validation as Validation
    from circuitkit.features.validation import validate as validate
    from circuitkit.formats.interchange.acdc import read_acdc as read_acdc
    from circuitkit.formats.interchange.acdc import write_acdc as write_acdc
    from circuitkit.formats.interchange.autocircuit import read_autocircuit as read_autocircuit
    from circuitkit.formats.interchange.autocircuit import write_autocircuit as write_autocircuit
    from circuitkit.formats.interchange.eap_ig import read_eap_circuit as read_eap_circuit
    from circuitkit.formats.interchange.eap_ig import read_eap_scores as read_eap_scores
    from circuitkit.formats.interchange.eap_ig import write_eap as write_eap
    from circuitkit.formats.interchange.mib import mib_circuits as mib_circuits
    from circuitkit.formats.interchange.mib import read_mib as read_mib
    from circuitkit.formats.interchange.mib import write_mib as write_mib
    from circuitkit.graph.circuit import Circuit as Circuit
    from circuitkit.graph.compare import agreement as agreement
    from circuitkit.graph.compare import compare as compare
    from circuitkit.graph.consensus import consensus as consensus
    from circuitkit.graph.scores import Scores as Scores
    from circuitkit.models.checking import check as check
    from circuitkit.models.fetching import fetch as fetch
    from circuitkit.models.listing import list_models as list_models
    from circuitkit.models.loading import load as load
    from circuitkit.patching.attention import attention_to as attention_to
    from circuitkit.patching.edges import patch_edges as patch_edges
    from circuitkit.patching.joint import patch_together as patch_together
    from circuitkit.patching.nodes import patch_heads as patch_heads
    from circuitkit.patching.nodes import patch_nodes as patch_nodes
    from circuitkit.patching.nodes import patch_residual as patch_residual
    from circuitkit.patching.paths import patch_path as patch_path
    from circuitkit.patching.paths import patch_paths as patch_paths
    from circuitkit.patching.paths import patch_senders as patch_senders
    from circuitkit.patching.windows import patch_windows as patch_windows
    from circuitkit.registry import list_corruptions as list_corruptions
    from circuitkit.registry import list_formats as list_formats
    from circuitkit.registry import list_methods as list_methods
    from circuitkit.registry import list_metrics as list_metrics
    from circuitkit.registry import list_references as list_references
    from circuitkit.registry import list_tasks as list_tasks
    from circuitkit.registry import resolve as resolve
    from circuitkit.truth import rasp as rasp
    from circuitkit.viz import figures as figures
    from circuitkit.workflows.benchmark.results import Benchmark as Benchmark
    from circuitkit.workflows.benchmark.running import bench as bench
    from circuitkit.workflows.citing import Citation as Citation
    from circuitkit.workflows.citing import cite as cite
    from circuitkit.workflows.clusters.results import Clusters as Clusters
    from circuitkit.workflows.clusters.running import clusters as clusters
    from circuitkit.workflows.cross_result import Cross as Cross
    from circuitkit.workflows.crossing import cross as cross
    from circuitkit.workflows.dictionaries import TrainedDictionaries as TrainedDictionaries
    from circuitkit.workflows.dictionaries import train_dictionaries as train_dictionaries
    from circuitkit.workflows.discover import discover as discover
    from circuitkit.workflows.features import discover_features as discover_features
    from circuitkit.workflows.placed_results import PlacedDiscovery as PlacedDiscovery
    from circuitkit.workflows.plan import Plan as Plan
    from circuitkit.workflows.plan import plan as plan
    from circuitkit.workflows.positions import discover_positions as discover_positions
    from circuitkit.workflows.replay import Replay as Replay
    from circuitkit.workflows.replay import replay as replay
    from circuitkit.workflows.results import Discovery as Discovery
    from circuitkit.workflows.side_by_side import SideBySide as SideBySide
    from circuitkit.workflows.side_by_side import side_by_side as side_by_side
    from circuitkit.workflows.study.results import Study as Study
    from circuitkit.workflows.study.running import study as study
    from circuitkit.workflows.track.results import Track as Track
    from circuitkit.workflows.track.running import track as track

__version__ = "0.2.0"

_PLACES = {
    "AttributionGraph": "features.graphs",
    "Benchmark": "workflows.benchmark.results",
    "Certainty": "evaluation.certainty_result",
    "Circuit": "graph.circuit",
    "Citation": "workflows.citing",
    "Clusters": "workflows.clusters.results",
    "Cross": "workflows.cross_result",
    "Dataset": "data.batches",
    "Discovery": "workflows.results",
    "Plan": "workflows.plan",
    "Prompt": "data.prompts",
    "Replay": "workflows.replay",
    "Scores": "graph.scores",
    "SideBySide": "workflows.side_by_side",
    "Study": "workflows.study.results",
    "Task": "data.prompts",
    "Track": "workflows.track.results",
    "TrainedDictionaries": "workflows.dictionaries",
    "Validation": "features.validation",
    "ability": "evaluation.ability",
    "agreement": "graph.compare",
    "alternative": "evaluation.alternatives",
    "attention_scores": "evaluation.heads.scores",
    "attention_to": "patching.attention",
    "bench": "workflows.benchmark.running",
    "certainty": "evaluation.certainty",
    "check": "models.checking",
    "check_prompts": "data.lint",
    "cite": "workflows.citing",
    "clusters": "workflows.clusters.running",
    "compare": "graph.compare",
    "complements": "evaluation.complements",
    "completeness": "evaluation.faithfulness",
    "consensus": "graph.consensus",
    "cross": "workflows.crossing",
    "cross_evaluate": "evaluation.robustness",
    "curve": "evaluation.curves",
    "discover": "workflows.discover",
    "describe_heads": "evaluation.heads.describe",
    "discover_each": "evaluation.robustness",
    "discover_features": "workflows.features",
    "discover_positions": "workflows.positions",
    "PlacedDiscovery": "workflows.placed_results",
    "evaluate": "evaluation.faithfulness",
    "fetch": "models.fetching",
    "generate": "evaluation.generation",
    "hooks": "evaluation.hooks",
    "hypothesis_tests": "evaluation.hypotheses.everything",
    "incompleteness": "evaluation.knockouts.completeness",
    "interactions": "evaluation.knockouts.pairs",
    "knockout": "evaluation.knockouts.everything",
    "known": "evaluation.ability",
    "list_corruptions": "registry",
    "list_formats": "registry",
    "list_methods": "registry",
    "list_metrics": "registry",
    "list_models": "models.listing",
    "list_references": "registry",
    "list_tasks": "registry",
    "load": "models.loading",
    "make_task": "data.tasks",
    "marginal_effects": "evaluation.knockouts.effects",
    "measure": "evaluation.running",
    "mib_circuits": "formats.interchange.mib",
    "minimality": "evaluation.knockouts.redundancy",
    "node_level": "evaluation.masks",
    "patch_edges": "patching.edges",
    "patch_heads": "patching.nodes",
    "patch_nodes": "patching.nodes",
    "patch_path": "patching.paths",
    "patch_paths": "patching.paths",
    "patch_residual": "patching.nodes",
    "patch_senders": "patching.paths",
    "patch_together": "patching.joint",
    "patch_windows": "patching.windows",
    "plan": "workflows.plan",
    "random_masks": "evaluation.masks",
    "read_acdc": "formats.interchange.acdc",
    "read_autocircuit": "formats.interchange.autocircuit",
    "read_eap_circuit": "formats.interchange.eap_ig",
    "read_eap_scores": "formats.interchange.eap_ig",
    "read_mib": "formats.interchange.mib",
    "recovery": "evaluation.recovery",
    "refine": "evaluation.refining",
    "replay": "workflows.replay",
    "resolve": "registry",
    "run": "evaluation.running",
    "side_by_side": "workflows.side_by_side",
    "size_curves": "evaluation.size_curves",
    "smallest": "evaluation.searching",
    "stability": "evaluation.recovery",
    "study": "workflows.study.running",
    "trace": "features.tracing",
    "track": "workflows.track.running",
    "train_dictionaries": "workflows.dictionaries",
    "transfer": "evaluation.transferring",
    "validate": "features.validation",
    "vary": "evaluation.robustness",
    "verify": "evaluation.verification",
    "write_acdc": "formats.interchange.acdc",
    "write_autocircuit": "formats.interchange.autocircuit",
    "write_eap": "formats.interchange.eap_ig",
    "write_mib": "formats.interchange.mib",
}
_FOLDERS = {
    "corruptions": "corruptions",
    "discovery": "discovery",
    "features": "features",
    "figures": "viz.figures",
    "formats": "formats",
    "metrics": "metrics",
    "rasp": "truth.rasp",
    "references": "references",
    "tasks": "tasks",
}

# Names of earlier versions and of other tools, each with what does the same here.
_SUCCESSORS = {
    "Graph": "Circuit, or Scores of every edge",
    "HookedTransformer": "load",
    "TransformerBridge": "load",
    "activation_patching": "patch_nodes",
    "attribute": "discover, or a method of discovery such as discovery.eap_ig",
    "benchmark": "bench",
    "draw": "circuit.draw",
    "draw_curves": "curve, and its plot",
    "evaluate_graph": "evaluate",
    "export": "circuit.save, or circuit.draw for a picture",
    "find_circuit": "discover",
    "from_pretrained": "load",
    "load_circuit": "Circuit.load",
    "load_dataset": "make_task",
    "load_model": "load",
    "load_scores": "Scores.load",
    "path_patching": "patch_path",
    "plot": "circuit.draw",
    "read": "Circuit.load",
    "read_circuit": "Circuit.load",
    "run_with_hooks": "run, or hooks for TransformerLens",
    "save": "circuit.save",
    "tokenize": "Dataset.of",
    "visualize": "circuit.draw",
    "write": "circuit.save, or circuit.draw for a picture",
}

__all__ = ["__version__", *sorted(_PLACES), *_FOLDERS]


def __getattr__(name: str) -> object:
    if name in _FOLDERS:
        return importlib.import_module(f"circuitkit.{_FOLDERS[name]}")
    if name in _PLACES:
        value = getattr(importlib.import_module(f"circuitkit.{_PLACES[name]}"), name)
        globals()[name] = value  # so that a module of that name does not hide it
        return value
    if name.startswith("__"):  # what Python asks every module for
        raise AttributeError(name)
    raise AttributeError(f"circuitkit has no {name!r}; {_advice(name)}")


def __dir__() -> list[str]:
    return list(__all__)


def _advice(name: str) -> str:
    """What to use instead of a name that does not exist: its successor, or the nearest name."""
    if name in _SUCCESSORS:
        return f"use {_SUCCESSORS[name]}"
    from circuitkit.registry import KINDS, names, nearest

    places = {own: f"{kind}.{own}" for kind in KINDS for own in names(kind) if ":" not in own}
    near = nearest(name, [*places, *__all__])
    if near is None:
        return "dir(circuitkit) lists its names"
    return f"did you mean {near if near in __all__ else places[near]!r}?"

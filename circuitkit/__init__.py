"""Find, measure and draw the circuit by which a transformer language model does a task.

The names below are imported when they are used: torch takes seconds, and drawing needs none of it.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.2.0"

_PLACES = {
    "Circuit": "graph.circuit",
    "Dataset": "data.batches",
    "Prompt": "data.prompts",
    "Scores": "graph.scores",
    "Task": "data.prompts",
    "ability": "evaluation.ability",
    "agreement": "graph.compare",
    "attention_to": "patching.attention",
    "bench": "workflows.benchmark.running",
    "check": "models.checking",
    "compare": "graph.compare",
    "completeness": "evaluation.faithfulness",
    "cross_evaluate": "evaluation.robustness",
    "curve": "evaluation.curves",
    "discover_each": "evaluation.robustness",
    "draw_curves": "evaluation.curves",
    "evaluate": "evaluation.faithfulness",
    "fetch": "models.fetching",
    "find_circuit": "workflows.discover",
    "incompleteness": "evaluation.knockouts.completeness",
    "interactions": "evaluation.knockouts.pairs",
    "known": "evaluation.ability",
    "load": "models.loading",
    "make_task": "data.tasks",
    "marginal_effects": "evaluation.knockouts.effects",
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
    "read": "graph.circuit",
    "read_eap_circuit": "formats.interchange.eap_ig",
    "read_eap_scores": "formats.interchange.eap_ig",
    "read_mib": "formats.interchange.mib",
    "recovery": "evaluation.recovery",
    "resolve": "registry",
    "size_curves": "evaluation.size_curves",
    "smallest": "evaluation.choosing",
    "stability": "evaluation.recovery",
    "study": "workflows.study.running",
    "vary": "evaluation.robustness",
    "verify": "evaluation.verification",
    "write": "graph.circuit",
    "write_eap": "formats.interchange.eap_ig",
    "write_mib": "formats.interchange.mib",
}
_FOLDERS = {
    "corruptions": "corruptions",
    "discovery": "discovery",
    "figures": "viz.figures",
    "formats": "formats",
    "metrics": "metrics",
    "rasp": "truth.rasp",
    "references": "references",
    "tasks": "tasks",
}

__all__ = ["__version__", *sorted(_PLACES), *_FOLDERS]


def __getattr__(name: str) -> Any:
    if name in _FOLDERS:
        return importlib.import_module(f"circuitkit.{_FOLDERS[name]}")
    if name in _PLACES:
        value = getattr(importlib.import_module(f"circuitkit.{_PLACES[name]}"), name)
        globals()[name] = value  # so that a module of that name does not stand in its way
        return value
    raise AttributeError(f"circuitkit has no {name!r}")


def __dir__() -> list[str]:
    return list(__all__)

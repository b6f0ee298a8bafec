"""Find, measure and draw the circuit by which a transformer language model does a task.

The names below are imported when they are used: torch takes seconds, and drawing needs none of it.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PLACES = {
    "Circuit": "circuit",
    "Dataset": "data",
    "Prompt": "data",
    "Scores": "scores",
    "Task": "data",
    "ability": "faithfulness",
    "agreement": "overlap",
    "attention_to": "attention",
    "bench": "benching.running",
    "check": "proof",
    "compare": "overlap",
    "completeness": "faithfulness",
    "cross_evaluate": "robustness",
    "curve": "faithfulness",
    "discover_each": "robustness",
    "draw_curves": "faithfulness",
    "evaluate": "faithfulness",
    "fetch": "cache",
    "find_circuit": "find",
    "incompleteness": "knockouts.completeness",
    "interactions": "knockouts.pairs",
    "known": "faithfulness",
    "load": "models",
    "make_task": "find",
    "marginal_effects": "knockouts.effects",
    "minimality": "knockouts.redundancy",
    "node_level": "faithfulness",
    "patch_edges": "patching.edges",
    "patch_heads": "patching.nodes",
    "patch_nodes": "patching.nodes",
    "patch_path": "patching.paths",
    "patch_paths": "patching.paths",
    "patch_residual": "patching.nodes",
    "patch_senders": "patching.paths",
    "patch_together": "patching.joint",
    "patch_windows": "patching.windows",
    "read": "circuit",
    "read_eap_circuit": "interchange.eap_ig",
    "read_eap_scores": "interchange.eap_ig",
    "read_mib": "interchange.mib",
    "recovery": "ranking",
    "resolve": "catalogue",
    "size_curves": "sparsity",
    "smallest": "faithfulness",
    "stability": "ranking",
    "study": "studies.running",
    "vary": "robustness",
    "verify": "verification",
    "write": "export",
    "write_eap": "interchange.eap_ig",
    "write_mib": "interchange.mib",
}
_FOLDERS = ("corruptions", "discovery", "export", "figures", "metrics", "rasp", "tasks")

__all__ = ["__version__", *sorted(_PLACES), *_FOLDERS]


def __getattr__(name: str) -> Any:
    if name in _FOLDERS:
        return importlib.import_module(f"circuitkit.{name}")
    if name in _PLACES:
        value = getattr(importlib.import_module(f"circuitkit.{_PLACES[name]}"), name)
        globals()[name] = value  # so that a module of that name does not stand in its way
        return value
    raise AttributeError(f"circuitkit has no {name!r}")


def __dir__() -> list[str]:
    return list(__all__)

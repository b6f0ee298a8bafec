"""The circuits, models and prompts that the options name."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from circuitkit import registry
from circuitkit.errors import ScoresError

__all__ = [
    "default_place",
    "in_batches",
    "known",
    "load_model",
    "open_circuit",
    "recorded",
    "set_threads",
    "unseen",
]


def default_place(options: argparse.Namespace, folder: str) -> Path:
    """Where a command's files go unless it is told: ``folder/TASK-MODEL``."""
    task = Path(options.task.partition("(")[0].rpartition(":")[2]).stem
    return Path(folder) / f"{task}-{Path(options.model).name}"


def in_batches(
    model: Any, data: Any, options: argparse.Namespace, corruptions: Sequence[str]
) -> Any:
    """The data in batches that fit under each of the corruptions, or as asked."""
    from circuitkit.workflows.discover import batched

    for corruption in corruptions:
        how = registry.resolve("corruptions", corruption)
        data = batched(data, model, how, options.batch_size)
    return data


def known(kind: str, name: str | None) -> None:
    """Raise UnknownNameError for a name that is not catalogued, before anything slow is loaded."""
    plain = (name or "").partition("(")[0].strip()
    from_elsewhere = ":" in plain or plain.endswith((".csv", ".jsonl"))
    if name and not from_elsewhere and plain not in registry.names(kind):
        registry.lookup(kind, plain)


def load_model(name: str, options: argparse.Namespace) -> Any:
    """The model, on the device, in the dtype and with the threads that were asked for."""
    from circuitkit.models.loading import load

    set_threads(options.threads)
    return load(name, device=options.device, dtype=options.dtype)


def open_circuit(name: str) -> Any:
    """The circuit of that file, be it EAP-IG's or ours, or the published one of that name."""
    from circuitkit.formats.interchange.eap_ig import is_eap, read_eap_circuit
    from circuitkit.graph.circuit import read
    from circuitkit.graph.published import named

    if ":" in name and not name.endswith((".json", ".pt")):
        return named(name).circuit
    return read_eap_circuit(name) if is_eap(name) else read(name)


def recorded(circuit: Any, key: str) -> str:
    """What the circuit says of itself under that key; raises ScoresError where it says nothing."""
    if key not in circuit.graph:
        raise ScoresError(f"the circuit does not say its {key}; give --{key}")
    return str(circuit.graph[key])


def set_threads(threads: int | None) -> None:
    """Let torch use that many processor threads; None leaves it alone."""
    if threads:
        import torch

        torch.set_num_threads(threads)


def unseen(
    options: argparse.Namespace, circuit: Any, metrics: Sequence[str], corruptions: Sequence[str]
) -> tuple[Any, Any, str]:
    """The model, prompts that the circuit's discovery did not see, and what to call them; raises
    before anything slow is loaded where a name is not known."""
    about, task = circuit.graph, options.task or recorded(circuit, "task")
    for kind, chosen in (("metrics", metrics), ("corruptions", corruptions), ("tasks", [task])):
        for name in chosen:
            known(kind, name)
    model = load_model(options.model or recorded(circuit, "model"), options)
    from circuitkit.data.batches import Dataset
    from circuitkit.data.tasks import held_out

    seen = int(about.get("examples", 0)) if task == about.get("task") else 0
    prompts = held_out(task, model, options.examples, int(about.get("seed", 0)), seen)
    whole = Dataset.of(prompts, model, memory=options.memory)
    data = in_batches(model, whole, options, corruptions)
    return model, data, f"{circuit!r}; {len(data)} prompts of {task} on {model.name}"

"""The circuits, models and prompts that the options name."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any

from circuitkit import registry
from circuitkit.cli._options import as_several
from circuitkit.cli._processes import is_shard, pieces_of
from circuitkit.errors import ArgumentError, ScoresError
from circuitkit.workflows.folders import legal

__all__ = [
    "called",
    "check_asked",
    "check_names",
    "default_place",
    "legal_name",
    "load_model",
    "open_circuit",
    "recorded",
    "resumed",
    "set_threads",
    "settings_of",
    "task_of",
    "unseen",
]

HOW = frozenset({  # options that say how a command works, not what it finds
    "arguments", "batch_size", "dealt", "debug", "device", "device_map", "force", "json", "log",
    "memory", "output", "overwrite", "parser", "plan", "quiet", "resume", "run", "shard", "threads",
})  # fmt: skip
SPEAKING = (
    "",
    "corruption",
    "dtype",
    "method",
    "methods",
    "metric",
    "model",
    "rule",
)  # whose values say what they are
LONGEST = 100  # signs of a default folder's name


def check_names(kind: str, *names: str | None) -> None:
    """Raise UnknownNameError for an unknown name before anything slow is loaded; None, and names
    of files, are not checked here."""
    from circuitkit.data.prompts import is_file

    for name in names:
        plain = (name or "").partition("(")[0].strip()
        from_elsewhere = ":" in plain or (kind == "tasks" and is_file(name or ""))
        known = registry.same_name(kind, plain) if kind == "tasks" else plain
        if name and not from_elsewhere and known not in registry.names(kind):
            registry.lookup(kind, plain)


def check_asked(options: argparse.Namespace) -> None:
    """The same of the task, method, metric and corruption that the options name."""
    check_names("tasks", options.task)
    check_names("discovery", options.method)
    check_names("metrics", options.metric)
    check_names("corruptions", *as_several(options.corruption))


def default_place(options: argparse.Namespace, folder: str) -> Path:
    """The default folder for a command's files: ``folder/TASK-MODEL``, and the settings that differ
    from the defaults of the command's parser (``circuits/ioi-mini-eap-zero-seed1``)."""
    from circuitkit.data.prompts import STDIN, file_of

    file = file_of(options.task)
    task = "stdin" if file == STDIN else Path(file).stem if file else options.task
    model = Path(options.model)
    name = model.resolve().name if model.is_dir() else model.name
    return Path(folder) / legal_name(options, task, name, without=("task", "model"))


def legal_name(options: argparse.Namespace, *parts: str, without: Sequence[str] = ()) -> str:
    """A name for a folder: these parts, and the settings that differ from the defaults of the
    command's parser, except for some."""
    changed = (
        _label(name, value)
        for name, value in settings_of(options).items()
        if name not in without and value != options.parser.get_default(name)
    )
    whole = "-".join(filter(None, map(legal, (*parts, *changed))))
    if len(whole) > LONGEST:
        whole = f"{whole[:LONGEST].rstrip('-')}-{sha256(whole.encode()).hexdigest()[:8]}"
    return whole


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """The options on which the results of a command depend."""
    return {name: value for name, value in vars(options).items() if name not in HOW}


def _label(name: str, value: Any) -> str:
    """A setting as a part of a folder's name: ``eap``, ``seed1``, ``both-ways``."""
    if isinstance(value, Mapping):
        value = value.items()
    if isinstance(value, Iterable) and not isinstance(value, str):
        value = "-".join(_label("", part) for part in value)
    plain = name.replace("_", "-")
    if value is True or value is False:
        return plain if value else f"no-{plain}"
    text = str(value)
    if name in SPEAKING:
        return text
    return f"{plain}{text}" if text[:1].isdigit() else f"{plain}-{text or 'none'}"


def load_model(
    name: str,
    options: argparse.Namespace,
    about: Mapping[str, Any] = MappingProxyType({}),
    *,
    proved: bool = True,
) -> Any:
    """The model on the device, in the dtype and with the threads of the options; with experts as
    in the options, or else as a circuit says of itself (``about``), and with its MLPs taken apart
    as there. It is run to prove that it is its graph, unless it need not be ``proved``."""
    from circuitkit.models.decoder import SUFFIX
    from circuitkit.models.loading import load, open_model

    set_threads(options.threads)
    opened = load if proved or name.endswith(SUFFIX) else open_model
    framing: dict[str, Any] = {key: getattr(options, key, None) for key in ("bos", "chat")}
    model = opened(
        name, device=options.device, device_map=options.device_map, dtype=options.dtype,
        experts=options.experts or about.get("experts"), **framing,
    )  # fmt: skip
    if not about:
        return model
    from circuitkit.features.splitting import split_as

    return split_as(model, about)


def open_circuit(name: str, force: bool = False) -> Any:
    """The circuit in a file of ours or of EAP-IG, or the published circuit of that name; ``force``
    reads a file whose digest is wrong."""
    from circuitkit.graph.published import opened

    return opened(name, force=force)


def called(*names: str) -> list[str]:
    """What circuits are called in a picture of several: their names, or of files the last parts of
    their paths that tell them apart."""
    parts = [Path(name).parts if Path(name).exists() else (name,) for name in names]
    while all(len(own) > 1 for own in parts) and len({own[-1] for own in parts}) == 1:
        parts = [own[:-1] for own in parts]
    return [own[-1] for own in parts]


def recorded(circuit: Any, key: str) -> str:
    """What the circuit's metadata has under that key; raises ScoresError if it has nothing, and
    for code from elsewhere: a file must not decide which code is run."""
    if key not in circuit.graph:
        raise ScoresError(f"the circuit does not say its {key}; give --{key}")
    value = str(circuit.graph[key])
    if key != "model" and ":" in value.partition("(")[0]:
        raise ScoresError(
            f"the circuit says that its {key} is {value!r}, which is code from elsewhere and runs "
            f"only if you name it yourself; give --{key}"
        )
    return value


def set_threads(threads: int | None) -> None:
    """Let torch use that many processor threads; None changes nothing."""
    if threads:
        import torch

        torch.set_num_threads(threads)


def task_of(options: argparse.Namespace, task: str) -> str:
    """The task's name, with what the options say of its file; raises ArgumentError where they do
    and it is not a file."""
    from circuitkit.data.prompts import is_file

    keys = ("columns", "misfits", "answers", "align")
    given = {key: getattr(options, key, None) for key in keys}
    chosen = {key: value for key, value in given.items() if value is not None}
    if not chosen:
        return task
    if not is_file(task):
        raise ArgumentError(
            f"{task!r} is not a file, so --{next(iter(chosen))} says nothing about it; give the "
            "file of prompts, or leave the option out"
        )
    settings = ", ".join(f"{key}={value!r}" for key, value in chosen.items())
    return f"from_file(path={task!r}, {settings})"


def unseen(
    options: argparse.Namespace, circuit: Any, metrics: Sequence[str], corruptions: Sequence[str]
) -> tuple[dict[tuple[str, str], Any], str]:
    """For each metric and corruption by name, the inputs of a measurement on prompts that the
    circuit's discovery did not see; and a title. Raises for an unknown name before anything slow
    is loaded."""
    about, task = circuit.graph, task_of(options, options.task or recorded(circuit, "task"))
    check_names("metrics", *metrics)
    check_names("corruptions", *corruptions)
    check_names("tasks", task)
    name = options.model or recorded(circuit, "model")
    model = load_model(name, options, about)
    from circuitkit.engine.batching import batched
    from circuitkit.engine.inputs import Inputs, as_data
    from circuitkit.evaluation.ability import known

    whole = as_data(model, task, circuit, examples=options.examples, memory=options.memory)
    whole = known(model, whole) if options.known else whole
    measures, carried = _resolved("metrics", metrics), _resolved("corruptions", corruptions)
    data = batched(model, whole, list(carried.values()), options.batch_size)
    each = product(measures.items(), carried.items())
    cells = {(m, c): Inputs(model, data, metric, how) for (m, metric), (c, how) in each}
    counted = f" of {data.about['known']['of']}, known ones," if options.known else ""
    return cells, f"{circuit}; {len(data)}{counted} prompts of {task} on {model.name}"


def _resolved(kind: str, names: Iterable[str]) -> dict[str, Any]:
    """The function of each name."""
    return {name: registry.resolve(kind, name) for name in names}


def resumed(options: argparse.Namespace, command: str) -> Any:
    """The folder of finished batches that ``--resume`` names, if it does; a shard leaves there what
    a merge has to run."""
    from circuitkit.workflows.folders import record

    if is_shard(options):
        record(options.resume, command, settings_of(options), options.arguments)
    return pieces_of(options, options.resume) if options.resume else None

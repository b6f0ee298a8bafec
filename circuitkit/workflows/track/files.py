"""The file of a track: JSON with every number and every circuit, read with care."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from math import nan

from circuitkit.errors import CircuitError, CircuitkitError
from circuitkit.graph.circuit import Circuit, from_json, wiring_of
from circuitkit.graph.circuit import to_json as circuit_to_json
from circuitkit.graph.digests import digest, require_digest
from circuitkit.util.json_values import Json, nan_to_none, plain
from circuitkit.util.reading import read_json

__all__ = ["read", "to_json"]

FORMAT, VERSION = "circuitkit.track", 1
NUMBERS = ("faithfulness", "low", "high", "random")  # of a model; None where they are not known
LARGEST = 1e300
OVERLAPS = ("same", "apart", "floor", "p")


def to_json(about: Mapping[str, Json], models: Sequence[Mapping[str, Json]]) -> str:
    """What is said of a track and of each of its models, as text; equal tracks give equal text."""
    listed = [
        {
            **row, **{end: nan_to_none(asdict(row[end])) for end in ("first", "last")},
            **{name: nan_to_none(row[name]) for name in NUMBERS}, "present": dict(row["present"]),
            "circuit": row["circuit"] and json.loads(circuit_to_json(row["circuit"])),
        }
        for row in models
    ]  # fmt: skip
    head = {"format": FORMAT, "version": VERSION, **plain({"about": about, "models": listed}, "")}
    return f"{json.dumps({**head, 'digest': digest(head)}, indent=1, ensure_ascii=False)}\n"


def read(
    path: str | os.PathLike[str], force: bool
) -> tuple[dict[str, Json], list[dict[str, Json]]]:
    """What was said of a track, and of each model, with its circuit; raises CircuitError where the
    file holds nothing of the kind, or has another digest and is not read by ``force``."""
    name = repr(os.fspath(path))
    try:
        data = read_json(path)
        if not isinstance(data, dict) or (data.get("format"), data.get("version")) != (
            FORMAT, VERSION,
        ):  # fmt: skip
            raise CircuitError(f"it is not a file of {FORMAT}, version {VERSION}")
        rest = {key: own for key, own in data.items() if key != "digest"}
        require_digest(data.get("digest"), digest(rest), force)
        _require(rest, {"format": _is_text, "version": _is_count, **_OF_TRACK}, "the track")
        _require(rest["about"], _OF_ABOUT, "'about'")
        models = [_model(row, force) for row in rest["models"]]
        _require_one(models)
    except FileNotFoundError as error:
        raise CircuitError(f"there is no file {name}") from error
    except CircuitkitError as error:
        raise CircuitError(f"{name} holds no track: {error}") from error
    return rest["about"], models


def _model(row: Json, force: bool) -> dict[str, Json]:
    """One model's row, if it is of the right kind, with nan for what is not known."""
    _require(row, _OF_MODEL, "a model")
    for end in ("first", "last"):
        _require(row[end], dict.fromkeys(OVERLAPS, _is_share_or_none), f"{end!r} of a model")
    ends = {end: {key: _or_nan(own) for key, own in row[end].items()} for end in ("first", "last")}
    numbers = {name: _or_nan(row[name]) for name in NUMBERS}
    circuit = row["circuit"] and from_json(
        json.dumps(row["circuit"]), f"the circuit of {row['label']!r}", force=force
    )
    return {**row, **ends, **numbers, "circuit": circuit}


def _require_one(models: Sequence[Mapping[str, Json]]) -> None:
    """Raise CircuitError where two models have one label, circuits are of different wirings, or
    components are in none."""
    labels = [row["label"] for row in models]
    if not labels or len({*labels}) < len(labels):
        raise CircuitError("its models do not each have a label of their own")
    circuits: list[Circuit] = [row["circuit"] for row in models if row["circuit"] is not None]
    wirings = [wiring_of(circuit) for circuit in circuits]
    if any(one != wirings[0] for one in wirings):
        raise CircuitError("its circuits are of different wirings")
    names = {str(node) for own in wirings[:1] for node in own.writers}
    if not names >= {name for row in models for name in row["present"]}:
        raise CircuitError("it names components that the models do not have")


# -- kinds of values -------------------------------------------------------------------------------
def _require(value: Json, kinds: Mapping[str, Callable[[Json], bool]], what: str) -> None:
    """Raise CircuitError for what is not an object with these keys, each with a value of its
    kind."""
    if not isinstance(value, dict) or set(value) != set(kinds):
        raise CircuitError(f"{what} does not have the keys {', '.join(kinds)}, and no others")
    for key, right in kinds.items():
        if not right(value[key]):
            raise CircuitError(f"{key!r} of {what} is not of the right kind")


def _is_text(value: Json) -> bool:
    return isinstance(value, str)


def _is_text_or_none(value: Json) -> bool:
    return value is None or isinstance(value, str)


def _is_count(value: Json) -> bool:
    return type(value) is int and value >= 0


def _is_count_or_none(value: Json) -> bool:
    return value is None or _is_count(value)


def _is_number(value: Json) -> bool:
    return type(value) in (int, float) and abs(value) < LARGEST  # nan is not


def _is_number_or_none(value: Json) -> bool:
    return value is None or _is_number(value)


def _is_share(value: Json) -> bool:
    return _is_number(value) and 0 <= value <= 1


def _is_share_or_none(value: Json) -> bool:
    return value is None or _is_share(value)


def _or_nan(value: Json) -> float:
    return nan if value is None else float(value)


_OF_TRACK: dict[str, Callable[[Json], bool]] = {
    "about": lambda value: isinstance(value, dict),
    "models": lambda value: isinstance(value, list),
}
_OF_ABOUT: dict[str, Callable[[Json], bool]] = {
    **dict.fromkeys(("task", "metric", "corruption", "method", "rule"), _is_text),
    **dict.fromkeys(("examples", "seed"), _is_count),
    "samples": lambda value: isinstance(value, list) and all(map(_is_count, value)),
    "edges": _is_count_or_none,
    "faithfulness": _is_number_or_none,
    "in_sample": lambda value: isinstance(value, bool),
    "versions": lambda value: isinstance(value, dict) and all(map(_is_text, value.values())),
}
_OF_MODEL: dict[str, Callable[[Json], bool]] = {
    **dict.fromkeys(("label", "model", "note"), _is_text),
    "weights": _is_text_or_none,
    "accuracy": _is_share,
    "circuit": lambda value: value is None or isinstance(value, dict),
    **dict.fromkeys(NUMBERS, _is_number_or_none),
    "present": lambda value: isinstance(value, dict) and all(map(_is_share, value.values())),
    **dict.fromkeys(("first", "last"), lambda value: isinstance(value, dict)),
}

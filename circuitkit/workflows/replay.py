"""A circuit found once more, as its file says, and compared with what the file holds."""

from __future__ import annotations

import html
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from circuitkit.data.batches import Dataset
from circuitkit.data.framing import FRAMING
from circuitkit.data.places import TOKENS
from circuitkit.data.tasks import draw
from circuitkit.engine.inputs import CorruptionLike, Data, MetricLike, as_found, refuse
from circuitkit.engine.metric import Method
from circuitkit.engine.model import Model
from circuitkit.errors import CircuitError, UnknownNameError
from circuitkit.graph import circuit as circuits
from circuitkit.graph.circuit import Circuit, is_placed, places_of, wiring_of
from circuitkit.graph.nodes import edge_name
from circuitkit.models.loading import load
from circuitkit.models.placing import DeviceMap
from circuitkit.registry import resolve
from circuitkit.util.json_values import Json, nan_to_none
from circuitkit.util.options import Count, Size, checked
from circuitkit.util.tables import as_text, to_frame
from circuitkit.workflows.asking import HALVES, OTHERS
from circuitkit.workflows.discover import discover
from circuitkit.workflows.features import discover_features
from circuitkit.workflows.placed_results import PlacedDiscovery
from circuitkit.workflows.positions import discover_positions
from circuitkit.workflows.results import Discovery

if TYPE_CHECKING:
    import pandas

__all__ = ["Replay", "Row", "replay"]

ROUNDED = 1e-4  # what the numbers of a file are rounded to
MOST = 100_000  # prompts of one discovery, at most
NEEDED: Mapping[str, type] = {
    "model": str, "task": str, "method": str, "metric": str, "corruption": str, "rule": str,
    "examples": int, "faithfulness": dict, "versions": dict, "asked": dict,
}  # fmt: skip
ASKED: Mapping[str, type] = {
    "seed": int, "batch_size": int, "measured_on": str, "measured": int, "prompts": str,
    "dtype": str, "device": str,
}  # fmt: skip
SIZES = ("edges", "nodes", "faithfulness", "verify", "refine", "orders")
PARTS = ("prompts", "edges", "weights", "faithfulness")  # of a result
FOUND = ("value", "low", "high", "random")  # of the faithfulness


class Row(NamedTuple):
    """One quantity, as the file has it and as it is now; ``of_result`` says that it is part of what
    was found, and not of what it was found with."""

    quantity: str
    recorded: Json
    now: Json
    differs: bool
    of_result: bool


@dataclass(frozen=True, repr=False)
class Replay:
    """A circuit as it was recorded, found once more, and what differs.

    ``same`` says whether the results agree: the prompts, the edges, their weights and the
    faithfulness, numbers within the ``tolerance``. Other versions, weights, types or devices are
    reported, but are not a difference of the results.

    Example:
        >>> again = ck.replay(ck.discover(model, "ioi", edges=20, examples=4).circuit, model=model)
        >>> again.same, again.missing, again.new
        (True, (), ())
        >>> print(again)
        ioi on mini: the same 20 edges, weights and faithfulness (tolerance 0.00035)
        >>> again.to_frame().query("quantity == 'edges'")[["recorded", "now", "differs"]].values
        array([[20, 20, False]], dtype=object)
    """

    recorded: Circuit
    found: Discovery | PlacedDiscovery

    @property
    def tolerance(self) -> float:
        """How far numbers may be apart: √ε of the model's type. Weights are compared in units of
        the largest one, and faithfulness, which files round to four digits, as it is."""
        kind = getattr(torch, self.found.circuit.graph["asked"]["dtype"])
        return max(1e-6, math.sqrt(torch.finfo(kind).eps))

    @property
    def missing(self) -> tuple[str, ...]:
        """The recorded edges that were not found again, the strongest first."""
        return tuple(edge for edge in self._weights[0] if edge not in self._weights[1])

    @property
    def new(self) -> tuple[str, ...]:
        """The edges that were found now and are not recorded, the strongest first."""
        return tuple(edge for edge in self._weights[1] if edge not in self._weights[0])

    @property
    def off(self) -> float:
        """The largest difference between the weights of an edge, relative to the largest weight."""
        then, now = self._weights
        gaps = [abs(then[edge] - now[edge]) for edge in then if edge in now]
        return max(gaps, default=0.0) / max(map(abs, [*then.values(), *now.values()]), default=1.0)

    @property
    def same(self) -> bool:
        """Whether the results agree."""
        return not any(row.differs for row in self.rows if row.of_result)

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """Every quantity that is compared."""
        return tuple(self._rows())

    def to_frame(self) -> pandas.DataFrame:
        """A row for each quantity: ``quantity``, ``recorded``, ``now`` and ``differs``."""
        return to_frame(self._shown())

    def to_dict(self) -> dict[str, Json]:
        """Everything that is compared, as a dictionary for JSON."""
        return {
            "same": self.same, "tolerance": self.tolerance, "missing": list(self.missing),
            "new": list(self.new), "quantities": nan_to_none(self._shown()),
        }  # fmt: skip

    def __str__(self) -> str:
        about = self.recorded.graph
        differ = [row.quantity for row in self.rows if row.differs and row.of_result]
        differ = [part for part in PARTS if any(part in quantity for quantity in differ)]
        others = [
            f"{row.quantity} ({_short(row.recorded)} then, {_short(row.now)} now)"
            for row in self.rows
            if row.differs and not row.of_result
        ]
        same = f"the same {len(self._weights[0]):,} edges, weights and faithfulness"
        result = f"different {', '.join(differ)}" if differ else same
        text = f"{about['task']} on {about['model']}: {result} (tolerance {self.tolerance:.2g})"
        return text + (f"; different {', '.join(others)}" if others else "")

    def __repr__(self) -> str:
        mark = {True: "differs", False: ""}
        shown = [
            {**row, "recorded": _short(row["recorded"]), "now": _short(row["now"]),
             "differs": mark[row["differs"]]}
            for row in self._shown()
        ]  # fmt: skip
        lines = [str(self), "", as_text(shown, headings={"differs": ""}, indent=2)]
        for title, edges in (("missing", self.missing), ("new", self.new)):
            if edges:
                more = f" and {len(edges) - 8:,} more" if len(edges) > 8 else ""
                lines.append(f"  {title} edges: {', '.join(edges[:8])}{more}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"

    def _shown(self) -> list[dict[str, Json]]:
        return [{key: row._asdict()[key] for key in Row._fields[:4]} for row in self.rows]

    @cached_property
    def _weights(self) -> tuple[dict[str, float], dict[str, float]]:
        """The weight of each edge then and now, the strongest first."""
        then, now = (
            {
                edge_name(writer, reader): weight
                for writer, reader, weight in circuits.strongest(one)
            }
            for one in (self.recorded, self.found.circuit)
        )
        return then, now

    def _rows(self) -> Iterator[Row]:
        then, now = self.recorded.graph, self.found.circuit.graph
        for library, version in now["versions"].items():
            yield _row(library, then["versions"].get(library), version, of_result=False)
        yield _row("model weights", then.get("weights"), now.get("weights"), of_result=False)
        for key in ("model", "task", "method", "metric", "corruption"):
            yield _row(key, then[key], now[key], of_result=False)
        for key in (key for key in FRAMING if then.get(key) != now.get(key)):
            yield _row(key, then.get(key), now.get(key), of_result=False)
        spans = [list(_spans(one)) for one in (self.recorded, self.found.circuit)]
        if any(spans):
            yield _row("spans", *(", ".join(own) for own in spans), of_result=False)
        for key in ("dtype", "device"):
            yield _row(key, then["asked"][key], now["asked"][key], of_result=False)
        yield _row("prompts", then["asked"]["prompts"], now["asked"]["prompts"])
        edges = [len(own) for own in self._weights]
        yield _row("edges", edges[0], edges[1])
        yield _row("missing edges", 0, len(self.missing))
        yield _row("new edges", 0, len(self.new))
        yield Row("weights", 0.0, self.off, self.off > self.tolerance, True)
        for key in FOUND:
            old, new = then["faithfulness"].get(key), now["faithfulness"][key]
            name = "faithfulness" if key == "value" else f"faithfulness, {key}"
            yield Row(name, old, new, not _close(old, new, self.tolerance + ROUNDED), True)


def _row(quantity: str, recorded: Json, now: Json, *, of_result: bool = True) -> Row:
    return Row(quantity, recorded, now, recorded != now, of_result)


def _close(then: Json, now: float | None, tolerance: float) -> bool:
    """Whether two numbers agree, or neither is defined."""
    if now is None or now != now or then is None or then != then:
        return (now is None or now != now) and (then is None or then != then)
    return isinstance(then, int | float) and abs(then - now) <= tolerance


def _short(value: Json) -> Json:
    """A digest without its end."""
    return f"{value[:12]}…" if isinstance(value, str) and len(value) > 24 else value


@checked
def replay(
    circuit: Circuit | Discovery | PlacedDiscovery | str | os.PathLike[str],
    *,
    model: Model | str | os.PathLike[str] | None = None,
    data: Data | None = None,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
    method: Method | str | None = None,
    unseen: Data | None = None,
    device: str | None = None,
    device_map: DeviceMap | None = None,
    dtype: str | None = None,
    experts: str | None = None,
    bos: bool | None = None,
    chat: bool | None = None,
    batch_size: Count | None = None,
    memory: Size | None = None,
) -> Replay:
    """Find a circuit once more, as it says that it was found, and report what differs.

    ``circuit`` is what ``discover`` or ``discover_positions`` has found, or its ``circuit.json``.
    The model, task, seed, number of prompts, method, metric, corruption, spans, size and all
    further settings are the recorded ones, unless you give others. Code from elsewhere
    (``mine.py:rank``, a function of your own) is never run because a file names it: give it
    yourself, and likewise prompts of your own.
    ``Replay`` describes what is compared; with the same versions, weights and device the same
    numbers are expected.

    Raises CircuitError where the circuit does not say all that is needed, naming what is missing,
    and what ``load`` and ``discover`` raise.

    Example:
        >>> found = ck.discover(model, "ioi", edges=20, examples=4)
        >>> path = found.circuit.save("circuit.json")
        >>> ck.replay(path).same
        True
    """
    recorded = _opened(circuit)
    about = recorded.graph
    _spans(recorded)  # raises where they are not such as files hold
    _require(about, data is not None)
    named: dict[str, Any] = {"metric": metric, "corruption": corruption, "method": method}
    chosen = {key: _named(about, key) if own is None else own for key, own in named.items()}
    task = _task(about, data)
    asked = about["asked"]
    if asked["measured_on"] == OTHERS and unseen is None:
        raise CircuitError(
            "the circuit was measured on other prompts than a half of its task, which it does not "
            "hold; give them to ck.replay as unseen="
        )
    if not isinstance(model, Model):
        model = load(
            about["model"] if model is None else model, device=device, device_map=device_map,
            dtype=dtype or asked["dtype"], experts=experts or about.get("experts"),
        )  # fmt: skip
    model = as_found(model, recorded, bos=bos, chat=chat)
    inputs = model, _prompts(model, about, task), chosen["metric"], chosen["corruption"]
    settings: dict[str, Any] = {
        "method": _without_place(chosen["method"]), "unseen": unseen, "examples": about["examples"],
        "seed": asked["seed"], "batch_size": batch_size or asked["batch_size"], "memory": memory,
        "force": True, "known": "known" in about,
    }  # fmt: skip
    return Replay(recorded, _way(recorded)(recorded, inputs, settings))


def _way(circuit: Circuit) -> Callable[..., Discovery | PlacedDiscovery]:
    """How a circuit of its kind is found again."""
    if is_placed(circuit):
        return _again_between_places
    return _again_of_features if "dictionaries" in circuit.graph else _again


def _again(circuit: Circuit, inputs: tuple[Any, ...], settings: Mapping[str, Any]) -> Discovery:
    """The discovery of a plain circuit, with the size and rule that it says."""
    about, asked = circuit.graph, circuit.graph["asked"]
    sizes = {key: asked.get(key) for key in SIZES}
    return discover(*inputs, **{**settings, **sizes}, rule=about["rule"],
                    level=about.get("level", "edge"), test=bool(asked.get("test")))  # fmt: skip


def _again_of_features(
    circuit: Circuit, inputs: tuple[Any, ...], settings: Mapping[str, Any]
) -> Discovery:
    """The discovery of a circuit of features, with the size and the dictionaries that it says."""
    about, asked = circuit.graph, circuit.graph["asked"]
    sizes = {key: asked.get(key) for key in ("edges", "faithfulness", "verify")}
    chosen = sum(len(own.chosen) for layer in wiring_of(circuit).of_layers for own in layer)
    return discover_features(*inputs, **{**settings, **sizes}, rule=about["rule"],
                             features=chosen, dictionaries=about["dictionaries"])  # fmt: skip


def _again_between_places(
    circuit: Circuit, inputs: tuple[Any, ...], settings: Mapping[str, Any]
) -> PlacedDiscovery:
    """The discovery of a circuit between places, with the size and spans that it says."""
    asked, spans = circuit.graph["asked"], _spans(circuit)
    tokens = spans == tuple(map(str, range(len(spans))))
    return discover_positions(*inputs, **settings, edges=asked.get("edges"),
                              faithfulness=asked.get("faithfulness"),
                              spans=TOKENS if tokens else spans)  # fmt: skip


def _spans(circuit: Circuit) -> tuple[str, ...]:
    """The spans of a circuit between places; none of another."""
    return places_of(circuit).spans if is_placed(circuit) else ()


# -- what the circuit says -------------------------------------------------------------------------
def _opened(circuit: object) -> Circuit:
    if isinstance(circuit, str | os.PathLike):
        return Circuit.load(circuit)
    if isinstance(circuit, Discovery | PlacedDiscovery):
        return circuit.circuit
    if isinstance(circuit, Circuit):
        return circuit
    refuse("circuit", circuit, "a circuit that discover has found, or its file")


def _require(about: Mapping[str, Any], own_data: bool) -> None:
    """Raise CircuitError where something is missing that a replay needs, or is of another kind."""
    asked: Any = about.get("asked")
    lacks = [key for key, kind in NEEDED.items() if not _is(about.get(key), kind)]
    if isinstance(asked, Mapping):
        lacks += [f"asked.{key}" for key, kind in ASKED.items() if not _is(asked.get(key), kind)]
    if not own_data and about.get("task") != "own data" and not _is(about.get("seed"), int):
        lacks.append("seed")
    if lacks:
        raise CircuitError(
            f"the circuit does not say its {', '.join(lacks)}, so it cannot be replayed; a replay "
            "needs what `circuitkit discover` writes since 0.3"
        )
    drawn = about["known"]["of"] if "known" in about else about["examples"]
    for key, value in (("examples", about["examples"]), ("measured", asked["measured"]),
                       ("known.of", drawn)):  # fmt: skip
        if not 1 <= value <= MOST:
            raise CircuitError(
                f"the circuit says that its {key} is {value:.6g}; a replay draws 1 to {MOST:,} "
                "prompts"
            )
    if getattr(torch, asked["dtype"], None) not in _FLOATING:
        raise CircuitError(f"the circuit says that its dtype is {asked['dtype']!r}, not a dtype")


_FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def _is(value: object, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _named(about: Mapping[str, Any], key: str) -> Callable[..., Any]:
    """The function that the circuit names; raises CircuitError for code from elsewhere."""
    value = str(about[key])
    kind = "discovery" if key == "method" else f"{key}s"
    try:
        if ":" in value.partition("(")[0]:
            raise UnknownNameError(value)
        found = resolve(kind, value)
        if key == "method" and any(map(_names_code, _settings(found))):
            raise UnknownNameError(value)
        return found
    except UnknownNameError as error:
        raise CircuitError(
            f"the circuit says that its {key} is {value!r}, which is not one of circuitkit's and "
            f"runs only if you name it yourself; give --{key} ({key}= in Python)"
        ) from error


def _settings(method: Callable[..., Any]) -> list[object]:
    """The settings of a method that may name other methods: all but where blocks are kept."""
    given = method.keywords if isinstance(method, partial) else {}
    return [value for key, value in given.items() if key != "resume"]


def _names_code(setting: object) -> bool:
    """Whether a setting names code from elsewhere, or may once it is read: a place has a colon,
    and only a backslash could hide it from here."""
    if isinstance(setting, Mapping):
        return any(map(_names_code, [*setting, *setting.values()]))
    if isinstance(setting, str):
        return ":" in setting or "\\" in setting
    return isinstance(setting, list | tuple | set) and any(map(_names_code, setting))


def _task(about: Mapping[str, Any], data: Data | None) -> Data:
    """The data that is given, or the name of the task that the circuit was found on."""
    name = str(about["task"])
    if data is not None:
        return data
    if name == "own data":
        raise CircuitError(
            "the circuit was found on prompts of your own, which it does not hold; give --task "
            "with their file (data= in Python)"
        )
    if ":" in name.partition("(")[0]:
        raise CircuitError(
            f"the circuit says that its task is {name!r}, which is code from elsewhere and runs "
            "only if you name it yourself; give --task (data= in Python)"
        )
    return name


def _prompts(model: Model, about: Mapping[str, Any], data: Data) -> Data:
    """The prompts that are drawn by name, as many as then; others as they are."""
    if not isinstance(data, str | os.PathLike):
        return data
    asked, seen = about["asked"], about["examples"]
    halves = asked["measured_on"] == HALVES
    n = seen + asked["measured"] * halves
    if "known" in about:
        n = about["known"]["of"]  # of which those stay that the model answers
    task = draw(os.fspath(data), model, n, about.get("seed", asked["seed"]))
    return task if halves else Dataset.of(task, model)


def _without_place(method: Method | str) -> Method | str:
    """The method without the directory of its finished blocks, which would not be run anew."""
    if isinstance(method, partial) and "resume" in method.keywords:
        settings = {key: value for key, value in method.keywords.items() if key != "resume"}
        return partial(method.func, *method.args, **settings)
    return method

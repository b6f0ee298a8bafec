"""What a paper says of a run: a paragraph of methods, and BibTeX of what was used."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from circuitkit import __version__, registry
from circuitkit.engine.inputs import refuse
from circuitkit.errors import CircuitError, UnknownNameError
from circuitkit.evaluation.places.choosing import SLACK
from circuitkit.graph.circuit import Circuit, edges, is_placed, placed_mask, wiring_of
from circuitkit.util.json_values import Json
from circuitkit.workflows.placed_results import PlacedDiscovery
from circuitkit.workflows.results import Discovery

__all__ = ["Citation", "cite", "sources_of"]

NEEDED = ("model", "task", "method", "metric", "corruption", "examples", "faithfulness")
# "Hanna et al. (2024": an author, others, and a year
PAPER = re.compile(r"([A-Z]\w+)(?:,? (?:et al\.|& [A-Z]\w+))?,? \(?(\d{4})\b")
OWN = f"""@software{{circuitkit,
  author  = {{{{The circuitkit authors}}}},
  title   = {{circuitkit: Circuits in Transformer Language Models}},
  version = {{{__version__}}},
  year    = {{2026}}
}}"""


@dataclass(frozen=True)
class Citation:
    """The methods paragraph of a run for a paper, and its sources.

    ``text`` cites sources as ``[@hanna2024]``, as Pandoc and Quarto do; ``bibtex`` has their
    entries. ``str`` is both.

    Example:
        >>> said = ck.cite(ck.discover(model, "ioi", edges=20, examples=4))
        >>> "[@hanna2024]" in said.text, "@inproceedings{hanna2024," in said.bibtex
        (True, True)
    """

    text: str
    bibtex: str

    def __str__(self) -> str:
        return f"{self.text}\n\n{self.bibtex}"

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(self.text)}</p><pre>{html.escape(self.bibtex)}</pre>"

    def to_dict(self) -> dict[str, Json]:
        """The paragraph, and the entries."""
        return {"text": self.text, "bibtex": self.bibtex}


def cite(circuit: Circuit | Discovery | PlacedDiscovery) -> Citation:
    """A paragraph of methods for a paper, and BibTeX, from what a circuit says of itself.

    Returns a ``Citation``. Sources are those that the docstrings of the method, the metric, the
    corruption and the task name. Of a circuit between places it says the spans, and how the edges
    of each kind were chosen.

    Raises CircuitError for a circuit that does not say how it was found, and ArgumentError for what
    is not a circuit.

    Example:
        >>> print(ck.cite(ck.discover(model, "ioi", edges=20, examples=4)).text)
        The circuit of mini for the task ioi [@wang2023; @zhang2024] was found ...
    """
    own: Any = circuit.circuit if isinstance(circuit, Discovery | PlacedDiscovery) else circuit
    if not isinstance(own, Circuit):
        raise refuse("circuit", circuit, "a circuit, or the result of discover")
    lacks = [name for name in NEEDED if name not in own.graph]
    if lacks:
        raise CircuitError(
            f"the circuit does not say its {', '.join(lacks)}; cite one that discover has found"
        )
    text = " ".join(_sentences(own))
    entries = _entries()
    used = [entries[key] for key in dict.fromkeys(re.findall(r"@(\w+)", text)) if key in entries]
    return Citation(text, "\n\n".join([OWN, *used]))


def sources_of(kind: str, expression: str) -> list[str]:
    """The keys of the papers that a registered function's docstring names as its source."""
    try:
        said = registry.lookup(kind, expression.partition("(")[0].strip()).__doc__ or ""
    except UnknownNameError:
        return []
    named = " ".join(said.partition("Source:")[2].partition("\n\n")[0].split())
    return list(dict.fromkeys(f"{_ascii(author)}{year}" for author, year in PAPER.findall(named)))


def _ascii(name: str) -> str:
    return unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()


@cache
def _entries() -> Mapping[str, str]:
    """Every entry that comes with the package, by its key."""
    said = (files("circuitkit") / "assets" / "sources.bib").read_text(encoding="utf-8")
    return {match[1]: match[0] for match in re.finditer(r"@\w+\{(\w+),.*?^\}", said, re.S | re.M)}


def _sentences(circuit: Circuit) -> Iterator[str]:
    graph: Mapping[str, Any] = circuit.graph
    asked, faith = graph.get("asked", {}), graph["faithfulness"]
    version = graph.get("versions", {}).get("circuitkit-graph", __version__)
    yield (
        f"The circuit of {graph['model']} for the task {_cited('tasks', graph['task'])} was found "
        f"with circuitkit {version} [@circuitkit]."
    )
    scored = "Nodes" if graph.get("level") == "node" else "Edges"
    yield (
        f"{scored} were scored {'span by span ' if is_placed(circuit) else ''}by {_scoring(graph)} "
        f"prompts, by {_cited('metrics', graph['metric'])}; edges that are cut "
        f"carry {_cited('corruptions', graph['corruption'])}."
    )
    where = f"On {asked['measured']} other prompts" if "measured" in asked else "On other prompts"
    if str(asked.get("measured_on", "")).startswith("the same"):
        where = "On the same prompts"
    yield from _between_places(circuit) if is_placed(circuit) else _size(circuit)
    yield f"{where} its faithfulness is {_with_interval(faith)}{_beside(faith)}."
    if "agreement" in graph:
        yield (
            f"Circuits of two samples of prompts are expected to share {graph['agreement']:.2f} of "
            "their edges (Jaccard index)."
        )


def _size(circuit: Circuit) -> Iterator[str]:
    """How many of the model's edges the circuit has, and how many nodes if it is made of them."""
    size, whole = sum(1 for _ in edges(circuit)), wiring_of(circuit).n_edges
    nodes = sum("score" in data for _, data in circuit.nodes(data=True))
    of_nodes = circuit.graph.get("level") == "node"
    made = f"{nodes:,} nodes and all edges between them, " if of_nodes else ""
    yield f"It has {made}{size:,} of the model's {whole:,} edges."


def _between_places(circuit: Circuit) -> Iterator[str]:
    """The spans, and the edges of both kinds: how many, and how they were chosen."""
    mask = placed_mask(circuit)
    (residual, attention), of = mask.counts(), mask.places.n_edges
    yield (
        f"Its edges are between places in the prompt [@haklay2025], which has "
        f"{len(mask.places.spans):,} spans of tokens ({', '.join(mask.places.spans)}): "
        f"{residual:,} of {of[0]:,} edges of the residual stream, each in one span, and "
        f"{attention:,} of {of[1]:,} edges of attention, each from a key or a value at one span to "
        "a head at another or the same."
    )
    yield (
        "Those of the residual stream were chosen by their scores, with all edges of attention in "
        "place; then those of attention were pruned by their exact effects in this circuit, which "
        f"may cost {SLACK:g} of its faithfulness on the prompts of the discovery."
    )


def _scoring(graph: Mapping[str, Any]) -> str:
    """The method, or the one that was chosen for a budget, and on how many prompts it ran."""
    settings = graph.get("settings") or {}
    if "why" not in settings:
        return f"{_cited('discovery', graph['method'], settings)} on {graph['examples']}"
    method = _cited("discovery", settings["method"])
    return f"{method}, chosen by {graph['method']}, on {settings['examples']}"


def _with_interval(faith: Mapping[str, float]) -> str:
    """The faithfulness, with its interval if it has one."""
    low, high = faith.get("low"), faith.get("high")
    if low is None or high is None:
        return f"{faith['value']:.3f}"
    return f"{faith['value']:.3f} (95 % bootstrap interval {low:.3f} to {high:.3f})"


def _beside(faith: Mapping[str, float]) -> str:
    random = faith.get("random")
    return "" if random is None else f"; that of random circuits of the same size is {random:.3f}"


def _cited(kind: str, name: str, settings: Mapping[str, Json] | None = None) -> str:
    """A name with its settings and its sources."""
    given = ", ".join(f"{key}={value}" for key, value in (settings or {}).items())
    keys = [f"@{key}" for key in sources_of(kind, name) if key in _entries()]
    shown = f"{name}({given})" if given and "(" not in name else name
    return shown + (f" [{'; '.join(keys)}]" if keys else "")

"""AutoCircuit's prune scores (Miller et al. 2024): a tensor of scores for each place that reads.

A file that ``torch.save`` wrote holds ``{"blocks.3.hook_q_input": [heads, writers],
"blocks.3.hook_mlp_in": [writers], "blocks.11.hook_resid_post": [writers]}``, the writers in the
model's order up to where it reads; files of its experiments hold such tables by algorithm, by task.
Its gradient scores are positive where the edge helps, as here; those that integrate are sums over
samples, and its circuits hold 1 where an edge is kept. The model has q, k and v apart
(``separate_qkv``) and no token positions (``seq_len=None``). Read from the source of
github.com/UFO-101/auto-circuit at 98db58c.
"""

from __future__ import annotations

import os
import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from circuitkit.errors import CircuitError, CircuitkitError, ScoresError
from circuitkit.formats.interchange._archives import unpickled
from circuitkit.formats.interchange._tables import Tables, as_numbers, oriented
from circuitkit.graph.circuit import weight_matrix, wiring_of
from circuitkit.graph.nodes import LOGITS, Node
from circuitkit.graph.scores import Scores
from circuitkit.graph.types import Graph
from circuitkit.graph.wiring import MOST_HEADS, Wiring
from circuitkit.util.atomic import write_whole

__all__ = ["read_autocircuit", "write_autocircuit"]

_PORT = re.compile(r"blocks\.(0|[1-9][0-9]{0,5})\.hook_([qkv])_input")
_KINDS = ("bool", "float64", "float32", "float16", "bfloat16")


# -- reading ---------------------------------------------------------------------------------------
def read_autocircuit(
    path: str | os.PathLike[str],
    wiring: Wiring | None = None,
    *,
    entry: tuple[str, str] | None = None,
    sign: int = 1,
) -> Scores:
    """The scores of all edges in a file of AutoCircuit's prune scores.

    ``entry`` is the task and the algorithm, of a file that holds several tables; ``sign=-1`` turns
    all scores around. Tables of booleans are a circuit: its edges score 1, and ``scores.chosen`` is
    its mask. Nothing that the file holds is executed.

    Raises ScoresError where the file holds none, where a table is missing, unknown or of another
    shape, where the scores are by token or of heads whose q, k and v are one, and, if a ``wiring``
    is given, where they are of another model.

    Example:
        >>> path = ck.write_autocircuit(scores, "prune_scores.pkl")
        >>> ck.read_autocircuit(path)["m3->logits"] == scores["m3->logits"]
        True
    """
    try:
        tables = _chosen(unpickled(path, "a tensor for each module"), entry)
        found = _wiring(tables)
        if wiring is not None and wiring != found:
            raise CircuitError(
                f"they are of a model with {found}, and this one has {wiring}; give those of this "
                "model"
            )
        names = _by_module(found)
        _require_names(tables, names)
        values, kinds = np.zeros(found.shape), set()
        for module, readers in names.items():
            values[:, readers] = _column(tables, module, found, readers)
            kinds.add(str(tables[module].dtype))
        about = {"chosen": True} if kinds == {"torch.bool"} else {}
        turned = oriented(Tables(found, np.where(found.legal, values, 0), None), sign)
        return Scores(found, turned.scores, about)  # type: ignore[arg-type]
    except CircuitkitError as error:
        raise ScoresError(f"{os.fspath(path)!r} holds no scores of edges: {error}") from error


def _chosen(held: Mapping[Any, Any], entry: tuple[str, str] | None) -> Mapping[str, Any]:
    """The table of that entry, or the only one."""
    several = all(isinstance(own, dict) for own in held.values()) and bool(held)
    if not several:
        if entry is not None:
            raise CircuitError(
                f"it holds one table, and none called {_shown(entry)}; leave out entry"
            )
        return held
    inside = {
        (task, name): table
        for task, own in held.items()
        for name, table in own.items()
        if isinstance(table, dict) and isinstance(task, str) and isinstance(name, str)
    }
    if entry is None and len(inside) == 1:
        return next(iter(inside.values()))
    if entry not in inside:
        known = ", ".join(map(_shown, list(inside)[:4]))
        what = "none is named" if entry is None else f"none is called {_shown(entry)}"
        raise CircuitError(
            f"it holds {len(inside):,} tables, and {what}; give entry, one of {known[:400]}"
        )
    found: Mapping[str, Any] = inside[entry]
    return found


def _wiring(tables: Mapping[Any, Any]) -> Wiring:
    """The wiring that the names and shapes of the tables say."""
    names = [name for name in tables if isinstance(name, str)]
    if any(name.endswith("hook_attn_in") for name in names):
        raise CircuitError(
            "its heads have one input each; make the model patchable with separate_qkv=True"
        )
    layers = [int(found[1]) for found in map(_PORT.fullmatch, names) if found]
    first = tables.get("blocks.0.hook_q_input")
    shape = tuple(getattr(first, "shape", ()))
    if not layers or len(shape) < 2:
        raise CircuitError("it has no tensor 'blocks.0.hook_q_input' of heads by writers")
    if len(shape) > 2:
        raise CircuitError(
            f"its scores are by token (of {shape[0]:,} tokens), and an edge here has one; make the "
            "model patchable with seq_len=None"
        )
    mlp = tables.get("blocks.0.hook_mlp_in")
    heads, count = shape[0], max(layers) + 1
    if count > MOST_HEADS:
        raise CircuitError(f"it says that there are {count:,} layers, which no model has")
    parallel = mlp is not None and tuple(getattr(mlp, "shape", ())) == (1,)
    return Wiring(count, heads, heads, mlp=mlp is not None, parallel=parallel)


def _by_module(wiring: Wiring) -> dict[str, list[int]]:
    """The names of the tables in the model's order, each with the columns that it holds."""
    found: dict[str, list[int]] = {}
    for column, reader in enumerate(wiring.readers):
        found.setdefault(_module(reader, wiring), []).append(column)
    return found


def _module(reader: Node, wiring: Wiring) -> str:
    if reader == LOGITS:
        return f"blocks.{wiring.layers - 1}.hook_resid_post"
    part = "mlp_in" if reader.port is None else f"{reader.port}_input"
    return f"blocks.{reader.layer}.hook_{part}"


def _shown(value: object) -> str:
    """A value on one line, cut short."""
    return " ".join(reprlib.repr(value).split())[:100]


def _require_names(tables: Mapping[Any, Any], names: Mapping[str, list[int]]) -> None:
    for name in names:
        if name not in tables:
            raise CircuitError(f"it has no tensor {name!r}; give one for each place that reads")
    for name in tables:
        if name not in names:
            raise CircuitError(f"it has {_shown(name)}, which is not a place where a model reads")


def _column(
    tables: Mapping[str, Any], module: str, wiring: Wiring, readers: list[int]
) -> Float[np.ndarray, "writers columns"]:
    """The table of a module as columns of ours: all writers, 0 beyond those that it sees."""
    seen = int(wiring.upstream[readers[0]])
    alone = not module.endswith(("q_input", "k_input", "v_input"))
    shape = (seen,) if alone else (len(readers), seen)
    whose = f"a model with {wiring}"
    found = as_numbers(tables[module], repr(module), shape, whose, _KINDS)
    columns = np.zeros((wiring.shape[0], len(readers)))
    columns[:seen] = found.reshape(len(readers), seen).T
    return columns


# -- writing ---------------------------------------------------------------------------------------
def write_autocircuit(item: Scores | Graph, path: str | os.PathLike[str]) -> Path:
    """Write scores, or the weights of a circuit (0 elsewhere), as AutoCircuit's prune scores.

    ``torch.load`` gives what its ``run_circuits`` takes as ``prune_scores``. Raises CircuitError
    for a model that it has no graph of: heads that share keys and values, and experts; OutputError
    where the place cannot be written.

    Example:
        >>> ck.write_autocircuit(circuit, "prune_scores.pkl").name
        'prune_scores.pkl'
    """
    of_scores = isinstance(item, Scores)
    wiring = item.wiring if isinstance(item, Scores) else wiring_of(item)
    if wiring.groups != wiring.heads or wiring.apart:
        raise CircuitError(
            f"AutoCircuit has no graph of a model with {wiring}"
            f"{f' and {wiring.apart}' * bool(wiring.apart)}; use circuitkit's own files"
        )
    values = item.values if of_scores else weight_matrix(item)  # type: ignore[union-attr, arg-type]

    def save(draft: Path) -> None:
        import torch

        tables = {}
        for module, readers in _by_module(wiring).items():
            own = values[: wiring.upstream[readers[0]], readers].T
            kept = own if module.endswith("_input") else own[0]
            tables[module] = torch.tensor(np.ascontiguousarray(kept))
        torch.save(tables, draft)

    return write_whole(path, save)

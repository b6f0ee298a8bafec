"""ACDC's edge lists (Conmy et al. 2023): which edges a run of it has kept.

``TLACDCExperiment.save_subgraph`` writes all edges of its graph with whether each is present,
``{(receiver, index, sender, index): true}``, by the names of TransformerLens's hooks; what stands
behind a head is ``(None, None, head)``. ``save_edges`` writes a list of those present with what
removing each would cost. ACDC's graph also has an edge from every input of a head to its q, k or v
("direct"), without which what is read there does not count, and placeholders from there to the
head. With ``use_pos_embed`` the embedding is two senders; here it is one, present where either is.

Reading a list takes a pickle apart, and allows ACDC's class of indices and no other. Read from the
source of github.com/ArthurConmy/Automatic-Circuit-Discovery at bc99ace.
"""

from __future__ import annotations

import io
import os
import pickle
import re
import reprlib
import sys
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from circuitkit.errors import CircuitError, CircuitkitError
from circuitkit.formats.interchange._archives import unpickled
from circuitkit.graph.circuit import Circuit, build, mask, wiring_of
from circuitkit.graph.nodes import INPUT, LOGITS, Node
from circuitkit.graph.types import Graph
from circuitkit.graph.wiring import MOST_HEADS, Wiring
from circuitkit.util.atomic import write_whole
from circuitkit.util.reading import read_bytes

__all__ = ["is_acdc", "read_acdc", "write_acdc"]

Place = tuple[str, tuple[int | None, ...]]  # the name of a hook, and which part of it
Pair = tuple[Place, Place]  # receiver, sender

_N = "(0|[1-9][0-9]{0,5})"
_EMBEDDINGS = ("blocks.0.hook_resid_pre", "hook_embed", "hook_pos_embed")
_HEAD = re.compile(rf"blocks\.{_N}\.attn\.hook_result")
_MLP_OUT = re.compile(rf"blocks\.{_N}\.hook_mlp_out")
_MLP_IN = re.compile(rf"blocks\.{_N}\.hook_(?:mlp_in|resid_mid)")
_PORT = re.compile(rf"blocks\.{_N}\.hook_([qkv])_input")
_INNER = re.compile(rf"blocks\.{_N}\.attn\.hook_([qkv])")
_END = re.compile(rf"blocks\.{_N}\.hook_resid_post")


# -- reading ---------------------------------------------------------------------------------------
def is_acdc(path: str | os.PathLike[str]) -> bool:
    """Whether the file is meant as a subgraph of ACDC: its suffix is ``.pth``."""
    return Path(path).suffix.lower() == ".pth"


def read_acdc(path: str | os.PathLike[str], wiring: Wiring | None = None) -> Circuit:
    """The circuit in a file of ACDC: of ``save_subgraph``, or of ``save_edges``.

    A subgraph has no weights, so that each edge weighs 1 and the circuit is ``unweighted``; an edge
    of a list weighs what removing it would cost, where the list says it of all of them. A subgraph
    names all edges and so the model's size; a list does not, and needs the model's ``wiring``.
    Edges into a q, k or v whose direct edge is absent do not count, and are left out.
    ``Circuit.load`` calls this for a ``.pth`` file. Nothing that the file holds is executed.

    Raises CircuitError where the file holds neither, where an edge is not one of the model, and
    where the wiring is not known.

    Example:
        >>> path = ck.write_acdc(ck.references.docstring.acdc().circuit, "subgraph.pth")
        >>> print(ck.read_acdc(path))
        24 of 1,281 edges, 6 of 32 heads, 0 of 0 MLPs
    """
    name = repr(os.fspath(path))
    try:
        content = read_bytes(path)
        if content.startswith(b"PK"):  # an archive of torch
            present = _subgraph(unpickled(path, "whether each edge is present"))
            wiring = _same(_wiring_of([*present]), wiring)
            return _circuit({pair: 1.0 for pair, kept in present.items() if kept}, wiring, True)
        listed = _listed(content)
        if wiring is None:
            raise CircuitError(
                "a list names only the edges that are left, so that the model's size is not known; "
                "give its wiring"
            )
        unweighted = any(cost is None for cost in listed.values())
        costs = {pair: float(cost or 0) for pair, cost in listed.items()}
        return _circuit(costs, wiring, unweighted)
    except FileNotFoundError as error:
        raise CircuitError(f"there is no file {name}") from error
    except CircuitkitError as error:
        raise CircuitError(f"{name} holds no circuit of ACDC: {error}") from error


class _Index:
    """ACDC's index of a part of a hook, as its pickles name it."""

    hashable_tuple: Any = None


class _Unpickler(pickle.Unpickler):
    """Reads lists, tuples, texts, numbers, and ACDC's indices; nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """The class of that name, if it is ACDC's index, or the slices that one holds."""
        if (module, name) == ("acdc.TLACDCEdge", "TorchIndex"):
            return _Index
        if (module, name) == ("builtins", "slice"):
            return slice
        raise CircuitError(f"it holds {module}.{name}"[:200])


def _listed(content: bytes) -> dict[Pair, float | None]:
    """The edges of a list, each with what removing it would cost."""
    try:
        held = _Unpickler(io.BytesIO(content)).load()
    except CircuitkitError:
        raise
    except Exception as error:  # a damaged pickle can raise any: IndexError, MemoryError, ...
        raise CircuitError("it is neither a list of edges nor an archive of torch") from error
    if not isinstance(held, list):
        raise CircuitError(f"it is of type {type(held).__name__}, and not a list of edges")
    found: dict[Pair, float | None] = {}
    for own in held:
        if not isinstance(own, tuple) or len(own) != 2:
            raise CircuitError("an entry of its list is not an edge with what it costs")
        pair = _pair(own[0])
        if own[1] is not None and not _is_finite(own[1]):
            raise CircuitError(
                f"an edge costs {_shown(own[1])}; it must be a finite number, or None"
            )
        if pair in found:
            raise CircuitError(f"the edge into {pair[0][0]!r} from {pair[1][0]!r} is listed twice")
        found[pair] = own[1]
    return found


def _is_finite(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and bool(abs(value) <= sys.float_info.max)


def _shown(value: object) -> str:
    """A value on one line, cut short."""
    return " ".join(reprlib.repr(value).split())[:100]


def _subgraph(held: Mapping[Any, Any]) -> dict[Pair, bool]:
    """The edges of a subgraph, each with whether it is present."""
    found: dict[Pair, bool] = {}
    for key, present in held.items():
        if not isinstance(present, bool):
            raise CircuitError(f"an edge is {_shown(present)}; it must be true or false")
        found[_pair(key)] = present
    return found


def _pair(key: Any) -> Pair:
    """Receiver and sender of an edge; the index is a tuple, or an object that holds one."""
    if not isinstance(key, tuple) or len(key) != 4:
        raise CircuitError(f"{_shown(key)} is not receiver, index, sender, index")
    receiver, first, sender, second = key
    if not isinstance(receiver, str) or not isinstance(sender, str):
        raise CircuitError("the name of a hook is not a text")
    return (receiver[:100], _index(first)), (sender[:100], _index(second))


def _index(given: Any) -> tuple[int | None, ...]:
    held = given.hashable_tuple if isinstance(given, _Index) else given
    if not _is_index(held):
        raise CircuitError(f"{_shown(held)} is not an index of a hook, as (None, None, 3) is")
    found: tuple[int | None, ...] = held
    return found


def _is_index(held: Any) -> bool:
    if not isinstance(held, tuple) or len(held) not in (1, 3):
        return False
    *whole, last = held
    head = type(last) is int and 0 <= last < MOST_HEADS and len(held) == 3
    return all(own is None for own in whole) and (last is None or head)


def _wiring_of(pairs: Sequence[Pair]) -> Wiring:
    """The wiring of the model all of whose edges these are."""
    layers = [int(m[1]) for (name, _), _ in pairs if (m := _END.fullmatch(name))]
    heads = [index[-1] for _, (name, index) in pairs if _HEAD.fullmatch(name)]
    if not layers or not any(isinstance(head, int) for head in heads):
        raise CircuitError("it has no edge from a head, or none into the last residual stream")
    mlp = any(_MLP_OUT.fullmatch(name) for _, (name, _) in pairs)
    count = 1 + max(head for head in heads if isinstance(head, int))
    return Wiring(max(layers) + 1, count, count, mlp=mlp)


def _same(found: Wiring, wiring: Wiring | None) -> Wiring:
    if wiring is not None and wiring != found:
        raise CircuitError(
            f"it is of a model with {found}, and this one has {wiring}; give that of this model"
        )
    return found


def _circuit(kept: Mapping[Pair, float], wiring: Wiring, unweighted: bool) -> Circuit:
    """The circuit of the edges of the residual stream among these."""
    direct = {
        _node(sender, wiring) for receiver, sender in kept if _INNER.fullmatch(receiver[0])
    }  # the inputs whose q, k or v follows them
    weights: dict[tuple[str, str], float] = {}
    for (receiver, sender), weight in kept.items():
        if _is_inner(receiver, sender):
            continue
        writer, reader = _node(sender, wiring), _node(receiver, wiring)
        wiring.index(writer, reader)
        if direct and reader.port and reader not in direct:
            continue
        weights[writer, reader] = weights.get((writer, reader), 0.0) + weight
    if unweighted:
        return build(wiring, dict.fromkeys(weights, 1.0), unweighted=True)
    return build(wiring, weights)


def _is_inner(receiver: Place, sender: Place) -> bool:
    """Whether this edge is within a component: from its input to what it computes."""
    inner = _INNER.fullmatch(receiver[0]) or _INNER.fullmatch(sender[0])
    return bool(inner) or bool(_MLP_IN.fullmatch(sender[0]) and _MLP_OUT.fullmatch(receiver[0]))


def _node(place: Place, wiring: Wiring) -> Node:
    """The writer or the reader that a hook is; raises CircuitError for what is neither."""
    name, index = place
    head = index[-1] if len(index) == 3 else None
    if name in _EMBEDDINGS and head is None:
        return INPUT
    if (found := _HEAD.fullmatch(name)) and head is not None:
        return Node(f"a{int(found[1])}.h{head}")
    if (found := _PORT.fullmatch(name)) and head is not None:
        return Node(f"a{int(found[1])}.h{head}.{found[2]}")
    if (found := _MLP_OUT.fullmatch(name) or _MLP_IN.fullmatch(name)) and head is None:
        return Node(f"m{int(found[1])}")
    if (found := _END.fullmatch(name)) and head is None and int(found[1]) == wiring.layers - 1:
        return LOGITS
    raise CircuitError(f"{name!r}[{', '.join(map(str, index))}] is not a place in a model")


# -- writing ---------------------------------------------------------------------------------------
def write_acdc(circuit: Graph, path: str | os.PathLike[str]) -> Path:
    """Write a circuit as ACDC's ``load_subgraph`` takes it, after ``torch.load``.

    All edges of its graph are listed, direct ones and placeholders too, which are present where
    the circuit reads. It has no weights. Raises CircuitError for a model that ACDC has no graph of:
    heads that share keys and values, experts, and parallel blocks; OutputError where the place
    cannot be written.

    Example:
        >>> ck.write_acdc(circuit, "subgraph.pth").name
        'subgraph.pth'
    """
    wiring = wiring_of(circuit)
    if wiring.groups != wiring.heads or wiring.apart or wiring.parallel:
        raise CircuitError(
            f"ACDC has no graph of a model with {wiring}{', parallel' * wiring.parallel}"
            f"{f', {wiring.apart}' * bool(wiring.apart)}; use circuitkit's own files"
        )
    kept = mask(circuit)
    listed: OrderedDict[tuple[Any, ...], bool] = OrderedDict()
    for column, reader in enumerate(wiring.readers):
        place = _place(reader, wiring, reads=True)
        for row in range(int(wiring.upstream[column])):
            sender = _place(wiring.writers[row], wiring, reads=False)
            listed[(*place, *sender)] = bool(kept[row, column])
        for receiver, sender in _inner(reader, wiring):
            listed[(*receiver, *sender)] = bool(kept[:, column].any())

    def save(draft: Path) -> None:
        import torch

        torch.save(listed, draft)

    return write_whole(path, save)


def _place(node: Node, wiring: Wiring, *, reads: bool) -> Place:
    """The hook of a writer or a reader, and which part of it."""
    if node == INPUT:
        return _EMBEDDINGS[0], (None,)
    if node == LOGITS:
        return f"blocks.{wiring.layers - 1}.hook_resid_post", (None,)
    if node.is_mlp:
        return f"blocks.{node.layer}.hook_mlp_{'in' if reads else 'out'}", (None,)
    part = f"hook_{node.port}_input" if reads else "attn.hook_result"
    return f"blocks.{node.layer}.{part}", (None, None, node.head)


def _inner(reader: Node, wiring: Wiring) -> list[Pair]:
    """The edges within the component that reads there: direct, and placeholders."""
    entry = _place(reader, wiring, reads=True)
    if reader == LOGITS:
        return []
    out = _place(reader.component, wiring, reads=False)
    if reader.is_mlp:
        return [(out, entry)]
    inner = f"blocks.{reader.layer}.attn.hook_{reader.port}", (None, None, reader.head)
    return [(inner, entry), (out, inner)]

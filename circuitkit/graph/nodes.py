"""The grammar of node and edge names.

==============  ====================================================================
``input``       the token (and position) embedding: a writer
``a3.h7``       attention head 7 of layer 3: a writer
``a3.h7.q``     its query input: a reader; ``.k`` and ``.v`` likewise
``a3.g1.k``     the key input of group 1 of layer 3, where heads share keys and values
``m3``          the MLP of layer 3: a writer and a reader
``m3.e5``       expert 5 of that MLP, where it is taken apart: a writer; ``m3.shared`` likewise
``logits``      the output: a reader
==============  ====================================================================

``3.7`` and ``3.7.q`` may be typed for ``a3.h7`` and ``a3.h7.q``; they become the long form at once.

Edges are written as EAP-IG writes them (Hanna et al. 2024), the tongue that the field shares:
``a0.h1->a5.h5<q>``, ``m0->m3``, ``input->m2``, ``a9.h9->logits``.
"""

from __future__ import annotations

import re
import reprlib

from circuitkit.errors import NodeNameError

__all__ = ["INPUT", "LOGITS", "Node", "edge_name", "parse_edge"]

_N = "(?:0|[1-9][0-9]{0,5})"  # one spelling for each number
_PART = f"[a-z]{_N}|[a-z][a-z]+(?:{_N})?"  # e5, shared; never a port
_NODE = re.compile(
    rf"input|logits|m(?P<mlp>{_N})(?:\.(?P<part>{_PART}))?|a(?P<layer>{_N})\."
    rf"(?:h(?P<head>{_N})(?:\.(?P<port>[qkv]))?|g(?P<group>{_N})\.(?P<shared>[kv]))"
)
_SHORT = re.compile(rf"(?P<layer>{_N})\.(?P<head>{_N})(?P<port>\.[qkv])?")
_READER = re.compile(r"(?P<name>[^<>]+?)(?:<(?P<port>[qkv])>)?")


class Node(str):
    """A node's name, checked on construction; it is the string, so it serves as a graph's key.

    A head may be typed as ``3.7``. Raises NodeNameError where the name does not follow the grammar.

    Example:
        >>> Node("a3.h7.q").layer
        3
        >>> Node("3.7.q")
        'a3.h7.q'
    """

    layer: int | None
    head: int | None
    group: int | None
    port: str | None
    part: str | None

    def __new__(cls, name: str) -> Node:
        if type(name) is cls:
            return name
        if isinstance(name, str) and (short := _SHORT.fullmatch(name)):
            name = f"a{short['layer']}.h{short['head']}{short['port'] or ''}"
        match = _NODE.fullmatch(name) if isinstance(name, str) else None
        if match is None:
            raise NodeNameError(_refusal(name))
        node = super().__new__(cls, name)
        number = {
            key: int(value) for key, value in match.groupdict().items() if value and value.isdigit()
        }
        node.layer = number.get("layer", number.get("mlp"))
        node.head = number.get("head")
        node.group = number.get("group")
        node.port = match["port"] or match["shared"]
        node.part = match["part"]
        return node

    @property
    def is_mlp(self) -> bool:
        """Whether this is an MLP, or a part of one."""
        return self.startswith("m")

    @property
    def is_head(self) -> bool:
        """Whether this is a head's output (a port is not)."""
        return self.head is not None and self.port is None

    @property
    def component(self) -> Node:
        """The node without its port: ``a3.h7`` of ``a3.h7.q``; a group's port has no component."""
        return Node(self.rsplit(".", 1)[0]) if self.port and self.head is not None else self


INPUT = Node("input")
LOGITS = Node("logits")


def _refusal(name: object) -> str:
    """The sentence for what is not a node."""
    if name == "embed":
        return "'embed' is not a node; the embedding is called input"
    return f"{reprlib.repr(name)} is not a node; write input, a3.h7, a3.h7.q, a3.g1.k, m3 or logits"


def edge_name(writer: str, reader: str) -> str:
    """The edge in EAP-IG's spelling: ``a0.h1->a5.h5<q>`` of ``a0.h1`` and ``a5.h5.q``; raises
    NodeNameError where one of the two is not a node."""
    source, node = (n if isinstance(n, Node) else Node(n) for n in (writer, reader))
    target = f"{node[: -len(node.port) - 1]}<{node.port}>" if node.port else node
    return f"{source}->{target}"


def parse_edge(name: str) -> tuple[Node, Node]:
    """The writer and the reader of an edge name; raises NodeNameError where it is not one."""
    writer, arrow, reader = name.partition("->") if isinstance(name, str) else ("", "", "")
    match = _READER.fullmatch(reader)
    if not arrow or match is None:
        raise NodeNameError(
            f"{reprlib.repr(name)} is not an edge; write it as a0.h1->a5.h5<q>, m0->m3 or input->m2"
        )
    target = f"{match['name']}.{match['port']}" if match["port"] else match["name"]
    return Node(writer), Node(target)

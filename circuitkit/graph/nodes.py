"""The grammar of node and edge names.

==============  ====================================================================
``input``       the token (and position) embedding: a writer
``a3.h7``       attention head 7 of layer 3: a writer
``a3.h7.q``     its query input: a reader; ``.k`` and ``.v`` likewise
``a3.g1.k``     the key input of group 1 of layer 3, where heads share keys and values
``m3``          the MLP of layer 3: a writer and a reader
``m3.e5``       expert 5 of that MLP, where it is taken apart: a writer; ``m3.shared`` likewise
``m3.f417``     feature 417 of that MLP, where it is taken apart: a writer and a reader; ``m3.n5``,
                neuron 5, likewise
``m3.rest``     what its other features write; ``m3.skip`` and ``m3.error`` likewise: writers
``a3.f417``     feature 417 of what the attention of layer 3 writes, where that is taken apart: a
                writer; ``a3.rest`` and ``a3.error`` likewise
``r3``          the residual stream in layer 3, where it is taken apart: a reader
``r3.f417``     its feature 417: a writer and a reader; ``r3.rest`` and ``r3.error``: writers
``logits``      the output: a reader
==============  ====================================================================

``3.7`` and ``3.7.q`` may be typed for ``a3.h7`` and ``a3.h7.q``; they become the long form at once.

A node may be bound to a span of the prompt, which makes it a place: ``a9.h9@end``, ``m0@S2``,
``a7.g1.v@before S1``.

Edges are written as EAP-IG writes them (Hanna et al. 2024), the tongue that the field shares:
``a0.h1->a5.h5<q>``, ``m0->m3``, ``input->m2``, ``a9.h9->logits``. Between places an edge of the
residual stream stays in its span, ``a0.h2@S2->a2.h2<v>@S2``, and one of attention leads from a key
or a value to the head that reads it, ``a7.g1.v@S2->a7.h3@end``.
"""

from __future__ import annotations

import re
import reprlib

from circuitkit.errors import NodeNameError

__all__ = ["INPUT", "LOGITS", "Node", "edge_name", "is_span", "parse_edge"]

_N = "(?:0|[1-9][0-9]{0,5})"  # one spelling for each number
_PART = f"[a-z]{_N}|[a-z][a-z]+(?:{_N})?"  # e5, shared; never a port
_FEATURE = f"f{_N}|rest|skip|error"
_NODE = re.compile(
    rf"input|logits|m(?P<mlp>{_N})(?:\.(?P<part>{_PART}))?"
    rf"|r(?P<stream>{_N})(?:\.(?P<piece>{_FEATURE}))?|a(?P<layer>{_N})\."
    rf"(?:h(?P<head>{_N})(?:\.(?P<port>[qkv]))?|g(?P<group>{_N})\.(?P<shared>[kv])"
    rf"|(?P<share>{_FEATURE}))"
)
_SHORT = re.compile(rf"(?P<layer>{_N})\.(?P<head>{_N})(?P<port>\.[qkv])?")
_READER = re.compile(r"(?P<name>[^<>@]+?)(?:<(?P<port>[qkv])>)?(?P<span>@[^<>]*)?")
_SPAN = re.compile(r"[^\s@<>]+(?: [^\s@<>]+)*")  # "before S1": no sign of an edge's, single spaces
_ARROW = "->"


class Node(str):
    """A node's name, checked on construction; it is the string, so it serves as a graph's key.

    A head may be typed as ``3.7``. ``span`` is where in the prompt the node is, None where it is
    bound to no span. Raises NodeNameError where the name does not follow the grammar.

    Example:
        >>> Node("a3.h7.q").layer
        3
        >>> Node("3.7.q")
        'a3.h7.q'
        >>> place = Node("a3.h7@S2")
        >>> place.span, place.plain
        ('S2', 'a3.h7')
    """

    layer: int | None
    head: int | None
    group: int | None
    port: str | None
    part: str | None
    span: str | None

    def __new__(cls, name: str) -> Node:
        if type(name) is cls:
            return name
        if not isinstance(name, str):
            raise NodeNameError(_refusal(name))
        own, at, span = name.partition("@")
        if short := _SHORT.fullmatch(own):
            own = f"a{short['layer']}.h{short['head']}{short['port'] or ''}"
        match = _NODE.fullmatch(own)
        if match is None or (at and not is_span(span)):
            raise NodeNameError(_refusal(name) if match is None else _no_span(name, span))
        node = super().__new__(cls, f"{own}{at}{span}")
        node.span = span or None
        number = {
            key: int(value) for key, value in match.groupdict().items() if value and value.isdigit()
        }
        node.layer = number.get("layer", number.get("mlp", number.get("stream")))
        node.head = number.get("head")
        node.group = number.get("group")
        node.port = match["port"] or match["shared"]
        node.part = match["part"] or match["piece"] or match["share"]
        return node

    @property
    def is_mlp(self) -> bool:
        """Whether this is an MLP, or a part of one."""
        return self.startswith("m")

    @property
    def is_stream(self) -> bool:
        """Whether this is the residual stream taken apart, or a part of it."""
        return self.startswith("r")

    @property
    def is_head(self) -> bool:
        """Whether this is a head's output (a port is not)."""
        return self.head is not None and self.port is None

    @property
    def component(self) -> Node:
        """The node without its port: ``a3.h7`` of ``a3.h7.q``; a group's port has no component. It
        is at the same span."""
        if not self.port or self.head is None:
            return self
        return Node(self.plain.rsplit(".", 1)[0]).at(self.span)

    @property
    def plain(self) -> Node:
        """The node without its span."""
        return self if self.span is None else Node(self.partition("@")[0])

    def at(self, span: str | None) -> Node:
        """The node at a span; without one, wherever it is."""
        return self.plain if span is None else Node(f"{self.plain}@{span}")


INPUT = Node("input")
LOGITS = Node("logits")


def is_span(name: object) -> bool:
    """Whether a span may be called this: words with single spaces between them, and without the
    signs ``@``, ``<`` and ``>``, which names of nodes and edges are made of."""
    return isinstance(name, str) and name.isprintable() and _SPAN.fullmatch(name) is not None


def _no_span(name: str, span: str) -> str:
    """The sentence for what is not a span."""
    return (
        f"{reprlib.repr(name)} is not a node: {reprlib.repr(span)} is not a span; write words, "
        "without @, < and >, as in a9.h9@end"
    )


def _refusal(name: object) -> str:
    """The sentence for what is not a node."""
    if name == "embed":
        return "'embed' is not a node; the embedding is called input"
    return f"{reprlib.repr(name)} is not a node; write input, a3.h7, a3.h7.q, a3.g1.k, m3 or logits"


def edge_name(writer: str, reader: str) -> str:
    """The edge in EAP-IG's spelling: ``a0.h1->a5.h5<q>`` of ``a0.h1`` and ``a5.h5.q``, with the
    spans of both where they are places; raises NodeNameError where one of the two is not a node."""
    source, node = (n if isinstance(n, Node) else Node(n) for n in (writer, reader))
    if not node.port:
        return f"{source}{_ARROW}{node}"
    own, at, span = node.partition("@")
    return f"{source}{_ARROW}{own[: -len(node.port) - 1]}<{node.port}>{at}{span}"


def parse_edge(name: str) -> tuple[Node, Node]:
    """The writer and the reader of an edge name; raises NodeNameError where it is not one."""
    writer, arrow, reader = name.partition(_ARROW) if isinstance(name, str) else ("", "", "")
    match = _READER.fullmatch(reader)
    if not arrow or match is None:
        raise NodeNameError(
            f"{reprlib.repr(name)} is not an edge; write it as a0.h1->a5.h5<q>, m0->m3 or input->m2"
        )
    target = f"{match['name']}.{match['port']}" if match["port"] else match["name"]
    return Node(writer), Node(target + (match["span"] or ""))

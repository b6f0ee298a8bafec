"""Damaged circuits and scores, ours and those of other tools."""

from __future__ import annotations

import csv
import io
import json
import pickle
import struct
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from damage import Reader, as_file, damaged_bytes, damaged_json
from hypothesis import strategies as st
from safetensors.numpy import load as load_tables
from safetensors.numpy import save as save_tables

import circuitkit.formats as formats
from circuitkit.evaluation.certainty import certainty
from circuitkit.evaluation.certainty_result import Certainty
from circuitkit.formats.interchange.acdc import read_acdc
from circuitkit.formats.interchange.autocircuit import read_autocircuit, write_autocircuit
from circuitkit.formats.interchange.eap_ig import read_eap_circuit, read_eap_scores, write_eap
from circuitkit.formats.interchange.mib import read_mib
from circuitkit.graph.circuit import Circuit, build, edges, to_json
from circuitkit.graph.nodes import Node, edge_name
from circuitkit.graph.scores import Scores
from circuitkit.graph.wiring import Wiring

WIRING = Wiring(2, 2, 2)


def some_circuit() -> Circuit:
    """A circuit with all kinds of attributes."""
    pairs = {("input", "a0.h1.q"): 0.5, ("a0.h1", "a1.h0.k"): -0.25, ("a1.h0", "logits"): 2.0}
    sure = {"exact": True, "low": -1e-9, "high": 1.0, "p": 0.5, "frequency": 0.25, "core": False}
    circuit = build(
        WIRING, {**pairs, ("m0", "logits"): 1e-9},
        edge_attributes={("m0", "logits"): sure}, rule="abs", chosen=False,
        model="mini", task="ioi", metric="logit_diff", corruption="counterfactual", method="eap_ig",
        settings={"steps": 5, "at": ["S2"]}, seed=3, examples=2, seen="0123456789abcdef",
        versions={"python": "3.11"}, faithfulness={"value": 0.5, "low": 0.25}, remark=[1, None],
    )  # fmt: skip
    circuit.nodes["a1.h0"].update(role="mover", positions=["END"])
    return circuit


def some_scores() -> Scores:
    """Scores, of which some were measured."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal(WIRING.shape).astype(np.float32)
    about = {key: value for key, value in dict(some_circuit().graph).items() if key != "wiring"}
    return Scores(WIRING, np.where(WIRING.legal, values, 0), about, (values > 0) & WIRING.legal)


def used(circuit: Circuit) -> Any:
    """What a circuit says, after all that is done with a circuit was done with it."""
    assert repr(circuit)
    assert formats.graphml(circuit)
    assert formats.dot(circuit)
    if next(edges(circuit), None):
        assert formats.csv(circuit)
    assert to_json(Circuit.load(_again(circuit))) == to_json(circuit)
    found = {
        edge_name(*pair): (weight, dict(circuit.edges[pair])) for *pair, weight in edges(circuit)
    }
    assert int(circuit.mask().sum()) == len(found)
    about = {key: value for key, value in dict(circuit.graph).items() if key != "wiring"}
    roles = {name: dict(data) for name, data in circuit.nodes(data=True) if data}
    return found, about, roles


def _again(circuit: Circuit) -> Path:
    return circuit.save(Path(tempfile.gettempdir()) / "circuitkit-damage.json")


def _drawn(path: Path) -> list[str]:
    return ["draw", str(path), "-o", str(path.parent / "drawn.csv")]


def _show_edges(_: str, path: Path, found: Any) -> None:
    """The table holds the edges and weights that were expected."""
    kept = found[0] if len(found) == 3 else found[1]
    with (path.parent / "drawn.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    shown = {edge_name(row["writer"], row["reader"]): row["weight"] for row in rows}
    weights = {edge: own[0] if isinstance(own, tuple) else own for edge, own in kept.items()}
    assert {edge: float(weight) for edge, weight in shown.items()} == weights, "other weights"


def circuits() -> Reader:
    """Our own circuits, whose digest is there: never other numbers than those written."""
    sound = to_json(some_circuit()).encode()
    contents = damaged_bytes(sound) | damaged_json(json.loads(sound))

    def expected(content: bytes) -> Any:
        try:
            taken_out = "digest" not in json.loads(content)
        except ValueError:  # in another encoding
            return None
        return _said_of_circuits(content) if taken_out else None

    return Reader("circuit", sound, contents, lambda path: used(Circuit.load(path)),
                  as_file(".json"), expected, command=_drawn, shown=_show_edges,
                  by_shell=4)  # fmt: skip


def plain_circuits() -> Reader:
    """The same of another tool, without a digest: what the JSON says."""
    said = json.loads(to_json(some_circuit()))
    del said["digest"]
    return Reader("plain circuit", json.dumps(said).encode(), damaged_json(said),
                  lambda path: used(Circuit.load(path)), as_file(".json"), _said_of_circuits,
                  command=_drawn, shown=_show_edges, by_shell=4)  # fmt: skip


def _said_of_circuits(content: bytes) -> Any:
    data = json.loads(content)
    kept = {}
    for entry in data["edges"]:
        weight = float(entry["weight"])
        own = {key: value for key, value in entry.items() if key != "edge"}
        kept[entry["edge"]] = weight, {**own, "weight": weight}
    nodes = {name: own for name, own in data.get("nodes", {}).items() if own}
    return kept, data.get("attributes", {}), nodes


def _scores(path: Path) -> Any:
    scores = Scores.load(path)
    assert repr(scores)
    assert len(scores.ranking()) > 0
    legal = scores.wiring.legal
    exact = None if scores.exact is None else scores.exact.tolist()
    return scores.values[legal].tolist(), dict(scores.about), exact


def _parts(content: bytes) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    size = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + size])["__metadata__"], load_tables(content)


def _in_several_notes(sound: bytes) -> bytes:
    """Scores as versions before 0.3 wrote them."""
    notes, tables = _parts(sound)
    said = json.loads(notes["said"])
    texts = {key: json.dumps(said[key]) for key in ("wiring", "about")}
    return save_tables(tables, metadata={**said, **texts})


TABLES: list[Callable[[np.ndarray], np.ndarray]] = [
    lambda x: x.astype(np.float64), lambda x: x.astype(np.uint8), lambda x: x.astype(np.int64),
    lambda x: x.astype(bool), lambda x: x.astype(np.float16), lambda x: x[:-1], lambda x: x.T,
    lambda x: x.reshape(-1), lambda x: x * np.nan, lambda x: x * np.inf, np.zeros_like,
    lambda x: x[:0], np.ones_like,
]  # fmt: skip


@st.composite
def damaged_scores(draw: st.DrawFn, sound: bytes, keep_digest: bool) -> bytes:
    """A safetensors file with other notes or tables."""
    notes, tables = _parts(sound)
    if not keep_digest:
        del notes["digest"]
    with np.errstate(all="ignore"):
        if draw(st.booleans()):
            name = draw(st.sampled_from(sorted(tables)))
            tables[name] = np.ascontiguousarray(draw(st.sampled_from(TABLES))(tables[name]))
        else:
            name = draw(st.sampled_from(sorted(notes.keys() & {"wiring", "about", "said"})))
            changed = draw(damaged_json(json.loads(notes[name])))
            notes[name] = changed.decode("utf-8", "replace")
    if draw(st.integers(0, 5)) == 0:
        tables.pop(draw(st.sampled_from(sorted(tables))))
    if draw(st.integers(0, 5)) == 0:
        notes.pop(draw(st.sampled_from(sorted(notes.keys() - {"digest"}))))
    return save_tables(tables, metadata=notes)


def scores() -> Reader:
    """Our own scores."""
    sound = _saved(lambda folder: some_scores().save(folder / "s"))
    contents = damaged_bytes(sound) | damaged_scores(sound, True)
    return Reader("scores", sound, contents, _scores, as_file(".safetensors"))


def plain_scores() -> Reader:
    """The same without a digest: what safetensors reads."""

    def expected(content: bytes) -> Any:
        notes, tables = _parts(content)
        wiring = Wiring.from_dict(json.loads(notes["wiring"]))
        exact = tables["exact"].tolist() if "exact" in tables else None
        return tables["scores"][wiring.legal].tolist(), json.loads(notes["about"]), exact

    sound = _in_several_notes(_saved(lambda folder: some_scores().save(folder / "s")))
    return Reader("plain scores", sound, damaged_scores(sound, False), _scores,
                  as_file(".safetensors"), expected)  # fmt: skip


def certainties() -> Reader:
    """How sure edges are."""

    def read(path: Path) -> Any:
        found = Certainty.load(path)
        assert repr(found)
        assert len(found.to_frame()) == found.wiring.n_edges
        return found.mask.tolist(), found.to_dict(), dict(found.about)

    groups = np.random.default_rng(0).standard_normal((5, WIRING.n_edges)).astype(np.float32)
    sure = certainty(replace(some_scores(), groups=groups), 9, replicates=5)
    sound = _saved(lambda folder: sure.save(folder / "c"))
    contents = damaged_bytes(sound) | damaged_scores(sound, True)
    return Reader("certainty", sound, contents, read, as_file(".safetensors"))


def _saved(write: Callable[[Path], Path]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return write(Path(folder)).read_bytes()


def _graph(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged scores that look inverted
        found = read_eap_scores(path)
        circuit = read_eap_circuit(path, empty=True)
    assert repr(found)
    assert to_json(circuit)
    kept = {edge_name(w, r): weight for w, r, weight in edges(circuit)}
    return {name: found[name] for name in found}, kept


def graphs() -> Reader:
    """EAP-IG's JSON, which has no digest: what the JSON says."""
    sound = _saved(lambda folder: write_eap(
        some_scores(), folder / "g.json", d_model=8, keep=some_scores().mask(9)))  # fmt: skip

    def expected(content: bytes) -> Any:
        text = content.decode(
            "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        )
        listed = json.loads(text)["edges"]
        weighted = any("score" in entry for entry in listed.values())  # else each edge weighs 1
        every = {name: entry["score"] if weighted else 1.0 for name, entry in listed.items()}
        return every, {name: every[name] for name in every if listed[name]["in_graph"]}

    contents = damaged_bytes(sound) | damaged_json(json.loads(sound))
    return Reader("EAP-IG json", sound, contents, _graph, as_file(".json"), expected,
                  command=_drawn, shown=_show_edges, by_shell=4)  # fmt: skip


TENSORS: list[Callable[[torch.Tensor], Any]] = [
    lambda x: x.float(), lambda x: x.half(), lambda x: x.bfloat16(), lambda x: x.int(),
    lambda x: x.bool(), lambda x: x.to(torch.complex64), lambda x: x.to_sparse(),
    lambda x: x.to("meta"), lambda x: x.double().requires_grad_(),
    lambda x: torch.nn.Parameter(x.double()), lambda x: x[:-1], lambda x: x.t(),
    lambda x: x.tolist(),
    lambda x: x * torch.nan, lambda x: x * torch.inf,
    lambda x: torch.ones(1, 1).expand(10**4, 10**4),
    lambda x: torch.ones(()).expand(x.shape), lambda x: None, lambda x: x.double()[:, None],
    lambda x: torch.quantize_per_tensor(x.float(), 0.1, 0, torch.qint8), lambda x: x[:0],
    lambda x: x.double().t().contiguous().t(), lambda x: {"a": x}, lambda x: torch.zeros_like(x),
    lambda x: x.to(torch.float8_e4m3fn),
]  # fmt: skip


@st.composite
def damaged_tensors(draw: st.DrawFn, sound: bytes) -> bytes:
    """A .pt file with other tensors, names or configuration."""
    data = torch.load(io.BytesIO(sound), weights_only=True)
    named = {key: value for key, value in data.items() if not isinstance(value, torch.Tensor)}
    key = draw(st.sampled_from(sorted(data)))
    if key in named:
        try:
            data.update(json.loads(draw(damaged_json(named))))
        except (ValueError, TypeError):
            data[key] = None
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # quantised tensors are deprecated
            data[key] = draw(st.sampled_from(TENSORS))(data[key])
    if draw(st.integers(0, 4)) == 0:
        data.pop(draw(st.sampled_from(sorted(data))))
    return _pickled(data)


def _pickled(data: Any) -> bytes:
    file = io.BytesIO()
    torch.save(data, file)
    return file.getvalue()


def tensors() -> Reader:
    """EAP-IG's .pt, whose parts have checksums: what torch reads."""
    written = _saved(lambda folder: write_eap(
        some_scores(), folder / "g.pt", d_model=8, keep=some_scores().mask(9)))  # fmt: skip
    sound = _pickled(torch.load(io.BytesIO(written), weights_only=True))  # always the same bytes

    def expected(content: bytes) -> Any:
        data = torch.load(io.BytesIO(content), weights_only=True)
        ones = torch.ones(WIRING.shape)  # what edges without scores weigh
        table = data.get("edges_scores", ones).detach().double()
        every, kept = {}, {}
        for row, column in np.argwhere(WIRING.legal):
            name = edge_name(WIRING.writers[row], WIRING.readers[column])
            every[name] = float(table[row, column])
            if data["edges_in_graph"][row, column]:
                kept[name] = every[name]
        return every, kept

    contents = damaged_bytes(sound) | damaged_tensors(sound)
    return Reader("EAP-IG pt", sound, contents, _graph, as_file(".pt"), expected,
                  command=_drawn, shown=_show_edges, by_shell=4)  # fmt: skip


def prune_scores() -> Reader:
    """AutoCircuit's tables, whose parts have checksums: what torch reads."""

    def read(path: Path) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged scores that look inverted
            found = read_autocircuit(path)
        assert repr(found)
        return {name: found[name] for name in found}

    def expected(content: bytes) -> Any:
        data = torch.load(io.BytesIO(content), weights_only=True)
        found = {}
        for row, column in np.argwhere(WIRING.legal):
            reader = WIRING.readers[column]
            own = data[_module(reader)].detach().double()
            value = own[row] if reader.head is None else own[reader.head, row]
            found[edge_name(WIRING.writers[row], reader)] = float(value)
        return found

    written = _saved(lambda folder: write_autocircuit(some_scores(), folder / "p.pkl"))
    sound = _pickled(torch.load(io.BytesIO(written), weights_only=True))
    contents = damaged_bytes(sound) | damaged_tensors(sound)
    return Reader("AutoCircuit", sound, contents, read, as_file(".pkl"), expected)


def _module(reader: Node) -> str:
    """Where AutoCircuit keeps the scores of edges into a reader."""
    if reader == "logits":
        return f"blocks.{WIRING.layers - 1}.hook_resid_post"
    return f"blocks.{reader.layer}.hook_{f'{reader.port}_input' if reader.port else 'mlp_in'}"


def edge_lists() -> Reader:
    """ACDC's list of edges, a pickle without a checksum: as Python reads it, with its class."""
    costs = [
        ((_END, (None,), "blocks.0.hook_resid_pre", (None,)), 0.5),
        ((_END, (None,), "blocks.1.attn.hook_result", (None, None, 0)), None),
        (("blocks.1.hook_q_input", (None, None, 0), "blocks.0.hook_mlp_out", (None,)), 2.0),
    ]

    def read(path: Path) -> Any:
        return sorted((str(w), str(r), x) for w, r, x in edges(read_acdc(path, WIRING)))

    def expected(content: bytes) -> Any:
        held = pickle.loads(content)  # of our own making, and damaged: the reader has accepted it
        weighted = all(cost is not None for _, cost in held)
        return sorted(
            (_writer(key[2], key[3]), _reader(key[0], key[1]), float(cost) if weighted else 1.0)
            for key, cost in held
            if not key[0].endswith(("attn.hook_q", "attn.hook_k", "attn.hook_v"))
        )

    sound = pickle.dumps(costs)
    contents = damaged_bytes(sound)
    return Reader("ACDC", sound, contents, read, as_file(".pkl"), expected)


_END = "blocks.1.hook_resid_post"


def _writer(hook: str, index: tuple[Any, ...]) -> str:
    part = hook.split(".")
    if part[-1] in ("hook_resid_pre", "hook_embed", "hook_pos_embed"):
        return "input"
    return f"m{part[1]}" if part[-1] == "hook_mlp_out" else f"a{part[1]}.h{index[-1]}"


def _reader(hook: str, index: tuple[Any, ...]) -> str:
    part = hook.split(".")
    if part[-1] == "hook_resid_post":
        return "logits"
    layer, port = part[1], part[-1].removeprefix("hook_")[0]
    return f"m{layer}" if part[-1] == "hook_mlp_in" else f"a{layer}.h{index[-1]}.{port}"


def submissions() -> Reader:
    """A submission to MIB, one of whose graphs is damaged."""
    inner = graphs()

    def place(folder: Path, content: bytes) -> Path:
        (folder / "mib" / "ioi_mini").mkdir(parents=True, exist_ok=True)
        (folder / "mib" / "ioi_mini" / "importances.json").write_bytes(content)
        return folder / "mib"

    def read(folder: Path) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged scores that look inverted
            found = read_mib(folder)["ioi", "mini"]
        assert isinstance(found, Scores)
        return {name: found[name] for name in found}

    def expected(content: bytes) -> Any:
        return inner.expected and inner.expected(content)[0]

    return Reader("MIB", inner.sound, inner.contents, read, place, expected)

"""Files of unknown origin: their digest, the types of what they say, and what is no file at all."""

from __future__ import annotations

import datetime
import io
import json
import os
import resource
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from damage_graphs import some_circuit, some_scores

from circuitkit.cli.main import main
from circuitkit.errors import CircuitError, CircuitkitError, ScoresError
from circuitkit.formats.interchange.acdc import read_acdc
from circuitkit.formats.interchange.autocircuit import read_autocircuit
from circuitkit.formats.interchange.eap_ig import read_eap_circuit, read_eap_scores, write_eap
from circuitkit.formats.interchange.mib import read_mib
from circuitkit.graph.circuit import Circuit, build, from_json, mask, to_json
from circuitkit.graph.compare import compare
from circuitkit.graph.scores import Scores
from circuitkit.graph.wiring import Wiring
from circuitkit.util.reading import MOST

CONTENT = to_json(some_circuit())


def told(read: Callable[[], object]) -> str:
    """The one sentence with which something is refused."""
    with pytest.raises(CircuitkitError) as caught:
        read()
    message = str(caught.value)
    assert "\n" not in message
    assert 10 < len(message) < 1000
    return message


# -- digests ---------------------------------------------------------------------------------------
@pytest.mark.unchecked
def test_no_flipped_bit_of_a_circuit_is_read_as_something_else() -> None:
    whole, accepted = CONTENT.encode(), 0
    for place in range(0, 8 * len(whole), 5):
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        try:
            again = from_json(flipped.decode())
        except (CircuitError, UnicodeError):
            continue
        assert to_json(again) == CONTENT  # as where a space became a line
        accepted += 1
    assert accepted < 20


def test_no_flipped_bit_of_scores_is_read_as_something_else(tmp_path: Path) -> None:
    path = some_scores().save(tmp_path / "s")
    whole, accepted = path.read_bytes(), 0
    for place in range(0, 8 * len(whole), 13):
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        try:
            again = Scores.load(path)
        except ScoresError:
            continue
        again.save(tmp_path / "again")
        assert (tmp_path / "again").read_bytes() == whole
        accepted += 1
    assert accepted < 20


CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a weight": lambda data: data["edges"][0].update(weight=9.0),
    "an edge": lambda data: data["edges"].pop(),
    "the wiring": lambda data: data["wiring"].update(parallel=True),
    "the seed": lambda data: data["attributes"].update(seed=4),
    "a role": lambda data: data["nodes"]["a1.h0"].update(role="other"),
    "the digest": lambda data: data.update(digest="0" * 64),
    "its type": lambda data: data.update(digest=None),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_change_is_refused_unless_forced_or_without_a_digest(case: str, tmp_path: Path) -> None:
    data = json.loads(CONTENT)
    CHANGES[case](data)
    path = tmp_path / "c.json"
    path.write_text(json.dumps(data))
    said = told(lambda: Circuit.load(path))
    assert "digest" in said
    assert "force=True" in said
    assert "--force" in said
    forced = Circuit.load(path, force=True)
    del data["digest"]
    path.write_text(json.dumps(data))
    assert to_json(Circuit.load(path)) == to_json(forced)
    assert (to_json(forced) == CONTENT) == (case in ("the digest", "its type"))


def test_a_file_may_be_written_anew_by_other_programs(tmp_path: Path) -> None:
    """Indented, its keys in another order, 1 for 1.0, and as an editor on Windows saves it."""
    data = json.loads(CONTENT)
    data["edges"] = [{**e, "weight": int(e["weight"])} if e["weight"] == 2.0 else e
                     for e in data["edges"]]  # fmt: skip
    assert any(type(e["weight"]) is int for e in data["edges"])
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        text = json.dumps(dict(reversed(data.items())), indent=3).replace("\n", "\r\n")
        (tmp_path / "c.json").write_bytes(text.encode(encoding))
        assert to_json(Circuit.load(tmp_path / "c.json")) == CONTENT


def test_changed_scores_are_refused_unless_forced(tmp_path: Path) -> None:
    path = some_scores().save(tmp_path / "s")
    whole = bytearray(path.read_bytes())
    whole[-some_scores().values.size - 3] ^= 1  # of a score; the mask stands behind them
    path.write_bytes(whole)
    said = told(lambda: Scores.load(path))
    assert "digest" in said
    assert "force=True" in said
    assert len(Scores.load(path, force=True)) == len(some_scores())


@pytest.mark.parametrize(
    "command", [["compare", "FILE", "FILE"], ["draw", "FILE", "-o", "OUT.csv"]], ids=lambda c: c[0]
)
def test_force_is_an_option(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "c.json"
    path.write_text(CONTENT.replace('"seed": 3', '"seed": 4'))
    arguments = [a.replace("FILE", str(path)).replace("OUT", str(tmp_path / "o")) for a in command]
    assert main(arguments) == 2
    assert "--force" in capsys.readouterr().err
    assert main([*arguments, "--force"]) == 0


# -- what files say --------------------------------------------------------------------------------
WRONG: list[tuple[str, Any]] = [
    ("seed", None), ("seed", "3"), ("seed", 1.5), ("seed", True), ("seed", 2**64), ("seed", [3]),
    ("examples", 10**30), ("examples", -1), ("examples", 2.0), ("examples", None),
    ("seen", "0123"), ("seen", "z" * 8), ("seen", "0123456G"), ("seen", ["01234567"]),
    ("metric", ["logit_diff"]), ("metric", None), ("corruption", {}), ("model", 3), ("task", True),
    ("method", 1.5), ("settings", "steps=5"), ("settings", None), ("versions", []),
    ("experts", "some"), ("experts", ["live"]), ("chosen", 1), ("unweighted", "yes"),
    ("threshold", "0.1"), ("faithfulness", "high"), ("note", 3), ("rule", []),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), WRONG, ids=str)
def test_a_known_attribute_of_another_type_is_refused_by_name(
    name: str, value: Any, tmp_path: Path
) -> None:
    data = json.loads(CONTENT)
    del data["digest"]
    data["attributes"][name] = value
    said = told(lambda: from_json(json.dumps(data)))
    assert repr(name) in said
    circuit = some_circuit()
    circuit.graph[name] = value
    assert repr(name) in told(lambda: to_json(circuit))
    scores = some_scores()
    changed = Scores(scores.wiring, scores.values, {**scores.about, name: value})
    assert repr(name) in told(lambda: changed.save(tmp_path / "s"))
    assert not os.listdir(tmp_path)


def test_a_file_that_does_not_say_which_prompts_were_seen_was_seen_few() -> None:
    """Those of older files are drawn again, which must end."""
    data = json.loads(CONTENT)
    del data["digest"], data["attributes"]["seen"]
    data["attributes"]["examples"] = 10**5
    assert "'seen'" in told(lambda: from_json(json.dumps(data)))
    data["attributes"]["examples"] = 100
    assert from_json(json.dumps(data)).graph["examples"] == 100


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('"seed": NaN', "attributes.*'seed' is nan"),
        ('"seed": 1e999', "'seed' is inf"),
        ('"seed": 3, "seed": 4', "the key 'seed' twice"),
        ('"seed": ' + "9" * 5000, "5,000 digits"),
        ('"x": "\\ud800", "seed": 3', "'x' is .*not valid text"),
        ('"x": {"y": [-Infinity]}, "seed": 3', r"'x\.y\[0\]' is -inf"),
        (f'"x": {"[" * 300}{"]" * 300}, "seed": 3', "levels deep"),
        ('"x": ' + "9" * 400 + ', "seed": 3', "too many digits"),
    ],
    ids=lambda value: value[:30],
)
def test_what_no_file_of_ours_holds_is_refused(text: str, says: str) -> None:
    changed = CONTENT.replace('"seed": 3', text)
    assert changed != CONTENT
    with pytest.raises(CircuitError, match=says) as caught:
        from_json(changed)
    assert "\n" not in str(caught.value)


def test_an_unknown_key_of_a_file_is_refused_and_an_unknown_attribute_read() -> None:
    data = json.loads(CONTENT)
    del data["digest"]
    data["attributes"]["dataset"] = {"from": [1, None, "x"]}
    assert from_json(json.dumps(data)).graph["dataset"] == {"from": [1, None, "x"]}
    assert "'nodse'" in told(lambda: from_json(json.dumps({**data, "nodse": {}})))


def test_numbers_and_arrays_of_numpy_go_into_files(tmp_path: Path) -> None:
    settings = {
        "steps": np.int64(5), "alpha": np.float32(0.5), "flag": np.bool_(True), "nothing": np.nan,
        "at": np.arange(3), "table": np.eye(2), "pair": (1, "x"), 3: np.array("text"),
    }  # fmt: skip
    plain = {
        "steps": 5, "alpha": 0.5, "flag": True, "nothing": None, "at": [0, 1, 2],
        "table": [[1.0, 0.0], [0.0, 1.0]], "pair": [1, "x"], "3": "text",
    }  # fmt: skip
    circuit = some_circuit()
    circuit.graph["settings"] = settings
    assert Circuit.load(circuit.save(tmp_path / "c.json")).graph["settings"] == plain
    nx.write_graphml(circuit, tmp_path / "c.graphml")
    scores = Scores(some_scores().wiring, some_scores().values, {"settings": settings})
    assert Scores.load(scores.save(tmp_path / "s")).about["settings"] == plain


@pytest.mark.parametrize("value", [object(), {1, 2}, torch.ones(2, device="meta"), 1j,
                                   np.complex64(1), np.inf, b"x", "\ud800", {(1, 2): 3},
                                   {1: 2, "1": 3}],
                         ids=lambda value: type(value).__name__)  # fmt: skip
def test_what_json_cannot_hold_is_refused_with_its_name(value: Any, tmp_path: Path) -> None:
    circuit = some_circuit()
    circuit.graph["settings"] = {"inner": [value]}
    scores = Scores(some_scores().wiring, some_scores().values, {"settings": {"inner": [value]}})
    for save in (lambda: circuit.save(tmp_path / "c.json"), lambda: scores.save(tmp_path / "s")):
        assert "settings.inner[0]" in told(save)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("kind", [np.uint8, np.int64, bool, np.complex64, object])
@pytest.mark.unchecked
def test_scores_are_floats(kind: Any, tmp_path: Path) -> None:
    wiring = Wiring(1, 1, 1)
    assert "floats" in told(lambda: Scores(wiring, np.zeros(wiring.shape, kind)))
    assert "floats" in told(lambda: Scores(wiring, torch.zeros(wiring.shape)))  # type: ignore[arg-type]


# -- what is no file -------------------------------------------------------------------------------
READERS = {
    ".json": (Circuit.load, read_eap_scores, read_eap_circuit),
    ".pt": (Circuit.load, read_eap_scores, read_eap_circuit),
    ".pkl": (read_autocircuit, read_acdc),
    ".pth": (Circuit.load, read_acdc),
    ".safetensors": (Scores.load,),
}
each_suffix = pytest.mark.parametrize("suffix", READERS)


@each_suffix
def test_what_is_not_a_file_is_refused_at_once(suffix: str, tmp_path: Path) -> None:
    places = {name: tmp_path / f"{name}{suffix}" for name in ("folder", "pipe", "loop", "absent")}
    places["folder"].mkdir()
    os.mkfifo(places["pipe"])
    places["loop"].symlink_to(places["loop"])
    places["device"] = tmp_path / f"device{suffix}"
    places["device"].symlink_to("/dev/zero")
    for name, path in places.items():
        for read in READERS[suffix]:
            said = told(lambda read=read, path=path: read(path))  # type: ignore[misc]
            assert repr(str(path)) in said, name


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@each_suffix
def test_what_may_not_be_read_is_refused(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    path.touch(mode=0)
    for read in READERS[suffix]:
        told(lambda read=read: read(path))  # type: ignore[misc]


@each_suffix
@pytest.mark.parametrize(
    "content", [b"", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"PK\x03\x04", b"{}"]
)
def test_what_holds_nothing_is_refused(suffix: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    for read in READERS[suffix]:
        told(lambda read=read: read(path))  # type: ignore[misc]


def test_a_folder_of_a_submission_that_holds_no_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ioi_gpt2" / "importances.json").mkdir(parents=True)
    assert "it is a folder" in told(lambda: read_mib(tmp_path))


# -- memory ----------------------------------------------------------------------------------------
def peak() -> int:
    """The most memory that this process has held, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> (
        20 if sys.platform == "darwin" else 10
    )


def claims(wiring: dict[str, Any]) -> str:
    edges = [{"edge": "input->logits", "weight": 1.0}]
    return json.dumps({"format": "circuitkit.circuit", "version": 1, "wiring": wiring,
                       "edges": edges})  # fmt: skip


@pytest.mark.parametrize(
    "wiring",
    [
        {"layers": 10**9, "heads": 1, "groups": 1},
        {"layers": 2**15, "heads": 1, "groups": 1},
        {"layers": 100, "heads": 320, "groups": 320},
        {"layers": 1, "heads": 1, "groups": 1, "experts": [10**9]},
        {"layers": 10**9, "heads": 10**9, "groups": 10**9},
    ],
    ids=str,
)
def test_a_small_file_that_claims_a_large_model_is_refused(wiring: dict[str, Any]) -> None:
    before = peak()
    assert "is not a wiring" in told(lambda: from_json(claims(wiring)))
    assert peak() - before < 200


def test_a_small_file_of_a_large_model_takes_little() -> None:
    """Llama 3.1 405B has 3e8 pairs of writers and readers; comparing circuits makes no table."""
    before = peak()
    circuit = from_json(claims({"layers": 126, "heads": 128, "groups": 8}))
    assert compare(circuit, circuit).edges.both == 1
    assert peak() - before < 200


def test_a_file_too_large_to_be_read_at_once_is_refused(tmp_path: Path) -> None:
    with open(tmp_path / "x.json", "wb") as file:
        file.write(b"{")
        file.truncate(MOST + 1)  # of which the file system holds nothing
    before = peak()
    assert "256 MiB" in told(lambda: Circuit.load(tmp_path / "x.json"))
    assert peak() - before < 100


def test_a_graph_that_lists_few_edges_of_many_is_refused(tmp_path: Path) -> None:
    wiring = Wiring(60, 100, 100)
    nodes = {name: {"in_graph": True} for name in [*map(str, wiring.writers), "logits"]}
    cfg = {"n_layers": 60, "n_heads": 100, "parallel_attn_mlp": False}
    path = tmp_path / "g.json"
    path.write_text(json.dumps({"cfg": cfg, "nodes": nodes, "edges": {}}))
    before = peak()
    assert "lists 0 edges" in told(lambda: read_eap_scores(path))
    assert peak() - before < 200


HUGE: dict[str, Callable[[], Any]] = {
    "expanded": lambda: torch.ones(1, 1).expand(2**15, 2**15),
    "meta": lambda: torch.ones(2**15, 2**15, device="meta"),
    "sparse": lambda: torch.sparse_coo_tensor(
        torch.zeros(2, 1, dtype=torch.int64), torch.ones(1), (2**15, 2**15), check_invariants=True
    ),
}


@pytest.mark.parametrize("case", HUGE)
def test_a_small_tensor_file_takes_little(case: str, tmp_path: Path) -> None:
    cfg = {"n_layers": 1, "n_heads": 1, "parallel_attn_mlp": False}
    names = ["input", "a0.h0", "m0"], ["a0.h0<q>", "a0.h0<k>", "a0.h0<v>", "m0", "logits"]
    data = {"cfg": cfg, "src_nodes": names[0], "dst_nodes": names[1], "edges_scores": HUGE[case]()}
    torch.save(data, tmp_path / "g.pt")
    assert (tmp_path / "g.pt").stat().st_size < 5000
    before = peak()
    assert "of shape (32768, 32768)" in told(lambda: read_eap_scores(tmp_path / "g.pt"))
    assert peak() - before < 200


def test_a_compressed_tensor_file_is_refused(tmp_path: Path) -> None:
    file = io.BytesIO()
    torch.save({"edges_scores": torch.zeros(10**7)}, file)
    with (
        zipfile.ZipFile(file) as plain,
        zipfile.ZipFile(tmp_path / "g.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    assert (tmp_path / "g.pt").stat().st_size < 10**5
    assert "compressed" in told(lambda: read_eap_scores(tmp_path / "g.pt"))


def test_a_mask_has_no_place_that_is_not_an_edge(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    wiring = Wiring(1, 1, 1)
    notes = {"format": "circuitkit.scores", "version": "1", "about": "{}",
             "wiring": json.dumps(wiring.to_dict())}  # fmt: skip
    tables = {"scores": np.zeros(wiring.shape, np.float32), "exact": np.ones(wiring.shape, bool)}
    save_file(tables, tmp_path / "s", metadata=notes)
    assert "not edges" in told(lambda: Scores.load(tmp_path / "s"))
    assert mask(build(wiring, {("input", "logits"): 1.0})).sum() == 1


def test_no_flipped_bit_of_a_tensor_file_is_read_as_another_number(tmp_path: Path) -> None:
    path = write_eap(some_scores(), tmp_path / "g.pt", d_model=8)
    whole, values = path.read_bytes(), read_eap_scores(path).values
    start = whole.index(values[0, 0].tobytes())
    for place in range(start, start + values.nbytes // 2, 11):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        assert "the checksum is wrong" in told(lambda: read_eap_scores(path))


# -- what users attach -----------------------------------------------------------------------------
ATTACHED: list[tuple[Any, Any]] = [  # and what comes back from a file
    (np.bool_(True), True), (np.str_("x"), "x"), (np.float16(1.5), 1.5), (np.int8(3), 3),
    (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]), ((1, np.int64(2)), [1, 2]),
    ({"a": [np.int64(3), {"b": np.float32(2)}]}, {"a": [3, {"b": 2.0}]}),
    (float("nan"), None), (np.float32("nan"), None), (np.array(["a", None], object), ["a", None]),
    (torch.tensor(2.5), 2.5), (torch.tensor([1, 2]), [1, 2]), (torch.ones(1).bfloat16(), [1.0]),
    (torch.tensor([1.0], requires_grad=True), [1.0]), (Path("a/b"), "a/b"),
    (datetime.datetime(2026, 1, 2), "2026-01-02T00:00:00"),
    (datetime.date(2026, 1, 2), "2026-01-02"),
]  # fmt: skip
NOT_ATTACHED = [
    torch.ones(2, device="meta"), torch.eye(2).to_sparse(), {1}, b"x", float("inf"), object(),
    np.datetime64("2026-01-02"), np.complex64(1j),
]  # fmt: skip


def with_own(value: Any, where: str) -> Circuit:
    """A circuit that has the value as an attribute of its own, its node's or its edge's."""
    circuit = some_circuit()
    edge = next(iter(circuit.edges))
    {"graph": circuit.graph, "node": circuit.nodes[edge[0]], "edge": circuit.edges[edge]}[where][
        "own"
    ] = value
    return circuit


@pytest.mark.parametrize("where", ["graph", "node", "edge"])
def test_what_users_attach_is_written_by_every_writer(where: str, tmp_path: Path) -> None:
    for value, back in ATTACHED:
        circuit = with_own(value, where)
        for suffix in ("json", "graphml", "csv", "dot"):
            circuit.save(tmp_path / f"c.{suffix}")
        again = Circuit.load(tmp_path / "c.json")
        edge = next(iter(with_own(1, where).edges))
        found = {"graph": again.graph, "node": again.nodes[edge[0]], "edge": again.edges[edge]}
        assert found[where]["own"] == back
        nx.write_graphml(circuit, tmp_path / "c.graphml")
    for value in NOT_ATTACHED:
        told(lambda v=value: with_own(v, where).save(tmp_path / "c.json"))  # type: ignore[misc]
        nx.write_graphml(with_own(value, where), tmp_path / "c.graphml")
        for suffix in ("graphml", "csv", "dot"):  # which hold texts
            with_own(value, where).save(tmp_path / f"c.{suffix}")


def test_scores_hold_what_users_attach(tmp_path: Path) -> None:
    scores = some_scores()
    for value, back in ATTACHED:
        path = Scores(scores.wiring, scores.values, {"own": value}).save(tmp_path / "s.safetensors")
        assert Scores.load(path).about["own"] == back
    for value in NOT_ATTACHED:
        made = Scores(scores.wiring, scores.values, {"own": value})
        told(lambda m=made: m.save(tmp_path / "s.safetensors"))  # type: ignore[misc]

"""Damaged journals and results: blocks of long work, effects, models of known truth, arrays."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from damage import Reader, Refused, as_file, damaged_bytes, damaged_json
from damage_graphs import TABLES, WIRING, some_scores
from hypothesis import strategies as st
from safetensors.numpy import load as load_tables
from safetensors.numpy import save as save_tables
from safetensors.torch import load as load_torch
from safetensors.torch import save as save_torch
from torch import Tensor

import circuitkit
from circuitkit.data.batches import Dataset
from circuitkit.data.examples import Example
from circuitkit.engine.checkpoints import Journal
from circuitkit.evaluation.masks import as_mask
from circuitkit.graph.nodes import parse_edge
from circuitkit.graph.scores import Scores, ScoresWarning
from circuitkit.models.decoder import SPECIAL, Decoder
from circuitkit.patching.effects import Effects
from circuitkit.truth import trained
from circuitkit.truth.trained.files import Pairs, assemble, digest
from circuitkit.truth.trained.shapes import Shape
from circuitkit.util.json_values import nan_to_none
from circuitkit.util.notes import in_one_note, notes_of
from circuitkit.workflows.benchmark.cells import NUMBERS, from_block, to_block
from circuitkit.workflows.study.cells import StudyContext
from circuitkit.workflows.track.files import to_json

Arrays = dict[str, np.ndarray]


# -- a model that runs in a millisecond ------------------------------------------------------------
@cache
def tiny() -> Decoder:
    """Two layers of two heads, with random weights."""
    drawn = torch.Generator().manual_seed(0)

    def some(*shape: int) -> Tensor:
        return torch.randn(shape, generator=drawn) / 2

    words, wide, narrow = (*SPECIAL, "a", "b", "c", "d"), (2, 2, 8, 4), (2, 2, 4, 8)
    return Decoder(
        "tiny", words, some(6, 8), some(6, 8), some(*wide), some(*wide), some(*wide),
        some(*narrow), some(2, 8, 8), some(2, 8, 8), some(8, 6), {"a0.h0": "mover"},
    )  # fmt: skip


def prompts() -> Dataset:
    """Three pairs of three tokens."""
    spans = {"who": (1, 2), "end": (2, 3)}
    pairs = (((0, 2, 3), (0, 4, 3)), ((0, 3, 4), (0, 5, 4)), ((0, 5, 2), (0, 2, 2)))
    return Dataset(
        tuple(Example(clean, corrupt, (2,), (3,), spans) for clean, corrupt in pairs), batch_size=2
    )


# -- arrays of all kinds ---------------------------------------------------------------------------
CHANGES: list[Callable[[np.ndarray], np.ndarray]] = [
    *TABLES,
    lambda x: x.astype(np.complex64), lambda x: np.array(3.0), lambda x: x.astype(np.uint16),
    lambda x: np.zeros((0, 3), np.float32), lambda x: x[None], lambda x: x[..., :-1],
    lambda x: np.frombuffer(b"[1, 2]", np.uint8), lambda x: np.frombuffer(b"{", np.uint8),
    lambda x: np.frombuffer(b'{"layers": 1}', np.uint8), lambda x: -x, lambda x: x[::-1],
]  # fmt: skip


@st.composite
def changed(draw: st.DrawFn, arrays: Arrays) -> Arrays:
    """The arrays with one changed, dropped, renamed, or with other text in it."""
    found = dict(arrays)
    name = draw(st.sampled_from(sorted(found)))
    kind = draw(st.sampled_from(("change", "change", "put", "put", "drop", "name", "text", "same")))
    if kind == "drop":
        del found[name]
    elif kind == "name":
        found[draw(st.sampled_from(("x", "0.9.values", "0.0.x", "9.0.gap", "a.b.c", "", "1")))] = (
            found.pop(name)
        )
    elif kind == "text" and found[name].dtype == np.uint8:
        text = draw(damaged_json(json.loads(found[name].tobytes())))
        found[name] = np.frombuffer(text, np.uint8)
    elif kind == "put" and found[name].size:
        own = found[name] = found[name].copy()
        with np.errstate(all="ignore"):
            value = np.array(draw(st.sampled_from((0, 1, 2, 0.5, -1, 1e300, np.nan, np.inf))))
            own.flat[draw(st.integers(0, own.size - 1))] = value.astype(own.dtype)
    elif kind == "change":
        with np.errstate(all="ignore"):
            try:
                found[name] = np.ascontiguousarray(draw(st.sampled_from(CHANGES))(found[name]))
            except (ValueError, TypeError, IndexError):
                del found[name]
    return found


def plain(arrays: Mapping[str, np.ndarray]) -> Any:
    """Arrays as what compares, bit by bit."""
    return {key: (own.dtype.str, own.shape, own.tobytes()) for key, own in arrays.items()}


# -- blocks of a journal ---------------------------------------------------------------------------
ABOUT = {"model": "tiny"}
KEY = "key"


def as_block(folder: str, key: str, arrays: Arrays) -> bytes:
    """A block as a journal writes it, by hand: its checksum is right."""
    found = hashlib.sha256(f"{folder}/{key}".encode())
    for name, own in sorted(arrays.items()):
        found.update(f"|{name}|{own.dtype.str}|{own.shape}|".encode() + own.tobytes())
    return save_tables(arrays, metadata={"checksum": found.hexdigest()})


def _in_journal(place: str) -> Callable[[Path, bytes], Path]:
    def put(folder: Path, content: bytes) -> Path:
        (folder / "journal" / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / "journal" / place).write_bytes(content)
        return folder / "journal"

    return put


def blocks() -> Reader:
    """A finished block, which has a checksum: as it was written, or not at all."""
    arrays = {
        "effects": np.arange(6, dtype=np.float32).reshape(2, 3) / 7, "one": np.array(3),
        "plain": np.array([[np.nan, -0.0, np.inf]]), "none": np.zeros((0, 4), np.float32),
    }  # fmt: skip
    folder = Path(Journal("journal", ABOUT).place or "").name
    shutil.rmtree("journal")
    sound = as_block(folder, KEY, arrays)
    elsewhere = changed(arrays).map(lambda own: as_block(folder, "other", own))

    def read(path: Path) -> Any:
        found = Journal(path, ABOUT).get(KEY)
        if found is None:
            raise Refused("it is computed again")
        return plain(found)

    return Reader("block of a journal", sound, damaged_bytes(sound) | elsewhere, read,
                  _in_journal(f"{folder}/{KEY}.safetensors"))  # fmt: skip


def sweeps() -> Reader:
    """A block of exact effects that a run takes up: the run gives what it gives without one."""
    place = Path("sweep")
    _exact(place)
    (file,) = place.rglob("*.safetensors")
    sound, inside = file.read_bytes(), str(file.relative_to(place))
    shutil.rmtree(place)
    contents = damaged_bytes(sound) | changed(load_tables(sound)).map(save_tables)
    return Reader("sweep that resumes", sound, contents, _exact, _in_journal(inside), share=0.2)


def _exact(place: Path) -> Any:
    """A few exact effects, of which the corrupted blocks are set aside."""
    data = replace(prompts(), batch_size=3)
    edges = ["a0.h0->logits", "input->m0", "m1->logits"]
    found = circuitkit.patch_edges(
        tiny(), edges, data, "logit_diff", "counterfactual", resume=place
    )
    return found.values.tolist()


class _Holding(Journal):
    """A journal whose every block has these arrays; nothing is computed in its place."""

    def __init__(self, arrays: Arrays) -> None:
        super().__init__(None, {})
        self.arrays = arrays

    def get(self, key: str) -> Arrays:
        return self.arrays

    def put(self, key: str, arrays: Mapping[str, np.ndarray]) -> None:
        raise Refused("it is computed again")


class _Keeping(Journal):
    """A journal that keeps the last block."""

    def __init__(self) -> None:
        super().__init__(None, {})
        self.place = Path()
        self.arrays: Arrays = {}

    def get(self, key: str) -> None:
        return None

    def put(self, key: str, arrays: Mapping[str, np.ndarray]) -> None:
        self.arrays = dict(arrays)


def study_cells() -> Reader:
    """The cells of a study as another version might have written them, with a right checksum."""
    metric = circuitkit.resolve("metrics", "logit_diff")
    corruption = circuitkit.resolve("corruptions", "counterfactual")
    keeping = _Keeping()
    context = StudyContext(tiny(), prompts(), [metric], [corruption], "denoise", keeping)
    groups = {"movers": ["a0.h0", "a1.h1"], "others": ["a1.h0"]}
    context.restored(groups)

    def read(path: Path) -> Any:
        holding = _Holding(load_tables(path.read_bytes()))
        (found,) = replace(context, journal=holding, known={}).restored(groups).values()
        with np.errstate(over="ignore"):
            assert repr(found)
        return effects_of(found)

    def expected(content: bytes) -> Any:
        arrays = load_tables(content)
        labels = json.loads(arrays["0.0.labels"].tobytes())
        return numbers_of(arrays["0.0.values"], arrays["0.0.gap"], labels)

    sound = save_tables(keeping.arrays)
    return Reader("cell of a study", sound, changed(keeping.arrays).map(save_tables), read,
                  as_file(".safetensors"), expected)  # fmt: skip


def benchmark_cells() -> Reader:
    """The same of a benchmark."""
    arrays = to_block(dict.fromkeys(NUMBERS, 0.5))

    def read(path: Path) -> Any:
        found = from_block(load_tables(path.read_bytes()))
        if found is None:
            raise Refused("it is computed again")
        return repr(found)

    def expected(content: bytes) -> Any:
        return repr(dict(zip(NUMBERS, load_tables(content)["numbers"].tolist(), strict=True)))

    return Reader("cell of a benchmark", save_tables(arrays), changed(arrays).map(save_tables),
                  read, as_file(".safetensors"), expected)  # fmt: skip


def tracks() -> Reader:
    """A track, also one whose digest was not looked at: what its JSON says."""
    found = circuitkit.track(
        {"one": tiny(), "two": tiny()}, prompts(), method="eap", edges=4, force=True
    )
    sound = to_json(found.about, [vars(one) for one in found.steps]).encode()

    def read(path: Path) -> Any:
        own = circuitkit.Track.load(path, force=True)
        assert repr(own)
        assert len(own.to_frame()) == len(own.steps)
        return dict(own.about), [
            [one.label, one.accuracy, nan_to_none(one.faithfulness), dict(one.present),
             nan_to_none(one.first.same), nan_to_none(one.last.p), one.edges]
            for one in own.steps
        ]  # fmt: skip

    def expected(content: bytes) -> Any:
        held = json.loads(content.decode("utf-8-sig"))
        return held["about"], [
            [row["label"], row["accuracy"], row["faithfulness"], row["present"],
             row["first"]["same"], row["last"]["p"],
             None if row["circuit"] is None else len(row["circuit"]["edges"])]
            for row in held["models"]
        ]  # fmt: skip

    contents = damaged_bytes(sound) | damaged_json(json.loads(sound))
    return Reader("track", sound, contents, read, as_file(".json"), expected, share=0.7)


# -- effects ---------------------------------------------------------------------------------------
def effects_of(found: Effects) -> Any:
    labels = {key: own for key, own in vars(found).items() if key not in ("values", "gap")}
    return numbers_of(found.values, found.gap, json.loads(json.dumps(labels)))


def numbers_of(values: np.ndarray, gap: np.ndarray, labels: dict[str, Any]) -> Any:
    """What compares; nan is itself."""
    labels = {key: own for key, own in labels.items() if key != "format"}
    return [repr(own.tolist()) for own in (values, gap)], labels


def effects() -> Reader:
    """A file of numpy: what is in its zip."""
    found = circuitkit.patch_heads(
        tiny(), prompts(), "logit_diff", "counterfactual", at=["who", "end"]
    )
    sound = found.save("sound.npz").read_bytes()
    Path("sound.npz").unlink()
    arrays = _npz(sound)

    def read(path: Path) -> Any:
        loaded = Effects.load(path)
        with np.errstate(over="ignore"):
            assert repr(loaded)
        assert len(loaded.names) == len(loaded)
        return effects_of(loaded)

    def expected(content: bytes) -> Any:
        own = _npz(content)
        return numbers_of(own["values"], own["gap"], json.loads(own["labels"].tobytes()))

    contents = damaged_bytes(sound) | changed(arrays).map(_as_npz) | _headers(arrays)
    return Reader("effects", sound, contents, read, as_file(".npz"), expected)


def _npz(content: bytes) -> Arrays:
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        return {
            name.removesuffix(".npy"): np.lib.format.read_array(io.BytesIO(file.read(name)))
            for name in file.namelist()
        }  # fmt: skip


def _as_npz(arrays: Arrays) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name, own in arrays.items():
            file.writestr(zipfile.ZipInfo(f"{name}.npy"), _npy(own))
    return out.getvalue()


def _npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, array)
    return out.getvalue()


@st.composite
def _headers(draw: st.DrawFn, arrays: Arrays) -> bytes:
    """Arrays whose header says another shape or type than their bytes have."""
    name = draw(st.sampled_from(sorted(arrays)))
    said = draw(st.sampled_from((
        b"(10000000000,)", b"(1000000000000000,)", b"(-1,)", b"(2, 2, 2, 10**9)", b"()", b"(3,)",
        b"(1, 3000000000)",
    )))  # fmt: skip
    kind = draw(st.sampled_from((b"'<f4'", b"'|O'", b"'<f8'", b"'|u1'", b"'|S9'", b"'<M8[s]'")))
    head = b"{'descr': " + kind + b", 'fortran_order': False, 'shape': " + said + b", }"
    head += b" " * (-(len(head) + 11) % 64) + b"\n"
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for other, own in arrays.items():
            body = _npy(own)
            if other == name:
                size = int.from_bytes(body[8:10], "little")
                body = body[:8] + len(head).to_bytes(2, "little") + head + body[10 + size :]
            file.writestr(zipfile.ZipInfo(f"{other}.npy"), body)
    return out.getvalue()


# -- compiled models -------------------------------------------------------------------------------
def decoders() -> Reader:
    """A compiled model: its logits are those of the weights in the file."""
    sound = tiny().save("sound.decoder").read_bytes()
    Path("sound.decoder").unlink()
    weights = load_tables(sound)
    size = int.from_bytes(sound[:8], "little")
    notes: dict[str, Any] = notes_of(json.loads(sound[8 : 8 + size])["__metadata__"])
    tokens = torch.tensor([[0, 2, 3, 1]])

    def logits(model: Decoder) -> Any:
        with torch.no_grad():
            found = model.native(tokens, torch.ones_like(tokens).bool()).logits
        return repr(found.double().tolist()), model.words, dict(model.roles), str(model.dtype)

    def expected(content: bytes) -> Any:
        size = int.from_bytes(content[:8], "little")
        about = json.loads(notes_of(json.loads(content[8 : 8 + size])["__metadata__"])["about"])
        own = {name: torch.from_numpy(value) for name, value in load_tables(content).items()}
        return logits(Decoder(about["name"], tuple(about["words"]), roles=about["roles"], **own))

    said = damaged_json(json.loads(notes["about"])).map(
        lambda text: save_tables(
            weights, metadata=in_one_note({**notes, "about": text.decode("utf-8", "replace")})
        )
    )
    others = changed(weights).map(lambda own: save_tables(own, metadata=in_one_note(notes)))

    def read(path: Path) -> Any:
        model = circuitkit.load(path)
        assert repr(model)
        return logits(model)

    return Reader("compiled model", sound, damaged_bytes(sound) | said | others, read,
                  as_file(".decoder"), expected, share=0.5)  # fmt: skip


# -- trained models --------------------------------------------------------------------------------
def trained_models() -> Reader:
    """A trained model: its weights, edges and prompts are those in the file."""
    shape = Shape("gpt2", 1, 2, 2, 8, 8, 6, 4)
    with torch.random.fork_rng(devices=[]):
        module = shape.build()
    rows, ends = torch.tensor([[0, 2, 3], [0, 3, 4]]), torch.tensor([4, 5])
    mapped = np.zeros(shape.wiring.shape, dtype=bool)
    mapped[0, [0, 2]] = True
    made = assemble(
        "tiny", shape, module.state_dict(), (*SPECIAL, "a", "b", "c", "d"), mapped=mapped,
        constant=mapped & ~mapped, components={"x": "a0.h0"}, about={"accuracy": 1.0},
        pairs=Pairs(rows, rows.flip(0), ends, ends.flip(0)),
    )  # fmt: skip
    sound = made.save("sound.trained").read_bytes()
    Path("sound.trained").unlink()
    tensors, size = load_torch(sound), int.from_bytes(sound[:8], "little")
    notes: dict[str, Any] = notes_of(json.loads(sound[8 : 8 + size])["__metadata__"])

    def read(path: Path) -> Any:
        found = trained.load(path)
        assert repr(found)
        assert len(found.data(len(found.pairs.prompts))) == len(found.pairs.prompts)
        own = found.model.wiring
        edges = ([f"{own.writers[i]} {own.readers[j]}" for i, j in np.argwhere(mask)]
                 for mask in (found.mapped, found.constant))  # fmt: skip
        kept = {key: value.tolist() for key, value in found.weights.items()}
        prompts = found.pairs.prompts.tolist(), found.pairs.near_answers.tolist()
        return (
            found.name,
            dict(found.components),
            repr(found.about),
            [*edges],
            prompts,
            repr(sorted(kept.items())),
        )

    def expected(content: bytes) -> Any:
        size = int.from_bytes(content[:8], "little")
        about = json.loads(notes_of(json.loads(content[8 : 8 + size])["__metadata__"])["about"])
        own, wiring = load_torch(content), Shape(**about["shape"]).wiring
        places = ({wiring.index(*parse_edge(name)) for name in about[key]}
                  for key in ("mapped", "constant"))  # fmt: skip
        edges = [[f"{wiring.writers[i]} {wiring.readers[j]}" for i, j in sorted(own_places)]
                 for own_places in places]  # fmt: skip
        kept = {key.removeprefix("weights."): value.half().tolist()
                for key, value in own.items() if key.startswith("weights.")}  # fmt: skip
        prompts = own["prompts"].tolist(), own["near_answers"].tolist()
        components = {key: str(value) for key, value in about["components"].items()}
        return (
            about["name"],
            components,
            repr(about["about"]),
            edges,
            prompts,
            repr(sorted(kept.items())),
        )

    def again(text: str, own: Mapping[str, Tensor]) -> bytes:
        said = {**notes, "about": text, "digest": digest(text, own)}
        return save_torch(dict(own), in_one_note(said))

    said = damaged_json(json.loads(notes["about"])).map(
        lambda text: again(text.decode("utf-8", "replace"), tensors)
    )
    numbers = load_tables(sound)
    others = changed(numbers).map(
        lambda own: again(notes["about"], {k: torch.from_numpy(v.copy()) for k, v in own.items()})
    )
    return Reader("trained model", sound, damaged_bytes(sound) | said | others, read,
                  as_file(".trained"), expected, share=0.5)  # fmt: skip


# -- arrays in Python ------------------------------------------------------------------------------
def masks() -> Reader:
    """Masks of numpy and torch: those of 0 and 1 that fit, cut to the edges that there are."""
    keep = some_scores().mask(9)

    def expected(content: bytes) -> Any:
        own = np.load(io.BytesIO(content.removeprefix(b"torch")))
        assert own.shape == WIRING.shape
        assert ((own == 0) | (own == 1)).all()
        return ((own == 1) & WIRING.legal).tolist()

    def read(path: Path) -> Any:
        content = path.read_bytes()
        own: Any = np.load(io.BytesIO(content.removeprefix(b"torch")))
        if content.startswith(b"torch"):
            own = torch.from_numpy(np.ascontiguousarray(own))
        return as_mask(own, WIRING).tolist()

    arrays = changed({"x": keep, "y": keep.astype(np.float32)})
    drawn = st.tuples(st.sampled_from((b"", b"torch")), arrays).map(_first)
    return Reader("mask", _npy(keep), drawn, read, as_file(".npy"), expected)


def _first(drawn: tuple[bytes, Arrays]) -> bytes:
    """Of several arrays the one that is changed most often."""
    prefix, arrays = drawn
    return prefix + _npy(arrays[sorted(arrays)[0]])


def tables() -> Reader:
    """Arrays as scores: finite floating ones that fit."""
    scores = some_scores()

    def expected(content: bytes) -> Any:
        own = np.load(io.BytesIO(content))
        assert own.shape == WIRING.shape
        assert own.dtype.kind == "f"
        values = own[WIRING.legal]
        assert np.isfinite(values).all()
        return own.astype(np.float32)[WIRING.legal].tolist()

    def read(path: Path) -> Any:
        found = Scores(WIRING, np.load(path), {})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ScoresWarning)  # of damaged scores some are zero
            found.top(3)
        return found.values[WIRING.legal].astype(np.float32).tolist()

    drawn = changed({"x": scores.values, "y": scores.values.astype(np.float64)})
    return Reader("array of scores", _npy(scores.values), drawn.map(lambda own: _first((b"", own))),
                  read, as_file(".npy"), expected)  # fmt: skip

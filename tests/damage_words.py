"""Damaged words: settings of what is named, columns, options, and circuits that are replayed."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import math
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from damage import Reader, as_file, damaged_bytes, damaged_json, require_sentence
from damage_prompts import GOOD, as_csv, bare, prompt_of, shown, words
from damage_runs import prompts, tiny
from hypothesis import strategies as st

import circuitkit
from circuitkit.cli.main import main
from circuitkit.data.tasks import make_task
from circuitkit.errors import CircuitkitError
from circuitkit.graph.circuit import to_json
from circuitkit.graph.nodes import edge_name
from circuitkit.workflows.discover import discover
from circuitkit.workflows.replay import replay


@cache
def mini() -> Any:
    return circuitkit.load("mini")


# -- settings --------------------------------------------------------------------------------------
SEEDS = ("0", "1", "7", "4294967295")
AT = ("'who'", "'end'", "('who', 'end')", "['who']", "()", "'all'")
RULES = ("None", "'relp'", "'frozen_norms+frozen_patterns'")
SOUND: dict[str, dict[str, dict[str, tuple[str, ...]]]] = {  # names, settings and legal values
    "discovery": {
        "eap": {"rule": RULES}, "clean_corrupted": {"rule": RULES}, "relp": {},
        "atp_star": {"fix": ("True", "False"), "drop": ("True", "False"), "rule": RULES},
        "eap_ig": {"steps": ("1", "2", "7", "0x3"), "points": ("None", "'left'", "'midpoints'")},
        "expected_gradients": {"draws": ("1", "3"), "seed": SEEDS},
        "mask_gradient": {"steps": ("1", "3"), "seed": SEEDS,
                          "norms": ("'live'", "'clean'", "'larger'")},
        "ceap": {"steps": ("1", "2")}, "eap_ig_activations": {"steps": ("1",)},
        "acdc": {"threshold": ("0.1", "2", "None"), "thresholds": ("[0.1, 1]", "None"),
                 "order": ("'forward'", "'random'"), "seed": SEEDS},
        "exact": {"direction": ("'denoise'", "'noise'"), "edges": ("None", "['a0.h0->logits']"),
                  "level": ("'edge'",)},
        "ensemble": {"members": ("['eap', 'eap_ig(steps=2)']",), "by": ("'scores'", "'ranks'")},
        "activation_magnitude": {}, "gradient_norm": {},
        "node_attribution": {"level": ("'edge'", "'node'"), "rule": RULES},
        "information_flow": {}, "random": {"seed": SEEDS},
        "discrete_codes": {"features": ("1", "16"), "against": ("'pair'", "'all'"), "seed": SEEDS},
    },
    "corruptions": {
        "zero": {"at": AT, "positions": ("'kept'", "'cut'")},
        "mean": {"at": AT}, "mean_by_position": {"at": AT},
        "counterfactual": {"text": ("None",)}, "resample": {"seed": SEEDS},
        "peak": {"at": AT, "bins": ("2", "100", "0x3")},
        "optimal": {"at": AT, "steps": ("1", "0x1"), "loss": ("'kl'", "'log_probability'"),
                    "cut": ("'edges'", "'writer'"), "rate": ("0.1", "2"), "seed": SEEDS,
                    "examples": ("1", "3"), "on": ("None", "'ioi'")},
        "noise": {"at": AT, "multiple": ("1.5", "3", "1e-3"), "draws": ("1", "3"), "seed": SEEDS},
    },
    "metrics": {"logit_diff": {}, "prob_diff": {}, "accuracy": {}, "kl": {}, "top1": {}},
    "tasks": {
        "ioi": {"corrupt": ("'io'", "'names'")}, "induction": {"length": ("5", "6", "12")},
        "greater_than": {}, "gendered_pronoun": {}, "arithmetic": {},
    },
}  # fmt: skip
VALUES = (
    "0", "1", "-1", "2", "3", "1.5", "0.1", "1e999", "-1e999", "1e-300", "10000000000",
    "9" * 400, "9" * 5000, "'x'", "''", "'1'", "None", "True", "False", "[]", "{}", "()", "[[]]",
    "'who'", "'end'", "('who', 'end')", "['who']", "['nowhere']", "b'x'", "1j", "{1, 2}", "...",
    "'a0.h0->logits'", "['a0.h0->logits']", "['a0.h0->a0.h0']", "'reverse'", "'denoise'", "-0.0",
    "'\\ud800'", "'\\0'", "'a\\nb'", "nan", "open('x')", "__import__('os')", "[" * 200, "lambda: 1",
    "x := 3", "*[1]", "'io'", "'verb'", "[1, 2]", "{'a': 1}", "'9' * 9", "-  2", "0x3", "1_0",
)  # fmt: skip
NAMES = ("steps", "seed", "draws", "at", "threshold", "order", "edges", "direction", "multiple",
         "text", "n", "length", "corrupt", "resume", "data", "model", "self", "Steps", "stepps", "",
         "path", "metric", "1", "class")  # fmt: skip


def _is_whole(least: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and value >= least


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < math.inf


def _is_texts(value: Any) -> bool:
    each = value if isinstance(value, list | tuple) else [value]
    return all(isinstance(one, str) for one in each)


def _is_edges(value: Any) -> bool:
    return value is None or (not isinstance(value, str) and _is_texts(value))


LEGAL: Mapping[str, Callable[[Any], bool]] = {
    "steps": _is_whole(1), "seed": _is_whole(0), "draws": _is_whole(1), "n": _is_whole(1),
    "length": _is_whole(1), "multiple": _is_number, "at": _is_texts, "edges": _is_edges,
    "threshold": lambda value: value is None or _is_number(value),
    "thresholds": lambda value: value is None or (
        isinstance(value, list | tuple) and all(map(_is_number, value))
    ),
    "order": lambda value: value in ("reverse", "forward", "random"),
    "direction": lambda value: value in ("noise", "denoise"),
    "text": lambda value: value is None or isinstance(value, str),
    "resume": lambda value: value is None or isinstance(value, str),
    "corrupt": lambda value: isinstance(value, str),
    "lengths": lambda value: value in ("equal", "any"),
    "operators": _is_texts,
    "rule": lambda value: value is None or isinstance(value, str),
    "fix": lambda value: isinstance(value, bool),
    "drop": lambda value: isinstance(value, bool),
    "points": lambda value: value in (None, "left", "midpoints"),
    "norms": lambda value: value in ("live", "clean", "larger"),
    "first": lambda value: value in ("ablated", "clean"),
    "positions": lambda value: value in ("cut", "kept"),
    "bins": _is_whole(2), "examples": _is_whole(1),
    "loss": lambda value: value in ("kl", "log_probability"),
    "cut": lambda value: value in ("edges", "writer"),
    "rate": _is_number,
    "on": lambda value: value is None or isinstance(value, str),
    "budget": lambda value: value is None or _is_whole(1)(value),
    "level": lambda value: value in ("edge", "node"),
    "by": lambda value: value in ("scores", "ranks"),
    "members": lambda value: bool(value) and isinstance(value, list | tuple) and _is_texts(value),
}  # fmt: skip


@st.composite
def expressions(draw: st.DrawFn, kind: str) -> bytes:
    """A name with settings: legal ones, spelt in some way; or ones that are not its own, not of
    their kind, twice there; or damaged."""
    name = draw(st.sampled_from(sorted(SOUND[kind])))
    own = SOUND[kind][name]
    given = [(key, draw(st.sampled_from(own[key]))) for key in own if draw(st.booleans())]
    if draw(st.booleans()):
        keys = st.sampled_from((*own, *own, *own, *NAMES))
        given += draw(st.lists(st.tuples(keys, st.sampled_from(VALUES)), max_size=2))
    equals = draw(st.sampled_from(("=", "=", " = ")))
    comma = draw(st.sampled_from((", ", ",", " ,\t")))
    text = comma.join(f"{key}{equals}{value}" for key, value in draw(st.permutations(given)))
    ends = (*[")"] * 9, ") ", ",)" if given else ")", "", "))", ")(", ", 3)", ")#")
    end = draw(st.sampled_from(ends))
    whole = f"{name}({text}{end}".encode("utf-8", "replace")
    return draw(damaged_bytes(whole)) if draw(st.integers(0, 4)) == 0 else whole


def settings(kind: str) -> Reader:
    """A name with settings: what the function gives when it is called with them in Python."""

    def read(path: Path) -> Any:
        text = path.read_bytes().decode("utf-8", "replace")
        if kind == "tasks":
            return [shown(vars(prompt)) for prompt in make_task(text, mini(), n=4)]
        return _numbers(kind, circuitkit.resolve(kind, text))

    def expected(content: bytes) -> Any:
        name, _, rest = content.decode("utf-8", "replace").partition("(")
        call = ast.parse(f"f({rest}" if rest else "f()", mode="eval").body
        assert isinstance(call, ast.Call)
        assert not call.args
        given = {str(own.arg): ast.literal_eval(own.value) for own in call.keywords}
        for key, value in given.items():
            assert LEGAL[key](value), f"{key}={value!r} is accepted"
        name = name.strip()
        if kind == "tasks":  # in upper or lower case, with hyphens
            name = name.lower().replace("-", "_").replace(" ", "_")
        own = getattr(getattr(circuitkit, kind), name)
        if kind == "tasks":
            return [shown(vars(prompt)) for prompt in own(words(), n=4, **given)]
        return _numbers(kind, lambda *inputs: own(*inputs, **given))

    share = {"discovery": 0.3, "corruptions": 0.5, "metrics": 0.3, "tasks": 0.5}[kind]
    return Reader(f"settings of {kind}", next(iter(SOUND[kind])).encode(), expressions(kind), read,
                  as_file(".txt"), expected, share=share, **_spoken(kind))  # fmt: skip


def _numbers(kind: str, function: Any) -> Any:
    """The scores of the tiny model by the method, or under the corruption or metric."""
    inputs: dict[str, Any] = {"metrics": "logit_diff", "corruptions": "counterfactual"}
    method = circuitkit.discovery.eap
    if kind == "discovery":
        method = function
    else:
        inputs[kind] = function
    scores = method(tiny(), prompts(), *inputs.values())
    return repr(scores.values[tiny().wiring.legal].tolist())


def _spoken(kind: str) -> dict[str, Any]:
    """The command that takes such settings, and what it must show."""
    if kind != "tasks":
        return {}

    def command(path: Path) -> list[str]:
        text = path.read_bytes().decode("utf-8", "replace").replace("\0", "")
        text = f" {text}" if text.startswith("-") else text
        return ["task", "show", text, "--examples=4", "--json"]

    def show(out: str, _: Path, found: Any) -> None:
        assert list(map(shown, json.loads(out)["prompts"])) == found, "other prompts"

    return {"command": command, "shown": show}


def methods() -> Reader:
    """Methods with settings."""
    return settings("discovery")


def corruptions() -> Reader:
    """Corruptions with settings."""
    return settings("corruptions")


def metrics() -> Reader:
    """Metrics with settings."""
    return settings("metrics")


def tasks() -> Reader:
    """Tasks with settings."""
    return settings("tasks")


# -- options ---------------------------------------------------------------------------------------
OTHERS = {"clean": "Text", "corrupt": "its other", "correct": "right|", "wrong": "Wrong"}


def spoken(arguments: list[str], folder: Path) -> str:
    """What a command prints, run in this process; raises CircuitkitError where it is refused."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(arguments)
        except SystemExit as error:
            code = int(error.code or 0)
    if code == 2:
        require_sentence(err.getvalue().removesuffix("\n"), folder)
        raise CircuitkitError("it is refused")
    assert code == 0, f"exit code {code}: {err.getvalue()[:300]}"
    return out.getvalue()


def columns() -> Reader:
    """Columns that are named on the command line."""
    records = [{OTHERS[key]: own[key] for key in OTHERS} for own in GOOD]
    sound = ",".join(f"{key}={own}" for key, own in OTHERS.items())
    pairs = st.tuples(
        st.sampled_from([*OTHERS, "spans", "x", "", "Clean", " clean"]),
        st.sampled_from([*OTHERS.values(), "text", "", "nothing", " Text", "9" * 5000]),
    ).map("=".join)
    own = st.permutations([f"{key}={name}" for key, name in OTHERS.items()])
    given = st.tuples(own, st.integers(2, 4), st.lists(pairs, max_size=1), st.sampled_from(",,, "))
    lists = given.map(lambda g: (g[3] + ("" if g[3] == "," else ",")).join(g[0][: g[1]] + g[2]))
    lists = lists.map(lambda text: text.strip(",").encode())

    def place(folder: Path, content: bytes) -> Path:
        (folder / "prompts.csv").write_bytes(as_csv(records))
        (folder / "columns").write_bytes(content)
        return folder / "columns"

    def command(path: Path) -> list[str]:
        text = path.read_bytes().decode("utf-8", "replace").replace("\0", "")
        return ["task", "check", str(path.parent / "prompts.csv"), f"--columns={text}", "--json"]

    def read(path: Path) -> Any:
        return _places(spoken(command(path), path.parent))

    def expected(content: bytes) -> Any:
        text = content.decode("utf-8", "replace").replace("\0", "")
        given = dict(own.split("=", 1) for own in text.split(","))
        back = {own.strip(): key.strip() for key, own in given.items()}
        rows = [{back.get(key, key): value for key, value in own.items()} for own in records]
        table = [{"\0table": True, **row, **_cells(row)} for row in rows]
        return [[bare(own[0]), bare(own[1] or "")] for own in map(prompt_of, table)]

    def show(out: str, _: Path, found: Any) -> None:
        assert _places(out) == found, "other texts"

    return Reader("columns", sound.encode(), damaged_bytes(sound.encode()) | lists, read, place,
                  expected, command, show, share=0.2, by_shell=0.5)  # fmt: skip


def _cells(row: dict[str, Any]) -> dict[str, Any]:
    return {key: "|".join(own) if isinstance(own, list) else own or "" for key, own in row.items()}


def _places(out: str) -> Any:
    """The texts of each row, without the brackets around tokens."""
    rows = json.loads(out)["rows"]
    return [[bare(own["clean"]), bare(own["corrupt"])] for own in rows]


def options() -> Reader:
    """Numbers on the command line."""
    texts = st.sampled_from((
        "0", "1", "2", "3", "-1", "1.5", "x", "", " 2", "2 ", "٣", "²", "1_0", "1e3", "9" * 30,
        "9" * 5000, "inf", "nan", "0x3", "+2", "None", "float32", "float64", "cpu", "cuda:99",
        "8GiB", "1KiB", "-1GiB", "GiB", "1e999GiB", "int8", "meta", "evil", "first", "drop",
        "\ud800", "a\nb", "1" * 200, "4", "5", "16", "1", "2", "64", "2GiB", "cpu",
    ))  # fmt: skip
    names = st.sampled_from((
        "--examples", "--seed", "--batch-size", "--threads", "--memory", "--dtype", "--device",
        "--answers", "--misfits", "--columns", "--model", "--nothing", "--exampels", "--examples",
        "--seed", "--batch-size", "--threads",
    ))  # fmt: skip
    given = st.lists(st.tuples(names, texts).map(list), min_size=1, max_size=2)

    def command(path: Path) -> list[str]:
        own = json.loads(path.read_bytes())
        return ["task", "show", "induction(length=6)", "--examples=3", "--json",
                *(f"{name}={text}".replace("\0", "") for name, text in own)]  # fmt: skip

    def read(path: Path) -> Any:
        return len(json.loads(spoken(command(path), path.parent))["prompts"])

    def expected(content: bytes) -> Any:
        own = dict(json.loads(content))
        assert own.keys() <= {"--examples", "--seed", "--batch-size", "--threads", "--memory",
                              "--dtype", "--device"}, f"{own} is accepted"  # fmt: skip
        return int(own.get("--examples", 3))

    def show(out: str, _: Path, found: Any) -> None:
        assert len(json.loads(out)["prompts"]) == found, "other prompts"

    contents = given.map(json.dumps).map(str.encode)
    return Reader("options", b"[]", contents, read, as_file(".txt"), expected, command, show,
                  share=0.1, by_shell=0.5)  # fmt: skip


# -- replays ---------------------------------------------------------------------------------------
def replays() -> Reader:
    """A circuit that is found once more: what its settings give when discover is called with
    them."""
    found = discover(tiny(), prompts(), "logit_diff", "counterfactual", method="eap", edges=5,
                     force=True, unseen=prompts())  # fmt: skip
    said = json.loads(to_json(found.circuit))
    del said["digest"]
    asked = {"attributes": said["attributes"]}

    def whole(content: bytes) -> bytes:
        try:
            return json.dumps({**said, **json.loads(content)}).encode()
        except (TypeError, ValueError):
            return content

    def read(path: Path) -> Any:
        again = replay(path, model=tiny(), data=prompts(), unseen=prompts())
        assert repr(again)
        assert json.dumps(again.to_dict())
        return _found(again.recorded, again.found)

    def expected(content: bytes) -> Any:
        data = json.loads(content)
        own = data["attributes"]
        more = {key: own["asked"].get(key) for key in ("edges", "faithfulness", "verify", "refine",
                                                       "orders", "seed", "batch_size")}  # fmt: skip
        found = discover(
            tiny(), prompts(), own["metric"], own["corruption"], method=own["method"],
            rule=own["rule"], examples=own["examples"], force=True, unseen=prompts(), **more,
        )  # fmt: skip
        kept = {entry["edge"]: float(entry["weight"]) for entry in data["edges"]}
        return [kept, _found(found.circuit, found)[1]]

    return Reader("replay", json.dumps(said).encode(), damaged_json(asked).map(whole), read,
                  as_file(".json"), expected, share=0.1, by_shell=0.5)  # fmt: skip


def _found(recorded: Any, found: Any) -> Any:
    """The edges and weights that are recorded, and those that are found now."""
    return [
        {edge_name(writer, reader): float(data["weight"])
         for writer, reader, data in circuit.edges(data=True) if "weight" in data}
        for circuit in (recorded, found.circuit)
    ]  # fmt: skip

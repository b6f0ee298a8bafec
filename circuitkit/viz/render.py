"""Graphviz, wherever it is: ``dot`` on the PATH, else the copy inside pygraphviz.

Either runs as a child process: a layout that takes too long, or a crash in C, ends there.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys

from circuitkit.errors import OutputError
from circuitkit.viz.shapes import Scene
from circuitkit.viz.xdot import INCH, placed

__all__ = ["check_engine", "graphviz_drawn", "rendered"]

DPI = 200  # of a picture in pixels
PATIENCE = 15.0  # seconds
ENGINES = ("builtin", "dot")
PLACED = ("-Kneato", "-n2")  # for dot: the places of nodes and edges are given, only draw
CHILD = """
import sys, pygraphviz
graph = pygraphviz.AGraph(string=sys.stdin.buffer.read().decode())
sys.stdout.buffer.write(graph.draw(format=sys.argv[1], prog=sys.argv[2]))
"""


def check_engine(engine: str) -> str:
    """The engine, if there is one of that name; else raises OutputError."""
    if engine not in ENGINES:
        raise OutputError(f"engine={engine!r} is not known; choose from {', '.join(ENGINES)}")
    return engine


def graphviz_drawn(source: str, suffix: str, engine: str) -> bytes:
    """The DOT text drawn by Graphviz: laid out by ``dot``, or with ``builtin`` by the places that
    it gives. Raises OutputError where Graphviz is missing, fails, or is not done in time."""
    command = _command(suffix, engine == "builtin")
    try:
        done = subprocess.run(
            command, input=source.encode(), capture_output=True, timeout=PATIENCE, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise OutputError(
            f"Graphviz did not lay out the .{suffix} picture within {PATIENCE:g} s; "
            "draw fewer edges, or choose engine='builtin'"
        ) from error
    if done.returncode or not done.stdout:
        said = (done.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
        raise OutputError(f"Graphviz cannot draw the .{suffix} picture ({said}); write .svg")
    return done.stdout


def rendered(picture: Scene, suffix: str) -> bytes:
    """The picture as ``png`` or ``pdf``, with everything where it stands. Raises OutputError as
    ``graphviz_drawn`` does."""
    source = placed(picture, DPI if suffix == "png" else INCH)
    return graphviz_drawn(source, suffix, "builtin")


def _command(suffix: str, placed: bool) -> list[str]:
    if program := shutil.which("dot"):
        return [program, *(PLACED if placed else ()), f"-T{suffix}"]
    if importlib.util.find_spec("pygraphviz"):
        return [sys.executable, "-c", CHILD, suffix, "nop2" if placed else "dot"]
    raise OutputError(
        f"a .{suffix} picture needs Graphviz here, which is not installed: "
        "pip install pygraphviz, or install graphviz so that dot is on the PATH, "
        "or write .svg with the builtin engine"
    )

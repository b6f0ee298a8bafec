"""Graphviz, wherever it is: ``dot`` on the PATH, else the copy inside pygraphviz.

Either runs as a child process: a layout that takes too long, or a crash in C, ends there.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys

from circuitkit.errors import OutputError

__all__ = ["check_engine", "laid_out"]

PATIENCE = 15.0  # seconds
ENGINES = ("builtin", "dot")
CHILD = """
import sys, pygraphviz
graph = pygraphviz.AGraph(string=sys.stdin.buffer.read().decode())
sys.stdout.buffer.write(graph.draw(format=sys.argv[1], prog="dot"))
"""


def check_engine(engine: str, width: float | None = None, two: bool = False) -> str:
    """The engine, if there is one of that name that can draw for a column of a width in inches, and
    two circuits one over the other; else raises OutputError."""
    if engine == "dot" and two:
        raise OutputError("two circuits cannot be drawn by engine='dot'; use 'builtin'")
    if engine == "dot" and width is not None:
        raise OutputError(f"width={width!r} is not possible with engine='dot'; use 'builtin'")
    if engine not in ENGINES:
        raise OutputError(f"engine={engine!r} is not known; choose from {', '.join(ENGINES)}")
    return engine


def laid_out(source: str, suffix: str) -> bytes:
    """The DOT text laid out and drawn by Graphviz. Raises OutputError where it is not installed,
    fails, or is not done in time."""
    command = _command(suffix)
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
        raise OutputError(
            f"Graphviz cannot draw the .{suffix} picture ({said}); choose engine='builtin'"
        )
    return done.stdout


def _command(suffix: str) -> list[str]:
    if program := shutil.which("dot"):
        return [program, f"-T{suffix}"]
    if importlib.util.find_spec("pygraphviz"):
        return [sys.executable, "-c", CHILD, suffix]
    raise OutputError(
        "engine='dot' needs Graphviz, which is not installed: install graphviz so that dot is on "
        "the PATH, or pip install pygraphviz, or choose engine='builtin'"
    )

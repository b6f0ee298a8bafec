"""What a command prints, on any terminal and into the log: signs that the terminal does not have
become ASCII."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from circuitkit import __version__
from circuitkit.errors import OutputError
from circuitkit.util.atomic import reason

__all__ = ["Log", "Stream", "encodable", "plain", "streams"]

_ASCII = {
    "→": "->", "←": "<-", "−": "-", "–": "-", "—": "--", "‑": "-", "×": "x", "·": "*", "…": "...",
    "≤": "<=", "≥": ">=", "≈": "~", "≠": "!=", "±": "+-", "∖": "\\", "√": "sqrt", "Σ": "sum",
    "Δ": "delta", "τ": "tau", "‖": "||", "“": '"', "”": '"', "‘": "'", "’": "'", "µ": "u",
    "▁": "_", "Ġ": "_", "\N{NO-BREAK SPACE}": " ",
}  # fmt: skip


def encodable(text: str, encoding: str | None) -> bool:
    """Whether a stream of that encoding can take the text; one without any takes all."""
    try:
        text.encode(encoding or "utf-8", "strict" if encoding else "surrogatepass")
    except (UnicodeError, LookupError):
        return False
    return True


def plain(text: str, encoding: str | None) -> str:
    """The text with ASCII for each sign that the encoding does not have."""
    if encodable(text, encoding):
        return text
    return "".join(
        sign if encodable(sign, encoding)
        else _ASCII.get(sign) or sign.encode("ascii", "backslashreplace").decode()
        for sign in text
    )  # fmt: skip


class Log:
    """A file to which a command's output is added, line by line as it comes, without progress bars.

    Raises OutputError where it cannot be written.
    """

    def __init__(self, path: Path, arguments: Sequence[str]) -> None:
        self.start, self._begun = time.monotonic(), dict[str, str]()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file = path.open("a", encoding="utf-8", errors="backslashreplace")
            self._add(f"--- {_now()}, circuitkit {__version__}, process {os.getpid()}\n"
                      f"--- circuitkit {shlex.join(arguments)}\n")  # fmt: skip
        except (OSError, ValueError) as error:
            raise OutputError(f"{str(path)!r} cannot be written: {reason(error)}") from error

    def write(self, text: str, stream: str = "log") -> None:
        """Add the lines that the text ends; a progress bar, which is drawn over itself, adds
        none."""
        *lines, begun = (self._begun.get(stream, "") + text).split("\n")
        self._begun[stream] = begun.rpartition("\r")[2]
        shown = [line.rstrip("\r").rpartition("\r")[2] for line in lines]
        with contextlib.suppress(OSError, ValueError):  # a full disk does not end the work
            self._add("".join(f"{line}\n" for line in shown))

    def error(self) -> None:
        """Add the traceback of the error at hand."""
        self.write(traceback.format_exc())

    def close(self, code: int) -> None:
        """Add how the command ended."""
        seconds = time.monotonic() - self.start
        self.write(f"--- {_now()}, exit code {code}, {seconds:.1f} s\n")
        with contextlib.suppress(OSError, ValueError):
            self.file.close()

    def _add(self, text: str) -> None:
        self.file.write(text)
        self.file.flush()


class Stream:
    """A standard stream that takes any text, and copies it into a log."""

    def __init__(self, inner: Any, name: str, log: list[Log]) -> None:
        self._inner, self._name, self._log = inner, name, log

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    @property
    def encoding(self) -> str | None:
        """The encoding of the stream; None where it takes any text."""
        return getattr(self._inner, "encoding", None)

    def write(self, text: str) -> int:
        """Write the text, with ASCII for what the stream does not have."""
        for log in self._log:
            log.write(text, self._name)
        if self._inner is not None:
            with self._said():
                self._inner.write(plain(text, self.encoding))
        return len(text)

    def writelines(self, lines: Sequence[str]) -> None:
        """Write each of the texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Hand on what has been written."""
        if self._inner is not None:
            with self._said():
                self._inner.flush()

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._inner is not None and self._inner.isatty()

    def drop(self) -> None:
        """Write no more, also not when Python ends, to a pipe that nobody reads or a full disk."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self._inner.fileno())
            os.close(nothing)
        self._inner = None

    @contextlib.contextmanager
    def _said(self) -> Iterator[None]:
        """A stream that cannot be written, as an error of ours; what goes to stderr may be lost."""
        try:
            yield
        except BrokenPipeError:
            if self._name == "stdout":
                raise
            self.drop()
        except OSError as error:
            self.drop()
            if self._name == "stdout":
                raise OutputError(f"stdout cannot be written: {reason(error)}") from error


@contextlib.contextmanager
def streams(silent: bool = False) -> Iterator[list[Log]]:
    """stdout and stderr as Streams until the context ends, and the list that a log is put into;
    where the process is to be ``silent``, nothing goes to stdout."""
    log: list[Log] = []
    out = Stream(None if silent else sys.stdout, "stdout", log)
    err = Stream(sys.stderr, "stderr", log)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            yield log
        finally:
            err.flush()


def _now() -> str:
    return datetime.now().astimezone().isoformat(" ", "seconds")

"""A parser of arguments whose errors are sentences."""

from __future__ import annotations

import argparse
from typing import NoReturn

from circuitkit.errors import ArgumentError

__all__ = ["Parser"]

HEAD, TAIL = 200, 80  # characters of a long sentence that are kept


class Parser(argparse.ArgumentParser):
    """Raises ArgumentError for what is not an argument, where argparse prints its usage as well."""

    def error(self, message: str) -> NoReturn:
        """Raise ArgumentError with the message on one line, without the middle of a long one."""
        said = " ".join(message.split())
        if len(said) > HEAD + TAIL:
            said = f"{said[:HEAD]} ... {said[-TAIL:]}"
        raise ArgumentError(f"{said}; `{self.prog} --help` shows what it takes")

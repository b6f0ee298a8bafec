"""The options that several commands share, and the numbers in them."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from circuitkit.util.bytesize import parse

__all__ = [
    "Commands", "Part", "Several", "Usual", "add_circuit", "add_device", "add_file", "add_force",
    "add_framing", "add_known", "add_output", "add_shard", "as_several", "common", "count",
    "machine", "place", "positive", "saved",
]  # fmt: skip

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


class Usual(str):
    """What is taken where an option is not given."""


class Several(argparse.Action):
    """An option that can be given several times: one value as it is, several as a tuple."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any,
        option_string: str | None = None,
    ) -> None:  # fmt: skip
        """Take the value, beside those before it."""
        held = getattr(namespace, self.dest)
        several = () if held is None or isinstance(held, Usual) else as_several(held)
        setattr(namespace, self.dest, (*several, values) if several else values)


def as_several(value: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """The values of an option that can be given several times."""
    return value if isinstance(value, tuple) else () if value is None else (value,)


def add_circuit(p: argparse.ArgumentParser, examples: int = 64) -> None:
    """Add a saved circuit, and what it is measured on: so many ``examples``, unless others are
    asked for."""
    p.add_argument(
        "circuit", metavar="CIRCUIT.json", type=saved,
        help="what circuitkit discover has written: the file, or its folder",
    )  # fmt: skip
    add_force(p)
    own = "default: the circuit's own"
    p.add_argument("--model", help=f"mini, a directory, a hub name ({own})")
    p.add_argument("--task", help=f"a task, or a file of prompts ({own})")
    p.add_argument(
        "--examples", type=positive, metavar="N",
        help=f"unseen prompts (default: {examples}, or all of a file)",
    )  # fmt: skip
    add_file(p)
    add_known(p)


def add_framing(p: argparse.ArgumentParser) -> None:
    """Add the options for BOS and the chat template."""
    flag = argparse.BooleanOptionalAction
    p.add_argument(
        "--bos",
        action=flag,
        help="a BOS token in front of prompts (default: as the tokenizer does)",
    )
    p.add_argument(
        "--chat", action=flag, help="prompts as a user's messages in the model's chat template"
    )


def add_file(p: argparse.ArgumentParser, misfits: bool = True) -> None:
    """Add how the prompts of a file are read, and the options for BOS and the chat template."""
    add_framing(p)
    p.add_argument(
        "--columns", type=_columns, metavar="clean=NAME,...",
        help="the columns of a file that are clean, corrupt, correct, wrong",
    )  # fmt: skip
    p.add_argument(
        "--answers", choices=("single", "first", "sequence"),
        help="answers of several tokens: they do not fit (default), their first token, or all",
    )  # fmt: skip
    p.add_argument(
        "--align", metavar="spans|NAME,...",
        help="align texts of other lengths by their spans (default: they do not fit)",
    )  # fmt: skip
    if misfits:
        p.add_argument(
            "--misfits", choices=("refuse", "drop"),
            help="rows of a file that do not fit: refused (default), or left out",
        )  # fmt: skip


def add_force(p: argparse.ArgumentParser) -> None:
    """Add the option that reads a file although it was changed."""
    p.add_argument("--force", action="store_true", help="read files whose digest is wrong too")


def add_output(p: argparse.ArgumentParser, name: str, help: str, **more: Any) -> None:
    """Add where the command writes: a DIR or a FILE; and whether it may replace what is there."""
    p.add_argument("-o", "--output", type=place, metavar=name, help=help, **more)
    p.add_argument(
        "--overwrite", action="store_true", help="replace the files of another run at the output"
    )


@dataclass(frozen=True)
class Part:
    """Which of how many parts of the blocks a run makes; without a number, it puts all together."""

    index: int | None
    of: int = 1


def add_shard(p: argparse.ArgumentParser) -> None:
    """Add which part of the blocks is made, by one of several runs that share a disk."""
    p.set_defaults(dealt=True)
    p.add_argument(
        "--shard", type=_part, metavar="I/N",
        help="make part I of N (from 0) of the blocks, for circuitkit merge (default: all)",
    )  # fmt: skip


def add_known(p: argparse.ArgumentParser) -> None:
    """Add the option that leaves out what the model does not know."""
    p.add_argument(
        "--known", action="store_true", help="only the prompts that the model answers correctly"
    )


def common() -> argparse.ArgumentParser:
    """The options of every command, as a parent of its parser."""
    p = argparse.ArgumentParser(add_help=False)
    p.add_argument("--quiet", action="store_true", help="no progress bars")
    p.add_argument("--json", action="store_true", help="print JSON, for machines")
    p.add_argument("--debug", action="store_true", help="show where an error comes from")
    p.add_argument("--log", type=place, metavar="FILE", help="add what is printed to this file too")
    return p


def _columns(text: str) -> dict[str, str]:
    """The columns in ``clean=a,corrupt=b``; raises ArgumentTypeError for any other text."""
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(key.strip() and own for key, _, own in pairs):
        raise argparse.ArgumentTypeError(
            f"{text!r} names no columns; write clean=NAME,corrupt=NAME"
        )
    return {key.strip(): own for key, _, own in pairs}


def _part(text: str) -> Part:
    """The part in ``0/4``; raises ArgumentTypeError for any other text."""
    index, _, of = text.partition("/")
    if not (index.isdecimal() and of.isdecimal() and int(index) < int(of)):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a part; write 0/4 to 3/4 for four of them"
        )
    return Part(int(index), int(of))


def count(text: str) -> int:
    """The number, at least 0; raises ArgumentTypeError for any other text."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number; 0 skips it")
    return int(text)


def machine() -> argparse.ArgumentParser:
    """The options of every command that runs a model, as a parent of its parser."""
    p = argparse.ArgumentParser(add_help=False, parents=[common()])
    add_device(p)
    p.add_argument("--dtype", help="float32, bfloat16, ... (default: the checkpoint's)")
    p.add_argument("--experts", choices=("live", "held"),
                   help="experts as writers, with their router's weights live or held")  # fmt: skip
    p.add_argument("--threads", type=positive, help="processor threads")
    p.add_argument(
        "--memory",
        type=parse,
        help="what the process may take in all, 8GiB, ... (default: what the machine has)",
    )
    p.add_argument("--batch-size", type=positive, metavar="N", help="default: what fits")
    return p


def add_device(p: argparse.ArgumentParser) -> None:
    """Add where the model is: on one device, or on several."""
    where = p.add_mutually_exclusive_group()
    where.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: cpu)")
    where.add_argument(
        "--device-map", choices=("auto", "balanced", "balanced_low_0", "sequential"), metavar="MAP",
        help="spread the layers over the GPUs, as accelerate does: auto, balanced, "
        "balanced_low_0, sequential (default: one device)",
    )  # fmt: skip


def place(text: str) -> Path:
    """The path; raises ArgumentTypeError for an empty text, which would be the folder at hand."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the path is empty")
    return Path(text)


def positive(text: str) -> int:
    """The number, at least 1; raises ArgumentTypeError for any other text."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def saved(text: str) -> str:
    """The circuit's file in a folder of discover; what else is given as it is."""
    file = os.path.join(text, "circuit.json")
    return file if text and os.path.isfile(file) else text

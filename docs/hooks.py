"""What the build adds to the pages: the reference, from the names that are public; the commands,
from their help; and the pictures of examples/, from where they are."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import circuitkit as ck
import circuitkit.errors as errors
from circuitkit.cli.main import build_parser
from circuitkit.registry import lookup
from circuitkit.registry import names as names_of

SHIM = "https://unpkg.com/iframe-worker/shim"  # as the offline plugin loads it
EXAMPLES = Path(__file__).parent.parent / "examples"

# Every public name, by the page and the order in which one needs it.
PAGES: Mapping[str, tuple[str, Sequence[str]]] = {
    "models": ("Models", ("load", "fetch", "check", "list_models")),
    "data": ("Prompts and tasks", (
        "make_task", "Task", "Prompt", "Dataset", "check_prompts", "ability", "known",
    )),
    "discover": ("Finding circuits", (
        "discover", "Discovery", "plan", "Plan", "replay", "Replay", "Circuit", "Scores",
        "smallest", "refine", "verify", "cite", "Citation",
    )),
    "run": ("Running circuits", ("run", "measure", "hooks", "generate", "random_masks",
                                 "node_level")),
    "evaluate": ("Faithfulness", (
        "evaluate", "completeness", "curve", "size_curves", "complements", "alternative",
        "cross_evaluate", "discover_each", "vary",
    )),
    "certainty": ("Certainty and overlap", (
        "certainty", "Certainty", "compare", "agreement", "stability", "recovery",
    )),
    "patch": ("Patching", (
        "patch_nodes", "patch_heads", "patch_residual", "patch_windows", "patch_edges",
        "patch_path", "patch_paths", "patch_senders", "patch_together",
    )),
    "heads": ("Heads", ("describe_heads", "attention_scores", "attention_to")),
    "knockouts": ("Knock-outs", (
        "knockout", "marginal_effects", "interactions", "incompleteness", "minimality",
    )),
    "study": ("Study and benchmark", ("study", "Study", "bench", "Benchmark")),
    "exchange": ("Exchange with other tools", (
        "read_eap_circuit", "read_eap_scores", "write_eap", "read_mib", "write_mib",
    )),
    "names": ("Names", (
        "resolve", "list_methods", "list_metrics", "list_corruptions", "list_tasks",
        "list_references", "list_formats",
    )),
}  # fmt: skip
REGISTRIES = {
    "discovery": "Methods", "metrics": "Metrics", "corruptions": "Corruptions", "tasks": "Tasks",
    "references": "Published circuits", "formats": "File formats",
}  # fmt: skip
MODULES = {
    "figures": ("Figures", "circuitkit.viz.figures"),
    "rasp": ("Compiled programs", "circuitkit.truth.rasp"),
    "errors": ("Errors", "circuitkit.errors"),
}


def on_config(config: Any) -> Any:
    """Add the reference to the navigation."""
    config["nav"].append({"Reference": [f"reference/{name}.md" for name in reference()]})
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages, and the pictures of examples/."""
    from mkdocs.structure.files import File

    for name, text in reference().items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    for picture in sorted(EXAMPLES.rglob("*.svg")):
        place = f"examples/{picture.relative_to(EXAMPLES).as_posix()}"
        files.append(File.generated(config, place, abs_src_path=os.fspath(picture)))
    return files


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Search in pages that are opened as files needs a script, which is ours."""
    return output.replace(SHIM, "../" * page.url.count("/") + "assets/worker.js")


def on_post_template(output: str, template_name: str, config: Any) -> str:
    """The same in the page that is shown for a wrong address."""
    return output.replace(SHIM, "/assets/worker.js")


def reference() -> dict[str, str]:
    """Every page of the reference, by its name."""
    pages = {name: _page(title, map(_of_package, names)) for name, (title, names) in PAGES.items()}
    for kind, title in REGISTRIES.items():
        own = (lookup(kind, name) for name in names_of(kind))
        pages[kind] = _page(title, (f"{one.__module__}.{one.__name__}" for one in own))
    for name, (title, module) in MODULES.items():
        own = getattr(ck, name, errors).__all__
        pages[name] = _page(title, (f"{module}.{one}" for one in own))
    pages["commands"] = "# Commands\n\n" + "\n".join(_commands())
    return pages


def _page(title: str, places: Iterator[str] | Any) -> str:
    return f"# {title}\n\n" + "\n".join(f"::: {place}\n" for place in places)


def _of_package(name: str) -> str:
    return f"circuitkit.{name}"


def _commands() -> Iterator[str]:
    """The help of each command."""
    parsers = build_parser()._subparsers
    actions = parsers._group_actions[0] if parsers else None
    for name, parser in getattr(actions, "choices", {}).items():
        yield f"## circuitkit {name}\n\n```text\n{_help(parser)}\n```\n"


def _help(parser: argparse.ArgumentParser) -> str:
    return parser.format_help().rstrip()

"""What the build adds to the pages: the reference, from the names that are public; the commands,
from their help; the pictures of examples/, from where they are; and what is for machines."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import machines

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
        "discover", "Discovery", "discover_positions", "PlacedDiscovery", "discover_features",
        "plan", "Plan", "replay", "Replay", "Circuit", "Scores",
        "smallest", "refine", "verify", "cite", "Citation",
    )),
    "run": ("Running circuits", ("run", "measure", "hooks", "generate", "random_masks",
                                 "node_level")),
    "evaluate": ("Faithfulness", (
        "evaluate", "completeness", "curve", "size_curves", "complements", "alternative",
        "hypothesis_tests", "cross_evaluate", "discover_each", "vary", "clusters", "Clusters",
        "cross", "Cross", "transfer",
    )),
    "certainty": ("Certainty and overlap", (
        "certainty", "Certainty", "compare", "side_by_side", "SideBySide", "agreement",
        "consensus", "stability", "recovery",
    )),
    "patch": ("Patching", (
        "patch_nodes", "patch_heads", "patch_residual", "patch_windows", "patch_edges",
        "patch_path", "patch_paths", "patch_senders", "patch_together",
    )),
    "traces": ("Attribution graphs", ("trace", "AttributionGraph", "validate", "Validation")),
    "heads": ("Heads", ("describe_heads", "attention_scores", "attention_to")),
    "knockouts": ("Knock-outs", (
        "knockout", "marginal_effects", "interactions", "incompleteness", "minimality",
    )),
    "dictionaries": ("Dictionaries", ("train_dictionaries", "TrainedDictionaries")),
    "study": ("Study and benchmark", ("study", "Study", "track", "Track", "bench", "Benchmark")),
    "exchange": ("Exchange with other tools", (
        "read_eap_circuit", "read_eap_scores", "write_eap", "read_mib", "write_mib",
        "mib_circuits", "read_autocircuit", "write_autocircuit", "read_acdc", "write_acdc",
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
    "features": ("Features", "circuitkit.features"),
    "errors": ("Errors", "circuitkit.errors"),
}


def on_config(config: Any) -> Any:
    """Add the reference to the navigation."""
    config["nav"].append({"Reference": [f"reference/{name}.md" for name in reference()]})
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages, the pictures of examples/, the schemas, and llms.txt."""
    from mkdocs.structure.files import File

    listed = config["docs_dir"], config["nav"], config["site_name"], config["site_description"]
    files.append(File.generated(config, "llms.txt", content=llms(*listed)))

    for name, text in reference().items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    for picture in sorted(EXAMPLES.rglob("*.svg")):
        place = f"examples/{picture.relative_to(EXAMPLES).as_posix()}"
        files.append(File.generated(config, place, abs_src_path=os.fspath(picture)))
    for schema in sorted(machines.SCHEMAS.glob("*.json")):
        place = f"schemas/{schema.name}"
        files.append(File.generated(config, place, abs_src_path=os.fspath(schema)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Add the keys of what commands print to their page."""
    return markdown.replace("<!-- tables -->", machines.tables())


def on_post_build(config: Any) -> None:
    """Put the sources of written pages beside them, for llms.txt."""
    for name, text in _written(config["docs_dir"]).items():
        if name.endswith(".md"):
            shown = text.replace("<!-- tables -->", machines.tables())
            Path(config["site_dir"], name).write_text(shown, encoding="utf-8")


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Search in pages that are opened as files needs a script, which is ours; and notebooks link to
    sources, where the site has pages."""
    if page.file.src_uri.endswith(".ipynb"):
        output = re.sub(
            r'href="(?!\w+:)([^"#]+)\.(?:ipynb|md)(#[^"]*)?"', r'href="\1.html\2"', output
        )
    return output.replace(SHIM, "../" * page.url.count("/") + "assets/worker.js")


def on_post_template(output: str, template_name: str, config: Any) -> str:
    """The same in the page that is shown for a wrong address."""
    return output.replace(SHIM, "/assets/worker.js")


def llms(docs: str, nav: Sequence[Any], title: str, about: str) -> str:
    """llms.txt: every page, with a line that says what is there."""
    made = {f"reference/{name}.md": text for name, text in reference().items()}
    notes = {name: _notes(text) for name, text in made.items()}
    return machines.llms(title, about, nav, {**_written(docs), **made}, notes)


def _written(docs: str) -> dict[str, str]:
    """The pages that are written, by their name."""
    pages = [one for one in sorted(Path(docs).rglob("*")) if one.suffix in (".md", ".ipynb")]
    return {one.relative_to(docs).as_posix(): one.read_text(encoding="utf-8") for one in pages}


def _notes(text: str) -> str:
    """What a page of the reference holds: its names, or its commands."""
    held = re.findall(r"^::: (?:\S+\.)?(\w+)$|^## circuitkit (.+)$", text, re.M)
    return ", ".join(dict.fromkeys(name or command for name, command in held))


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

"""What the build writes for machines: llms.txt, and the schemas of JSON with a page that says what
each key means."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import circuitkit

__all__ = ["SCHEMAS", "described", "keys", "llms", "tables"]

SCHEMAS = Path(circuitkit.__path__[0]) / "assets" / "schemas"
Nav: TypeAlias = Sequence[Any]  # of names of pages, and of titles with a page or more of them
NOTE = """\
Pages that end in .md are Markdown; so is each tutorial's source, beside it as .ipynb. All of it
works offline."""


# -- llms.txt --------------------------------------------------------------------------------------
def llms(
    title: str, about: str, nav: Nav, pages: Mapping[str, str], notes: Mapping[str, str]
) -> str:
    """The text of llms.txt (llmstxt.org), from the navigation: a section for each of its own, with
    a line for each page; ``pages`` are the texts by name, ``notes`` what generated pages are."""
    sections: dict[str, list[Any]] = {"Pages": []}
    for entry in nav:
        name, own = _split(entry)
        if isinstance(own, str):
            sections["Pages"].append(entry)
        else:
            sections[name] = own
    lines = [f"# {title}", "", f"> {about}", "", NOTE]
    for section, own in sections.items():
        lines += ["", f"## {section}", "", *(_line(one, pages, notes) for one in own)]
    return "\n".join([*lines, ""])


def _line(entry: Any, pages: Mapping[str, str], notes: Mapping[str, str]) -> str:
    """A page as a link with a description; reference and notebooks as they are built."""
    given, name = _split(entry)
    heading = re.search(r"^# (.+)", pages[name], re.M)
    title = given or (heading[1] if heading else name)
    about = notes.get(name) or described(pages[name])
    built = name in notes or name.endswith(".ipynb")
    place = posixpath.splitext(name)[0] + ".html" if built else name
    return f"- [{title}]({place}): {about}"


def _split(entry: Any) -> tuple[str, Any]:
    """The title of an entry, if it has one, and its page or pages."""
    return ("", entry) if isinstance(entry, str) else next(iter(entry.items()))


def described(text: str) -> str:
    """The description of a page or a notebook, in its metadata; empty without one."""
    if text.startswith("{"):
        return str(json.loads(text)["metadata"].get("description", ""))
    found = re.search(r'\A---\ndescription: "?(.+?)"?\n---\n', text)
    return found[1] if found else ""


# -- JSON ------------------------------------------------------------------------------------------
def tables() -> str:
    """Of every command that prints JSON a table of its keys."""
    parts = []
    for path in sorted(SCHEMAS.glob("*.json")):
        schema = json.loads(path.read_text(encoding="utf-8"))
        command = schema["title"].removesuffix(" --json")
        version = schema["$id"].rpartition(":")[2]
        parts.append(f"## {command}\n\n[Schema](schemas/{path.name}), version {version}.\n")
        parts.append("| key | type | meaning |\n|---|---|---|")
        parts += [f"| {key} | {kind} | {_cell(about)} |" for key, kind, about in keys(schema)]
        parts.append("")
    return "\n".join(parts)


def keys(schema: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Every key of a schema by its path, with its type and meaning, in order."""
    yield from _below(schema, "", schema.get("$defs", {}))


def _below(schema: Mapping[str, Any], path: str, shared: Mapping[str, Any]) -> Iterator[Any]:
    """The keys inside a value."""
    if "$ref" in schema:
        schema = shared[schema["$ref"].rpartition("/")[2]]
    if isinstance(schema.get("items"), dict):
        yield from _below(schema["items"], f"{path}[]", shared)
    needed = schema.get("required", ())
    own = dict(schema.get("properties", {}))
    own |= {_of_pattern(key): value for key, value in schema.get("patternProperties", {}).items()}
    if isinstance(schema.get("additionalProperties"), dict):
        own["…"] = schema["additionalProperties"]
    for key, value in own.items():
        here = f"{path}.{key}".removeprefix(".")
        always = "" if key in needed or key not in schema.get("properties", {}) else ", optional"
        if value.get("description"):
            yield f"`{here}`", _kind(value) + always, value["description"]
        yield from _below(value, here, shared)


def _of_pattern(pattern: str) -> str:
    return pattern.strip("^$").replace("(_low|_high)?", "")


def _kind(schema: Mapping[str, Any]) -> str:
    """The type of a value, in words."""
    if "enum" in schema:
        return " or ".join(f"`{json.dumps(one)}`" for one in schema["enum"])
    if "prefixItems" in schema:
        return f"[{', '.join(_kind(one) for one in schema['prefixItems'])}]"
    kinds = schema.get("type", "object" if "$ref" in schema else "any")
    if kinds == "array":
        return f"list of {_kind(schema['items'])}"
    return kinds if isinstance(kinds, str) else " or ".join(kinds)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")

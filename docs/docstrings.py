"""The docstrings of jax_ddpm, read without importing it: as Markdown for the reference, and which of them are missing."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import griffe

ROOT = Path(__file__).resolve().parents[1]
SECTION = re.compile(r"^(Args|Attributes|Raises|Returns):$", re.MULTILINE)
ENTRY = re.compile(r"^  (?P<names>[\w, ]+(?:\n    [\w, ]+)*): (?P<rest>.*(?:\n    .*)*)", re.MULTILINE)
WORD = re.compile(r"[a-z]{3,}")


@cache
def package() -> griffe.Module:
    """jax_ddpm, as its source says."""
    found = griffe.load("jax_ddpm", search_paths=[ROOT], resolve_aliases=True)
    assert isinstance(found, griffe.Module)
    return found


def is_public(name: str) -> bool:
    """Whether a name is shown: __call__ is, other names with a leading underscore are not."""
    return name == "__call__" or not name.startswith("_")


def own_objects(parent: griffe.Object) -> Iterator[griffe.Object]:
    """The public modules, classes, functions, methods and properties below an object, not those that it imports."""
    for name, member in parent.members.items():
        if isinstance(member, griffe.Alias) or not is_public(name):
            continue
        if not member.is_attribute or "property" in member.labels:
            yield member
        if member.is_module or member.is_class:
            yield from own_objects(member)


def undocumented(root: griffe.Module) -> list[str]:
    """Paths of what is public without a docstring; names that the facade exports must be there, and have one too."""
    missing = {member.path for member in (root, *own_objects(root)) if not member.has_docstring}
    for name in exported(root):
        found = root.members.get(name)
        if found is None or not found.has_docstring:
            missing.add(f"{root.path}.{name}")
    return sorted(missing)


def exported(root: griffe.Module) -> list[str]:
    """The names in __all__."""
    return sorted((str(getattr(name, "name", name)).strip("'\"") for name in root.exports or ()), key=str.casefold)


def facade(root: griffe.Module) -> str:
    """A table of what can be imported from jax_ddpm: the name, linked, and the first sentence of its docstring."""
    rows = ["| name | |", "|---|---|"]
    for name in exported(root):
        found = root.members.get(name)
        if found is None or not found.docstring:
            continue
        first = found.docstring.value.split("\n\n")[0].replace("\n", " ").replace("|", r"\|")
        rows.append(f"| [`{name}`][{found.canonical_path}] | {re.sub(' {3,}', ' ', first)} |")
    return "\n".join(rows)


def as_markdown(text: str) -> str:
    """A docstring with its formulas on lines of their own, and an entry for each argument that shares its words with others."""
    sections = SECTION.split(text)
    body = "\n\n".join(
        _paragraph(paragraph, first=index == 0) for index, paragraph in enumerate(sections[0].strip().split("\n\n"))
    )
    for title, entries in zip(sections[1::2], sections[2::2], strict=True):
        body += f"\n\n{title}:{ENTRY.sub(_apart, entries).rstrip() if title in ('Args', 'Attributes') else entries.rstrip()}"
    return body


def _paragraph(paragraph: str, first: bool) -> str:
    """Formulas as they stand, choices as a list."""
    head, *rest = paragraph.rstrip("\n").split("\n")
    ending = paragraph[len(paragraph.rstrip("\n")) :]
    if rest and all(line.startswith("  ") for line in rest) and not head.startswith("- "):
        return "\n".join([head, "", *(f"- {line.strip()}" for line in rest)]) + ending
    if head.strip() and not first and _is_formula([head, *rest]):
        return "\n".join(["```text", head, *rest, "```"]) + ending
    return paragraph


def _is_formula(lines: list[str]) -> bool:
    """Whether lines are set out, or have hardly a word."""
    set_out = any(re.search(r"\S {3,}\S", line) for line in lines)
    words = sum(len(WORD.findall(re.sub(r" {3,}\(.*", "", line))) for line in lines) / len(lines)
    return words < 3 or (set_out and (words < 5 or any("=" in line for line in lines)))


def _apart(entry: re.Match[str]) -> str:
    """'a, b: what' as an entry for a and one for b."""
    return "\n".join(f"  {name.strip()}: {entry['rest']}" for name in entry["names"].split(","))


class Readable(griffe.Extension):
    """Rewrites the docstrings before mkdocstrings renders them."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Griffe calls this when the package has been read."""
        for member in (pkg, *own_objects(pkg)):
            if member.docstring:
                member.docstring.value = as_markdown(member.docstring.value)

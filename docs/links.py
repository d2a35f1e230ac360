"""Links from the pages to lines of the source: `python docs/links.py` sets each to where its function stands now."""

import ast
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

DOCS = Path(__file__).resolve().parent
LINK = re.compile(r"\[`(?P<name>\w+)`\]\((?P<path>\.\./jax_ddpm/[\w/]+\.py)#L(?P<line>\d+)\)")


@cache
def definitions(path: Path) -> dict[str, int]:
    """The line on which each function or class of a module begins, by its name."""
    tree = ast.parse(path.read_text())
    return {node.name: node.lineno for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def line_of(link: re.Match[str]) -> int:
    """Where the function named in a link stands in the file that it leads to.

    Raises:
      KeyError: there is no such function in it.
    """
    found = definitions(DOCS / link["path"])
    if link["name"] not in found:
        raise KeyError(f"{link[0]}: there is no {link['name']} in {link['path']}")
    return found[link["name"]]


def replace_links(text: str, replacement: Callable[[re.Match[str]], str]) -> str:
    """A page's text with every link to a line of the source replaced."""
    return LINK.sub(replacement, text)


def main() -> None:
    """Writes the pages whose links are stale."""
    for page in sorted(DOCS.glob("*.md")):
        text = page.read_text()
        current = replace_links(text, lambda link: f"[`{link['name']}`]({link['path']}#L{line_of(link)})")
        if current != text:
            page.write_text(current)


if __name__ == "__main__":
    main()

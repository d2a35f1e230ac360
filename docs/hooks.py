"""What the site needs beyond MkDocs: formulas as MathML, links to source lines as links into the reference, and two checks.

MkDocs calls the functions `on_...`. Each warning stops a build with --strict.
"""

import html
import logging
import re
from typing import Any
from xml.etree import ElementTree

import docstrings
import links
from latex2mathml.converter import convert

log = logging.getLogger("mkdocs.hooks.docs")

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
WIDE_GAP = re.compile(r'([，。；：、（）]) (<span class="arithmatex">)')  # GitHub needs this space, a reader does not
STRAY_BREAK = re.compile(r'(<math [^>]*display="inline">(?:(?!</math>).)*</math>)([,.;:)，。；：、）]+)')
MATHML = "http://www.w3.org/1998/Math/MathML"
STACKED = {"msub": "munder", "msup": "mover", "msubsup": "munderover"}
SOURCE_LINK = re.compile(r"\]\(\.\./[^)]*\)")


def on_pre_build(config: Any) -> None:
    """Warns of every public name that has no docstring."""
    for path in docstrings.undocumented(docstrings.package()):
        log.warning("%s is public and has no docstring, or is not there", path)


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links to the lines of functions become references to these functions; the facade's table is filled in."""

    def reference(link: re.Match[str]) -> str:
        try:
            links.line_of(link)
        except (KeyError, OSError) as error:
            log.warning("%s: %s", page.file.src_path, error)
        module = link["path"].removeprefix("../").removesuffix(".py").replace("/", ".")
        return f"[`{link['name']}`][{module}.{link['name']}]"

    markdown = links.replace_links(markdown, reference)
    for left in SOURCE_LINK.findall(markdown):
        log.warning("%s: %s leads out of the documentation", page.file.src_path, left[2:-1])
    return markdown.replace("<!-- names -->", docstrings.facade(docstrings.package()))


def on_page_content(content: str, page: Any, config: Any, files: Any) -> str:
    """Formulas become MathML, which browsers show without a script."""

    def mathml(formula: re.Match[str]) -> str:
        tex = html.unescape(formula[3]).strip()
        try:
            made = tidy(convert(tex, display="block" if formula[2] == "[" else "inline"))
        except Exception as error:  # the converter's errors have no common ancestor
            log.warning("%s: %s: %r", page.file.src_path, tex, error)
            return formula[0]
        if "\\" in made:  # it passes on what it does not know
            log.warning("%s: %s: a command that has no MathML", page.file.src_path, tex)
        return made

    return STRAY_BREAK.sub(r'<span class="together">\1\2</span>', FORMULA.sub(mathml, WIDE_GAP.sub(r"\1\2", content)))


def tidy(mathml: str) -> str:
    """What the converter leaves to be wished: space around log and the like, limits above and below, ∼ as a relation."""
    ElementTree.register_namespace("", MATHML)
    root = ElementTree.fromstring(mathml)
    for parent in list(root.iter()):
        children = list(parent)
        row = parent.tag.endswith(("}mrow", "}math"))
        for before, child, after in zip([None, *children], children, [*children[1:], None], strict=False):
            tag = child.tag.removeprefix(f"{{{MATHML}}}")
            if root.get("display") == "block" and tag in STACKED and child[0].text in ("∑", "∏"):
                child.tag = f"{{{MATHML}}}{STACKED[tag]}"
            if tag == "mi" and child.text == "~":
                child.tag, child.text = f"{{{MATHML}}}mo", "∼"
            if row and tag == "mi" and len(child.text or "") > 2:
                _space_around(parent, before, child, after)
    return ElementTree.tostring(root, encoding="unicode")


def _space_around(parent: Any, before: Any, child: Any, after: Any) -> None:
    """A thin space on each side of a function's name, but not beside an operator or the bracket of its argument."""
    operator = f"{{{MATHML}}}mo"
    for neighbour, offset, brackets in ((after, 1, ""), (before, 0, ")]")):
        if neighbour is not None and (neighbour.tag != operator or neighbour.text in tuple(brackets)):
            parent.insert(list(parent).index(child) + offset, ElementTree.Element(f"{{{MATHML}}}mspace", width="0.17em"))


def on_post_page(output: str, page: Any, config: Any) -> str:
    """A page says which language it is in."""
    return output.replace('<html lang="en"', '<html lang="zh-Hans"', 1) if page.file.src_path.endswith(".zh.md") else output

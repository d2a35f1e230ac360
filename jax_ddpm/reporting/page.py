"""Sections as one HTML file: style, script and pictures are within it, and its policy lets a browser load no others."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from jax_ddpm.files import write_whole
from jax_ddpm.reporting.parts import Section


def templates(package: str, folder: str) -> Environment:
    """The templates of a package, by which whatever comes from a run is escaped."""
    loader = PackageLoader(package, folder)
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def render(title: str, sections: Sequence[Section]) -> str:
    """The page. Whatever comes from a run is escaped."""
    pages = templates("jax_ddpm.reporting", "page")
    made = f"{datetime.now(UTC):%Y-%m-%d %H:%M}"
    return pages.get_template("page.html").render(title=title, sections=sections, made=made)


def write_page(path: Path, title: str, sections: Sequence[Section]) -> Path:
    """Writes the page, in place of what was there."""
    text = render(title, sections)
    return write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))

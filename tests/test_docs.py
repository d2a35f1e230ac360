"""The documentation says what is so: its snippets print what they say, its links lead to the functions that they name."""

import itertools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from docs import links
from tests.conftest import COMPILATION_CACHE

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = ["derivation.md", "derivation.zh.md", "vae.md"]
GUIDES = ["samplers.md", "guidance.md", "editing.md"]
CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)
EQUATION = re.compile(r"^\$\$\n(.*?)\n\$\$$", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"\$([^$\n]+)\$")


def text_of(page):
    return (DOCS / page).read_text()


def prose_of(page):
    """A page without its code and its displayed equations."""
    return EQUATION.sub("", re.sub(r"```.*?```|`[^`\n]*`", "", text_of(page), flags=re.DOTALL))


@pytest.mark.parametrize(("page", "least"), [("derivation.md", 60), ("vae.md", 11), *((page, 7) for page in GUIDES)])
def test_the_snippets_of_a_page_print_what_it_says(page, least):
    blocks = CODE.findall(text_of(page))
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(COMPILATION_CACHE)},
    )
    assert done.returncode == 0, done.stderr
    printed = [line for block in blocks for line in re.findall(r"^# prints (.*)", block, re.MULTILINE)]
    assert len(printed) >= least
    assert done.stdout.split("\n")[:-1] == printed


@pytest.mark.parametrize("page", sorted(path.name for path in DOCS.glob("*.md")))
def test_each_link_to_a_line_leads_to_the_function_that_it_names(page):
    found = list(links.LINK.finditer(text_of(page)))
    assert found or page not in PAGES + GUIDES
    stale = [link[0] for link in found if int(link["line"]) != links.line_of(link)]
    assert not stale, "python docs/links.py mends these"
    for link in found:
        line = (DOCS / link["path"]).read_text().split("\n")[int(link["line"]) - 1]
        assert re.match(rf"(def|class) {link['name']}\b", line)


@pytest.mark.parametrize("page", PAGES + GUIDES)
def test_every_link_to_the_source_is_of_the_kind_that_is_checked(page):
    assert len(re.findall(r"\.py#", text_of(page))) == len(links.LINK.findall(text_of(page)))


def test_both_languages_have_the_same_code_and_the_same_equations():
    english, chinese = (text_of(page) for page in PAGES[:2])
    assert CODE.findall(english) == CODE.findall(chinese)
    assert EQUATION.findall(english) == EQUATION.findall(chinese)
    assert sorted(link["name"] for link in links.LINK.finditer(english)) == sorted(
        link["name"] for link in links.LINK.finditer(chinese)
    )
    assert len(re.findall("^#", english, re.MULTILINE)) == len(re.findall("^#", chinese, re.MULTILINE))


@pytest.mark.parametrize(("page", "least"), [*((page, 20) for page in PAGES), *((page, 1) for page in GUIDES)])
def test_mathematics_survives_the_markdown_of_github(page, least):
    text = text_of(page)
    code_free = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    assert code_free.count("$$") == 2 * len(EQUATION.findall(text))  # a displayed equation stands on lines of its own
    formulas = EQUATION.findall(text) + INLINE.findall(prose_of(page))
    assert len(formulas) >= least
    # A backslash before punctuation is eaten, _ after punctuation and * open italics, < a tag, | a column, ]( a link.
    broken = [f for f in formulas if re.search(r"\\[!-/:-@\[-`{-~]|[^A-Za-z0-9]_|[<*|\n]|\]\(", f)]
    assert not broken
    for line in prose_of(page).split("\n"):
        for formula in INLINE.finditer(line):
            before, after = line[: formula.start()][-1:], line[formula.end() :][:1]
            assert before in ("", " "), line  # else the dollars stay dollars
            assert not after.isalnum(), line


@pytest.mark.parametrize("page", [*PAGES[:2], "index.md", "samplers.md", "editing.md"])
def test_the_figures_are_there_and_are_drawn_by_the_script(page):
    from docs.figures.make import FIGURES

    drawn = {f"figures/{draw.__name__}.png" for draw in FIGURES}
    shown = set(re.findall(r"!\[[^\]]*\]\((figures/[^)]*)\)", text_of(page)))
    assert shown & drawn
    assert all((DOCS / figure).exists() for figure in shown | drawn)


def test_the_gap_of_the_bound_falls_as_the_chain_grows():
    from docs.figures.make import LENGTHS, gaps

    assert LENGTHS == (10, 20, 50, 100, 200, 500, 1000, 2000, 4000)
    for kind in ("small", "large"):
        values = gaps(kind)
        assert all(later < earlier for earlier, later in itertools.pairwise(values))
        assert values[-1] > 0
    assert max(map(abs, gaps("true"))) < 1e-9  # every step back is the Gaussian that the model takes: only L_T is left


def test_the_reference_has_every_package():
    shown = set(re.findall(r"^::: ([\w.]+)", "\n".join(p.read_text() for p in (DOCS / "reference").glob("*.md")), re.MULTILINE))
    modules = {f"jax_ddpm.{path.stem}" for path in (ROOT / "jax_ddpm").glob("*.py") if path.stem != "__init__"}
    packages = {f"jax_ddpm.{path.parent.name}" for path in (ROOT / "jax_ddpm").glob("*/__init__.py")}
    assert modules | packages == shown


def build(root, *arguments):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(root / "site"), *arguments]
    return subprocess.run(command, cwd=root, capture_output=True, text=True)


@pytest.fixture
def copy(tmp_path):
    """What the site is built from, to be spoilt."""
    for name in ("docs", "jax_ddpm"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    return tmp_path


def append(path, text):
    path.write_text(path.read_text() + text)


def test_the_site_builds_and_loads_nothing_from_elsewhere(copy):
    done = build(copy)
    assert done.returncode == 0, done.stderr
    page = (copy / "site/derivation/index.html").read_text()
    assert page.count("<math") > 200
    assert "arithmatex" not in page
    assert not re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="(?:https?:)?//[^"]*"', page)


def keep_two_pages(copy):
    """A site that is built in seconds: a first page, and one of the reference."""
    shutil.rmtree(copy / "docs/reference")
    for page in (copy / "docs").glob("*.md"):
        page.unlink()
    (copy / "docs/index.md").write_text("# A page\n")
    (copy / "docs/reference.md").write_text("# The reference\n\n::: jax_ddpm.errors\n")
    settings = (copy / "mkdocs.yml").read_text()
    (copy / "mkdocs.yml").write_text(re.sub(r"^nav:\n( .*\n)+", "", settings, flags=re.MULTILINE))


FAULTS = [
    ("docs/index.md", "\n[gone](nowhere.md)\n", "nowhere.md"),
    ("docs/vae.md", "\n[gone](derivation.md#not-there)\n", "not-there"),
    ("docs/vae.md", "\n[`gone`](../jax_ddpm/diffusion/gaussian.py#L1)\n", "there is no gone"),
    ("docs/vae.md", "\n[gone](../jax_ddpm/errors.py)\n", "../jax_ddpm/errors.py leads out"),
    ("docs/vae.md", "\nA formula $\\nonsense{2}$ that is none.\n", "nonsense{2}"),
    ("jax_ddpm/errors.py", "\n\ndef bare():\n    pass\n", "jax_ddpm.errors.bare"),
    (
        "jax_ddpm/errors.py",
        '\n\nclass Half:\n    """A class."""\n\n    def method(self):\n        pass\n',
        "errors.Half.method",
    ),
    ("jax_ddpm/__init__.py", '\n__all__ += ["nothing"]\n', "jax_ddpm.nothing"),
]


def test_the_build_fails_on_a_broken_link_and_on_a_missing_docstring(copy):
    for path, text, _ in FAULTS:
        append(copy / path, text)
    done = build(copy)
    assert done.returncode != 0
    said = done.stderr + done.stdout
    assert not [complaint for _, _, complaint in FAULTS if complaint not in said], said


@pytest.mark.parametrize("fault", [FAULTS[0], FAULTS[5]])
def test_one_fault_is_enough(copy, fault):
    path, text, complaint = fault
    keep_two_pages(copy)
    assert build(copy).returncode == 0
    append(copy / path, text)
    done = build(copy)
    assert done.returncode != 0
    assert complaint in done.stderr

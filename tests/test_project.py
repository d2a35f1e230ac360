"""What the README and the project's own files say is so."""

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

import jax_ddpm

ROOT = Path(__file__).parents[1]


def python_blocks(name):
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)


@pytest.mark.parametrize("name", ["README.md"])
def test_the_snippets_run(name):
    blocks = python_blocks(name)
    assert blocks
    for block in blocks:
        done = subprocess.run([sys.executable, "-c", block], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        printed = re.findall(r"# prints (.*)", block)
        assert done.stdout.split("\n")[:-1] == printed


@pytest.mark.parametrize(
    "name", ["README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
)
def test_links_to_files_lead_somewhere(name):
    page = ROOT / name
    links = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


def lower_bounds(*kinds):
    """Of requirements.txt and requirements-dev.txt, or of those of other kinds."""
    texts = [(ROOT / f"requirements{kind}.txt").read_text() for kind in kinds or ("", "-dev")]
    rows = re.findall(r"^([\w-]+)>=([\w.]+)$", "\n".join(texts), re.MULTILINE)
    return {name.lower().replace("_", "-"): version for name, version in rows}


def test_each_lower_bound_is_the_version_that_the_lock_pins_for_the_oldest_python():
    lock = (ROOT / "requirements.lock").read_text()
    pinned = re.findall(r"^([\w-]+)==([\w.]+)(?: ; python_full_version < '3.12'.*)?$", lock, re.MULTILINE)
    versions = {name.lower().replace("_", "-"): version for name, version in pinned}
    bounds = lower_bounds()
    assert {"jax", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "chex"} <= bounds.keys()
    older = {"pillow": pinned_for_the_browser()["pillow"]}  # Gradio takes no newer one, and all pages are drawn with it
    assert versions | older == versions | older | bounds


def pinned_for_the_browser():
    return dict(re.findall(r"^([\w-]+)==([\w.]+)$", (ROOT / "requirements-browser.txt").read_text(), re.MULTILINE))


def test_the_lower_bound_of_what_the_page_needs_is_what_is_tested_in_the_browser():
    pinned = pinned_for_the_browser()
    bounds = lower_bounds("-serve")
    assert bounds.keys() == {"gradio"}
    assert {name: pinned[name] for name in bounds} == bounds
    assert 'serve = { file = ["requirements-serve.txt"] }' in (ROOT / "pyproject.toml").read_text()


def test_only_the_page_imports_what_only_it_needs():
    importing = {
        path.relative_to(ROOT).as_posix()
        for path in [*ROOT.glob("*.py"), *(ROOT / "jax_ddpm").rglob("*.py"), *(ROOT / "configs").glob("*.py")]
        if re.search(r"^\s*(import|from) (gradio|starlette)\b", path.read_text(), re.MULTILINE)
    }
    assert importing == {"jax_ddpm/serving/page.py"}


def test_every_package_imported_is_required():
    imported = set()
    for path in [*(ROOT / "jax_ddpm").rglob("*.py"), *(ROOT / "configs").glob("*.py"), ROOT / "run.py"]:
        imported |= set(re.findall(r"^\s*(?:import|from) (\w+)", path.read_text(), re.MULTILINE))
    packages = importlib.metadata.packages_distributions()
    third_party = {name for name in imported - set(sys.stdlib_module_names) if name in packages}
    required = {name.replace("-", "_") for name in lower_bounds("", "-dev", "-serve")} | {"starlette"}  # which is Gradio's own
    distributions = {packages[name][0].lower().replace("-", "_") for name in third_party - {"jax_ddpm"}}
    assert distributions - {"typing_extensions"} <= required


def test_the_version_stands_in_one_place():
    assert 'version = { attr = "jax_ddpm.__version__" }' in (ROOT / "pyproject.toml").read_text()
    assert f"version: {jax_ddpm.__version__}\n" in (ROOT / "CITATION.cff").read_text()

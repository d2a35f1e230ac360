import ast
import importlib
import inspect
import itertools

import pytest

import jax_ddpm

IMPORTS = {
    alias.asname or alias.name: (statement.module, alias.name)
    for statement in ast.parse(inspect.getsource(jax_ddpm)).body
    if isinstance(statement, ast.ImportFrom)
    for alias in statement.names
}


def docstrings(module: str) -> dict[str, str]:
    """What each name at the top of a module says of itself; a type alias says it in the string below it."""
    statements = ast.parse(inspect.getsource(importlib.import_module(module))).body
    found = {s.name: ast.get_docstring(s) or "" for s in statements if isinstance(s, ast.FunctionDef | ast.ClassDef)}
    for first, second in itertools.pairwise(statements):
        is_string = isinstance(second, ast.Expr) and isinstance(second.value, ast.Constant)
        if isinstance(first, ast.Assign) and is_string:
            found |= {target.id: second.value.value for target in first.targets}
    return found


def test_all_lists_what_is_imported_and_nothing_else():
    assert sorted(jax_ddpm.__all__) == sorted(IMPORTS)


@pytest.mark.parametrize("name", jax_ddpm.__all__)
def test_public_name_is_what_its_module_defines(name):
    module, original = IMPORTS[name]
    assert getattr(jax_ddpm, name) is getattr(importlib.import_module(module), original)


@pytest.mark.parametrize("name", jax_ddpm.__all__)
def test_public_name_has_a_docstring_of_its_own(name):
    module, original = IMPORTS[name]
    assert len(docstrings(module).get(original, "").split()) >= 3


def test_package_has_a_docstring_and_a_version():
    assert jax_ddpm.__doc__
    assert jax_ddpm.__version__.count(".") == 2

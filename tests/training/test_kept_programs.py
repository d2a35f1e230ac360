"""Programs that are kept: another making makes another program, and what cannot be used is made anew."""

import time

import jax
import jax.numpy as jnp
import pytest

from jax_ddpm.training import kept_programs
from jax_ddpm.training.kept_programs import kept


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Where programs are kept."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    yield tmp_path
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.fixture
def make():
    """-> what a program that adds `number` gives for 1, made of so many settings, and whether it was compiled now."""

    def make(settings, number=2.0, name="sum", devices=None):
        compiled = []

        def compile_it():
            compiled.append(True)
            never_before = time.time_ns() % 2**20 + 2.0  # so that JAX has not kept it
            return jax.jit(lambda x: jnp.where(x < never_before, x + number, x)).lower(jnp.float32(1)).compile()

        program = kept(name, settings, devices or jax.devices()[:1], compile_it)
        return float(program(jnp.float32(1))), bool(compiled)

    return make


def test_the_same_making_is_compiled_once(make, folder):
    assert make({"steps": 3}) == (3.0, True)
    assert make({"steps": 3}, number=9.0) == (3.0, False), "nothing is traced"
    (path,) = folder.glob("jax_ddpm_*")
    assert path.name.startswith("jax_ddpm_sum_")


def test_whatever_differs_it_is_another_program(make, monkeypatch):
    make({"steps": 3})
    assert make({"steps": 4}, 5.0) == (6.0, True)
    assert make({"steps": 3}, 5.0, name="other") == (6.0, True)
    monkeypatch.setenv("XLA_ANYTHING", "1")
    assert make({"steps": 3}, 6.0) == (7.0, True)
    monkeypatch.delenv("XLA_ANYTHING")
    for name, other in {"_source": "another", "_instructions": ["sse"], "version": "0.0.0"}.items():
        with monkeypatch.context() as patch:
            patch.setattr(kept_programs, name, lambda *_, other=other: other)
            assert make({"steps": 3}, 7.0) == (8.0, True), name
    assert make({"steps": 3}, 9.0) == (3.0, False)


def test_what_jax_is_told_counts(make):
    make({})
    jax.config.update("jax_default_matmul_precision", "highest")
    try:
        assert make({}, 5.0) == (6.0, True)
    finally:
        jax.config.update("jax_default_matmul_precision", None)


@pytest.mark.parametrize("text", [b"", b"no pickle", "cut short"])
def test_a_file_that_cannot_be_used_is_told_and_made_anew(text, make, folder, capsys):
    make({})
    (path,) = folder.glob("jax_ddpm_*")
    path.write_bytes(path.read_bytes()[:-100] if text == "cut short" else text)
    assert make({}) == (3.0, True)
    assert f"{path} cannot be used, and is made anew: " in capsys.readouterr().out
    assert make({}) == (3.0, False)


def test_a_folder_that_cannot_be_written_is_told(make, folder, capsys):
    jax.config.update("jax_compilation_cache_dir", str(folder / "file"))
    (folder / "file").write_text("no folder")
    assert make({}) == (3.0, True)
    assert "the compiled program is not kept: " in capsys.readouterr().out


def test_where_jax_keeps_nothing_nothing_is_kept(make, folder):
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        assert [make({}), make({})] == [(3.0, True)] * 2
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
    assert not list(folder.glob("jax_ddpm_*"))


def test_what_jax_had_kept_is_not_written_down_again(folder):
    """XLA's CPU loads such a program, but what it then writes down lacks functions."""

    def compile_it():
        jax.monitoring.record_event(kept_programs.HIT)
        return jax.jit(lambda x: x + 1).lower(1.0).compile()

    kept("sum", {}, jax.devices()[:1], compile_it)
    assert not list(folder.glob("jax_ddpm_*"))

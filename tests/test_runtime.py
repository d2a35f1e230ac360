"""What JAX is told before it starts."""

import os
import re
import socket
import subprocess
import sys

import pytest

from jax_ddpm import runtime
from jax_ddpm.config import default_config
from jax_ddpm.errors import InvalidInput
from tests.commands.conftest import ROOT


@pytest.mark.parametrize(("cores", "batch", "devices"), [(2, 128, 2), (12, 128, 8), (64, 100, 50), (3, 128, 2), (8, 127, 1)])
def test_one_device_a_core_as_far_as_they_divide_the_batch(cores, batch, devices, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert runtime._cores_that_divide(batch) == devices


def test_the_cache_is_where_one_says(monkeypatch, tmp_path):
    assert runtime.cache_directory(str(tmp_path)) == tmp_path
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/somewhere")
    assert str(runtime.cache_directory()) == "/somewhere"
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert str(runtime.cache_directory()) == "/cache/jax_ddpm"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert str(runtime.cache_directory()) == "/home/me/.cache/jax_ddpm"


FREED = """
import resource, sys, threading
import numpy as np
from jax_ddpm.allocator import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        np.ones(1 << 25)  # 256 MiB, 65,536 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def in_a_thread():  # as XLA's are, which share no heap unless they are made to
    found = []
    thread = threading.Thread(target=lambda: found.append(faults()))
    thread.start()
    thread.join()
    return found[0]

if sys.argv[1:]:
    assert keep_freed_memory()
in_a_thread()
print(in_a_thread())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is not everywhere")
def test_memory_that_is_freed_is_kept_for_the_next():
    usual, kept = (
        int(subprocess.run([sys.executable, "-c", FREED, *given], cwd=ROOT, check=True, capture_output=True, text=True).stdout)
        for given in ([], ["kept"])
    )
    assert kept < 100 < usual


HOLES = """
import ctypes
from jax_ddpm import allocator

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.mallinfo2.restype = allocator._MallocInfo

def in_holes():
    info = libc.mallinfo2()
    return info.fordblks - info.keepcost

assert allocator.keep_freed_memory()
sizes = [2000 + 8 * number for number in range(20_000)]
blocks = [libc.malloc(size) for size in sizes]
for block, size in zip(blocks, sizes):
    ctypes.memset(block, size % 251, size)
for block in blocks[::2]:
    libc.free(ctypes.c_void_p(block))
before = in_holes()
retired = allocator.retire_holes()
assert all(set(ctypes.string_at(block, size)) == {size % 251} for block, size in zip(blocks[1::2], sizes[1::2]))
print(before, retired, in_holes(), allocator.retire_holes())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is not everywhere")
def test_holes_that_are_retired_are_not_looked_through_again_and_what_lies_between_them_stays():
    done = subprocess.run([sys.executable, "-c", HOLES], cwd=ROOT, capture_output=True, text=True)
    before, retired, after, again = map(int, done.stdout.split())
    assert before > 800_000_000, done.stderr  # half of all that was asked for
    assert 0.95 * before < retired <= before
    assert after < 0.05 * before
    assert again < 0.05 * before


COMPILED = """
import sys
import jax
from jax_ddpm import allocator, runtime

allocator.LONG = float(sys.argv[1])
allocator.retire_holes = lambda: print("retired")
runtime.configure(1, sys.argv[2], 8)
jax.jit(lambda x: x + 1).lower(jax.ShapeDtypeStruct((), "float32")).compile()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is not everywhere")
@pytest.mark.parametrize(("long", "told"), [(0, "retired\n"), (1000, "")])
def test_holes_are_retired_after_what_compiles_for_long(tmp_path, long, told):
    command = [sys.executable, "-c", COMPILED, str(long), str(tmp_path)]
    assert subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout == told


ALONE = """
import sys
from jax_ddpm import runtime
runtime.TOGETHER = 2
for number in (0, 1):  # at a port that is taken, then where nobody answers
    try:
        runtime.join(sys.argv[1], 2, number, timeout=100)
    except runtime.InvalidInput as error:
        print(error, flush=True)
"""


def test_processes_that_do_not_come_together_say_who_was_expected_where_and_until_when():
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = subprocess.run([sys.executable, "-c", ALONE, address], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert re.fullmatch(
        rf"--coordinator={address}: .*Address already in use[.] Expected a port that is free on this machine\n", done.stdout
    ), done.stderr
    expected = f"Expected all 2 within 2 s, and to reach the first at --coordinator={address}\n"
    assert done.stderr.endswith(f"error: the processes did not come together. {expected}")
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("index", "told"), [("0", ""), ("3", "this is pod 3 of a Kubernetes' job (JOB_COMPLETION_INDEX), and JAX has not")]
)
def test_a_later_pod_that_jax_finds_no_others_for_does_not_train_alone(index, told):
    program = "from jax_ddpm.runtime import join; print(join(None, None, None, timeout=100))"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JOB_COMPLETION_INDEX": index}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert (done.stdout == "1\n") == (index == "0")
    assert told in done.stderr


def test_a_negative_number_of_devices():
    with pytest.raises(InvalidInput, match=r"cpu_devices=-1: expected 0"):
        runtime.configure(-1, "", 8)


@pytest.mark.parametrize(
    ("mode", "given", "data", "fsdp", "devices"),
    [("train", 0, 4, 2, 4), ("train", 0, 0, 4, 2), ("train", 0, 0, 1, 0), ("train", 3, 4, 2, 3), ("sample", 0, 4, 2, 0)],
)
def test_two_processes_make_the_devices_of_the_mesh(mode, given, data, fsdp, devices):
    config = default_config()
    config.runtime.cpu_devices = given
    config.mesh.update(data=data, fsdp=fsdp)
    assert runtime.devices_of_cpu(config, mode, processes=2) == devices


def test_devices_and_cache_are_there_in_a_new_process(tmp_path):
    code = (
        "import jax, jax.numpy as jnp; from jax_ddpm.runtime import configure; "
        f"configure(3, {str(tmp_path)!r}, 6); "
        "print(len(jax.devices())); jax.jit(lambda x: x @ x)(jnp.ones((8, 8)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "3"
    assert any(tmp_path.iterdir()), "what was compiled is kept"


@pytest.mark.parametrize(("topology", "devices"), [("cpu:8", 8), ("gpu:16xH100", 16), ("v5e:16x16", 0), ("cpu:none", 0)])
def test_a_plan_makes_the_devices_that_it_names(topology, devices):
    config = default_config()
    config.plan.topology = topology
    assert runtime.devices_of_cpu(config, "plan", processes=1) == devices


def test_a_plan_leaves_accelerators_alone():
    code = "import jax; from jax_ddpm.runtime import configure; configure(2, '', 8, cpu_alone=True); print(jax.devices())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "JAX_PLATFORMS": ""},
    )
    assert "CpuDevice(id=1)" in done.stdout

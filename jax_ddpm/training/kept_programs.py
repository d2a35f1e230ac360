"""Compiled programs, kept by what they are made from: a run that is started again need not trace its network again.

JAX keeps programs too, but by what tracing came to, which takes Python several times as long as to load what is found. Both
are kept, in the same folder: with other settings that make the same program, JAX finds it.
"""

import hashlib
import json
import os
import pickle
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from jax.experimental import serialize_executable
from jax.stages import Compiled

import jax_ddpm
from jax_ddpm.files import NotWritten, place, write_whole

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")
VARIABLES = ("CUDA_", "JAX_", "LIBTPU_", "NVIDIA_", "TF_", "XLA_")
"""What the names of the environment's variables begin with by which compilers are told something."""
HIT = "/jax/compilation_cache/cache_hits"
"""The event by which JAX says that it had kept a program."""


def kept(name: str, settings: Any, devices: list[jax.Device], compile_it: Callable[[], Compiled]) -> Compiled:
    """The program, loaded where one of the same making was kept; else compiled, and kept for the next time.

    It is kept where JAX keeps its own (`jax_compilation_cache_dir`), and only where JAX does, of one process alone.

    Args:
      name: what it is.
      settings: all that the program depends on but for devices, versions, source and what JAX was told; as JSON takes it.
      devices: in the order of the mesh.
    """
    folder, told = jax.config.values["jax_compilation_cache_dir"], jax.config.values["jax_enable_compilation_cache"]
    if not folder or not told or jax.process_count() > 1:
        return compile_it()
    path = place(folder) / f"jax_ddpm_{name}_{_made_from(settings, devices)}"
    if path.is_file():
        try:
            program, taken, given = pickle.loads(path.read_bytes())
            return serialize_executable.deserialize_and_load(program, taken, given, execution_devices=devices)
        except Exception as error:  # whatever a file that is cut short or damaged makes pickle or XLA raise
            print(f"{path} cannot be used, and is made anew: {type(error).__name__}: {error}", flush=True)
    with _hits() as hits:
        program = compile_it()
    if not hits:  # XLA's CPU cannot write down again what it has loaded
        _keep(path, program)
    return program


def _keep(path: Path, program: Compiled) -> None:
    text = pickle.dumps(serialize_executable.serialize(program))
    try:
        write_whole(path, lambda partial: partial.write_bytes(text))
    except NotWritten as error:
        print(f"the compiled program is not kept: {error}", flush=True)


def _made_from(settings: Any, devices: list[jax.Device]) -> str:
    """A number for all that decides what the program is; whatever differs, it is another one."""
    told = {name: repr(value) for name, value in jax.config.values.items()}
    environment = {name: value for name, value in os.environ.items() if name.startswith(VARIABLES)}
    versions = {name: version(name) for name in PACKAGES}
    machine = [platform.platform(), platform.python_version(), _instructions()]
    kinds = [(device.platform, device.device_kind, device.id, device.client.platform_version) for device in devices]
    whole = json.dumps([settings, told, environment, versions, machine, kinds, _source()], sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()


def _source() -> str:
    """A number for the source of this package."""
    found = hashlib.sha256()
    for path in sorted(Path(jax_ddpm.__file__).parent.rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()


def _instructions() -> list[str]:
    """What the processor can do, where Linux says it: a program is compiled for one processor, and the folder may be shared."""
    told = Path("/proc/cpuinfo")
    if not told.is_file():
        return [platform.processor()]
    return sorted({line for line in told.read_text().splitlines() if line.startswith(("flags", "Features"))})


@contextmanager
def _hits() -> Iterator[list[str]]:
    """Within it, programs that JAX had kept are noted."""
    found: list[str] = []

    def note(event: str, **_: Any) -> None:
        if event == HIT:
            found.append(event)

    jax.monitoring.register_event_listener(note)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_listener(note)

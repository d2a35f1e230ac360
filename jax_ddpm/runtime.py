"""What JAX is told before it starts: the other processes, the devices of a CPU, and where compiled programs are kept."""

import os
from pathlib import Path

import jax

from jax_ddpm.errors import InvalidInput


def configure(cpu_devices: int, compilation_cache: str, batch_size: int) -> None:
    """Sets JAX up. Must come before anything that touches a device.

    On a CPU one XLA device a core is faster than one device with many threads; with 0 as many are made as there are cores,
    lessened until they divide `batch_size`. Accelerators are not touched by this.

    Args:
      cpu_devices: XLA devices to make of the CPU, or 0.
      compilation_cache: a folder, or "" for JAX_COMPILATION_CACHE_DIR or else ~/.cache/jax_ddpm.
      batch_size: the batch to be split over the devices.
    """
    if cpu_devices < 0:
        raise InvalidInput(f"runtime.cpu_devices={cpu_devices}: expected 0 (one a core) or a number of devices")
    jax.config.update("jax_num_cpu_devices", cpu_devices or _cores_that_divide(batch_size))
    jax.config.update("jax_compilation_cache_dir", str(cache_directory(compilation_cache)))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def join(coordinator: str | None, processes: int | None, process_id: int | None, *, timeout: int) -> None:
    """Makes this one of the processes of a run: those that are given, or those that JAX finds itself, if there are any.

    JAX finds them on Cloud TPU, under SLURM and Open MPI, and in Kubernetes' jobs. Must come before anything touches a device.

    Args:
      coordinator: HOST:PORT, where the first process is to be reached.
      processes: how many there are.
      process_id: which of them this one is, from 0 on.
      timeout: seconds after which one that has fallen silent is taken for dead, which ends the others.
    Raises:
      InvalidInput: not all three are given, or they do not fit together.
    """
    given = {"--coordinator": coordinator, "--processes": processes, "--process_id": process_id}
    missing = [name for name, value in given.items() if value is None]
    if 0 < len(missing) < len(given):
        raise InvalidInput(f"{', '.join(missing)} not given: the three go together, {', '.join(given)}; or none, to run alone")
    if processes is not None and process_id is not None and not 0 <= process_id < processes:
        raise InvalidInput(f"--process_id={process_id} of --processes={processes}: expected one of 0..{processes - 1}")
    if missing and os.environ.get("SLURM_NTASKS") == "1":
        return  # JAX would take one device for a task, of all that there are
    try:
        jax.distributed.initialize(coordinator, processes, process_id, heartbeat_timeout_seconds=timeout)
    except ValueError as error:
        if not missing or "should be defined" not in str(error):  # which is how JAX says that it found nothing
            raise


def cache_directory(given: str = "") -> Path:
    """Where compiled programs are kept."""
    cache_home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(given or os.environ.get("JAX_COMPILATION_CACHE_DIR") or f"{cache_home}/jax_ddpm").expanduser().absolute()


def _cores_that_divide(batch_size: int) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return next(devices for devices in range(cores, 0, -1) if batch_size % devices == 0)

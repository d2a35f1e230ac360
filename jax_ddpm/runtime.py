"""What JAX is told before it starts: the other processes, the devices of a CPU, and where compiled programs are kept."""

import contextlib
import os
import re
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import NoReturn

import jax
from absl import flags
from jax.errors import JaxRuntimeError
from ml_collections import ConfigDict

from jax_ddpm.allocator import keep_freed_memory, retire_holes_after_compiling
from jax_ddpm.errors import InvalidInput
from jax_ddpm.files import absolute, is_first_process, place

TOGETHER = 300  # seconds within which all processes have to have been started


def configure(cpu_devices: int, compilation_cache: str, batch_size: int, *, cpu_alone: bool = False) -> None:
    """Sets JAX up. Must come before anything that touches a device.

    On a CPU one XLA device a core is faster than one device with many threads; with 0 as many are made as there are cores,
    lessened until they divide `batch_size`. Accelerators are not touched by this.

    Args:
      cpu_devices: XLA devices to make of the CPU, or 0.
      compilation_cache: a folder, or "" for JAX_COMPILATION_CACHE_DIR or else ~/.cache/jax_ddpm.
      batch_size: the batch to be split over the devices.
      cpu_alone: whether accelerators are left alone, even where there are some.
    """
    if cpu_devices < 0:
        raise InvalidInput(f"runtime.cpu_devices={cpu_devices}: expected 0 (one a core) or a number of devices")
    if cpu_alone:
        jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", cpu_devices or _cores_that_divide(batch_size))
    if keep_freed_memory():
        retire_holes_after_compiling()
    jax.config.update("jax_compilation_cache_dir", str(cache_directory(compilation_cache)))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def devices_of_cpu(config: ConfigDict, mode: str, processes: int) -> int:
    """How many devices each process makes of its CPU, see `configure`: those of the config, or its share of the mesh.

    In a plan for GPUs or a CPU they stand for the devices that its topology names, such as gpu:8xH100.
    """
    if mode == "plan" and (named := re.match(r"[cg]pu:([1-9]\d*)", config.plan.topology)):
        return int(named[1])
    grid = max(config.mesh.data, 1) * config.mesh.fsdp if mode in ("train", "data") else 1
    return config.runtime.cpu_devices or (grid // processes if grid > 1 else 0)


def join(
    coordinator: str | None, processes: int | None, process_id: int | None, *, timeout: int, stop_together: bool = True
) -> int:
    """Makes this one of the processes of a run: those that are given, or those that JAX finds itself, if there are any.

    JAX finds them on Cloud TPU, under SLURM and Open MPI, and, with the package `kubernetes`, in Kubernetes' jobs. Must come
    before anything touches a device.

    Args:
      coordinator: HOST:PORT, where the first process is to be reached.
      processes: how many there are.
      process_id: which of them this one is, from 0 on.
      timeout: seconds after which one that has fallen silent is taken for dead, which ends the others.
      stop_together: whether SIGTERM in one is made known to all, for a program that asks for it; else it ends that one.
    Returns:
      How many processes there are, where that was given; else 1, for to ask JAX would start the devices.
    Raises:
      InvalidInput: not all three are given, they do not fit together, the port of the first process is taken, or this is a
        later process of a job in which JAX cannot find the others. Where the others do not come, it is told and this process
        ended.
    """
    given = {"--coordinator": coordinator, "--processes": processes, "--process_id": process_id}
    missing = [name for name, value in given.items() if value is None]
    if 0 < len(missing) < len(given):
        raise InvalidInput(f"{', '.join(missing)} not given: the three go together, {', '.join(given)}; or none, to run alone")
    if processes is not None and process_id is not None and not 0 <= process_id < processes:
        raise InvalidInput(f"--process_id={process_id} of --processes={processes}: expected one of 0..{processes - 1}")
    if coordinator is not None and not re.fullmatch(r".+:\d+", coordinator):
        raise InvalidInput(f"--coordinator={coordinator}: expected HOST:PORT, such as 10.0.0.1:9911")
    if coordinator is not None and process_id == 0:
        _check_free(coordinator)
    if timeout <= 0:
        raise InvalidInput(f"runtime.heartbeat={timeout}: expected seconds, such as 100")
    if missing and os.environ.get("SLURM_NTASKS") == "1":
        return 1  # JAX would take one device for a task, of all that there are
    jax.config.update("jax_enable_preemption_service", stop_together)
    who = f"all {processes}" if processes else "all of the job"
    where = f"at --coordinator={coordinator}" if coordinator else "where JAX found it"
    try:
        with _told_when_alone(f"Expected {who} within {TOGETHER} s, and to reach the first {where}"):
            jax.distributed.initialize(
                coordinator,
                processes,
                process_id,
                cluster_detection_method=None if missing else "deactivate",  # which would choose this one's devices too
                initialization_timeout=2 * TOGETHER,  # never reached: see `_told_when_alone`
                heartbeat_timeout_seconds=timeout,
            )
    except ValueError as error:
        if missing and "should be defined" in str(error):  # which is how JAX says that it found nothing
            _check_alone()
            return 1
        raise
    return processes or 1


def _check_free(coordinator: str) -> None:
    """Raises InvalidInput where another program listens at the port of the first process, over which jaxlib crashes."""
    with socket.socket() as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what was closed a moment ago is free
        try:
            attempt.bind(("", int(coordinator.rpartition(":")[2])))
        except (OSError, OverflowError) as error:
            raise InvalidInput(f"--coordinator={coordinator}: {error}. Expected a port that is free on this machine") from error


def _check_alone() -> None:
    """Raises InvalidInput in a pod of a Kubernetes' job that is not its first one: it would train the same run by itself."""
    index = os.environ.get("JOB_COMPLETION_INDEX", "0")
    if index != "0":
        raise InvalidInput(
            f"this is pod {index} of a Kubernetes' job (JOB_COMPLETION_INDEX), and JAX has not found the others. Expected "
            "--coordinator, --processes and --process_id, or the package by which it finds them: pip install 'jax[k8s]'"
        )


@contextlib.contextmanager
def _told_when_alone(expected: str) -> Iterator[None]:
    """Within it the processes come together. Where they do not in TOGETHER seconds, this one ends and says what was expected.

    JAX itself would abort it, and say that another had died.
    """

    def end() -> None:
        print(f"error: the processes did not come together. {expected}", file=sys.stderr, flush=True)
        os._exit(1)

    keep_freed_memory()  # the threads begin here
    timer = threading.Timer(TOGETHER, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    except JaxRuntimeError as error:
        raise InvalidInput(f"the processes did not come together: {str(error).splitlines()[0]}. {expected}") from error
    finally:
        timer.cancel()


@contextlib.contextmanager
def only_first_process_prints() -> Iterator[None]:
    """Within it, what the others print is dropped; not what they say of errors."""
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(sys.stdout if is_first_process() else nowhere):
        yield


@contextlib.contextmanager
def ended_at_once(explain: Callable[[str], str]) -> Iterator[None]:
    """Within it, what ends the program is told in a line where it is a person's mistake, as `explain` puts what was said of it.

    One of several processes is ended without waiting for the others, which may be waiting for it.
    """
    try:
        yield
    except (InvalidInput, flags.Error) as error:
        _end(f"error: {explain(str(error))}")
    except JaxRuntimeError as error:
        if not jax.distributed.is_initialized():
            raise
        _end(
            f"error: {str(error).splitlines()[0]}\nIf this process has lost another: start all again by the same command, "
            "and they go on from the last checkpoint"
        )
    except (Exception, KeyboardInterrupt):
        if not jax.distributed.is_initialized():
            raise
        _end(traceback.format_exc())


def _end(message: str) -> NoReturn:
    if not jax.distributed.is_initialized():
        sys.exit(message)
    print(message, file=sys.stderr, flush=True)
    os._exit(1)


def cache_directory(given: str = "") -> Path:
    """Where compiled programs are kept."""
    return absolute(place(given or os.environ.get("JAX_COMPILATION_CACHE_DIR") or cache_home()))


def cache_home() -> Path:
    """Where what can be had again is kept, unless it is told another place."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "jax_ddpm").expanduser().absolute()


def _cores_that_divide(batch_size: int) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return next(devices for devices in range(cores, 0, -1) if batch_size % devices == 0)
